#include "data/layouts.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "data/row_reader.h"

namespace onggi {
namespace {

using Json = nlohmann::ordered_json;

const char* type_name(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::boolean:
      return translate("a boolean");
    case Json::value_t::string:
      return translate("a text");
    case Json::value_t::array:
      return translate("a list");
    case Json::value_t::object:
      return translate("an object");
    default:
      return translate("a number");
  }
}

const Json* find(const Json& row, const char* field) {
  const auto found = row.find(field);
  return found == row.end() || found->is_null() ? nullptr : &*found;
}

bool is_blank(const std::string& value) { return value.find_first_not_of(" \t\r\n") == std::string::npos; }

std::string required_text(const Json& row, const char* field) {
  const Json* value = find(row, field);
  if (value == nullptr) throw InputError(text("the field \"{}\" is missing", field));
  if (!value->is_string())
    throw InputError(text("the field \"{}\" is {}, not a text", field, type_name(*value)));
  auto result = value->get<std::string>();
  if (is_blank(result)) throw InputError(text("the field \"{}\" is empty", field));
  return result;
}

const Json& required_list(const Json& row, const char* field) {
  const Json* value = find(row, field);
  if (value == nullptr) throw InputError(text("the field \"{}\" is missing", field));
  if (!value->is_array())
    throw InputError(text("the field \"{}\" is {}, not a list", field, type_name(*value)));
  if (value->empty()) throw InputError(text("the field \"{}\" is empty", field));
  return *value;
}

Json message(const char* role, std::string content) {
  return {{"role", role}, {"content", std::move(content)}};
}

// "tools" is a list, or (as in ShareGPT files) a list written as a text.
Json read_tools(const Json& row) {
  const Json* tools = find(row, "tools");
  if (tools == nullptr || (tools->is_string() && is_blank(tools->get<std::string>()))) return nullptr;
  const Json list = tools->is_string() ? parse_row_json(tools->get<std::string>()) : *tools;
  if (!list.is_array()) throw InputError(text("the field \"tools\" is {}, not a list", type_name(list)));
  return list.empty() ? Json() : list;
}

void add_system(const Json& row, Json& messages) {
  const std::string system = optional_text(row, "system");
  if (!is_blank(system)) messages.push_back(message("system", system));
}

Conversation read_question_answer(const Json& row) {
  Conversation conversation{Json::array(), nullptr};
  add_system(row, conversation.messages);
  conversation.messages.push_back(message("user", required_text(row, "question")));
  conversation.messages.push_back(message("assistant", required_text(row, "answer")));
  return conversation;
}

// Alpaca's layout; "history" is a list of earlier [instruction, output] pairs.
Conversation read_instruction(const Json& row) {
  Conversation conversation{Json::array(), nullptr};
  add_system(row, conversation.messages);
  if (const Json* history = find(row, "history")) {
    if (!history->is_array())
      throw InputError(text("the field \"history\" is {}, not a list", type_name(*history)));
    for (const Json& pair : *history) {
      if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) {
        throw InputError(text("the field \"history\" is not a list of pairs of texts"));
      }
      conversation.messages.push_back(message("user", pair[0].get<std::string>()));
      conversation.messages.push_back(message("assistant", pair[1].get<std::string>()));
    }
  }
  std::string question = required_text(row, "instruction");
  const std::string input = optional_text(row, "input");
  if (!is_blank(input)) question += "\n" + input;
  conversation.messages.push_back(message("user", std::move(question)));
  conversation.messages.push_back(message("assistant", required_text(row, "output")));
  return conversation;
}

// OpenAI's content is a text, or a list of parts of which we take texts.
std::string content_text(const Json& content) {
  if (content.is_string()) return content.get<std::string>();
  if (content.is_null()) return {};
  if (!content.is_array())
    throw InputError(text("the content of a message is {}, not a text", type_name(content)));
  std::string joined;
  for (const Json& part : content) {
    const bool is_text = part.is_object() && part.value("type", Json()) == "text" && part.contains("text") &&
                         part["text"].is_string();
    if (!is_text) throw InputError(text("the content of a message has a part that is not a text"));
    joined += part["text"].get<std::string>();
  }
  return joined;
}

