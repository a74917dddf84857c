// A model's chat template: its own Jinja text, rendered as Hugging Face renders it, in training and in
// serving alike.
#pragma once

#include <cstddef>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace onggi {

class Tokenizer;

// What the answers of a data set, and so the trained model, do with the <think> block.
enum class ThinkMode {
  kEmpty,  // no reasoning: prompts end with the empty block where the template has one (enable_thinking =
           // false)
  kKept,   // every answer reasons: prompts leave the block to the model (enable_thinking = true)
  kMixed,  // per answer
};
// "empty", "kept", "mixed".
std::string_view name_of(ThinkMode mode);
// Throws UsageError for another word.
ThinkMode think_mode_of(std::string_view name);
// The template's variable enable_thinking when a model trained in this mode is asked; absent for kMixed.
std::optional<bool> enable_thinking_of(ThinkMode mode);

// Whether an assistant message holds reasoning: a <think> block with text in it, or reasoning_content.
bool reasons(const nlohmann::ordered_json& message);
// An answer without its <think> block.
std::string without_reasoning(std::string_view answer);

struct RenderOptions {
  const nlohmann::ordered_json* tools = nullptr;  // an array of function descriptions
  bool add_generation_prompt = true;
  std::optional<bool> enable_thinking;            // absent: the variable is undefined
  const nlohmann::ordered_json* extra = nullptr;  // an object: further variables
};

// One rendered conversation and where the model itself speaks.
struct RenderedChat {
  std::string text;
  // [begin, end) in bytes of text: what the model has to write, from the end of the generation prompt to the
  // end of what the template puts after the answer (the end-of-turn token and its newline), in order,
  // disjoint.
  std::vector<std::pair<size_t, size_t>> assistant_spans;
};

struct TrainingRenderOptions {
  const nlohmann::ordered_json* tools = nullptr;
  ThinkMode think = ThinkMode::kEmpty;
  const nlohmann::ordered_json* extra = nullptr;
};

class ChatTemplate {
 public:
  // The text of the special tokens, as the template's variables bos_token, eos_token, pad_token.
  struct SpecialTokens {
    std::string bos, eos, pad;
  };

  // Throws InputError naming construct and line for what is not Jinja or not known to us.
  explicit ChatTemplate(std::string text, SpecialTokens special = {});
  // The template and special tokens of a tokenizer. Throws InputError where it has no template.
  static ChatTemplate of(const Tokenizer& tokenizer);

  const std::string& text() const { return text_; }

  // messages: an array of objects with role and content (tool_calls, reasoning_content, ... as the template
  // asks). Throws InputError for what the template raises or what fails in it, with its line.
  std::string render(const nlohmann::ordered_json& messages, const RenderOptions& options = {}) const;

  // The renderings to train on. Each assistant turn is found by rendering what comes before it with the
  // generation prompt, so that a trained prompt is byte for byte the prompt of serving. One rendering of the
  // whole conversation carries every turn that reads there as it was generated; a turn that the template
  // rewrites later (Qwen3 drops the reasoning of earlier turns) gets its own rendering, which ends with it.
  // Throws InputError where the rendering of a turn does not begin with its own prompt, and where there is no
  // assistant turn.
  std::vector<RenderedChat> render_for_training(const nlohmann::ordered_json& messages,
                                                const TrainingRenderOptions& options = {}) const;

 private:
  struct Program;
  std::string text_;
  SpecialTokens special_;
  std::shared_ptr<const Program> program_;
};

}  // namespace onggi
