// A chat template from anywhere: an InputError, or a text.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "tokenizer/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const nlohmann::ordered_json messages = nlohmann::ordered_json::parse(R"([
    {"role": "system", "content": "sys"}, {"role": "user", "content": "질문"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]},
    {"role": "tool", "content": "{}"}])");
  static const nlohmann::ordered_json tools = nlohmann::ordered_json::parse(
      R"([{"type": "function", "function": {"name": "f", "parameters": {"x": [1, 2.5, null, true]}}}])");
  try {
    const onggi::ChatTemplate chat(std::string(reinterpret_cast<const char*>(data), size),
                                   {"<bos>", "<eos>", "<pad>"});
    onggi::RenderOptions options;
    options.tools = &tools;
    options.enable_thinking = false;
    chat.render(messages, options);
  } catch (const onggi::InputError&) {
  }
  return 0;
}
