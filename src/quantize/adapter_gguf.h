// A LoRA adapter as GGUF, for programs that add adapters at run time (llama.cpp's --lora).
#pragma once

#include <map>
#include <string>

#include "base/file.h"
#include "tensor/dtype.h"

namespace onggi {

struct AdapterGgufOptions {
  fs::path adapter;      // PEFT folder
  fs::path base_folder;  // the base's HF folder: names and shapes are checked against it
  fs::path output;
  DType dtype = DType::kF32;                      // kF32 or kF16
  std::string name;                               // general.name
  std::map<std::string, std::string> provenance;  // as in ConvertOptions
};

// Writes general.type "adapter", adapter.type "lora", adapter.lora.alpha, and per module
// "blk.N.attn_q.weight.lora_a" [R, K] and ".lora_b" [N, R]. Readers scale by alpha / R; for rank-stabilised
// adapters the alpha is written so that this gives alpha / sqrt(R). Returns the file's bytes. Throws
// InputError.
uint64_t write_adapter_gguf(const AdapterGgufOptions& options);

}  // namespace onggi
