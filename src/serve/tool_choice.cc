#include "serve/tool_choice.h"

#include "base/text.h"

namespace onggi {
namespace {

std::string tool_name(const Json& tool) { return tool.at("function").at("name").get<std::string>(); }

// The beginning of the answer that commits the model to a call, in the form that Qwen's templates teach.
std::string forced_call(const ToolChoice& choice, const Json& tools, const Fields& fields) {
  std::string name = choice.name;
  if (choice.kind == ToolChoice::Kind::kRequired && tools.size() == 1) name = tool_name(tools[0]);
  if (name.empty()) return "<tool_call>\n{\"name\": \"";
  for (const Json& tool : tools)
    if (tool_name(tool) == name)
      return fmt::format("<tool_call>\n{{\"name\": {}, \"arguments\": ", dump(Json(name)));
  fields.fail("tool_choice",
              text("\"tool_choice\" names the function \"{}\", which \"tools\" does not have", name));
}

}  // namespace

void use_tools(Json tools, const ToolChoice& choice, const Fields& fields, const ServedModel& model,
               Conversation& conversation) {
  if (model.tools == ServedModel::Capability::kNo)
    fields.fail("tools", text("\"{}\" does not support tools", model.names.front()));
  if (choice.kind == ToolChoice::Kind::kNone) return;
  if (choice.kind != ToolChoice::Kind::kAuto) {
    conversation.forced_start = forced_call(choice, tools, fields);
    conversation.enable_thinking = false;  // the call comes first, so there is no room for reasoning
  }
  conversation.tools = std::move(tools);
}

}  // namespace onggi
