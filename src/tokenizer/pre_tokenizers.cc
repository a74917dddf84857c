#include "tokenizer/pre_tokenizers.h"

namespace onggi {
namespace {

// Qwen2, Qwen2.5 and Qwen3: the expression of their tokenizer.json.
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Llama 3: the same with numbers in groups of three.
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// GPT-2, also what ByteLevel with use_regex splits by.
constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

constexpr NamedPreTokenizer kKnown[] = {
    {"qwen2", kQwen2, true, false},
    {"llama-bpe", kLlama3, false, true},
    {"gpt-2", kGpt2, false, false},
};

}  // namespace

const NamedPreTokenizer* find_pre_tokenizer(std::string_view name) {
  for (const auto& known : kKnown) {
    if (known.name == name) return &known;
  }
  return nullptr;
}

std::string pre_tokenizer_name(const std::vector<std::string>& patterns) {
  if (patterns.size() != 1) return {};
  for (const auto& known : kKnown) {
    if (known.pattern == patterns[0]) return std::string(known.name);
  }
  return {};
}

std::string_view byte_level_pattern() { return kGpt2; }

}  // namespace onggi
