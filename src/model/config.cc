#include "model/config.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "formats/json_file.h"

namespace onggi {
namespace {

using nlohmann::json;

// Far above any published model; they keep products of dimensions inside 63 bits.
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 1 << 14;
constexpr int64_t kMaxHeadDim = 1 << 12;
constexpr int64_t kMaxSize = int64_t{1} << 28;

struct ArchitectureNames {
  Architecture architecture;
  std::string_view hf;
  std::string_view gguf;
};

constexpr ArchitectureNames kArchitectures[] = {
    {Architecture::kQwen3, "Qwen3ForCausalLM", "qwen3"},
};

std::string supported_names() {
  std::string names;
  for (const ArchitectureNames& known : kArchitectures)
    names += (names.empty() ? "" : ", ") + std::string(known.hf);
  return names;
}

Architecture architecture_of(std::string_view name, const std::string& source) {
  for (const ArchitectureNames& known : kArchitectures)
    if (known.hf == name || known.gguf == name) return known.architecture;
  throw InputError(text("{} is a model of the architecture {}, which is not supported; supported: {}", source,
                        name, supported_names()));
}

int64_t in_range(int64_t value, int64_t limit, const char* name, const std::string& source) {
  if (value < 1 || value > limit)
    throw InputError(
        text("{} in {} is {}, which no model has (1 to {} is allowed)", name, source, value, limit));
  return value;
}

double positive(double value, const char* name, const std::string& source) {
  if (!(value > 0 && value < 1e15))
    throw InputError(text("{} in {} is {}, not a positive number", name, source, value));
  return value;
}

// What every source must fulfil, whatever its format.
void check_config(const ModelConfig& config, const std::string& source) {
  in_range(config.hidden_size, kMaxSize, "hidden_size", source);
  in_range(config.num_layers, kMaxLayers, "num_hidden_layers", source);
  in_range(config.num_heads, kMaxHeads, "num_attention_heads", source);
  in_range(config.num_kv_heads, kMaxHeads, "num_key_value_heads", source);
  in_range(config.head_dim, kMaxHeadDim, "head_dim", source);
  in_range(config.intermediate_size, kMaxSize, "intermediate_size", source);
  in_range(config.vocab_size, kMaxSize, "vocab_size", source);
  in_range(config.max_position_embeddings, kMaxSize, "max_position_embeddings", source);
  positive(config.rms_norm_eps, "rms_norm_eps", source);
  positive(config.rope_theta, "rope_theta", source);
  if (config.num_heads % config.num_kv_heads != 0)
    throw InputError(text("{} has {} heads, which {} key-value heads do not divide", source, config.num_heads,
                          config.num_kv_heads));
  if (config.head_dim % 2 != 0)
    throw InputError(
        text("head_dim in {} is {}: rotary embeddings need an even number", source, config.head_dim));
  for (const int64_t id : config.eos_token_ids)
    if (id < 0 || id >= config.vocab_size)
      throw InputError(
          text("eos_token_id in {} is {}, outside the vocabulary of {}", source, id, config.vocab_size));
}

// RoPE parameters of transformers 4 (rope_theta and rope_scaling at the top) and 5 (rope_parameters).
double read_rope_theta(const JsonObject& config) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!config.has(key)) continue;
    const JsonObject rope = config.object(key);
    const std::string type =
        rope.find_string("rope_type").value_or(rope.find_string("type").value_or("default"));
    if (type != "default")
      throw InputError(
          text("{} in {} asks for RoPE scaling of the type {}, which is not supported: remove it to use the "
               "model's own context",
               key, config.source(), type));
  }
  if (config.has("rope_parameters")) {
    const JsonObject rope = config.object("rope_parameters");
    if (rope.has("rope_theta")) return rope.get_number("rope_theta");
  }
  return config.get_number("rope_theta");
}

Architecture read_architecture(const JsonObject& config) {
  if (config.has("architectures")) {
    const std::vector<std::string> names = config.get_strings("architectures");
    if (!names.empty()) return architecture_of(names.front(), config.source());
  }
  return architecture_of(config.get_string("model_type"), config.source());
}

