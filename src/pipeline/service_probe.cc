#include "pipeline/service_probe.h"

#include <httplib.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/text.h"
#include "infer/score.h"
#include "serve/chat_client.h"

namespace onggi {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kTopLogprobs = 20;
constexpr int kAnswerTokens = 64;

std::unique_ptr<httplib::Client> client_for(const std::string& url, const ProbeTarget& target) {
  auto client = make_client({url, target.api_key});
  if (!target.api_key.empty()) client->set_bearer_token_auth(target.api_key.c_str());
  return client;
}

// One request; the answer's text is where the pointer says, or the body itself.
struct Probe {
  const char* api;  // "POST /chat"
  bool is_ollama;
  Json body;            // null: GET
  const char* pointer;  // JSON pointer to the text; empty: the body
};

ProbeResult ask(const ProbeTarget& target, const Probe& probe) {
  ProbeResult result;
  result.api = probe.api;
  const std::string path = result.api.substr(result.api.find(' ') + 1);
  const auto client = client_for(probe.is_ollama ? target.ollama_url : target.url, target);
  const Stopwatch watch;
  const auto response =
      probe.body.is_null() ? client->Get(path) : client->Post(path, probe.body.dump(), "application/json");
  result.seconds = watch.seconds();
  if (!response) {
    result.problem = text("no answer ({})", httplib::to_string(response.error()));
    return result;
  }
  result.status = response->status;
  if (response->status != 200) {
    result.problem = text("status {}: {}", response->status, response->body);
    return result;
  }
  result.answer = response->body;
  if (*probe.pointer == '\0') return result;
  const Json json = Json::parse(response->body, nullptr, false);
  const Json::json_pointer pointer(probe.pointer);
  if (json.is_discarded() || !json.contains(pointer) || !json[pointer].is_string()) {
    result.problem = text("the answer has no {}", probe.pointer);
    return result;
  }
  result.answer = json[pointer].get<std::string>();
  if (result.answer.empty()) result.problem = text("the answer is empty");
  return result;
}

// The probability mass that a row of logits gives to some tokens, as log-probabilities by the tokens' bytes.
std::map<std::string, double> named_logprobs(const Json& top) {
  std::map<std::string, double> out;
  for (const Json& entry : top) out[entry.at("bytes").dump()] = entry.at("logprob").get<double>();
  return out;
}

std::string bytes_key(const Tokenizer& tokenizer, int32_t id) {
  auto array = Json::array();
  for (unsigned char byte : tokenizer.token_bytes(id)) array.push_back(byte);
  return array.dump();
}

// Ollama's /api/generate tells the ids of the prompt that it rendered, as the beginning of "context". It
// takes one question with or without a system text; longer conversations are compared by their number of
// tokens alone.
bool prompt_ids_equal(const ProbeTarget& target, const ParityReference::Prompt& prompt) {
  const Json messages = Json::parse(prompt.messages_json);
  Json request = {
      {"model", target.model}, {"stream", false}, {"options", {{"num_predict", 1}, {"temperature", 0}}}};
  for (const Json& message : messages) {
    const std::string role = message.value("role", "");
    const char* field = role == "user" ? "prompt" : role == "system" ? "system" : nullptr;
    if (field == nullptr || request.contains(field)) return true;
    request[field] = message.value("content", "");
  }
  const auto client = client_for(target.ollama_url, target);
  const auto response = client->Post("/api/generate", request.dump(), "application/json");
  if (!response || response->status != 200) return false;
  const Json json = Json::parse(response->body, nullptr, false);
  const auto context = json.value("context", std::vector<int32_t>{});
  return context.size() >= prompt.ids.size() &&
         std::equal(prompt.ids.begin(), prompt.ids.end(), context.begin());
}

double coarse_kl(const std::map<std::string, double>& reference,
                 const std::map<std::string, double>& actual) {
  double kl = 0, reference_rest = 1, actual_rest = 1;
  for (const auto& [token, logprob] : reference) {
    const auto found = actual.find(token);
    if (found == actual.end()) continue;
    kl += std::exp(logprob) * (logprob - found->second);
    reference_rest -= std::exp(logprob);
    actual_rest -= std::exp(found->second);
  }
  // What neither names well enough to compare counts as one event.
  constexpr double kFloor = 1e-9;
  reference_rest = std::max(reference_rest, kFloor);
  actual_rest = std::max(actual_rest, kFloor);
  return std::max(0.0, kl + reference_rest * std::log(reference_rest / actual_rest));
}

}  // namespace

