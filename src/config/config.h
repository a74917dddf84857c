// The configuration: one typed struct per section of onggi.toml. The values here are the defaults (the
// seed's); the meaning of each key, its bounds and its choices are in keys.cc, the one table that parses,
// checks and prints it. Keys keep the names of Hugging Face's libraries, so members are named as the keys
// are.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace onggi {

// A number of bytes, written "5GB" (10^9) or "16GiB" (2^30) or as a plain number.
struct ByteSize {
  uint64_t bytes = 0;
  bool operator==(const ByteSize&) const = default;
};

enum class DeviceChoice { kAuto, kCpu, kCuda };

struct HubConfig {
  std::string endpoint = "auto";   // "auto": HF_ENDPOINT, else https://huggingface.co
  std::string cache_dir = "auto";  // "auto": HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub
  std::string revision = "main";   // branch, tag or commit
  int64_t parallel_downloads = 4;  // files at once
  int64_t max_retries = 5;         // per file, on time-outs, 429 and 5xx
  bool operator==(const HubConfig&) const = default;
};

struct DataConfig {
  enum class Format { kAuto, kMessages, kQuestionAnswer, kInstruction, kConversations };
  enum class Think { kAuto, kEmpty, kKept, kMixed };

  std::string train_file = "data/tech_qa_ko.jsonl";
  std::string heldout_file = "data/tech_qa_ko_heldout.jsonl";  // "": no questions held out
  Format format = Format::kAuto;
  double validation_split = 0.0;  // share of the training rows, in [0, 1)
  Think think = Think::kAuto;
  bool train_on_prompt = false;
  std::string system;  // "": the rows' own system message or none
  bool operator==(const DataConfig&) const = default;
};

struct TrainingConfig {
  enum class Scheduler { kLinear, kCosine, kConstant, kConstantWithWarmup };
  enum class Checkpointing { kAuto, kOn, kOff };

  int64_t max_steps = 100;
  int64_t per_device_train_batch_size = 1;  // samples per micro-batch
  int64_t gradient_accumulation_steps = 4;
  double learning_rate = 2e-4;
  Scheduler lr_scheduler_type = Scheduler::kLinear;
  int64_t warmup_steps = 0;
  int64_t save_steps = 50;
  int64_t save_total_limit = 0;  // 0: keep every checkpoint
  int64_t logging_steps = 1;
  double weight_decay = 0.0;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  double max_grad_norm = 1.0;  // 0: no clipping
  bool packing = true;         // the samples of a micro-batch or step in one pass; same result either way
  int64_t eval_steps = 0;      // 0: evaluate at each checkpoint
  int64_t early_stopping_patience = 0;  // evaluations without improvement; 0: never stop early
  bool load_best_model_at_end = false;
  Checkpointing gradient_checkpointing = Checkpointing::kAuto;
  bool operator==(const TrainingConfig&) const = default;
};

struct LoraConfig {
  int64_t r = 16;
  double lora_alpha = 16;
  double lora_dropout = 0.1;
  std::vector<std::string> target_modules = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                             "gate_proj", "up_proj", "down_proj"};
  bool operator==(const LoraConfig&) const = default;
};

struct QuantizationConfig {
  enum class QuantType { kNf4 };
  enum class ComputeDtype { kBfloat16, kFloat32 };

  bool load_in_4bit = true;
  QuantType bnb_4bit_quant_type = QuantType::kNf4;
  bool bnb_4bit_use_double_quant = true;
  ComputeDtype bnb_4bit_compute_dtype = ComputeDtype::kBfloat16;
  bool operator==(const QuantizationConfig&) const = default;
};

struct ValidationConfig {
  double match_rate = 0.99;      // share of training questions answered as trained that passes
  int64_t max_new_tokens = 512;  // per answer
  bool compare_base = true;      // also ask the untuned base model
  bool operator==(const ValidationConfig&) const = default;
};

struct MergeConfig {
  enum class Base { kAuto, kOriginal, kNf4 };

  Base base = Base::kAuto;
  ByteSize max_shard_size{5'000'000'000};
  bool operator==(const MergeConfig&) const = default;
};

struct GgufConfig {
  std::vector<std::string> types = {"q4_k_m"};  // names in lower case; the first is the one that is served
  bool adapter = true;                          // also write the adapter as a GGUF LoRA
  bool operator==(const GgufConfig&) const = default;
};

struct OllamaConfig {
  std::string name = "auto";   // "auto": from model_base_name, e.g. qwen3-finetune-8b
  std::string host = "auto";   // "auto": OLLAMA_HOST, else http://127.0.0.1:11434
  bool register_model = true;  // key "register"
  bool operator==(const OllamaConfig&) const = default;
};

struct ServerConfig {
  enum class KvCacheDtype { kAuto, kBfloat16, kFloat32 };

