// From a query to an answer: renders the prompt, submits to the engine, and gives back pieces.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "infer/chat_model.h"
#include "infer/engine.h"
#include "serve/answer_parser.h"
#include "serve/query.h"

namespace onggi {

// A piece of one of the answers to a query.
struct AnswerEvent {
  int64_t choice = 0;
  AnswerPiece piece;
  std::vector<SampledToken> tokens;
  std::optional<GenerationResult> result;  // in the last event of the choice
};

// An answer that is being written. Dropping it cancels what is left.
class RunningAnswer {
 public:
  struct Choice {
    Ticket ticket;
    AnswerParser parser;
    Query::Structure structure;
    std::string forced_start;  // not yet given out
    int64_t tool_calls_left;
    std::optional<GenerationResult> result;
  };
  RunningAnswer(std::vector<Choice> choices, std::vector<int32_t> prompt,
                std::optional<std::chrono::steady_clock::time_point> deadline)
      : choices_(std::move(choices)), prompt_(std::move(prompt)), deadline_(deadline) {}

  // The next event of any choice; nothing when none came in this time.
  std::optional<AnswerEvent> next(std::chrono::milliseconds timeout);
  bool finished() const;
  void cancel();
  const std::vector<int32_t>& prompt() const { return prompt_; }
  // Results so far, by choice; absent for those in work.
  std::vector<std::optional<GenerationResult>> results() const;
  bool past_deadline() const;

 private:
  AnswerEvent convert(int64_t index, GenerationEvent event);

  std::vector<Choice> choices_;
  std::vector<int32_t> prompt_;
  std::optional<std::chrono::steady_clock::time_point> deadline_;
  size_t turn_ = 0;  // which choice is asked first
};

// What a query becomes before it is submitted; pure, for tests and for token counts.
struct PreparedPrompt {
  std::vector<int32_t> ids;
  AnswerParserOptions parser;
  std::string forced_start;
  // For JSON formats: the text after which the answer has to be JSON; empty: from the first byte.
  std::string json_after;
};
// Throws RequestError(400) for what the template or the tokenizer refuses.
PreparedPrompt prepare_prompt(const LoadedModel& model, const Query& query);

class Generator {
 public:
  // Both must outlive this and every answer.
  Generator(const LoadedModel& model, Engine& engine, std::chrono::seconds request_timeout)
      : model_(model), engine_(engine), request_timeout_(request_timeout) {}

  // Throws RequestError: 400 for what is wrong with the query (a prompt longer than the context too), 503
  // when the queue is full or the engine stops.
  RunningAnswer start(const Query& query) const;
  std::chrono::seconds request_timeout() const { return request_timeout_; }

 private:
  GenerationRequest make_request(const Query& query, const PreparedPrompt& prompt, int64_t choice) const;

  const LoadedModel& model_;
  Engine& engine_;
  std::chrono::seconds request_timeout_;
};

}  // namespace onggi
