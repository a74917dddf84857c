#include "serve/generator.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/text.h"
#include "infer/json_constraint.h"
#include "serve/request_error.h"

namespace onggi {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr std::string_view kThink = "<think>";
constexpr const char* kEndThink = "</think>";

bool ends_in_open_reasoning(std::string_view text) {
  const size_t last = text.find_last_not_of(" \t\r\n");
  return last != std::string_view::npos && text.substr(0, last + 1).ends_with(kThink);
}

bool wants_json(const Query& query) { return query.format != AnswerFormat::kText; }

std::optional<bool> thinking_of(const LoadedModel& model, const Query& query,
                                const Conversation& conversation) {
  if (conversation.enable_thinking) return conversation.enable_thinking;
  // Reasoning is free text: where a caller wants JSON, or the answer's beginning is set, and does not ask for
  // reasoning, there is none.
  if (wants_json(query) || !conversation.forced_start.empty() || !conversation.prefill.empty()) return false;
  return enable_thinking_of(model.think);
}

PreparedPrompt prepare_conversation(const LoadedModel& model, const Query& query,
                                    const Conversation& conversation) {
  if (!model.chat_template)
    throw RequestError(
        400, "messages",
        text("this model has no chat template; use a completion endpoint with a plain prompt"));
  RenderOptions options;
  if (conversation.tools.is_array() && !conversation.tools.empty()) options.tools = &conversation.tools;
  if (conversation.template_variables.is_object()) options.extra = &conversation.template_variables;
  options.enable_thinking = thinking_of(model, query, conversation);
  const std::string rendered = model.chat_template->render(conversation.messages, options);

  PreparedPrompt prompt;
  prompt.forced_start = conversation.forced_start;
  prompt.ids = conversation.prefix_ids;
  const auto ids = model.tokenizer.encode(rendered + conversation.prefill + conversation.forced_start);
  prompt.ids.insert(prompt.ids.end(), ids.begin(), ids.end());
  const bool open = ends_in_open_reasoning(rendered);
  if (open) prompt.parser.start = AnswerParserOptions::Start::kReasoning;
  if (options.tools != nullptr || !conversation.forced_start.empty())
    prompt.parser.calls = AnswerParserOptions::Calls::kParse;
  if (wants_json(query) && (open || conversation.enable_thinking.value_or(false)))
    prompt.json_after = kEndThink;
  return prompt;
}

}  // namespace

PreparedPrompt prepare_prompt(const LoadedModel& model, const Query& query) {
  try {
    if (const auto* conversation = std::get_if<Conversation>(&query.prompt))
      return prepare_conversation(model, query, *conversation);
    PreparedPrompt prompt;
    if (const auto* raw = std::get_if<RawPrompt>(&query.prompt))
      prompt.ids = model.tokenizer.encode(raw->text);
    if (const auto* given = std::get_if<PromptIds>(&query.prompt)) prompt.ids = given->ids;
    if (prompt.ids.empty()) throw RequestError(400, "prompt", text("\"prompt\" must not be empty"));
    return prompt;
  } catch (const RequestError&) {
    throw;
  } catch (const InputError& error) {
    throw RequestError(400, std::holds_alternative<Conversation>(query.prompt) ? "messages" : "prompt",
                       error.what());
  }
}

GenerationRequest Generator::make_request(const Query& query, const PreparedPrompt& prompt,
                                          int64_t choice) const {
  GenerationRequest request;
  request.prompt = prompt.ids;
  request.sampling = query.sampling;
  // Several choices with one seed have to differ, and to be the same ones the next time.
  if (request.sampling.seed) request.sampling.seed = *request.sampling.seed + static_cast<uint64_t>(choice);
  request.max_new_tokens = query.max_new_tokens;
  if (query.context_limit) {
    const int64_t room = *query.context_limit - static_cast<int64_t>(prompt.ids.size());
    if (room < 1)
      throw ContextError(
          text("the prompt has {} tokens, but the context that was asked for has {}; shorten "
               "the prompt or raise num_ctx",
               prompt.ids.size(), *query.context_limit));
    request.max_new_tokens = std::min(room, request.max_new_tokens.value_or(room));
  }
  request.stop = query.stop;
  request.top_logprobs = query.top_logprobs;
  const JsonConstraintOptions options{prompt.json_after};
  if (query.format == AnswerFormat::kJsonObject)
    request.constraint = make_json_constraint(model_.tokenizer, options);
  if (query.format == AnswerFormat::kJsonSchema)
    request.constraint = make_schema_constraint(model_.tokenizer, query.schema, options);
  return request;
}

