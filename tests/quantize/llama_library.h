// The real llama.cpp, loaded at run time from the npm package that fetch_llama_cpp.sh installs: the judge of
// the files that we write. Only functions of its C API (llama.h of llama.cpp 0.5) are used, and of its
// parameter structs only the first fields.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

namespace onggi::test {

class LlamaLibrary {
 public:
  // Passed and returned in memory by the calling convention of x86-64, like the real structs, which are
  // smaller: the callee reads and writes the beginning alone.
  struct Parameters {
    uint32_t words[128];
  };
  struct Batch {
    int32_t tokens = 0;
    void* pointers[6] = {};
  };
  static_assert(sizeof(Batch) == 56);

  static const LlamaLibrary& get() {
    static const LlamaLibrary library;
    return library;
  }
  bool available() const { return available_; }
  static const char* skip_reason() {
    return "the real llama.cpp is not there: run tests/quantize/fetch_llama_cpp.sh once";
  }

  Parameters (*model_default_params)();
  void* (*model_load)(const char* path, Parameters);
  void (*model_free)(void*);
  const void* (*model_vocab)(const void*);
  int32_t (*model_meta)(const void*, const char* key, char* out, size_t size);
  const char* (*model_chat_template)(const void*, const char* name);
  Parameters (*context_default_params)();
  void* (*context_init)(void* model, Parameters);
  void (*context_free)(void*);
  int32_t (*tokenize)(const void* vocab, const char* text, int32_t length, int32_t* tokens, int32_t max,
                      bool add_special, bool parse_special);
  Batch (*batch_get_one)(int32_t* tokens, int32_t count);
  int32_t (*decode)(void* context, Batch);
  float* (*logits)(void* context, int32_t index);
  int32_t (*vocab_size)(const void* vocab);
  bool (*is_end)(const void* vocab, int32_t token);
  int32_t (*vocab_eos)(const void* vocab);
  bool (*vocab_adds_bos)(const void* vocab);
  Parameters (*quantize_default_params)();
  uint32_t (*quantize)(const char* in, const char* out, const Parameters*);
  void* (*adapter_init)(void* model, const char* path);
  int32_t (*set_adapters)(void* context, void** adapters, size_t count, float* scales);

 private:
  LlamaLibrary() {
    const std::filesystem::path folder =
        std::filesystem::absolute("build/npm/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64");
    void* ggml = dlopen((folder / "libggml.v0.5.0.so").c_str(), RTLD_NOW | RTLD_GLOBAL);
    void* llama = dlopen((folder / "libllama.v0.5.0.so").c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (ggml == nullptr || llama == nullptr) return;
    available_ = true;
    const auto load = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(llama, name));
      if (function == nullptr) available_ = false;
    };
    load(model_default_params, "llama_model_default_params");
    load(model_load, "llama_model_load_from_file");
    load(model_free, "llama_model_free");
    load(model_vocab, "llama_model_get_vocab");
    load(model_meta, "llama_model_meta_val_str");
    load(model_chat_template, "llama_model_chat_template");
    load(context_default_params, "llama_context_default_params");
    load(context_init, "llama_init_from_model");
    load(context_free, "llama_free");
    load(tokenize, "llama_tokenize");
    load(batch_get_one, "llama_batch_get_one");
    load(decode, "llama_decode");
    load(logits, "llama_get_logits_ith");
    load(vocab_size, "llama_vocab_n_tokens");
    load(is_end, "llama_vocab_is_eog");
    load(vocab_eos, "llama_vocab_eos");
    load(vocab_adds_bos, "llama_vocab_get_add_bos");
    load(quantize_default_params, "llama_model_quantize_default_params");
    load(quantize, "llama_model_quantize");
    load(adapter_init, "llama_adapter_lora_init");
    load(set_adapters, "llama_set_adapters_lora");
    void (*set_log)(void (*)(int, const char*, void*), void*) = nullptr;
    load(set_log, "llama_log_set");
    if (!available_) return;
    set_log([](int, const char*, void*) {}, nullptr);
    reinterpret_cast<void (*)()>(dlsym(llama, "llama_backend_init"))();
    reinterpret_cast<void (*)(const char*)>(dlsym(ggml, "ggml_backend_load_all_from_path"))(folder.c_str());
  }

