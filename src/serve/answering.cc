#include "serve/answering.h"

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/text.h"
#include "serve/request_error.h"

namespace onggi {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// How soon a client that went away is noticed while nothing is written.
constexpr milliseconds kWatch{50};
// A stream's headers wait this long for the first event, so that a failure before it gets its own status.
constexpr milliseconds kFirstEventWait{5000};
// Proxies close connections on which nothing comes for a minute.
constexpr milliseconds kPing{10000};

constexpr int kClientGone = 499;

struct Work {
  RunningAnswer answer;
  std::unique_ptr<AnswerFormatter> formatter;
  std::shared_ptr<RequestRecorder> recorder;
  std::function<bool()> client_gone;
  std::optional<AnswerEvent> first;
};

GenerationResults complete(const RunningAnswer& answer) {
  GenerationResults results;
  for (const auto& result : answer.results()) results.push_back(result.value_or(GenerationResult{}));
  return results;
}

// Asks whether the client is gone, at most once per kWatch: tokens may come much faster.
class ClientWatch {
 public:
  explicit ClientWatch(const std::function<bool()>& client_gone) : client_gone_(client_gone) {}
  bool gone() {
    const auto now = steady_clock::now();
    if (now - asked_ < kWatch) return false;
    asked_ = now;
    return client_gone_();
  }

 private:
  const std::function<bool()>& client_gone_;
  steady_clock::time_point asked_ = steady_clock::now();
};

struct Failure {
  int status;
  std::string message;
};

// Why an answer ended without being one.
std::optional<Failure> failure_of(const RunningAnswer& answer, const AnswerEvent& event) {
  if (!event.result) return std::nullopt;
  if (event.result->reason == FinishReason::kError)
    return Failure{answer.past_deadline() ? 504 : 500, event.result->error};
  if (event.result->reason == FinishReason::kCancelled)
    return Failure{503, text("the service is stopping; the answer was not finished")};
  return std::nullopt;
}

void add(const AnswerEvent& event, std::vector<Answer>& answers) {
  Answer& answer = answers[static_cast<size_t>(event.choice)];
  answer.content += event.piece.content;
  answer.reasoning += event.piece.reasoning;
  for (const ToolCall& call : event.piece.tool_calls) answer.tool_calls.push_back(call);
  answer.tokens.insert(answer.tokens.end(), event.tokens.begin(), event.tokens.end());
}

HttpResponse answer_whole(Work& work, size_t choices) {
  std::vector<Answer> answers(choices);
  ClientWatch client(work.client_gone);
  while (!work.answer.finished()) {
    const auto event = work.answer.next(kWatch);
    if (event) {
      add(*event, answers);
      if (const auto failure = failure_of(work.answer, *event)) {
        work.recorder->set_results(work.answer.results());
        throw RequestError(failure->status, "", failure->message);
      }
    }
    if (client.gone() && !work.answer.finished()) {
      work.answer.cancel();
      work.recorder->set_results(work.answer.results());
      throw RequestError(kClientGone, "", text("the client closed the connection"));
    }
  }
  work.recorder->set_results(work.answer.results());
  work.recorder->set_status(200);
  HttpResponse response;
  response.body = dump(work.formatter->whole(answers, complete(work.answer)));
  return response;
}

// Writes one event; false when the stream is over.
bool write_event(Work& work, const AnswerEvent& event, const StreamWriter& write) {
  if (const auto failure = failure_of(work.answer, event)) {
    work.recorder->set_status(failure->status);
    write(work.formatter->stream_error(failure->status, failure->message));
    return false;
  }
  const std::string piece = work.formatter->piece(event);
  return piece.empty() || write(piece);
}

void write_stream(Work& work, const StreamWriter& write) {
  const std::string begin = work.formatter->begin();
  if (!begin.empty() && !write(begin)) return;
  if (work.first && !write_event(work, *work.first, write)) return;
  auto written = steady_clock::now();
  ClientWatch client(work.client_gone);
  while (!work.answer.finished()) {
    const auto event = work.answer.next(kWatch);
    if (event) {
      if (!write_event(work, *event, write)) return;
      written = steady_clock::now();
    } else if (steady_clock::now() - written >= kPing) {
      const std::string ping = work.formatter->ping();
      if (!ping.empty() && !write(ping)) return;
      written = steady_clock::now();
    }
    if (client.gone()) return;
  }
  if (write(work.formatter->end(complete(work.answer)))) work.recorder->set_status(200);
}

HttpResponse answer_streamed(const std::shared_ptr<Work>& work) {
  const auto until = steady_clock::now() + kFirstEventWait;
  while (!work->first && steady_clock::now() < until) {
    work->first = work->answer.next(kWatch);
    if (!work->first && work->client_gone())
      throw RequestError(kClientGone, "", text("the client closed the connection"));
  }
  if (work->first)
    if (const auto failure = failure_of(work->answer, *work->first))
      throw RequestError(failure->status, "", failure->message);
  HttpResponse response;
  response.content_type = work->formatter->stream_type();
  // Proxies such as nginx would collect a stream otherwise.
  response.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
  response.stream = [work](const StreamWriter& write) {
    write_stream(*work, write);
    work->answer.cancel();  // nothing is left where the stream came to its end
    work->recorder->set_results(work->answer.results());
    work->recorder.reset();
  };
  return response;
}

}  // namespace

RequestRecorder::RequestRecorder(Metrics& metrics, const HttpRequest& request, std::string api)
    : metrics_(metrics) {
  record_.id = request.id;
  record_.api = std::move(api);
  record_.status = kClientGone;
}

RequestRecorder::~RequestRecorder() {
  record_.time = utc_now_rfc3339();
  record_.total_s = std::chrono::duration<double>(steady_clock::now() - start_).count();
  if (count_) count_(record_.prompt_tokens + record_.generated_tokens);
  metrics_.record(std::move(record_));
}

void RequestRecorder::set_results(const std::vector<std::optional<GenerationResult>>& results) {
  record_.finish = "cancelled";
  for (const auto& result : results) {
    if (!result) continue;
    record_.finish = name_of(result->reason);
    record_.prompt_tokens = result->prompt_tokens;
    record_.generated_tokens += result->generated_tokens;
    record_.eval_s += result->timings.eval;
    if (record_.first_token_s == 0) record_.first_token_s = result->timings.first_token;
  }
}

HttpResponse answer_query(const Generator& generator, const Query& query, const HttpRequest& request,
                          std::shared_ptr<RequestRecorder> recorder, const MakeFormatter& make_formatter) {
  RunningAnswer answer = generator.start(query);
  auto formatter = make_formatter(answer.prompt());
  auto work = std::make_shared<Work>(
      Work{std::move(answer), std::move(formatter), std::move(recorder), request.client_gone, std::nullopt});
  if (query.delivery == Delivery::kWhole) return answer_whole(*work, static_cast<size_t>(query.choices));
  return answer_streamed(work);
}

}  // namespace onggi
