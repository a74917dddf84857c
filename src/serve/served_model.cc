#include "serve/served_model.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/text.h"

namespace onggi {
namespace {

std::string upper(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return std::toupper(c); });
  return result;
}

int64_t modified_unix(const fs::path& path) {
  std::error_code error;
  const auto time = fs::last_write_time(path, error);
  if (error) return 0;
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::file_clock::to_sys(time).time_since_epoch())
      .count();
}

std::string rfc3339(int64_t unix_seconds) {
  const std::time_t time = unix_seconds;
  std::tm parts{};
  gmtime_r(&time, &parts);
  std::array<char, 32> buffer{};
  std::strftime(buffer.data(), buffer.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return buffer.data();
}

// GGUF's keys, as clients of /api/show read them.
Json model_info(const Model& model, const Tokenizer& tokenizer) {
  const ModelConfig& config = model.config;
  const std::string family(gguf_architecture_name(config.architecture));
  const auto key = [&](const char* name) { return family + "." + name; };
  Json info = {{"general.architecture", family}, {"general.parameter_count", model.parameters}};
  info[key("context_length")] = config.max_position_embeddings;
  info[key("embedding_length")] = config.hidden_size;
  info[key("block_count")] = config.num_layers;
  info[key("feed_forward_length")] = config.intermediate_size;
  info[key("attention.head_count")] = config.num_heads;
  info[key("attention.head_count_kv")] = config.num_kv_heads;
  info[key("attention.key_length")] = config.head_dim;
  info[key("attention.value_length")] = config.head_dim;
  info[key("attention.layer_norm_rms_epsilon")] = config.rms_norm_eps;
  info[key("rope.freq_base")] = config.rope_theta;
  info["tokenizer.ggml.model"] = "gpt2";
  info["tokenizer.ggml.pre"] = tokenizer.parts().pre_tokenizer;
  if (tokenizer.eos_id()) info["tokenizer.ggml.eos_token_id"] = *tokenizer.eos_id();
  return info;
}

}  // namespace

std::string parameter_size_text(uint64_t parameters) {
  const auto count = static_cast<double>(parameters);
  if (count >= 1e9) return fmt::format("{:.1f}B", count / 1e9);
  if (count >= 1e6) return fmt::format("{:.1f}M", count / 1e6);
  return fmt::format("{:.1f}K", count / 1e3);
}

ServedModel describe_served_model(const LoadedModel& loaded, const ModelLabels& labels, const Engine& engine,
                                  int64_t max_new_tokens) {
  const Model& model = *loaded.model;
  ServedModel served;
  served.names = labels.names;
  if (served.names.empty()) served.names.push_back(loaded.name);
  const fs::path path = model.source;
  served.created = modified_unix(path);
  served.modified_at = rfc3339(served.created);
  // Hashing the weights would delay every start; this changes whenever the file does.
  served.digest = sha256_hex(fmt::format("{}|{}|{}|{}", fs::absolute(path).string(), model.weight_bytes,
                                         model.parameters, served.created));
  served.size_bytes = model.weight_bytes;
  served.format = fs::is_directory(path) ? "safetensors" : "gguf";
  served.family = gguf_architecture_name(model.config.architecture);
  served.parameters = model.parameters;
  served.parameter_size = parameter_size_text(model.parameters);
  served.quantization = labels.quantization;
  if (served.quantization.empty() && !model.layers.empty())
    served.quantization = upper(dtype_name(model.layers.front().gate.dtype));
  if (loaded.chat_template) served.chat_template = loaded.chat_template->text();
  served.context_length = engine.context_length();
  served.model_info = model_info(model, loaded.tokenizer);
  served.sampling.temperature = model.config.temperature;
  served.sampling.top_k = model.config.top_k;
  served.sampling.top_p = model.config.top_p;
  served.max_new_tokens = max_new_tokens;
  served.tools = renders_tools(served.chat_template);
  served.thinking = renders_thinking(served.chat_template);
  return served;
}

}  // namespace onggi
