#include "config/keys.h"

#include <algorithm>
#include <array>
#include <limits>

namespace onggi {

namespace {

using std::string_view_literals::operator""sv;

// The names of each enumeration, in its order.
constexpr std::array kDeviceNames{"auto"sv, "cpu"sv, "cuda"sv};
constexpr std::array kFormatNames{"auto"sv, "messages"sv, "question_answer"sv, "instruction"sv,
                                  "conversations"sv};
constexpr std::array kThinkNames{"auto"sv, "empty"sv, "kept"sv, "mixed"sv};
constexpr std::array kSchedulerNames{"linear"sv, "cosine"sv, "constant"sv, "constant_with_warmup"sv};
constexpr std::array kCheckpointingNames{"auto"sv, "true"sv, "false"sv};
constexpr std::array kQuantTypeNames{"nf4"sv};
constexpr std::array kComputeDtypeNames{"bfloat16"sv, "float32"sv};
constexpr std::array kMergeBaseNames{"auto"sv, "original"sv, "nf4"sv};
constexpr std::array kKvCacheNames{"auto"sv, "bfloat16"sv, "float32"sv};

constexpr std::array kTargetModules{"q_proj"sv,    "k_proj"sv,  "v_proj"sv,   "o_proj"sv,
                                    "gate_proj"sv, "up_proj"sv, "down_proj"sv};
constexpr std::array kGgufTypes{"f32"sv,    "f16"sv,    "bf16"sv,   "q8_0"sv,   "q6_k"sv,
                                "q5_k_m"sv, "q5_k_s"sv, "q4_k_m"sv, "q4_k_s"sv, "q4_0"sv,
                                "q3_k_l"sv, "q3_k_m"sv, "q3_k_s"sv, "q2_k"sv};

template <typename Enum, size_t n>
ChoiceRef choice(Enum& value, const std::array<std::string_view, n>& names) {
  return {names, [&value] { return static_cast<size_t>(value); },
          [&value](size_t index) { value = static_cast<Enum>(index); }};
}

constexpr double kMany = 1e9;         // of counts: beyond any use, and safe to multiply
constexpr double kLongest = 1 << 24;  // of token counts
constexpr double kTiny = 1e-300;      // "above zero"
constexpr Bounds kNone{0, 0};
constexpr Bounds kShare{0, 1};
constexpr Bounds kPort{1, 65535};

// Declares keys with little noise: table.add("name", &member, bounds, "comment").
class Table {
 public:
  void section(std::string name) { section_ = std::move(name) + "."; }
  void add(const char* name, ValueRef value, Bounds bounds, const char* comment) {
    keys_.push_back({section_ + name, std::move(value), bounds, comment});
  }
  void add_bound(const std::string& name, ParityBound& bound, const std::string& what) {
    keys_.push_back({section_ + name + ".max_kl", &bound.max_kl, {0, 100}, what});
    keys_.push_back({section_ + name + ".min_agreement", &bound.min_agreement, kShare, ""});
  }
  std::vector<Key> take() { return std::move(keys_); }