// Settings that would change the computation; silently ignoring one of them would give a wrong model.
void refuse_unsupported(const JsonObject& config) {
  const std::string& source = config.source();
  if (config.has("quantization_config"))
    throw InputError(text(
        "{} belongs to a quantised checkpoint ({}): give the 16-bit original, which is quantised while "
        "it loads",
        source,
        config.object("quantization_config").find_string("quant_method").value_or("quantization_config")));
  if (config.find_bool("attention_bias").value_or(false))
    throw InputError(text("{} asks for attention biases, which are not supported", source));
  if (config.find_bool("use_sliding_window").value_or(false))
    throw InputError(text("{} asks for sliding-window attention, which is not supported", source));
  if (config.has("layer_types"))
    for (const std::string& type : config.get_strings("layer_types"))
      if (type != "full_attention")
        throw InputError(text("{} has a layer of the type {}, which is not supported", source, type));
  const std::string activation = config.find_string("hidden_act").value_or("silu");
  if (activation != "silu")
    throw InputError(text("{} asks for the activation {}; only silu is supported", source, activation));
}

// eos_token_id is a number or a list of them.
void add_ids(const JsonObject& object, const char* key, std::vector<int64_t>& ids) {
  if (!object.has(key)) return;
  const json& value = object.at(key);
  std::vector<int64_t> found;
  if (value.is_array()) {
    for (const json& id : value) {
      if (!id.is_number_integer())
        throw InputError(text("\"{}\" in {} must be an integer or a list of integers", key, object.source()));
      found.push_back(id.get<int64_t>());
    }
  } else {
    found.push_back(object.get_int(key));
  }
  for (const int64_t id : found)
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
}

void read_generation(const JsonObject& generation, ModelConfig& config) {
  add_ids(generation, "eos_token_id", config.eos_token_ids);
  config.bos_token_id = generation.find_int("bos_token_id").value_or(-1);
  config.pad_token_id = generation.find_int("pad_token_id").value_or(-1);
  config.temperature = generation.find_number("temperature").value_or(config.temperature);
  config.top_k = generation.find_int("top_k").value_or(config.top_k);
  config.top_p = generation.find_number("top_p").value_or(config.top_p);
  if (!generation.find_bool("do_sample").value_or(true)) config.temperature = 0;
  const bool sane = config.temperature >= 0 && config.temperature <= 100 && config.top_k >= 0 &&
                    config.top_p > 0 && config.top_p <= 1;
  if (!sane)
    throw InputError(text("{} has a temperature, top_k or top_p that is out of range ({}, {}, {})",
                          generation.source(), config.temperature, config.top_k, config.top_p));
}

// Ids that end a generation in a GGUF: the two keys, and the tokens that llama.cpp recognises by their text,
// because GGUF has no list of them.
std::vector<int64_t> gguf_eos_ids(const GgufFile& file) {
  std::vector<int64_t> ids;
  const auto add = [&](std::optional<int64_t> id) {
    if (id && std::find(ids.begin(), ids.end(), *id) == ids.end()) ids.push_back(*id);
  };
  add(file.find_int("tokenizer.ggml.eos_token_id"));
  add(file.find_int("tokenizer.ggml.eot_token_id"));
  constexpr int32_t kControlToken = 3;
  const std::vector<int32_t>* types = file.find_ints("tokenizer.ggml.token_type");
  if (types == nullptr || file.find("tokenizer.ggml.tokens") == nullptr) return ids;
  const StringList& tokens = file.get_strings("tokenizer.ggml.tokens");
  for (size_t i = 0; i < std::min(tokens.size(), types->size()); ++i)
    if ((*types)[i] == kControlToken && (tokens[i] == "<|im_end|>" || tokens[i] == "<|endoftext|>"))
      add(static_cast<int64_t>(i));
  return ids;
}

