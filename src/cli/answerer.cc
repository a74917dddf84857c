#include "cli/answerer.h"

#include <httplib.h>

#include <nlohmann/json.hpp>

#include "base/process.h"
#include "base/text.h"
#include "serve/chat_client.h"

namespace onggi {
namespace {

class LocalAnswerer : public Answerer {
 public:
  LocalAnswerer(const ModelOptions& model, int64_t context)
      : model_(open_model(model)), engine_(single_engine(model_, model.precision, context)) {
    if (!model_.loaded.chat_template)
      throw InputError(
          text("the model {} has no chat template; use onggi generate --raw", model_.loaded.name));
  }
  std::string name() const override { return model_.loaded.name; }

  Answer answer(const nlohmann::ordered_json& messages, const AnswerOptions& options,
                const std::function<void(const std::string&)>& show) override {
    GenerationRequest request;
    RenderOptions render;
    render.enable_thinking = options.think;
    request.prompt = render_prompt(model_.loaded, messages, render);
    request.sampling = sampling_of(options, model_.loaded.model->config);
    request.max_new_tokens = options.max_tokens;
    request.stop = options.stop;
    Ticket ticket = engine_->submit(std::move(request));
    Answer answer;
    while (true) {
      if (stop_requested()) ticket.cancel();
      const std::optional<GenerationEvent> event = ticket.next(std::chrono::milliseconds(100));
      if (!event) continue;
      show(event->text);
      answer.text += event->text;
      if (event->result) return finish(std::move(answer), *event->result);
    }
  }

 private:
  static Answer finish(Answer answer, const GenerationResult& result) {
    if (result.reason == FinishReason::kError) throw Error(result.error_code, result.error);
    answer.reason = result.reason;
    answer.prompt_tokens = result.prompt_tokens;
    answer.cached_tokens = result.cached_tokens;
    answer.generated_tokens = result.generated_tokens;
    answer.first_token_s = result.timings.first_token;
    answer.writing_s = result.timings.eval;
    return answer;
  }

  OpenModel model_;
  std::unique_ptr<Engine> engine_;
};

class ServiceAnswerer : public Answerer {
 public:
  ServiceAnswerer(const std::string& url, const std::string& api_key)
      : address_{url, api_key}, model_(served_model(address_)), client_(make_client(address_)) {}
  std::string name() const override { return model_ + " @ " + address_.url; }

  Answer answer(const nlohmann::ordered_json& messages, const AnswerOptions& options,
                const std::function<void(const std::string&)>& show) override {
    bool reasons = false;
    const auto on_text = [&](const std::string& reasoning, const std::string& content) {
      // The service tells reasoning apart; here it is shown as the model wrote it.
      if (!reasoning.empty()) show((reasons ? "" : "<think>\n") + reasoning);
      if (!content.empty() && reasons) show("\n</think>\n\n");
      reasons = content.empty() && (reasons || !reasoning.empty());
      show(content);
      return !stop_requested();
    };
    const ChatReply reply = ask_service(*client_, address_, request_of(messages, options), on_text);
    if (!reply.ok) {
      if (reply.status == 400) throw ContextError(reply.error);
      throw InputError(text("the service at {} did not answer: {}", address_.url, reply.error));
    }
    Answer answer;
    answer.text = reply.content;
    answer.reason = reply.finish_reason == "length"      ? FinishReason::kLength
                    : reply.finish_reason == "cancelled" ? FinishReason::kCancelled
                                                         : FinishReason::kStop;
    answer.prompt_tokens = reply.prompt_tokens;
    answer.cached_tokens = reply.cached_tokens;
    answer.generated_tokens = reply.generated_tokens;
    answer.first_token_s = reply.first_token_s;
    answer.writing_s = reply.total_s - reply.first_token_s;
    return answer;
  }

 private:
  Json request_of(const nlohmann::ordered_json& messages, const AnswerOptions& options) const {
    Json request = {{"model", model_}, {"messages", messages}, {"max_tokens", options.max_tokens}};
    if (options.temperature) request["temperature"] = *options.temperature;
    if (options.top_p) request["top_p"] = *options.top_p;
    if (options.min_p) request["min_p"] = *options.min_p;
    if (options.top_k) request["top_k"] = *options.top_k;
    if (options.repeat_penalty) request["repeat_penalty"] = *options.repeat_penalty;
    if (options.seed) request["seed"] = *options.seed;
    if (!options.stop.empty()) request["stop"] = options.stop;
    if (options.think) request["chat_template_kwargs"] = {{"enable_thinking", *options.think}};
    return request;
  }

  ServiceAddress address_;
  std::string model_;
  std::unique_ptr<httplib::Client> client_;
};

}  // namespace

std::unique_ptr<Answerer> local_answerer(const ModelOptions& model, int64_t context) {
  return std::make_unique<LocalAnswerer>(model, context);
}

std::unique_ptr<Answerer> service_answerer(const std::string& url, const std::string& api_key) {
  return std::make_unique<ServiceAnswerer>(url, api_key);
}

}  // namespace onggi
