// The real ggml, loaded at run time from the npm package that tests/quantize/fetch_llama_cpp.sh installs; an
// independent reference for the block formats. Signatures are those of ggml.h of llama.cpp 0.5.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace onggi::test {

inline std::filesystem::path llama_cpp_folder() {
  return "build/npm/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64";
}

class GgmlLibrary {
 public:
  GgmlLibrary() {
    handle_ = dlopen((llama_cpp_folder() / "libggml-base.so").c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (handle_ == nullptr) return;
    // Builds ggml's table of f16 values, which the encoders and decoders read.
    struct InitParameters {
      size_t memory_size;
      void* memory;
      bool no_alloc;
    };
    const auto init = symbol<void* (*)(InitParameters)>("ggml_init");
    const auto release = symbol<void (*)(void*)>("ggml_free");
    quantize_ = symbol<Quantize>("ggml_quantize_chunk");
    if (init == nullptr || release == nullptr || quantize_ == nullptr) {
      handle_ = nullptr;
      return;
    }
    release(init({size_t{1} << 16, nullptr, true}));
  }

  bool available() const { return handle_ != nullptr; }
  static const char* skip_reason() {
    return "the real ggml is not there: run tests/quantize/fetch_llama_cpp.sh once";
  }

  // Decodes n values of the format named in ggml's way ("q4_K").
  void decode(const std::string& format, const void* blocks, int64_t n, float* out) const {
    const auto function = symbol<void (*)(const void*, float*, int64_t)>("dequantize_row_" + format);
    function(blocks, out, n);
  }
  // Encodes rows of `columns` values as the ggml type.
  void encode(int type, const float* values, int64_t rows, int64_t columns, const float* importance,
              void* out) const {
    quantize_(type, values, out, 0, rows, columns, importance);
  }

 private:
  using Quantize = size_t (*)(int type, const float* source, void* out, int64_t start, int64_t rows,
                              int64_t columns, const float* importance);
  template <typename Function>
  Function symbol(const std::string& name) const {
    return reinterpret_cast<Function>(dlsym(handle_, name.c_str()));
  }

  void* handle_ = nullptr;
  Quantize quantize_ = nullptr;
};

}  // namespace onggi::test