int64_t gguf_vocab_size(const GgufFile& file) {
  for (const TensorInfo& info : file.tensors)
    if (info.name == "token_embd.weight" && info.shape.size() == 2) return info.shape[0];
  throw InputError(text("{} lacks the tensor {}", file.source, "token_embd.weight"));
}

struct PublishedShape {
  std::string_view name;
  int64_t hidden_size, num_layers, num_heads, num_kv_heads, intermediate_size;
  bool tied;
};

// config.json of the published models (https://huggingface.co/Qwen); head_dim is 128 in all of them.
constexpr PublishedShape kPublished[] = {
    {"qwen3-0.6b", 1024, 28, 16, 8, 3072, true},  {"qwen3-1.7b", 2048, 28, 16, 8, 6144, true},
    {"qwen3-4b", 2560, 36, 32, 8, 9728, true},    {"qwen3-8b", 4096, 36, 32, 8, 12288, false},
    {"qwen3-14b", 5120, 40, 40, 8, 17408, false}, {"qwen3-32b", 5120, 64, 64, 8, 25600, false},
};

}  // namespace

std::string_view hf_architecture_name(Architecture architecture) {
  for (const ArchitectureNames& known : kArchitectures)
    if (known.architecture == architecture) return known.hf;
  return "";
}

std::string_view gguf_architecture_name(Architecture architecture) {
  for (const ArchitectureNames& known : kArchitectures)
    if (known.architecture == architecture) return known.gguf;
  return "";
}

ModelConfig parse_hf_config(std::string_view config_json, std::string_view generation_config_json,
                            const std::string& source) {
  const json document = parse_json(config_json, source);
  const JsonObject object(document, source);
  ModelConfig config;
  config.architecture = read_architecture(object);
  refuse_unsupported(object);
  config.hidden_size = object.get_int("hidden_size");
  config.num_layers = object.get_int("num_hidden_layers");
  config.num_heads = object.get_int("num_attention_heads");
  config.num_kv_heads = object.get_int("num_key_value_heads");
  config.head_dim = object.get_int("head_dim");
  config.intermediate_size = object.get_int("intermediate_size");
  config.vocab_size = object.get_int("vocab_size");
  config.max_position_embeddings = object.get_int("max_position_embeddings");
  config.rms_norm_eps = object.get_number("rms_norm_eps");
  config.rope_theta = read_rope_theta(object);
  config.tie_word_embeddings = object.find_bool("tie_word_embeddings").value_or(false);
  if (!generation_config_json.empty()) {
    const std::string name = (fs::path(source).parent_path() / "generation_config.json").string();
    const json generation = parse_json(generation_config_json, name);
    read_generation(JsonObject(generation, name), config);
  }
  add_ids(object, "eos_token_id", config.eos_token_ids);
  if (config.bos_token_id < 0) config.bos_token_id = object.find_int("bos_token_id").value_or(-1);
  if (config.pad_token_id < 0) config.pad_token_id = object.find_int("pad_token_id").value_or(-1);
  check_config(config, source);
  return config;
}

ModelConfig read_hf_config(const fs::path& folder) {
  const fs::path path = folder / "config.json", generation_path = folder / "generation_config.json";
  std::error_code ignored;
  const std::string generation = fs::exists(generation_path, ignored) ? read_file(generation_path) : "";
  return parse_hf_config(read_file(path), generation, path.string());
}

