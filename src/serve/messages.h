// Conversations: from the messages of the dialects to those that chat templates expect.
#pragma once

#include "serve/fields.h"

namespace onggi {

// Checks and converts an array of messages, OpenAI's or Ollama's (their shapes do not contradict each other):
// roles system, developer (becomes system), user, assistant, tool, in any case; content a string, null, or an
// array of text parts; reasoning as "reasoning_content", "reasoning" or "thinking"; tool_calls with arguments
// as an object or as a JSON string. Images are RequestError(400): the models have no eyes.
// path names the array in messages of errors.
Json to_template_messages(const Json& messages, const std::string& path);

// Checks an array of tool definitions {"type": "function", "function": {"name", ...}}; gives it back.
Json to_template_tools(const Json& tools, const std::string& path);

}  // namespace onggi
