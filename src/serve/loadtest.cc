#include "serve/loadtest.h"

#include <httplib.h>

#include <atomic>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "base/clock.h"
#include "base/process.h"
#include "base/random.h"
#include "base/text.h"
#include "serve/chat_client.h"

namespace onggi {
namespace {

const std::vector<std::string> kPrompts = {
    "파이썬에서 리스트와 튜플의 차이를 설명해 주세요.",
    "How do I undo the last commit in git?",
    "도커 이미지와 컨테이너는 어떻게 다른가요?",
    "Explain gradient descent in two sentences.",
    "웹 서버에서 캐시는 왜 필요한가요?",
};

std::string random_words(int64_t count, Random& random) {
  std::string words;
  for (int64_t i = 0; i < count; ++i) {
    if (i > 0) words += ' ';
    for (uint32_t letters = 2 + random.below(7); letters > 0; --letters)
      words += static_cast<char>('a' + random.below(26));
  }
  return words;
}

ServiceAddress address_of(const LoadTestOptions& options) {
  return {options.url, options.api_key, options.timeout};
}

LoadTestResult summarise(const std::vector<ChatReply>& requests) {
  LoadTestResult result;
  std::vector<double> first_token, total, rate;
  for (const ChatReply& request : requests) {
    ++result.requests;
    if (!request.ok) {
      if (result.errors++ == 0) result.first_error = request.error;
      continue;
    }
    result.prompt_tokens += request.prompt_tokens;
    result.generated_tokens += request.generated_tokens;
    total.push_back(request.total_s);
    if (request.first_token_s > 0) first_token.push_back(request.first_token_s);
    const double writing = request.total_s - request.first_token_s;
    if (request.first_token_s > 0 && request.generated_tokens > 1 && writing > 0)
      rate.push_back(static_cast<double>(request.generated_tokens - 1) / writing);
  }
  result.first_token_s = percentiles_of(std::move(first_token));
  result.total_s = percentiles_of(std::move(total));
  result.per_user_tokens_per_s = percentiles_of(std::move(rate));
  return result;
}

}  // namespace

LoadTestResult run_load_test(const LoadTestOptions& options) {
  if (options.users < 1 || options.users > 1024 || options.requests_per_user < 1 ||
      options.max_new_tokens < 1)
    throw UsageError(
        text("a load test needs 1 to 1024 users, at least one request each and one token per answer"));
  const std::string model = served_model(address_of(options));
  const std::vector<std::string>& prompts = options.prompts.empty() ? kPrompts : options.prompts;
  const uint64_t seed = std::random_device{}();
  std::mutex mutex;
  std::vector<ChatReply> requests;
  std::atomic<size_t> next_prompt{0};
  const Stopwatch watch;
  std::vector<std::thread> users;
  for (int64_t user = 0; user < options.users; ++user)
    users.emplace_back([&, user] {
      const ServiceAddress address = address_of(options);
      const auto client = make_client(address);
      Random random(seed, static_cast<uint64_t>(user));
      for (int64_t i = 0; i < options.requests_per_user && !stop_requested(); ++i) {
        const std::string prompt = options.prompt_words > 0 ? random_words(options.prompt_words, random)
                                                            : prompts[next_prompt++ % prompts.size()];
        ChatReply reply = ask_service(*client, address,
                                      {{"model", model},
                                       {"messages", Json::array({{{"role", "user"}, {"content", prompt}}})},
                                       {"max_tokens", options.max_new_tokens}},
                                      {});
        const std::lock_guard lock(mutex);
        requests.push_back(std::move(reply));
      }
    });
  for (std::thread& user : users) user.join();
  LoadTestResult result = summarise(requests);
  result.users = options.users;
  result.seconds = watch.seconds();
  if (result.seconds > 0) result.tokens_per_s = static_cast<double>(result.generated_tokens) / result.seconds;
  return result;
}

std::string to_json(const LoadTestResult& result) {
  const auto percentiles = [](const Percentiles& values) {
    return Json{{"count", values.count}, {"p50", values.p50}, {"p95", values.p95}, {"p99", values.p99}};
  };
  return dump({{"users", result.users},
               {"requests", result.requests},
               {"errors", result.errors},
               {"first_error", result.first_error},
               {"seconds", result.seconds},
               {"prompt_tokens", result.prompt_tokens},
               {"generated_tokens", result.generated_tokens},
               {"tokens_per_s", result.tokens_per_s},
               {"first_token_s", percentiles(result.first_token_s)},
               {"total_s", percentiles(result.total_s)},
               {"per_user_tokens_per_s", percentiles(result.per_user_tokens_per_s)}});
}

}  // namespace onggi
