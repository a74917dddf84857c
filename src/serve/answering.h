// Runs a query to its end and writes the answer, whole or as a stream, in a dialect.
#pragma once

#include <memory>

#include "serve/formatter.h"
#include "serve/generator.h"
#include "serve/http_server.h"
#include "serve/metrics.h"

namespace onggi {

// Records a request when it is destroyed, however it ended; until told otherwise, as one whose client went
// away.
class RequestRecorder {
 public:
  RequestRecorder(Metrics& metrics, const HttpRequest& request, std::string api);
  RequestRecorder(const RequestRecorder&) = delete;
  RequestRecorder& operator=(const RequestRecorder&) = delete;
  ~RequestRecorder();

  void set_status(int status) { record_.status = status; }
  void set_results(const std::vector<std::optional<GenerationResult>>& results);
  // Of a request that asks for no text.
  void set_prompt_tokens(int64_t tokens) { record_.prompt_tokens = tokens; }
  // Called at the end with the tokens of prompt and answer, however the request ended.
  void on_end(std::function<void(int64_t)> count) { count_ = std::move(count); }

 private:
  Metrics& metrics_;
  RequestRecord record_;
  std::function<void(int64_t)> count_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Makes the formatter once the prompt's ids are known.
using MakeFormatter = std::function<std::unique_ptr<AnswerFormatter>(const std::vector<int32_t>& prompt)>;

// Throws RequestError for all that is known before the first byte. The response's stream owns the answer: a
// client that goes away, or a connection that breaks, cancels it and frees its place in the batch.
HttpResponse answer_query(const Generator& generator, const Query& query, const HttpRequest& request,
                          std::shared_ptr<RequestRecorder> recorder, const MakeFormatter& make_formatter);

}  // namespace onggi