 private:
  std::string section_;
  std::vector<Key> keys_;
};

void add_general(Table& t, Config& c) {
  t.add("model_name", &c.model_name, kNone,
        "The base model: a name on the Hugging Face hub (Qwen/Qwen3-4B, -8B, -14B, -32B) or a folder.");
  t.add("model_base_name", &c.model_base_name, kNone,
        "What results are called: outputs/{model_base_name}. \"auto\": the last part of model_name.");
  t.add("max_seq_length", &c.max_seq_length, {16, kLongest},
        "Tokens of one pass through the model in training.");
  t.add("cutoff_len", &c.cutoff_len, {8, kLongest},
        "Tokens of one training sample. Longer ones are cut, and the report before training names them.");
  t.add("output_dir", &c.output_dir, kNone, "Where all results go.");
  t.add("seed", &c.seed, {0, 9.2e18},
        "The same seed gives the same bits on the same device and thread count.");
  t.add("device", choice(c.device, kDeviceNames), kNone, "\"auto\", \"cpu\" or \"cuda\".");
  t.add("threads", &c.threads, {1, 1024}, "CPU threads. \"auto\": the CPUs that this process may use.");
  t.add("memory_budget", &c.memory_budget, kNone,
        "The most memory a stage may plan for, e.g. \"24GB\". \"auto\": what the machine has free.");
}

void add_hub(Table& t, HubConfig& c) {
  t.section("hub");
  t.add("endpoint", &c.endpoint, kNone, "\"auto\": HF_ENDPOINT, else https://huggingface.co.");
  t.add("cache_dir", &c.cache_dir, kNone,
        "\"auto\": HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub.");
  t.add("revision", &c.revision, kNone, "Branch, tag or commit of the model.");
  t.add("parallel_downloads", &c.parallel_downloads, {1, 64}, "Files downloaded at once.");
  t.add("max_retries", &c.max_retries, {0, 100},
        "Attempts after a time-out, a broken connection, 429 or 5xx, per file.");
}

void add_data(Table& t, DataConfig& c) {
  t.section("data");
  t.add("train_file", &c.train_file, kNone, "Questions and answers: JSONL, JSON or CSV.");
  t.add("heldout_file", &c.heldout_file, kNone,
        "Questions of the same domains that training never sees, for validation. \"\": none.");
  t.add("format", choice(c.format, kFormatNames), kNone,
        "Layout of a row: \"messages\", \"question_answer\", \"instruction\" or \"conversations\". \"auto\": "
        "by its keys.");
  t.add("validation_split", &c.validation_split, {0, 0.9},
        "Share of the rows kept from training, to watch their loss.");
  t.add("think", choice(c.think, kThinkNames), kNone,
        "The <think> block in training: \"empty\", \"kept\" or \"mixed\". \"auto\": as the data has it.");
  t.add("train_on_prompt", &c.train_on_prompt, kNone,
        "true: learn the questions too, not the answers alone.");
  t.add("system", &c.system, kNone, "System message for rows that have none. \"\": none.");
}

void add_training(Table& t, TrainingConfig& c) {
  t.section("training");
  t.add("max_steps", &c.max_steps, {1, kMany}, "Optimiser steps.");
  t.add("per_device_train_batch_size", &c.per_device_train_batch_size, {1, 4096},
        "Samples of one micro-batch.");
  t.add("gradient_accumulation_steps", &c.gradient_accumulation_steps, {1, 65536},
        "Micro-batches of one step.");
  t.add("learning_rate", &c.learning_rate, {0, 10}, "The peak learning rate.");
  t.add("lr_scheduler_type", choice(c.lr_scheduler_type, kSchedulerNames), kNone,
        "\"linear\", \"cosine\", \"constant\" or \"constant_with_warmup\".");
  t.add("warmup_steps", &c.warmup_steps, {0, kMany}, "Steps in which the learning rate rises to its peak.");
  t.add("save_steps", &c.save_steps, {1, kMany}, "A checkpoint each so many steps.");
  t.add("save_total_limit", &c.save_total_limit, {0, kMany},
        "Checkpoints kept, the oldest go first. 0: all.");
  t.add("logging_steps", &c.logging_steps, {1, kMany}, "A log line each so many steps.");
  t.add("weight_decay", &c.weight_decay, {0, 1}, "AdamW's decay of the weights.");
  t.add("adam_beta1", &c.adam_beta1, {0, 0.999999}, "AdamW's first moment.");
  t.add("adam_beta2", &c.adam_beta2, {0, 0.999999999}, "AdamW's second moment.");
  t.add("adam_epsilon", &c.adam_epsilon, {kTiny, 1}, "AdamW's divisor floor.");
  t.add("max_grad_norm", &c.max_grad_norm, {0, 1e6}, "Gradients are scaled down to this norm. 0: never.");
  t.add("packing", &c.packing, kNone,
        "Several samples in one pass, up to max_seq_length. The result is the same, sooner.");
  t.add("eval_steps", &c.eval_steps, {0, kMany},
        "The validation loss each so many steps. 0: at each checkpoint.");
  t.add("early_stopping_patience", &c.early_stopping_patience, {0, kMany},
        "Stop after so many evaluations without a better loss. 0: never. Needs data.validation_split.");
  t.add("load_best_model_at_end", &c.load_best_model_at_end, kNone,
        "Keep the checkpoint with the best validation loss. Needs data.validation_split.");
  t.add("gradient_checkpointing", choice(c.gradient_checkpointing, kCheckpointingNames), kNone,
        "true: recompute activations to save memory. \"auto\": only where they do not fit.");
}

void add_lora(Table& t, LoraConfig& c) {
  t.section("lora");
  t.add("r", &c.r, {1, 1024}, "Rank.");
  t.add("lora_alpha", &c.lora_alpha, {kTiny, 1e5}, "The change is scaled by lora_alpha / r.");
  t.add("lora_dropout", &c.lora_dropout, {0, 0.99}, "Share of the adapter's inputs dropped in training.");
  t.add("target_modules", StringListRef{&c.target_modules, kTargetModules}, kNone,
        "The linear layers that are adapted.");
}

void add_quantization(Table& t, QuantizationConfig& c) {
  t.section("quantization");
  t.add("load_in_4bit", &c.load_in_4bit, kNone,
        "The base in 4 bits while training (QLoRA). false: in 16 bits.");
  t.add("bnb_4bit_quant_type", choice(c.bnb_4bit_quant_type, kQuantTypeNames), kNone, "\"nf4\".");
  t.add("bnb_4bit_use_double_quant", &c.bnb_4bit_use_double_quant, kNone, "Quantise the scales too.");
  t.add("bnb_4bit_compute_dtype", choice(c.bnb_4bit_compute_dtype, kComputeDtypeNames), kNone,
        "\"bfloat16\", or \"float32\" for reference runs.");
}

void add_results(Table& t, Config& c) {
  t.section("validation");
  t.add("match_rate", &c.validation.match_rate, kShare,
        "Share of the training answers that must come back as trained.");
  t.add("max_new_tokens", &c.validation.max_new_tokens, {1, kLongest}, "Tokens of one answer.");
  t.add("compare_base", &c.validation.compare_base, kNone, "Also ask the untuned model, for the report.");
  t.section("merge");
  t.add("base", choice(c.merge.base, kMergeBaseNames), kNone,
        "Merge into the 16-bit \"original\" or the dequantised \"nf4\" base. \"auto\": both are measured, "
        "the better one taken.");
  t.add("max_shard_size", &c.merge.max_shard_size, kNone, "The largest file of the merged model.");
  t.section("gguf");
  t.add("types", StringListRef{&c.gguf.types, kGgufTypes}, kNone,
        "Files to make; the first is served. f32 f16 bf16 q8_0 q6_k q5_k_m q5_k_s q4_k_m q4_k_s q4_0 q3_k_l "
        "q3_k_m q3_k_s q2_k.");
  t.add("adapter", &c.gguf.adapter, kNone, "Also write the adapter alone as a GGUF LoRA.");
  t.section("ollama");
  t.add("name", &c.ollama.name, kNone,
        "The model's name in Ollama. \"auto\": Qwen3-8B becomes qwen3-finetune-8b.");
  t.add("host", &c.ollama.host, kNone, "\"auto\": OLLAMA_HOST, else http://127.0.0.1:11434.");
  t.add("register", &c.ollama.register_model, kNone,
        "Register with a running Ollama. Where none runs, the stage says so and goes on.");
}

void add_server(Table& t, ServerConfig& c) {
  t.section("server");
  t.add("host", &c.host, kNone, "Address to listen on; \"0.0.0.0\" for every network of this machine.");
  t.add("port", &c.port, kPort, "/health, /chat, /v1 (OpenAI), /metrics, /dashboard.");
  t.add("ollama_port", &c.ollama_port, kPort, "Ollama's API.");
  t.add("context_length", &c.context_length, {16, kLongest},
        "Tokens of one conversation. \"auto\": from the memory plan.");
  t.add("max_batch", &c.max_batch, {1, 4096},
        "Conversations that share a step. \"auto\": 8 on the CPU, 64 on a GPU.");
  t.add("kv_cache_dtype", choice(c.kv_cache_dtype, kKvCacheNames), kNone, "\"bfloat16\" or \"float32\".");
  t.add("prefill_chunk", &c.prefill_chunk, {1, kLongest},
        "Prompt tokens in one step, of all conversations together. \"auto\": 256 on the CPU, up to 2048 on a "
        "GPU.");
  t.add("max_queue", &c.max_queue, {0, 1e6},
        "Requests that may wait; further ones are told that the server is busy.");
  t.add("max_new_tokens", &c.max_new_tokens, {1, kLongest},
        "Tokens of an answer where the request sets no limit.");
  t.add("request_timeout_s", &c.request_timeout_s, {1, 86400}, "Seconds after which a request is given up.");
  t.add("max_body_bytes", &c.max_body_bytes, {1024, 1 << 30}, "The largest request.");
  t.add("api_keys", StringListRef{&c.api_keys, {}}, kNone, "Accepted bearer keys. []: no key needed.");
  t.add("requests_per_minute", &c.requests_per_minute, {0, 1e6},
        "Requests for text that one key may make in a minute (without keys: one address). 0: no limit.");
  t.add("tokens_per_day", &c.tokens_per_day, {0, 1e15},
        "Tokens that one key may use from midnight to midnight UTC. 0: no limit.");
  t.add("tls_certificate", &c.tls_certificate, kNone,
        "HTTPS: a PEM file with the certificate and its chain. \"\": plain HTTP.");
  t.add("tls_key", &c.tls_key, kNone, "HTTPS: a PEM file with the certificate's private key.");
  t.add("cors_origins", StringListRef{&c.cors_origins, {}}, kNone,
        "Web pages that may call, besides local ones, e.g. \"https://example.org\".");
}

void add_gates(Table& t, Config& c) {
  t.section("loadtest");
  t.add("users", &c.loadtest.users, {1, 1024}, "Numbers of simultaneous users, one round each.");
  t.add("requests_per_user", &c.loadtest.requests_per_user, {1, 1e6}, "Questions per user and round.");
  t.add("max_new_tokens", &c.loadtest.max_new_tokens, {1, kLongest}, "Tokens of one answer.");
  t.section("parity");
  t.add("prompts", &c.parity.prompts, {1, 1000}, "Prompts that are compared.");
  t.add("max_new_tokens", &c.parity.max_new_tokens, {1, kLongest}, "Answer tokens compared per prompt.");
  t.add_bound(
      "merged", c.parity.merged,
      "Bounds: mean KL divergence in nats per token, share of equal best tokens. Merged against adapter:");
  t.add_bound("f32", c.parity.f32, "GGUF files against the merged model:");
  t.add_bound("f16", c.parity.f16, "");
  t.add_bound("bf16", c.parity.bf16, "");
  t.add_bound("q8_0", c.parity.q8_0, "");
  t.add_bound("q6_k", c.parity.q6_k, "");
  t.add_bound("q5_k", c.parity.q5_k, "");
  t.add_bound("q4_k", c.parity.q4_k, "");
  t.add_bound("q4_0", c.parity.q4_0, "");
  t.add_bound("q3_k", c.parity.q3_k, "");
  t.add_bound("q2_k", c.parity.q2_k, "");
  t.add_bound("service", c.parity.service, "The running service against its file:");
}

}  // namespace

std::vector<Key> keys_of(Config& config) {
  Table table;
  add_general(table, config);
  add_hub(table, config.hub);
  add_data(table, config.data);
  add_training(table, config.training);
  add_lora(table, config.lora);
  add_quantization(table, config.quantization);
  add_results(table, config);
  add_server(table, config.server);
  add_gates(table, config);
  return table.take();
}

std::string_view section_of(std::string_view name) {
  const size_t dot = name.find('.');
  return dot == std::string_view::npos ? std::string_view{} : name.substr(0, dot);
}

std::string_view key_in_section(std::string_view name) {
  const size_t dot = name.find('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

size_t edit_distance(std::string_view a, std::string_view b) {
  // Three rows of the usual table: swaps look two rows back (optimal string alignment).
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

std::string nearest_key(std::string_view misspelt, const std::vector<Key>& keys) {
  constexpr size_t kLongestWord = 100;  // hostile input must not make this slow
  if (misspelt.size() > kLongestWord) return "";
  std::string best;
  size_t best_distance = std::numeric_limits<size_t>::max();
  for (const Key& key : keys) {
    // A right name in a wrong section costs one, however long the section's name is.
    const size_t whole = edit_distance(misspelt, key.name);
    const size_t moved = edit_distance(key_in_section(misspelt), key_in_section(key.name)) + 1;
    const size_t distance = std::min(whole, moved);
    if (distance < best_distance) best_distance = distance, best = key.name;
  }
  const size_t enough = std::max<size_t>(2, key_in_section(misspelt).size() / 3);
  return best_distance <= enough ? best : "";
}

std::string_view name_of(DeviceChoice choice) { return kDeviceNames.at(static_cast<size_t>(choice)); }
std::string_view name_of(DataConfig::Format choice) { return kFormatNames.at(static_cast<size_t>(choice)); }
std::string_view name_of(DataConfig::Think choice) { return kThinkNames.at(static_cast<size_t>(choice)); }
std::string_view name_of(TrainingConfig::Scheduler choice) {
  return kSchedulerNames.at(static_cast<size_t>(choice));
}
std::string_view name_of(TrainingConfig::Checkpointing choice) {
  return kCheckpointingNames.at(static_cast<size_t>(choice));
}
std::string_view name_of(QuantizationConfig::QuantType choice) {
  return kQuantTypeNames.at(static_cast<size_t>(choice));
}
std::string_view name_of(QuantizationConfig::ComputeDtype choice) {
  return kComputeDtypeNames.at(static_cast<size_t>(choice));
}
std::string_view name_of(MergeConfig::Base choice) { return kMergeBaseNames.at(static_cast<size_t>(choice)); }
std::string_view name_of(ServerConfig::KvCacheDtype choice) {
  return kKvCacheNames.at(static_cast<size_t>(choice));
}

}  // namespace onggi
