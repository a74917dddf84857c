// The names of results: paths, Ollama's model name, and which parity bound belongs to which GGUF type.
#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "base/text.h"
#include "config/config.h"

namespace onggi {

namespace fs = std::filesystem;

fs::path Config::adapter_dir() const { return fs::path(output_dir) / model_base_name; }
fs::path Config::manifest_path() const { return adapter_dir() / "run.json"; }
fs::path Config::merged_dir() const { return fs::path(output_dir) / (model_base_name + "_merged"); }
fs::path Config::gguf_path(std::string_view type) const {
  return fs::path(output_dir) / (model_base_name + "-finetune-" + std::string(type) + ".gguf");
}
fs::path Config::modelfile_path(std::string_view type) const {
  return fs::path(output_dir) / (model_base_name + "-finetune-" + std::string(type) + ".Modelfile");
}
fs::path Config::adapter_gguf_path() const { return gguf_path("lora"); }
fs::path Config::registry_dir() const { return fs::path(output_dir) / "registry"; }

namespace {

// "8b", "0.6B", "30b": a number with the letter of billions or millions.
bool is_model_size(std::string_view word) {
  if (word.size() < 2 || std::isdigit(static_cast<unsigned char>(word[0])) == 0) return false;
  const char unit = word.back();
  if (unit != 'b' && unit != 'm') return false;
  word.remove_suffix(1);
  return std::all_of(word.begin(), word.end(),
                     [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0 || c == '.'; });
}

// Ollama allows letters, digits and - _ . in a name.
std::string ollama_spelling(std::string name) {
  for (char& c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80 || (std::isalnum(byte) == 0 && c != '-' && c != '_' && c != '.')) {
      c = '-';
    } else {
      c = static_cast<char>(std::tolower(byte));
    }
  }
  return name;
}

}  // namespace

std::string Config::ollama_name() const {
  if (ollama.name != "auto") return ollama.name;
  const std::string base = ollama_spelling(model_base_name);
  // The size goes last, as in the seed: qwen3-finetune-8b.
  for (size_t dash = base.find('-'); dash != std::string::npos; dash = base.find('-', dash + 1)) {
    const std::string_view rest = std::string_view(base).substr(dash + 1);
    if (is_model_size(rest.substr(0, rest.find('-')))) {
      return base.substr(0, dash) + "-finetune-" + std::string(rest);
    }
  }
  return base + "-finetune";
}

const ParityBound& Config::parity_bound(std::string_view gguf_type) const {
  if (gguf_type == "f32") return parity.f32;
  if (gguf_type == "f16") return parity.f16;
  if (gguf_type == "bf16") return parity.bf16;
  if (gguf_type == "q8_0") return parity.q8_0;
  if (gguf_type == "q4_0") return parity.q4_0;
  if (gguf_type.starts_with("q6_k")) return parity.q6_k;
  if (gguf_type.starts_with("q5_k")) return parity.q5_k;
  if (gguf_type.starts_with("q4_k")) return parity.q4_k;
  if (gguf_type.starts_with("q3_k")) return parity.q3_k;
  if (gguf_type.starts_with("q2_k")) return parity.q2_k;
  throw UsageError(text("there is no GGUF type called \"{}\"", std::string(gguf_type)));
}

}  // namespace onggi
