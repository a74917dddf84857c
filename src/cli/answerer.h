// Who answers in a chat: a model in this process, or a running service.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "cli/model_options.h"
#include "infer/engine.h"

namespace onggi {

class Answerer {
 public:
  virtual ~Answerer() = default;

  struct Answer {
    std::string text;  // for the next prompt
    FinishReason reason = FinishReason::kStop;
    int64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
    double first_token_s = 0;  // from the question
    double writing_s = 0;      // from the first token to the last
  };

  virtual std::string name() const = 0;
  // Calls show with each piece as it comes; ends early, as kCancelled, when a stop is requested. Throws
  // InputError for what cannot be answered (ContextError where the conversation is too long).
  virtual Answer answer(const nlohmann::ordered_json& messages, const AnswerOptions& options,
                        const std::function<void(const std::string&)>& show) = 0;
};

// context: tokens that the conversation may have. Throws InputError where the model has no chat template.
std::unique_ptr<Answerer> local_answerer(const ModelOptions& model, int64_t context);
// url: of a service that speaks OpenAI's API. Throws InputError where none answers.
std::unique_ptr<Answerer> service_answerer(const std::string& url, const std::string& api_key);

}  // namespace onggi
