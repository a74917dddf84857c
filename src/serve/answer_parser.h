// Splits the text of an answer, as it streams in, into reasoning, content and tool calls.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "serve/query.h"

namespace onggi {

// What became known with a piece of text; any of the parts may be empty.
struct AnswerPiece {
  std::string reasoning;
  std::string content;
  std::vector<ToolCall> tool_calls;
  bool empty() const { return reasoning.empty() && content.empty() && tool_calls.empty(); }
};

struct AnswerParserOptions {
  // Whether the prompt ends inside an open <think> block, as some templates leave it.
  enum class Start { kContent, kReasoning } start = Start::kContent;
  // <tool_call>{"name": ..., "arguments": {...}}</tool_call>, as Qwen's templates ask for; kKeep leaves such
  // text in the content (the request named no tools).
  enum class Calls { kParse, kKeep } calls = Calls::kKeep;
};

// Tags are recognised wherever the pieces are cut; text that could be the beginning of a tag is held back
// until it is known. White space around the reasoning and before the content after it is dropped, as Qwen3's
// template does when it reads answers back. A tool call that is not valid JSON stays in the content as it was
// written: nothing that the model says is lost.
class AnswerParser {
 public:
  explicit AnswerParser(AnswerParserOptions options);

  AnswerPiece push(std::string_view text);
  // What was held back; an unfinished tool call is parsed as far as it is valid, else it is content.
  AnswerPiece finish();

 private:
  enum class State { kStart, kReasoning, kContent, kCall };
  bool step(AnswerPiece& out);
  bool step_start(AnswerPiece& out);
  bool step_reasoning(AnswerPiece& out);
  bool step_content(AnswerPiece& out);
  bool step_call(AnswerPiece& out);
  void add_content(std::string_view text, AnswerPiece& out);
  void add_reasoning(std::string_view text, AnswerPiece& out);
  void end_call(std::string_view body, AnswerPiece& out);

  AnswerParserOptions options_;
  State state_;
  std::string pending_;
  std::string
      held_space_;  // white space that is dropped if the reasoning, or the content before a call, ends
  bool trim_content_ = false;    // after </think>: white space before the first word is dropped
  bool trim_reasoning_ = false;  // after <think>
};

// The call in the text between <tool_call> and </tool_call>; nothing where it is no JSON object with a name.
std::vector<ToolCall> parse_tool_call(std::string_view body);

}  // namespace onggi