  bool available_ = false;
};

// A model that llama.cpp loaded from a file of ours.
class LlamaModel {
 public:
  explicit LlamaModel(const std::filesystem::path& file) {
    model_ = api_.model_load(file.c_str(), api_.model_default_params());
    if (model_ != nullptr) vocab_ = api_.model_vocab(model_);
  }
  LlamaModel(const LlamaModel&) = delete;
  LlamaModel& operator=(const LlamaModel&) = delete;
  ~LlamaModel() {
    if (model_ != nullptr) api_.model_free(model_);
  }

  bool loaded() const { return model_ != nullptr; }
  const void* vocab() const { return vocab_; }
  std::string meta(const char* key) const {
    char value[256] = {};
    api_.model_meta(model_, key, value, sizeof value);
    return value;
  }
  std::string chat_template() const {
    const char* text = api_.model_chat_template(model_, nullptr);
    return text != nullptr ? text : "";
  }
  std::vector<int32_t> tokenize(const std::string& text) const {
    std::vector<int32_t> ids(text.size() + 8);
    const int32_t count = api_.tokenize(vocab_, text.data(), static_cast<int32_t>(text.size()), ids.data(),
                                        static_cast<int32_t>(ids.size()), /*add_special=*/true,
                                        /*parse_special=*/true);
    ids.resize(static_cast<size_t>(std::max(count, 0)));
    return ids;
  }
  // Up to `max` tokens, each the likeliest; an end token is the last.
  std::vector<int32_t> greedy(const std::vector<int32_t>& prompt, int max,
                              const char* adapter = nullptr) const {
    void* context = open_context(prompt.size() + static_cast<size_t>(max), adapter);
    std::vector<int32_t> out;
    std::vector<int32_t> next = prompt;
    while (context != nullptr && static_cast<int>(out.size()) < max) {
      const std::vector<float> logits = step(context, next);
      if (logits.empty()) break;
      out.push_back(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
      if (api_.is_end(vocab_, out.back())) break;
      next = {out.back()};
    }
    if (context != nullptr) api_.context_free(context);
    return out;
  }
  // The logits [V] that predict each token of `continuation`, given all before it.
  std::vector<std::vector<float>> score(const std::vector<int32_t>& prompt,
                                        const std::vector<int32_t>& continuation) const {
    void* context = open_context(prompt.size() + continuation.size(), nullptr);
    std::vector<std::vector<float>> all = {step(context, prompt)};
    for (size_t i = 0; i + 1 < continuation.size(); ++i) all.push_back(step(context, {continuation[i]}));
    api_.context_free(context);
    return all;
  }

 private:
  void* open_context(size_t tokens, const char* adapter) const {
    LlamaLibrary::Parameters parameters = api_.context_default_params();
    parameters.words[0] = static_cast<uint32_t>(tokens) + 8;  // n_ctx
    // n_threads and n_threads_batch: more would spin on a busy machine.
    parameters.words[7] = parameters.words[8] = 1;
    void* context = api_.context_init(model_, parameters);
    if (adapter == nullptr) return context;
    void* lora = api_.adapter_init(model_, adapter);
    float scale = 1;
    if (lora == nullptr || api_.set_adapters(context, &lora, 1, &scale) != 0) {
      ADD_FAILURE() << "llama.cpp does not take the adapter " << adapter;
      api_.context_free(context);
      return nullptr;
    }
    return context;
  }
  std::vector<float> step(void* context, std::vector<int32_t> tokens) const {
    if (api_.decode(context, api_.batch_get_one(tokens.data(), static_cast<int32_t>(tokens.size()))) != 0)
      return {};
    const float* logits = api_.logits(context, -1);
    return {logits, logits + api_.vocab_size(vocab_)};
  }

  const LlamaLibrary& api_ = LlamaLibrary::get();
  void* model_ = nullptr;
  const void* vocab_ = nullptr;
};

}  // namespace onggi::test
