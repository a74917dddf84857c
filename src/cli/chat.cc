// onggi chat: a conversation in the terminal.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/process.h"
#include "base/text.h"
#include "cli/answerer.h"
#include "cli/command.h"
#include "cli/model_options.h"
#include "cli/terminal.h"

namespace onggi {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  ModelOptions model;
  AnswerOptions answer;
  std::string url, api_key;  // of a running service; empty: the model is loaded here
  std::string system;
  int64_t context = 8192;
  bool stats = false;
};

class Conversation {
 public:
  explicit Conversation(Options options)
      : options_(std::move(options)),
        answerer_(options_.url.empty() ? local_answerer(options_.model, options_.context)
                                       : service_answerer(options_.url, options_.api_key)),
        out_(stdout) {}

  ExitCode run();

 private:
  enum class After { kGoOn, kEnd };
  After command(const std::string& line);
  void ask(const std::string& question);
  void print_stats(const Answerer::Answer& answer) const;
  Json messages() const;

  Options options_;
  std::unique_ptr<Answerer> answerer_;
  Terminal out_;
  Json history_ = Json::array();  // without the system message
};

const char* const kHelp =
    "/system TEXT  set the system message and begin again\n"
    "/reset        forget the conversation\n"
    "/think        let the model reason before it answers\n"
    "/no-think     answer at once\n"
    "/exit         end (or Ctrl-D)\n"
    "\"\"\"           begin and end a message of several lines\n";

// The next message; lines between two """ lines are one message. False at the end of the input.
bool read_message(const Terminal& out, std::string& message) {
  if (out.is_terminal()) out.write(out.paint(Colour::kBold, ">>> "));
  if (!std::getline(std::cin, message)) return false;
  if (message != "\"\"\"") return true;
  message.clear();
  std::string line;
  while (std::getline(std::cin, line) && line != "\"\"\"") message += line + "\n";
  return true;
}

Json Conversation::messages() const {
  Json all = Json::array();
  if (!options_.system.empty()) all.push_back({{"role", "system"}, {"content", options_.system}});
  for (const Json& message : history_) all.push_back(message);
  return all;
}

Conversation::After Conversation::command(const std::string& line) {
  const size_t space = line.find(' ');
  const std::string name = line.substr(0, space);
  const std::string rest = space == std::string::npos ? "" : line.substr(space + 1);
  if (name == "/exit" || name == "/quit" || name == "/bye") return After::kEnd;
  if (name == "/reset" || name == "/clear") {
    history_.clear();
    out_.write(text("The conversation begins again.") + "\n");
  } else if (name == "/system") {
    options_.system = rest;
    history_.clear();
    out_.write(text("The system message is set; the conversation begins again.") + "\n");
  } else if (name == "/think") {
    options_.answer.think = true;
  } else if (name == "/no-think") {
    options_.answer.think = false;
  } else {
    out_.write(text(kHelp));
  }
  return After::kGoOn;
}

void Conversation::print_stats(const Answerer::Answer& answer) const {
  const double rate =
      answer.writing_s > 0 ? static_cast<double>(answer.generated_tokens - 1) / answer.writing_s : 0;
  out_.write(out_.paint(Colour::kDim, text("[prompt {} tokens, {} of them known; first token after {:.2f} s; "
                                           "answer {} tokens, {:.1f} tokens/s]",
                                           answer.prompt_tokens, answer.cached_tokens, answer.first_token_s,
                                           answer.generated_tokens, rate)) +
             "\n");
}

void Conversation::ask(const std::string& question) {
  history_.push_back({{"role", "user"}, {"content", question}});
  try {
    const Answerer::Answer answer =
        answerer_->answer(messages(), options_.answer, [&](const std::string& piece) { out_.write(piece); });
    out_.write("\n");
    history_.push_back({{"role", "assistant"}, {"content", answer.text}});
    if (answer.reason == FinishReason::kLength) {
      out_.write(out_.paint(Colour::kDim, text("[cut at the longest answer or at the end of the context]")) +
                 "\n");
    }
    if (options_.stats) print_stats(answer);
  } catch (const ContextError& error) {
    history_.erase(history_.size() - 1);
    out_.write(out_.paint(Colour::kRed, error.what()) + "\n" + text("/reset begins a new conversation.") +
               "\n");
  } catch (const InputError& error) {
    history_.erase(history_.size() - 1);
    out_.write(out_.paint(Colour::kRed, error.what()) + "\n");
  }
}

ExitCode Conversation::run() {
  if (out_.is_terminal()) {
    out_.write(out_.paint(Colour::kBold, answerer_->name()) + "  " + text("/help shows the commands") + "\n");
  }
  install_stop_handler();
  std::string message;
  while (!stop_requested() && read_message(out_, message)) {
    if (message.empty()) continue;
    if (message.front() == '/') {
      if (command(message) == After::kEnd) break;
    } else {
      ask(message);
    }
  }
  if (out_.is_terminal()) out_.write("\n");
  return ExitCode::kDone;
}

}  // namespace

RunCommand setup_chat(CLI::App& app) {
  auto options = std::make_shared<Options>();
  options->answer.max_tokens = 2048;
  add_model_options(app, options->model);
  add_answer_options(app, options->answer);
  CLI::Option* model = app.get_option("--model")->required(false);
  CLI::Option* url = app.add_option("--url", options->url,
                                    text("Talk to a running service that speaks OpenAI's API instead, e.g. "
                                         "http://127.0.0.1:8000"))
                         ->excludes(model);
  app.add_option("--api-key", options->api_key, text("The key that the service asks for"))->needs(url);
  app.add_option("--system", options->system, text("The system message"));
  app.add_option("--context", options->context, text("Tokens that the conversation may have"))
      ->check(CLI::PositiveNumber);
  app.add_flag("--stats", options->stats, text("Print counts and speeds after each answer"));
  return [options] {
    if (options->model.path.empty() && options->url.empty())
      throw UsageError(text("name a model with --model, or a running service with --url"));
    return Conversation(*options).run();
  };
}

}  // namespace onggi