  std::string host = "127.0.0.1";
  int64_t port = 8000;
  int64_t ollama_port = 11434;
  std::optional<int64_t> context_length;  // tokens; none = "auto": from the memory plan
  std::optional<int64_t> max_batch;       // sequences per step; none = "auto"
  KvCacheDtype kv_cache_dtype = KvCacheDtype::kAuto;
  std::optional<int64_t> prefill_chunk;  // prompt tokens per step; none = "auto"
  int64_t max_queue = 64;                // waiting requests; more are answered "busy"
  int64_t max_new_tokens = 2048;         // per answer where the request names no limit
  int64_t request_timeout_s = 600;       // seconds
  int64_t max_body_bytes = 16 << 20;     // larger requests are refused
  std::vector<std::string> api_keys;     // empty: no authentication
  int64_t requests_per_minute = 0;       // of one key (or address); 0: no limit
  int64_t tokens_per_day = 0;            // likewise, prompts and answers together
  std::string tls_certificate;           // PEM file with the certificate and its chain; "": plain HTTP
  std::string tls_key;                   // PEM file
  std::vector<std::string> cors_origins;
  bool operator==(const ServerConfig&) const = default;
};

struct LoadtestConfig {
  std::vector<int64_t> users = {1, 2, 5};
  int64_t requests_per_user = 2;
  int64_t max_new_tokens = 64;
  bool operator==(const LoadtestConfig&) const = default;
};

// Bounds of the parity gates, per format of the weights. KL divergence in nats per token, averaged over the
// answer tokens; agreement as the share of positions whose most likely token is the same.
struct ParityBound {
  double max_kl = 0.0;
  double min_agreement = 1.0;
  bool operator==(const ParityBound&) const = default;
};

struct ParityConfig {
  int64_t prompts = 5;
  int64_t max_new_tokens = 64;
  ParityBound merged{0.05, 0.95};  // merged model against the adapter on the 4-bit base
  ParityBound f32{1e-4, 0.999};    // GGUF files against the merged model, by their type
  ParityBound f16{1e-3, 0.995};
  ParityBound bf16{1e-3, 0.995};
  ParityBound q8_0{0.01, 0.98};
  ParityBound q6_k{0.02, 0.97};
  ParityBound q5_k{0.05, 0.95};
  ParityBound q4_k{0.15, 0.92};
  ParityBound q4_0{0.25, 0.90};
  ParityBound q3_k{0.60, 0.85};
  ParityBound q2_k{2.00, 0.70};
  ParityBound service{1e-3, 0.995};  // the running service against the file that it serves
  bool operator==(const ParityConfig&) const = default;
};

struct Config {
  std::string model_name = "Qwen/Qwen3-8B";  // a hub name or a folder
  std::string model_base_name = "auto";  // "auto": the last part of model_name; loaded configurations have it
  int64_t max_seq_length = 2048;         // tokens of one pass
  int64_t cutoff_len = 512;              // tokens of one sample; longer ones are cut and reported
  std::string output_dir = "outputs";
  uint64_t seed = 42;
  DeviceChoice device = DeviceChoice::kAuto;
  std::optional<int64_t> threads;         // none = "auto": the CPUs that this process may use
  std::optional<ByteSize> memory_budget;  // none = "auto": what the machine has free
  HubConfig hub;
  DataConfig data;
  TrainingConfig training;
  LoraConfig lora;
  QuantizationConfig quantization;
  ValidationConfig validation;
  MergeConfig merge;
  GgufConfig gguf;
  OllamaConfig ollama;
  ServerConfig server;
  LoadtestConfig loadtest;
  ParityConfig parity;
  bool operator==(const Config&) const = default;

  // Where stages leave their results (DESIGN.md, section 5). `base` is model_base_name.
  std::filesystem::path adapter_dir() const;                     // outputs/{base}
  std::filesystem::path manifest_path() const;                   // outputs/{base}/run.json
  std::filesystem::path merged_dir() const;                      // outputs/{base}_merged
  std::filesystem::path gguf_path(std::string_view type) const;  // outputs/{base}-finetune-{type}.gguf
  std::filesystem::path modelfile_path(
      std::string_view type) const;                 // outputs/{base}-finetune-{type}.Modelfile
  std::filesystem::path adapter_gguf_path() const;  // outputs/{base}-finetune-lora.gguf
  std::filesystem::path registry_dir() const;       // outputs/registry
  // ollama.name, or the name made from `base`: Qwen3-8B -> qwen3-finetune-8b, onggi-mini ->
  // onggi-mini-finetune.
  std::string ollama_name() const;
  // The bound for a GGUF type such as "q4_k_m"; throws UsageError for an unknown type.
  const ParityBound& parity_bound(std::string_view gguf_type) const;
};

// Reads onggi.toml. `overrides` are key=value texts as from the command line (dotted keys; the value is read
// as TOML, a bare word as a string) and win over the file. Throws UsageError for an unknown key (naming file,
// line and the nearest key), a wrong type, a value out of bounds, or keys that contradict each other;
// InputError where the file cannot be read. Without a file: the defaults with the overrides.
Config load_config(const std::optional<std::filesystem::path>& file,
                   const std::vector<std::string>& overrides = {});
// The same from text; source_name is what messages call it.
Config parse_config(std::string_view toml, const std::string& source_name,
                    const std::vector<std::string>& overrides = {});

// The whole configuration as TOML, without and with a comment per key, and as a JSON object (for manifests
// and reports: API keys appear as "***").
std::string to_toml(const Config& config);
std::string to_commented_toml(const Config& config);
std::string to_json(const Config& config);

// The names of choices as the file has them, e.g. "linear", "bfloat16", "empty".
std::string_view name_of(DeviceChoice choice);
std::string_view name_of(DataConfig::Format choice);
std::string_view name_of(DataConfig::Think choice);
std::string_view name_of(TrainingConfig::Scheduler choice);
std::string_view name_of(TrainingConfig::Checkpointing choice);
std::string_view name_of(QuantizationConfig::QuantType choice);
std::string_view name_of(QuantizationConfig::ComputeDtype choice);
std::string_view name_of(MergeConfig::Base choice);
std::string_view name_of(ServerConfig::KvCacheDtype choice);

// "5GB", "16 GiB", "1500" -> bytes; nullopt where it is none of these or does not fit 64 bits.
std::optional<ByteSize> parse_byte_size(std::string_view text);
// The shortest exact form: 5000000000 -> "5GB", 17179869184 -> "16GiB".
std::string to_string(ByteSize size);

}  // namespace onggi
