// Request bodies of every endpoint: whatever the bytes, a query or a RequestError. The first byte chooses the
// endpoint; another picks what the answer parser is fed with.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "serve/answer_parser.h"
#include "serve/anthropic_api.h"
#include "serve/chat_api.h"
#include "serve/ollama_api.h"
#include "serve/openai_api.h"
#include "serve/request_error.h"

namespace onggi {
namespace {

ServedModel fuzz_model() {
  ServedModel model;
  model.names = {"m"};
  model.context_length = 2048;
  model.tools = model.thinking = ServedModel::Capability::kYes;
  return model;
}

void parse(uint8_t endpoint, std::string_view bytes) {
  static const ServedModel model = fuzz_model();
  if (endpoint % 7 == 5) {
    AnswerParser parser({AnswerParserOptions::Start::kContent, AnswerParserOptions::Calls::kParse});
    for (size_t i = 0; i < bytes.size(); i += 3) parser.push(bytes.substr(i, 3));
    parser.finish();
    return;
  }
  const Json body = parse_request_body(bytes);
  switch (endpoint % 7) {
    case 0:
      parse_chat(body, model);
      break;
    case 1:
      parse_openai_chat(body, model);
      openai_stream_usage(body);
      break;
    case 2:
      parse_openai_completion(body, model);
      break;
    case 3:
      parse_ollama_chat(body, model);
      break;
    case 4:
      parse_ollama_generate(body, model);
      ollama_show(body, model);
      break;
    case 6:
      parse_anthropic_messages(body, model);
      break;
  }
}

}  // namespace
}  // namespace onggi

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  try {
    onggi::parse(data[0], {reinterpret_cast<const char*>(data + 1), size - 1});
  } catch (const onggi::RequestError&) {
    // what a client is told
  }
  return 0;
}
