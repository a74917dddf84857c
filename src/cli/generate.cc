// onggi generate: one prompt, one answer; or the score of the prompt.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/process.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/model_options.h"
#include "cli/terminal.h"
#include "infer/json_constraint.h"
#include "infer/score.h"
#include "kernels/table.h"

namespace onggi {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  ModelOptions model;
  AnswerOptions answer;
  std::string prompt;
  std::string system;
  std::string schema;
  bool raw = false, json = false, score = false, json_mode = false, stats = false;
};

std::string read_standard_input() {
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

Json messages_of(const Options& options) {
  Json messages = Json::array();
  if (!options.system.empty()) messages.push_back({{"role", "system"}, {"content", options.system}});
  messages.push_back({{"role", "user"}, {"content", options.prompt}});
  return messages;
}

std::vector<int32_t> prompt_ids(const Options& options, const LoadedModel& model) {
  if (options.raw) return model.tokenizer.encode(options.prompt);
  RenderOptions render;
  render.enable_thinking = options.answer.think;
  return render_prompt(model, messages_of(options), render);
}

// What the answer has to be, if anything. With reasoning before it, the format begins after </think>.
std::unique_ptr<TokenConstraint> constraint_of(const Options& options, const LoadedModel& model) {
  if (!options.json_mode && options.schema.empty()) return nullptr;
  JsonConstraintOptions constraint;
  const bool thinks = options.answer.think.value_or(enable_thinking_of(model.think).value_or(true));
  if (!options.raw && thinks && model.tokenizer.id_of("</think>")) constraint.begins_after = "</think>";
  if (options.schema.empty()) return make_json_constraint(model.tokenizer, constraint);
  const Json schema = Json::parse(read_file(options.schema), nullptr, /*allow_exceptions=*/false);
  if (schema.is_discarded()) throw InputError(text("{} holds no JSON", options.schema));
  return make_schema_constraint(model.tokenizer, schema, constraint);
}

double rate(int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
}

// The first token comes with the prompt, so that the others took the time from it to the last.
double answer_rate(const GenerationResult& result) {
  return rate(result.generated_tokens - 1, result.timings.eval);
}

void print_json(const std::vector<int32_t>& prompt, const Generation& answer) {
  Json document;
  document["prompt_ids"] = prompt;
  Json ids = Json::array(), logprobs = Json::array();
  for (const SampledToken& token : answer.tokens) {
    ids.push_back(token.id);
    logprobs.push_back(token.logprob);
  }
  document["ids"] = std::move(ids);
  document["logprobs"] = std::move(logprobs);
  document["text"] = answer.text;
  document["stop_reason"] = name_of(answer.result.reason);
  document["prompt_tokens_per_s"] = rate(answer.result.prompt_tokens, answer.result.timings.prompt_eval);
  document["tokens_per_s"] = answer_rate(answer.result);
  std::cout << document.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
}

// Prints the text as it comes unless JSON is asked for.
Generation follow(Ticket ticket, bool show) {
  Generation answer;
  while (true) {
    if (stop_requested()) ticket.cancel();
    std::optional<GenerationEvent> event = ticket.next(std::chrono::milliseconds(100));
    if (!event) continue;
    if (show) std::cout << event->text << std::flush;
    answer.text += event->text;
    std::move(event->tokens.begin(), event->tokens.end(), std::back_inserter(answer.tokens));
    if (!event->result) continue;
    answer.result = std::move(*event->result);
    return answer;
  }
}

ExitCode generate(const Options& options) {
  const OpenModel model = open_model(options.model);
  const std::vector<int32_t> prompt = prompt_ids(options, model.loaded);
  const int64_t context = static_cast<int64_t>(prompt.size()) + options.answer.max_tokens;
  const auto engine = single_engine(model, options.model.precision, context);
  GenerationRequest request;
  request.prompt = prompt;
  request.sampling = sampling_of(options.answer, model.loaded.model->config);
  request.max_new_tokens = options.answer.max_tokens;
  request.stop = options.answer.stop;
  request.constraint = constraint_of(options, model.loaded);
  install_stop_handler();
  const Generation answer = follow(engine->submit(std::move(request)), !options.json);
  if (!options.json) std::cout << std::endl;
  if (answer.result.reason == FinishReason::kError)
    throw Error(answer.result.error_code, answer.result.error);
  if (options.json) print_json(prompt, answer);
  if (options.stats) {
    std::cerr << text("prompt {} tokens, {:.1f} tokens/s; answer {} tokens, {:.1f} tokens/s; {}",
                      answer.result.prompt_tokens,
                      rate(answer.result.prompt_tokens, answer.result.timings.prompt_eval),
                      answer.result.generated_tokens, answer_rate(answer.result),
                      std::string(name_of(answer.result.reason)))
              << std::endl;
  }
  if (answer.result.reason == FinishReason::kCancelled) throw Interrupted(text("the answer was interrupted"));
  return ExitCode::kDone;
}

ExitCode score_prompt(const Options& options) {
  const OpenModel model = open_model(options.model);
  const std::vector<int32_t> ids = prompt_ids(options, model.loaded);
  const ComputeSession session(*model.device, *model.threads, options.model.precision);
  const Score result = score(*model.loaded.model, session.compute(), ids);
  if (options.json) {
    Json document;
    document["prompt_ids"] = ids;
    Json logprobs = Json::array({nullptr});  // nothing comes before the first token
    for (float logprob : result.logprobs) logprobs.push_back(logprob);
    document["logprobs"] = std::move(logprobs);
    document["mean_nll"] = result.mean_nll;
    std::cout << document.dump() << std::endl;
    return ExitCode::kDone;
  }
  const Terminal terminal(stdout);
  Table table({text("id"), text("log-probability"), text("token")},
              {Align::kRight, Align::kRight, Align::kLeft});
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string shown =
        Json(model.loaded.tokenizer.token_bytes(ids[i])).dump(-1, ' ', false, Json::error_handler_t::replace);
    table.add({std::to_string(ids[i]), i == 0 ? "" : fmt::format("{:.4f}", result.logprobs[i - 1]), shown});
  }
  terminal.write(table.to_string(terminal));
  terminal.write(text("mean negative log-likelihood: {:.6f} nats per token", result.mean_nll) + "\n");
  return ExitCode::kDone;
}

}  // namespace

RunCommand setup_generate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  add_model_options(app, options->model);
  add_answer_options(app, options->answer);
  CLI::Option* prompt =
      app.add_option("--prompt,-p", options->prompt, text("The prompt; without it, standard input"));
  app.add_option("--system", options->system, text("A system message before the prompt"));
  app.add_flag("--raw", options->raw, text("Take the prompt as it is, without the chat template"));
  app.add_flag("--json", options->json, text("Print one JSON object with ids and log-probabilities"));
  app.add_flag("--score", options->score,
               text("Print the log-probability of each prompt token instead of answering"));
  app.add_flag("--json-mode", options->json_mode, text("Only a JSON object can be answered"));
  app.add_option("--json-schema", options->schema, text("Only JSON that follows the schema in this file"));
  app.add_flag("--stats", options->stats, text("Print counts and speeds to standard error"));
  return [options, prompt] {
    if (prompt->count() == 0) options->prompt = read_standard_input();
    return options->score ? score_prompt(*options) : generate(*options);
  };
}

}  // namespace onggi