ModelConfig parse_gguf_config(const GgufFile& file) {
  ModelConfig config;
  config.architecture = architecture_of(file.get_string("general.architecture"), file.source);
  const std::string prefix = std::string(gguf_architecture_name(config.architecture)) + ".";
  config.hidden_size = file.get_int(prefix + "embedding_length");
  config.num_layers = file.get_int(prefix + "block_count");
  config.num_heads = file.get_int(prefix + "attention.head_count");
  config.num_kv_heads = file.find_int(prefix + "attention.head_count_kv").value_or(config.num_heads);
  in_range(config.num_heads, kMaxHeads, "attention.head_count", file.source);
  // The format's own default; check_tensors sees a wrong one.
  config.head_dim =
      file.find_int(prefix + "attention.key_length").value_or(config.hidden_size / config.num_heads);
  if (file.find_int(prefix + "attention.value_length").value_or(config.head_dim) != config.head_dim)
    throw InputError(
        text("{} has keys and values of different lengths, which is not supported", file.source));
  config.intermediate_size = file.get_int(prefix + "feed_forward_length");
  config.vocab_size = gguf_vocab_size(file);
  config.max_position_embeddings = file.get_int(prefix + "context_length");
  config.rms_norm_eps = file.get_number(prefix + "attention.layer_norm_rms_epsilon");
  config.rope_theta = file.get_number(prefix + "rope.freq_base");
  const std::string scaling = file.find_string(prefix + "rope.scaling.type").value_or("none");
  if (scaling != "none")
    throw InputError(
        text("{} asks for RoPE scaling of the type {}, which is not supported", file.source, scaling));
  config.tie_word_embeddings =
      std::none_of(file.tensors.begin(), file.tensors.end(),
                   [](const TensorInfo& info) { return info.name == "output.weight"; });
  config.eos_token_ids = gguf_eos_ids(file);
  config.bos_token_id = file.find_int("tokenizer.ggml.bos_token_id").value_or(-1);
  config.pad_token_id = file.find_int("tokenizer.ggml.padding_token_id").value_or(-1);
  config.temperature = file.find_number("general.sampling.temp").value_or(config.temperature);
  config.top_k = file.find_int("general.sampling.top_k").value_or(config.top_k);
  config.top_p = file.find_number("general.sampling.top_p").value_or(config.top_p);
  check_config(config, file.source);
  return config;
}

std::vector<GgufEntry> gguf_config_entries(const ModelConfig& config) {
  const std::string architecture(gguf_architecture_name(config.architecture));
  const auto count = [](int64_t value) { return static_cast<uint32_t>(value); };
  const auto number = [](double value) { return static_cast<float>(value); };
  std::vector<GgufEntry> entries = {{"general.architecture", architecture}};
  const auto add = [&](const char* key, GgufValue value) {
    entries.emplace_back(architecture + "." + key, std::move(value));
  };
  add("block_count", count(config.num_layers));
  add("context_length", count(config.max_position_embeddings));
  add("embedding_length", count(config.hidden_size));
  add("feed_forward_length", count(config.intermediate_size));
  add("attention.head_count", count(config.num_heads));
  add("attention.head_count_kv", count(config.num_kv_heads));
  add("attention.key_length", count(config.head_dim));
  add("attention.value_length", count(config.head_dim));
  add("attention.layer_norm_rms_epsilon", number(config.rms_norm_eps));
  add("rope.freq_base", number(config.rope_theta));
  entries.emplace_back("general.sampling.temp", number(config.temperature));
  entries.emplace_back("general.sampling.top_k", static_cast<int32_t>(config.top_k));
  entries.emplace_back("general.sampling.top_p", number(config.top_p));
  return entries;
}

ModelConfig published_config(std::string_view name) {
  std::string key(name.substr(name.rfind('/') == std::string_view::npos ? 0 : name.rfind('/') + 1));
  std::transform(key.begin(), key.end(), key.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::string known;
  for (const PublishedShape& shape : kPublished) {
    known += (known.empty() ? "" : ", ") + std::string(shape.name);
    if (shape.name != key) continue;
    ModelConfig config;
    config.hidden_size = shape.hidden_size;
    config.num_layers = shape.num_layers;
    config.num_heads = shape.num_heads;
    config.num_kv_heads = shape.num_kv_heads;
    config.head_dim = 128;
    config.intermediate_size = shape.intermediate_size;
    config.vocab_size = 151936;
    config.max_position_embeddings = 40960;
    config.rms_norm_eps = 1e-6;
    config.rope_theta = 1e6;
    config.tie_word_embeddings = shape.tied;
    config.eos_token_ids = {151645, 151643};
    config.bos_token_id = config.pad_token_id = 151643;
    return config;
  }
  throw UsageError(text("there is no known model shape \"{}\"; known: {}", name, known));
}

}  // namespace onggi
