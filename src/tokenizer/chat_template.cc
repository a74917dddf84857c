#include "tokenizer/chat_template.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/jinja_interpreter.h"
#include "tokenizer/jinja_lexer.h"
#include "tokenizer/jinja_parser.h"
#include "tokenizer/jinja_text.h"
#include "tokenizer/tokenizer.h"

namespace onggi {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kThinkBegin = "<think>", kThinkEnd = "</think>";

bool is_assistant(const Json& message) {
  const auto role = message.is_object() ? message.find("role") : message.end();
  return message.is_object() && role != message.end() && *role == "assistant";
}

std::string content_of(const Json& message, const char* key) {
  const auto found = message.find(key);
  return found != message.end() && found->is_string() ? found->get<std::string>() : std::string();
}

bool begins_with(const std::string& text, const std::string& prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

Json first_messages(const Json& messages, size_t count) {
  Json part = Json::array();
  for (size_t i = 0; i < count; ++i) part.push_back(messages[i]);
  return part;
}

}  // namespace

std::string_view name_of(ThinkMode mode) {
  switch (mode) {
    case ThinkMode::kEmpty:
      return "empty";
    case ThinkMode::kKept:
      return "kept";
    case ThinkMode::kMixed:
      return "mixed";
  }
  return "";
}

ThinkMode think_mode_of(std::string_view name) {
  for (const ThinkMode mode : {ThinkMode::kEmpty, ThinkMode::kKept, ThinkMode::kMixed}) {
    if (name_of(mode) == name) return mode;
  }
  throw UsageError(text("the think mode \"{}\" is not known; use empty, kept or mixed", name));
}

std::optional<bool> enable_thinking_of(ThinkMode mode) {
  if (mode == ThinkMode::kMixed) return std::nullopt;
  return mode == ThinkMode::kKept;
}

bool reasons(const Json& message) {
  if (!jinja::strip(content_of(message, "reasoning_content"), jinja::Side::kBoth).empty()) return true;
  const std::string content = content_of(message, "content");
  const size_t end = content.find(kThinkEnd);
  if (end == std::string::npos) return false;
  const size_t begin = content.find(kThinkBegin);
  const size_t start = begin == std::string::npos || begin > end ? 0 : begin + kThinkBegin.size();
  return !jinja::strip(std::string_view(content).substr(start, end - start), jinja::Side::kBoth).empty();
}

std::string without_reasoning(std::string_view answer) {
  const size_t end = answer.find(kThinkEnd);
  if (end == std::string_view::npos) return std::string(answer);
  const std::string newlines = "\n";
  return std::string(jinja::strip(answer.substr(end + kThinkEnd.size()), jinja::Side::kLeft, &newlines));
}

struct ChatTemplate::Program {
  jinja::Block block;
};

ChatTemplate::ChatTemplate(std::string text, SpecialTokens special)
    : text_(std::move(text)),
      special_(std::move(special)),
      program_(std::make_shared<const Program>(Program{jinja::parse(text_)})) {}

ChatTemplate ChatTemplate::of(const Tokenizer& tokenizer) {
  if (tokenizer.chat_template().empty()) {
    throw InputError(
        onggi::text("the model has no chat template (chat_template.jinja, or \"chat_template\" in "
                    "tokenizer_config.json); use an "
                    "instruction model, or add a template"));
  }
  const auto token = [&](std::optional<int32_t> id) {
    return id ? std::string(tokenizer.parts().tokens[static_cast<size_t>(*id)]) : std::string();
  };
  return ChatTemplate(tokenizer.chat_template(),
                      {token(tokenizer.bos_id()), token(tokenizer.eos_id()), token(tokenizer.pad_id())});
}

std::string ChatTemplate::render(const Json& messages, const RenderOptions& options) const {
  if (!messages.is_array()) throw InputError(onggi::text("the messages of a chat are not a list"));
  try {
    std::vector<std::pair<std::string, jinja::Value>> variables;
    variables.emplace_back("messages", jinja::from_json(messages));
    variables.emplace_back(
        "tools", options.tools == nullptr ? jinja::Value(jinja::None{}) : jinja::from_json(*options.tools));
    variables.emplace_back("documents", jinja::None{});
    variables.emplace_back("add_generation_prompt", options.add_generation_prompt);
    // transformers passes the tokens that the tokenizer has; the others are undefined.
    if (!special_.bos.empty()) variables.emplace_back("bos_token", special_.bos);
    if (!special_.eos.empty()) variables.emplace_back("eos_token", special_.eos);
    if (!special_.pad.empty()) variables.emplace_back("pad_token", special_.pad);
    if (options.enable_thinking) variables.emplace_back("enable_thinking", *options.enable_thinking);
    if (options.extra != nullptr) {
      if (!options.extra->is_object())
        throw InputError(onggi::text("the chat template's variables are not an object"));
      for (const auto& [name, value] : options.extra->items()) {
        std::erase_if(variables, [&, key = name](const auto& variable) { return variable.first == key; });
        variables.emplace_back(name, jinja::from_json(value));
      }
    }
    return jinja::render(program_->block, std::move(variables));
  } catch (const jinja::Fault& fault) {
    throw InputError(onggi::text("the messages cannot be given to the chat template: {}", fault.what()));
  }
}

std::vector<RenderedChat> ChatTemplate::render_for_training(const Json& messages,
                                                            const TrainingRenderOptions& options) const {
  if (!messages.is_array()) throw InputError(onggi::text("the messages of a chat are not a list"));
  std::vector<size_t> turns;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (is_assistant(messages[i])) turns.push_back(i);
  }
  if (turns.empty()) throw InputError(onggi::text("the chat has no assistant turn to train on"));

  const auto render_first = [&](size_t count, size_t turn, bool prompt) {
    const bool thinks =
        options.think == ThinkMode::kKept || (options.think == ThinkMode::kMixed && reasons(messages[turn]));
    return render(first_messages(messages, count), {options.tools, prompt, thinks, options.extra});
  };
  std::vector<RenderedChat> chats(1);
  RenderedChat& whole = chats[0];
  whole.text = render_first(turns.back() + 1, turns.back(), false);
  std::vector<RenderedChat> apart;
  for (const size_t turn : turns) {
    const std::string prompt = render_first(turn, turn, true);
    std::string until = turn == turns.back() ? whole.text : render_first(turn + 1, turn, false);
    if (!begins_with(until, prompt) || until.size() == prompt.size()) {
      throw InputError(
          onggi::text("the chat template renders message {} in another way than its prompt for generation "
                      "begins, so the model would "
                      "be trained on other prompts than it is served; set the think mode that fits the "
                      "answers (empty, kept, mixed)",
                      turn + 1));
    }
    const std::pair<size_t, size_t> span{prompt.size(), until.size()};
    if (begins_with(whole.text, until)) {
      whole.assistant_spans.push_back(span);
    } else {
      apart.push_back({std::move(until), {span}});
    }
  }
  // The last turn always ends the whole rendering, so that it has at least one span.
  chats.insert(chats.end(), std::make_move_iterator(apart.begin()), std::make_move_iterator(apart.end()));
  return chats;
}

}  // namespace onggi
