// A served model and small values that the tests of the dialects share.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "serve/formatter.h"
#include "serve/query.h"
#include "serve/request_error.h"

namespace onggi {

inline ServedModel sample_model() {
  ServedModel model;
  model.names = {"qwen3-finetune-8b", "Qwen/Qwen3-8B"};
  model.digest = std::string(64, 'a');
  model.modified_at = "2026-11-24T07:00:00Z";
  model.created = 1795503600;
  model.size_bytes = 5027783872;
  model.format = "gguf";
  model.family = "qwen3";
  model.parameter_size = "8.2B";
  model.quantization = "Q4_K_M";
  model.chat_template = "{{ tools }} <think>";
  model.context_length = 4096;
  model.model_info = {{"general.architecture", "qwen3"}, {"qwen3.context_length", 40960}};
  model.max_new_tokens = 2048;
  model.tools = ServedModel::Capability::kYes;
  model.thinking = ServedModel::Capability::kYes;
  return model;
}

inline AnswerHead sample_head() {
  return {"id-1", 1795503600, "m", [] { return std::string("2026-11-24T07:00:00.000000001Z"); }};
}

inline GenerationResult sample_result() {
  GenerationResult result;
  result.reason = FinishReason::kStop;
  result.prompt_tokens = 7;
  result.cached_tokens = 2;
  result.generated_tokens = 3;
  result.timings = {0.001, 0.25, 0.2, 0.5, 0.75};
  return result;
}

inline AnswerEvent text_event(const std::string& content) {
  AnswerEvent event;
  event.piece.content = content;
  return event;
}

inline AnswerEvent last_event() {
  AnswerEvent event;
  event.result = sample_result();
  return event;
}

// The status and field of the error that work throws; {200, ""} where it throws none.
template <typename Work>
std::pair<int, std::string> refusal_of(Work work) {
  try {
    work();
    return {200, ""};
  } catch (const RequestError& error) {
    return {error.status(), error.field()};
  }
}

}  // namespace onggi
