#include "serve/answer_parser.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "base/text.h"

namespace onggi {
namespace {

constexpr std::string_view kThink = "<think>";
constexpr std::string_view kEndThink = "</think>";
constexpr std::string_view kCall = "<tool_call>";
constexpr std::string_view kEndCall = "</tool_call>";
constexpr std::string_view kSpace = " \t\r\n";

// Bytes at the end of text that may be the beginning of tag.
size_t partial_tag(std::string_view text, std::string_view tag) {
  for (size_t length = std::min(text.size(), tag.size() - 1); length > 0; --length)
    if (text.ends_with(tag.substr(0, length))) return length;
  return 0;
}

// What a model wrote; discarded where it is no JSON or beyond the limits of a client's.
Json parse_bounded(std::string_view json) {
  return beyond_json_limits(json) ? Json(Json::value_t::discarded) : Json::parse(json, nullptr, false);
}

std::string new_call_id() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("call_{:016x}", random());
}

}  // namespace

std::vector<ToolCall> parse_tool_call(std::string_view body) {
  const Json value = parse_bounded(body);
  if (!value.is_object()) return {};
  const auto name = value.find("name");
  if (name == value.end() || !name->is_string()) return {};
  ToolCall call{new_call_id(), name->get<std::string>(), Json::object()};
  const auto arguments = value.find("arguments");
  if (arguments != value.end()) {
    if (arguments->is_object()) {
      call.arguments = *arguments;
    } else if (arguments->is_string()) {
      call.arguments = parse_bounded(arguments->get<std::string>());
      if (!call.arguments.is_object()) return {};
    } else if (!arguments->is_null()) {
      return {};
    }
  }
  return {std::move(call)};
}

AnswerParser::AnswerParser(AnswerParserOptions options)
    : options_(options),
      state_(options.start == AnswerParserOptions::Start::kReasoning ? State::kReasoning : State::kStart),
      trim_reasoning_(true) {}

AnswerPiece AnswerParser::push(std::string_view text) {
  pending_ += text;
  AnswerPiece out;
  while (step(out)) {
  }
  return out;
}

bool AnswerParser::step(AnswerPiece& out) {
  switch (state_) {
    case State::kStart:
      return step_start(out);
    case State::kReasoning:
      return step_reasoning(out);
    case State::kContent:
      return step_content(out);
    case State::kCall:
      return step_call(out);
  }
  return false;
}

// The block counts at the very beginning only, after white space.
bool AnswerParser::step_start(AnswerPiece&) {
  const size_t word = pending_.find_first_not_of(kSpace);
  if (word == std::string::npos) return false;
  const std::string_view rest = std::string_view(pending_).substr(word);
  if (rest.starts_with(kThink)) {
    pending_.erase(0, word + kThink.size());
    state_ = State::kReasoning;
    return true;
  }
  if (kThink.starts_with(rest)) return false;
  state_ = State::kContent;
  return true;
}

bool AnswerParser::step_reasoning(AnswerPiece& out) {
  const size_t end = pending_.find(kEndThink);
  if (end != std::string::npos) {
    add_reasoning(std::string_view(pending_).substr(0, end), out);
    pending_.erase(0, end + kEndThink.size());
    held_space_.clear();
    trim_content_ = true;
    state_ = State::kContent;
    return true;
  }
  const size_t known = pending_.size() - partial_tag(pending_, kEndThink);
  add_reasoning(std::string_view(pending_).substr(0, known), out);
  pending_.erase(0, known);
  return false;
}

bool AnswerParser::step_content(AnswerPiece& out) {
  if (options_.calls == AnswerParserOptions::Calls::kKeep) {
    add_content(pending_, out);
    pending_.clear();
    return false;
  }
  const size_t begin = pending_.find(kCall);
  if (begin != std::string::npos) {
    add_content(std::string_view(pending_).substr(0, begin), out);
    pending_.erase(0, begin + kCall.size());
    state_ = State::kCall;
    return true;
  }
  const size_t known = pending_.size() - partial_tag(pending_, kCall);
  add_content(std::string_view(pending_).substr(0, known), out);
  pending_.erase(0, known);
  return false;
}

bool AnswerParser::step_call(AnswerPiece& out) {
  const size_t end = pending_.find(kEndCall);
  if (end == std::string::npos) return false;
  const std::string body = pending_.substr(0, end);
  pending_.erase(0, end + kEndCall.size());
  state_ = State::kContent;
  end_call(body, out);
  return true;
}

void AnswerParser::end_call(std::string_view body, AnswerPiece& out) {
  auto calls = parse_tool_call(body);
  if (calls.empty()) {
    add_content(fmt::format("{}{}{}", kCall, body, kEndCall), out);
    return;
  }
  held_space_.clear();  // the line breaks between text and call, and between calls
  trim_content_ = true;
  for (ToolCall& call : calls) out.tool_calls.push_back(std::move(call));
}

void AnswerParser::add_reasoning(std::string_view text, AnswerPiece& out) {
  if (trim_reasoning_) {
    const size_t word = text.find_first_not_of(kSpace);
    if (word == std::string_view::npos) return;
    text.remove_prefix(word);
    trim_reasoning_ = false;
  }
  const size_t last = text.find_last_not_of(kSpace);
  const size_t kept = last == std::string_view::npos ? 0 : last + 1;
  if (kept > 0) {
    out.reasoning += held_space_;
    out.reasoning += text.substr(0, kept);
    held_space_.clear();
  }
  held_space_ += text.substr(kept);
}

void AnswerParser::add_content(std::string_view text, AnswerPiece& out) {
  if (trim_content_) {
    const size_t word = text.find_first_not_of(kSpace);
    if (word == std::string_view::npos) return;
    text.remove_prefix(word);
    trim_content_ = false;
  }
  if (options_.calls == AnswerParserOptions::Calls::kKeep) {
    out.content += text;
    return;
  }
  // White space may turn out to stand before a call.
  const size_t last = text.find_last_not_of(kSpace);
  const size_t kept = last == std::string_view::npos ? 0 : last + 1;
  if (kept > 0) {
    out.content += held_space_;
    out.content += text.substr(0, kept);
    held_space_.clear();
  }
  held_space_ += text.substr(kept);
}

AnswerPiece AnswerParser::finish() {
  AnswerPiece out;
  const std::string rest = std::move(pending_);
  pending_.clear();
  switch (state_) {
    case State::kReasoning:
      add_reasoning(rest, out);
      break;
    case State::kStart:
    case State::kContent:
      add_content(rest, out);
      out.content += held_space_;
      break;
    case State::kCall: {
      auto calls = parse_tool_call(rest);
      if (calls.empty()) {
        held_space_.clear();
        out.content += fmt::format("{}{}", kCall, rest);
      } else {
        out.tool_calls = std::move(calls);
      }
      break;
    }
  }
  held_space_.clear();
  return out;
}

}  // namespace onggi