std::vector<ProbeResult> probe_service(const ProbeTarget& target, const std::string& question) {
  const Json messages = {{{"role", "user"}, {"content", question}}};
  const Json options = {{"temperature", 0}, {"num_predict", kAnswerTokens}};
  const std::vector<Probe> probes = {
      {"GET /health", false, nullptr, "/status"},
      {"POST /chat",
       false,
       {{"message", question}, {"temperature", 0}, {"max_tokens", kAnswerTokens}},
       "/response"},
      {"GET /v1/models", false, nullptr, "/data/0/id"},
      {"POST /v1/chat/completions",
       false,
       {{"model", target.model}, {"messages", messages}, {"temperature", 0}, {"max_tokens", kAnswerTokens}},
       "/choices/0/message/content"},
      {"GET /metrics", false, nullptr, ""},
      {"GET /dashboard", false, nullptr, ""},
      {"GET /api/version", true, nullptr, "/version"},
      {"GET /api/tags", true, nullptr, "/models/0/name"},
      {"POST /api/show", true, {{"model", target.model}}, "/details/format"},
      {"POST /api/generate",
       true,
       {{"model", target.model}, {"prompt", question}, {"stream", false}, {"options", options}},
       "/response"},
      {"POST /api/chat",
       true,
       {{"model", target.model}, {"messages", messages}, {"stream", false}, {"options", options}},
       "/message/content"},
  };
  std::vector<ProbeResult> results;
  for (const Probe& probe : probes) results.push_back(ask(target, probe));
  return results;
}

ParityResult probe_parity(const ProbeTarget& target, const ParityReference& reference,
                          const Tokenizer& tokenizer, int64_t vocabulary, const ParityBound& bound) {
  ParityResult result;
  result.artefact = text("the service at {}", target.url);
  result.reference = text("the file that it serves");
  result.bound = bound;
  result.prompts_sha256 = reference.prompts_sha256();
  const auto client = client_for(target.url, target);
  int64_t agreeing = 0;
  double kl_sum = 0;
  for (size_t p = 0; p < reference.prompts().size(); ++p) {
    const ParityReference::Prompt& prompt = reference.prompts()[p];
    const Json request = {{"model", target.model},   {"messages", Json::parse(prompt.messages_json)},
                          {"temperature", 0},        {"max_tokens", prompt.answer.ids.size()},
                          {"logprobs", true},        {"top_logprobs", kTopLogprobs},
                          {"return_token_ids", true}};
    const auto response = client->Post("/v1/chat/completions", request.dump(), "application/json");
    const Json json = response ? Json::parse(response->body, nullptr, false) : Json();
    if (!response || response->status != 200 ||
        !json.contains(Json::json_pointer("/choices/0/logprobs/content"))) {
      result.reason = text("prompt {} was not answered: {}", p + 1, response ? response->body : "no answer");
      break;
    }
    if (json.value(Json::json_pointer("/usage/prompt_tokens"), size_t{0}) != prompt.ids.size() ||
        !prompt_ids_equal(target, prompt)) {
      result.prompts_equal = false;
      result.reason = text("the token ids of prompt {} differ", p + 1);
      break;
    }
    if (prompt.answer.stopped && json.at("choices").at(0).value("finish_reason", "") != "stop") {
      result.stops = false;
      if (result.reason.empty()) result.reason = text("the answer to prompt {} does not end", p + 1);
    }
    const Json& content = json.at("choices").at(0).at("logprobs").at("content");
    for (size_t i = 0; i < std::min(content.size(), prompt.answer.ids.size()); ++i) {
      const std::span<const float> row(prompt.logits.data() + static_cast<int64_t>(i) * vocabulary,
                                       static_cast<size_t>(vocabulary));
      std::vector<float> logprobs(row.begin(), row.end());
      log_softmax(logprobs);
      std::map<std::string, double> expected;
      std::vector<int32_t> order(logprobs.size());
      for (size_t id = 0; id < order.size(); ++id) order[id] = static_cast<int32_t>(id);
      std::partial_sort(order.begin(), order.begin() + std::min<ptrdiff_t>(kTopLogprobs, vocabulary),
                        order.end(), [&](int32_t a, int32_t b) {
                          return logprobs[static_cast<size_t>(a)] > logprobs[static_cast<size_t>(b)];
                        });
      for (int64_t k = 0; k < std::min<int64_t>(kTopLogprobs, vocabulary); ++k)
        expected[bytes_key(tokenizer, order[static_cast<size_t>(k)])] =
            logprobs[static_cast<size_t>(order[static_cast<size_t>(k)])];
      const double kl = coarse_kl(expected, named_logprobs(content[i].at("top_logprobs")));
      kl_sum += kl;
      note_divergence(result, kl, p + 1);
      const bool agrees = content[i].at("bytes").dump() == bytes_key(tokenizer, prompt.answer.ids[i]);
      agreeing += agrees;
      ++result.positions;
      if (!agrees) {
        if (result.first_divergence.empty())
          result.first_divergence =
              text("prompt {}, token {}: {}", p + 1, i + 1, content[i].at("token").dump());
        break;  // after a different token the two write different texts
      }
    }
  }
  if (result.positions > 0) {
    result.mean_kl = kl_sum / static_cast<double>(result.positions);
    result.agreement = static_cast<double>(agreeing) / static_cast<double>(result.positions);
  }
  judge(result);
  return result;
}

Json to_json(const std::vector<ProbeResult>& probes) {
  auto array = Json::array();
  for (const ProbeResult& probe : probes)
    array.push_back({{"api", probe.api},
                     {"status", probe.status},
                     {"seconds", probe.seconds},
                     {"answer", probe.answer.size() > 400 ? "" : probe.answer},
                     {"problem", probe.problem}});
  return array;
}

}  // namespace onggi