RunningAnswer Generator::start(const Query& query) const {
  PreparedPrompt prompt = prepare_prompt(model_, query);
  const auto deadline = steady_clock::now() + request_timeout_;
  std::vector<RunningAnswer::Choice> choices;
  try {
    for (int64_t choice = 0; choice < query.choices; ++choice) {
      GenerationRequest request = make_request(query, prompt, choice);
      request.deadline = deadline;
      choices.push_back({engine_.submit(std::move(request)), AnswerParser(prompt.parser), query.structure,
                         prompt.forced_start, query.max_tool_calls, std::nullopt});
    }
  } catch (const BusyError&) {
    throw RequestError(503, "", text("server busy, please try again.  maximum pending requests exceeded"));
  } catch (const StoppedError& error) {
    throw RequestError(503, "", error.what());
  } catch (const InputError& error) {
    throw RequestError(400, "", error.what());
  }
  return {std::move(choices), std::move(prompt.ids), deadline};
}

AnswerEvent RunningAnswer::convert(int64_t index, GenerationEvent event) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  AnswerEvent out;
  out.choice = index;
  out.tokens = std::move(event.tokens);
  const std::string written = std::exchange(choice.forced_start, {}) + event.text;
  if (choice.structure == Query::Structure::kPlain) {
    out.piece.content = written;
  } else {
    out.piece = choice.parser.push(written);
    if (event.result) {
      AnswerPiece rest = choice.parser.finish();
      out.piece.reasoning += rest.reasoning;
      out.piece.content += rest.content;
      for (ToolCall& call : rest.tool_calls) out.piece.tool_calls.push_back(std::move(call));
    }
  }
  auto& calls = out.piece.tool_calls;
  if (static_cast<int64_t>(calls.size()) > choice.tool_calls_left)
    calls.resize(static_cast<size_t>(choice.tool_calls_left));
  choice.tool_calls_left -= static_cast<int64_t>(calls.size());
  choice.result = event.result;
  out.result = std::move(event.result);
  return out;
}

std::optional<AnswerEvent> RunningAnswer::next(milliseconds timeout) {
  const auto until = steady_clock::now() + timeout;
  const auto waiting =
      std::count_if(choices_.begin(), choices_.end(), [](const Choice& choice) { return !choice.result; });
  if (waiting == 0) return std::nullopt;
  // One choice can be waited for; several are asked in turn.
  const milliseconds slice = waiting == 1 ? timeout : milliseconds(2);
  do {
    for (size_t i = 0; i < choices_.size(); ++i) {
      const size_t index = turn_++ % choices_.size();
      if (choices_[index].result) continue;
      if (auto event = choices_[index].ticket.next(slice))
        return convert(static_cast<int64_t>(index), std::move(*event));
    }
  } while (steady_clock::now() < until);
  return std::nullopt;
}

bool RunningAnswer::finished() const {
  return std::all_of(choices_.begin(), choices_.end(),
                     [](const Choice& choice) { return choice.result.has_value(); });
}

void RunningAnswer::cancel() {
  for (Choice& choice : choices_) choice.ticket.cancel();
}

std::vector<std::optional<GenerationResult>> RunningAnswer::results() const {
  std::vector<std::optional<GenerationResult>> results;
  for (const Choice& choice : choices_) results.push_back(choice.result);
  return results;
}

bool RunningAnswer::past_deadline() const { return deadline_ && steady_clock::now() >= *deadline_; }

}  // namespace onggi