Conversation read_messages(const Json& row) {
  Conversation conversation{Json::array(), read_tools(row)};
  for (const Json& entry : required_list(row, "messages")) {
    if (!entry.is_object()) throw InputError(text("a message is {}, not an object", type_name(entry)));
    const std::string role = required_text(entry, "role");
    static constexpr const char* kRoles[] = {"system", "user", "assistant", "tool", "developer"};
    if (std::find(std::begin(kRoles), std::end(kRoles), role) == std::end(kRoles)) {
      throw InputError(
          text("the role \"{}\" is not one of system, user, assistant, tool", role.substr(0, 40)));
    }
    Json copy = entry;
    copy["content"] = content_text(entry.value("content", Json()));
    conversation.messages.push_back(std::move(copy));
  }
  return conversation;
}

// A ShareGPT turn that calls a function: its value is {"name", "arguments"} as a text.
Json function_call(const std::string& value) {
  Json call = parse_row_json(value);
  if (!call.is_object() || !call.contains("name"))
    throw InputError(text("a function_call turn is not {{\"name\", ...}}"));
  Json result = message("assistant", "");
  result["tool_calls"] = Json::array({{{"type", "function"}, {"function", std::move(call)}}});
  return result;
}

Conversation read_share_gpt(const Json& row) {
  Conversation conversation{Json::array(), read_tools(row)};
  add_system(row, conversation.messages);
  for (const Json& turn : required_list(row, "conversations")) {
    if (!turn.is_object()) throw InputError(text("a turn is {}, not an object", type_name(turn)));
    const std::string from = required_text(turn, "from");
    const std::string value = required_text(turn, "value");
    if (from == "human" || from == "user") {
      conversation.messages.push_back(message("user", value));
    } else if (from == "gpt" || from == "assistant") {
      conversation.messages.push_back(message("assistant", value));
    } else if (from == "system") {
      conversation.messages.push_back(message("system", value));
    } else if (from == "tool" || from == "observation") {
      conversation.messages.push_back(message("tool", value));
    } else if (from == "function_call") {
      conversation.messages.push_back(function_call(value));
    } else {
      throw InputError(text("the speaker \"{}\" is not one of human, gpt, system, tool", from.substr(0, 40)));
    }
  }
  return conversation;
}

// What every layout has to give: at least one assistant turn, and none of them empty.
void check(const Conversation& conversation) {
  bool has_answer = false;
  for (const Json& entry : conversation.messages) {
    if (entry["role"] != "assistant") continue;
    has_answer = true;
    const Json* calls = find(entry, "tool_calls");
    const bool has_calls = calls != nullptr && calls->is_array() && !calls->empty();
    if (is_blank(entry["content"].get<std::string>()) && !has_calls)
      throw InputError(text("an answer is empty"));
  }
  if (!has_answer) throw InputError(text("there is no assistant turn to train on"));
  if (conversation.messages.front()["role"] == "assistant") {
    throw InputError(text("the conversation begins with the assistant, so that there is no prompt"));
  }
}

}  // namespace

std::string_view name_of(DataLayout layout) {
  switch (layout) {
    case DataLayout::kMessages:
      return "messages";
    case DataLayout::kQuestionAnswer:
      return "question/answer";
    case DataLayout::kInstruction:
      return "instruction/input/output";
    case DataLayout::kConversations:
      return "conversations";
  }
  return "";
}

std::optional<DataLayout> layout_of(const Json& row) {
  if (row.contains("messages")) return DataLayout::kMessages;
  if (row.contains("conversations")) return DataLayout::kConversations;
  if (row.contains("question") && row.contains("answer")) return DataLayout::kQuestionAnswer;
  if (row.contains("instruction") && row.contains("output")) return DataLayout::kInstruction;
  return std::nullopt;
}

Conversation read_conversation(const Json& row, DataLayout layout) {
  Conversation conversation;
  switch (layout) {
    case DataLayout::kMessages:
      conversation = read_messages(row);
      break;
    case DataLayout::kQuestionAnswer:
      conversation = read_question_answer(row);
      break;
    case DataLayout::kInstruction:
      conversation = read_instruction(row);
      break;
    case DataLayout::kConversations:
      conversation = read_share_gpt(row);
      break;
  }
  check(conversation);
  return conversation;
}

std::string optional_text(const Json& row, const char* field) {
  const Json* value = find(row, field);
  if (value == nullptr) return {};
  if (!value->is_string())
    throw InputError(text("the field \"{}\" is {}, not a text", field, type_name(*value)));
  return value->get<std::string>();
}

}  // namespace onggi
