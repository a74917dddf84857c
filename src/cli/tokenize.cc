// onggi tokenize: text on standard input, ids on standard output.
#include <CLI/CLI.hpp>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cli/command.h"
#include "infer/chat_model.h"

namespace onggi {
namespace {

using Json = nlohmann::json;

struct Options {
  std::string model;
  bool json = false, jsonl = false, no_special = false;
};

// {"ids": [...]}, or one line per token for people.
void tokenize_text(const Options& options, const Tokenizer& tokenizer, ParseSpecial parse) {
  const std::string input{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
  const std::vector<int32_t> ids = tokenizer.encode(input, parse);
  if (options.json) {
    std::cout << Json{{"ids", ids}}.dump() << '\n';
    return;
  }
  for (int32_t id : ids) {
    // Quoted, so that spaces and line ends show; parts of characters as U+FFFD.
    const Json token(std::string(tokenizer.token_bytes(id)));
    std::cout << id << '\t' << token.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  }
}

void tokenize_lines(const Tokenizer& tokenizer, ParseSpecial parse) {
  std::string line;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    const Json value = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!value.is_string()) throw InputError(text("line {} of standard input is not a JSON string", number));
    std::cout << Json(tokenizer.encode(value.get<std::string>(), parse)).dump() << '\n';
  }
}

}  // namespace

RunCommand setup_tokenize(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("--model,-m", options->model, text("A Hugging Face folder or a GGUF file"))->required();
  CLI::Option* json = app.add_flag("--json", options->json, text("Print one JSON object with the ids"));
  app.add_flag("--jsonl", options->jsonl,
               text("Each line is a JSON string; print a JSON array of ids for each"))
      ->excludes(json);
  app.add_flag("--no-special", options->no_special,
               text("Take control tokens in the text as plain characters"));
  return [options] {
    const Tokenizer tokenizer = load_tokenizer(options->model);
    const ParseSpecial parse = options->no_special ? ParseSpecial::kNo : ParseSpecial::kYes;
    if (options->jsonl) {
      tokenize_lines(tokenizer, parse);
    } else {
      tokenize_text(*options, tokenizer, parse);
    }
    std::cout.flush();
    return ExitCode::kDone;
  };
}

}  // namespace onggi
