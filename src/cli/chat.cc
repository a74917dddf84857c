// onggi chat: a conversation in the terminal.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/process.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/model_options.h"
#include "cli/terminal.h"

namespace onggi {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  ModelOptions model;
  AnswerOptions answer;
  std::string system;
  int64_t context = 8192;
  bool stats = false;
};

class Conversation {
 public:
  explicit Conversation(Options options)
      : options_(std::move(options)),
        model_(open_model(options_.model)),
        engine_(single_engine(model_, options_.model.precision, options_.context)),
        out_(stdout) {}

  ExitCode run();

 private:
  enum class After { kGoOn, kEnd };
  After command(const std::string& line);
  void ask(const std::string& question);
  Generation stream_answer();
  void print_stats(const GenerationResult& result) const;
  Json messages() const;

  Options options_;
  OpenModel model_;
  std::unique_ptr<Engine> engine_;
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

Generation Conversation::stream_answer() {
  GenerationRequest request;
  RenderOptions render;
  render.enable_thinking = options_.answer.think;
  request.prompt = render_prompt(model_.loaded, messages(), render);
  request.sampling = sampling_of(options_.answer, model_.loaded.model->config);
  request.max_new_tokens = options_.answer.max_tokens;
  request.stop = options_.answer.stop;
  Ticket ticket = engine_->submit(std::move(request));
  Generation answer;
  while (true) {
    if (stop_requested()) ticket.cancel();
    std::optional<GenerationEvent> event = ticket.next(std::chrono::milliseconds(100));
    if (!event) continue;
    out_.write(event->text);
    answer.text += event->text;
    if (!event->result) continue;
    out_.write("\n");
    answer.result = std::move(*event->result);
    return answer;
  }
}

void Conversation::print_stats(const GenerationResult& result) const {
  const double rate =
      result.timings.eval > 0 ? static_cast<double>(result.generated_tokens - 1) / result.timings.eval : 0;
  out_.write(out_.paint(Colour::kDim, text("[prompt {} tokens, {} of them known; first token after {:.2f} s; "
                                           "answer {} tokens, {:.1f} tokens/s]",
                                           result.prompt_tokens, result.cached_tokens,
                                           result.timings.first_token, result.generated_tokens, rate)) +
             "\n");
}

void Conversation::ask(const std::string& question) {
  history_.push_back({{"role", "user"}, {"content", question}});
  try {
    const Generation answer = stream_answer();
    if (answer.result.reason == FinishReason::kError)
      throw Error(answer.result.error_code, answer.result.error);
    history_.push_back({{"role", "assistant"}, {"content", answer.text}});
    if (answer.result.reason == FinishReason::kLength) {
      out_.write(out_.paint(Colour::kDim, text("[cut at the longest answer or at the end of the context]")) +
                 "\n");
    }
    if (options_.stats) print_stats(answer.result);
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
  if (!model_.loaded.chat_template) {
    throw InputError(text("the model {} has no chat template; use onggi generate --raw", model_.loaded.name));
  }
  if (out_.is_terminal()) {
    out_.write(out_.paint(Colour::kBold, model_.loaded.name) + "  " + text("/help shows the commands") +
               "\n");
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
  app.add_option("--system", options->system, text("The system message"));
  app.add_option("--context", options->context, text("Tokens that the conversation may have"))
      ->check(CLI::PositiveNumber);
  app.add_flag("--stats", options->stats, text("Print counts and speeds after each answer"));
  return [options] { return Conversation(*options).run(); };
}

}  // namespace onggi
