// How a dialect writes answers: whole, or as a stream of pieces. Implementations are pure: time and ids come
// from outside, so that tests can compare bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "infer/engine.h"
#include "serve/generator.h"
#include "serve/query.h"

namespace onggi {

// What is the same in every piece of an answer.
struct AnswerHead {
  std::string id;                    // "chatcmpl-..."
  int64_t created = 0;               // Unix seconds
  std::string model;                 // as the request named it
  std::function<std::string()> now;  // RFC 3339
};

using GenerationResults = std::vector<GenerationResult>;

class AnswerFormatter {
 public:
  virtual ~AnswerFormatter() = default;

  virtual std::string stream_type() const = 0;  // Content-Type of a stream
  // Sent at once, before anything is known; may be empty.
  virtual std::string begin() { return {}; }
  virtual std::string piece(const AnswerEvent& event) = 0;
  virtual std::string end(const GenerationResults& results) = 0;
  // After the stream began, when the status can no longer be changed.
  virtual std::string stream_error(int status, const std::string& message) = 0;
  // Keeps an idle connection open; empty where the dialect has nothing that clients ignore.
  virtual std::string ping() { return {}; }

  virtual Json whole(const std::vector<Answer>& answers, const GenerationResults& results) = 0;
};

// Sums over the choices: tokens of the prompt (once), of it cached, and of the answers.
struct TokenUsage {
  int64_t prompt = 0, cached = 0, completion = 0;
};
TokenUsage usage_of(const GenerationResults& results);

}  // namespace onggi
