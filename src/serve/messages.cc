#include "serve/messages.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "serve/request_error.h"

namespace onggi {
namespace {

std::string role_of(const Fields& message) {
  std::string role = message.require_string("role");
  std::transform(role.begin(), role.end(), role.begin(), [](unsigned char c) { return std::tolower(c); });
  if (role == "developer") return "system";
  if (role == "function") return "tool";
  for (const char* known : {"system", "user", "assistant", "tool"})
    if (role == known) return role;
  message.fail("role", text("\"{}\" must be system, user, assistant or tool, not \"{}\"",
                            message.path_of("role"), role));
}

std::string part_text(const Json& part, const std::string& path) {
  const Fields fields(part, path);
  const std::string type = fields.require_string("type");
  if (type == "text" || type == "input_text" || type == "output_text") return fields.require_string("text");
  if (type == "refusal") return fields.require_string("refusal");
  fields.fail("type", text("\"{}\" is \"{}\", but this model reads text only", fields.path_of("type"), type));
}

std::string content_of(const Fields& message) {
  const Json* content = message.find("content");
  if (content == nullptr) return {};
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array())
    message.fail("content",
                 text("\"{}\" must be a string or an array of text parts", message.path_of("content")));
  std::string result;
  for (size_t i = 0; i < content->size(); ++i)
    result += part_text((*content)[i], fmt::format("{}[{}]", message.path_of("content"), i));
  return result;
}

Json call_arguments(const Fields& function) {
  const Json* arguments = function.find("arguments");
  if (arguments == nullptr) return Json::object();
  if (arguments->is_object()) return *arguments;
  if (arguments->is_string()) {
    const std::string written = arguments->get<std::string>();
    if (written.empty()) return Json::object();
    try {
      return parse_request_body(written);
    } catch (const RequestError&) {
      function.fail("arguments", text("\"{}\" must be a JSON object", function.path_of("arguments")));
    }
  }
  function.fail("arguments",
                text("\"{}\" must be an object or its JSON text", function.path_of("arguments")));
}

Json tool_calls_of(const Fields& message) {
  const Json* calls = message.array("tool_calls");
  Json result = Json::array();
  if (calls == nullptr) return result;
  for (size_t i = 0; i < calls->size(); ++i) {
    const std::string path = fmt::format("{}[{}]", message.path_of("tool_calls"), i);
    const Fields call((*calls)[i], path);
    const Json* function = call.object("function");
    if (function == nullptr) call.fail("function", text("\"{}\" is required", call.path_of("function")));
    const Fields fields(*function, call.path_of("function"));
    Json entry = {
        {"type", "function"},
        {"function", {{"name", fields.require_string("name")}, {"arguments", call_arguments(fields)}}}};
    if (const auto id = call.string("id")) entry["id"] = *id;
    result.push_back(std::move(entry));
  }
  return result;
}

Json to_template_message(const Json& given, const std::string& path) {
  const Fields message(given, path);
  if (const Json* images = message.array("images"); images != nullptr && !images->empty())
    message.fail("images", text("this model does not support images"));
  Json result = {{"role", role_of(message)}, {"content", content_of(message)}};
  for (const char* name : {"reasoning_content", "reasoning", "thinking"}) {
    const auto reasoning = message.string(name);
    if (reasoning && !reasoning->empty()) {
      result["reasoning_content"] = *reasoning;
      break;
    }
  }
  if (Json calls = tool_calls_of(message); !calls.empty()) result["tool_calls"] = std::move(calls);
  for (const char* name : {"name", "tool_name", "tool_call_id"})
    if (const auto value = message.string(name)) result[name] = *value;
  return result;
}

}  // namespace

Json to_template_messages(const Json& messages, const std::string& path) {
  Json result = Json::array();
  for (size_t i = 0; i < messages.size(); ++i)
    result.push_back(to_template_message(messages[i], fmt::format("{}[{}]", path, i)));
  return result;
}

Json to_template_tools(const Json& tools, const std::string& path) {
  for (size_t i = 0; i < tools.size(); ++i) {
    const Fields tool(tools[i], fmt::format("{}[{}]", path, i));
    const auto type = tool.string("type");
    if (type && *type != "function")
      tool.fail("type", text("\"{}\" must be \"function\", not \"{}\"", tool.path_of("type"), *type));
    const Json* function = tool.object("function");
    if (function == nullptr) tool.fail("function", text("\"{}\" is required", tool.path_of("function")));
    Fields(*function, tool.path_of("function")).require_string("name");
  }
  return tools;
}

}  // namespace onggi
