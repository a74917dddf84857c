// A GGUF file of random weights in the shape of a published model, with a vocabulary of its size.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "base/random.h"
#include "blocks/block_format.h"
#include "formats/gguf.h"
#include "model/config.h"
#include "model/tensor_names.h"
#include "tokenizer/byte_alphabet.h"

namespace onggi {

// As in a Q4_K_M file, about half of the value and down projections carry six bits.
inline DType random_gguf_dtype(const ModelTensor& tensor) {
  if (tensor.shape.size() == 1) return DType::kF32;
  const bool may_be_larger = tensor.role == TensorRole::kV || tensor.role == TensorRole::kDown;
  return tensor.role == TensorRole::kLmHead || (may_be_larger && tensor.layer % 2 == 0) ? DType::kQ6_K
                                                                                        : DType::kQ4_K;
}

// One random row again and again: what is loaded does not matter to the time.
inline void write_random_tensor(GgufWriter& writer, const ModelTensor& tensor) {
  const DType dtype = random_gguf_dtype(tensor);
  const int64_t columns = tensor.shape.back(), rows = element_count(tensor.shape) / columns;
  Random random(1);
  std::vector<float> values(static_cast<size_t>(columns));
  for (float& value : values) value = dtype == DType::kF32 ? 1.0f : 0.02f * random.normal();
  std::vector<std::byte> row(static_cast<size_t>(dtype_bytes(dtype, columns)));
  if (dtype == DType::kF32) {
    std::memcpy(row.data(), values.data(), row.size());
  } else {
    block_format(dtype).encode(values.data(), columns, nullptr, row.data());
  }
  for (int64_t i = 0; i < rows; ++i) writer.write(tensor.gguf_name, row.data(), row.size());
}

// The bytes, all pairs of bytes, and pairs with a third, as many as there is room for.
inline void add_vocabulary(size_t size, std::vector<GgufEntry>& entries) {
  std::vector<std::string> bytes;
  for (int byte = 0; byte < 256; ++byte)
    bytes.push_back(to_byte_alphabet(std::string(1, static_cast<char>(byte))));
  StringList tokens, merges;
  for (const std::string& byte : bytes) tokens.push_back(byte);
  const auto merge = [&](const std::string& left, const std::string& right) {
    if (tokens.size() == size) return;
    tokens.push_back(left + right);
    merges.push_back(left + " " + right);
  };
  for (const std::string& left : bytes)
    for (const std::string& right : bytes) merge(left, right);
  for (size_t pair = bytes.size(); tokens.size() < size; ++pair) {
    const std::string left(tokens[pair]);
    for (const std::string& right : bytes) merge(left, right);
  }
  entries.emplace_back("tokenizer.ggml.model", std::string("gpt2"));
  entries.emplace_back("tokenizer.ggml.pre", std::string("qwen2"));
  entries.emplace_back("tokenizer.ggml.token_type", std::vector<int32_t>(tokens.size(), 1));
  entries.emplace_back("tokenizer.ggml.tokens", std::move(tokens));
  entries.emplace_back("tokenizer.ggml.merges", std::move(merges));
  // The rows of the output matrix are the same: ties go to low ids, so answers end where they are cut off.
  entries.emplace_back("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(size - 1));
  entries.emplace_back("tokenizer.chat_template",
                       std::string("{% for message in messages %}{{ message.content }}\n{% endfor %}"));
}

inline void write_random_gguf(const ModelConfig& config, const fs::path& path) {
  std::vector<TensorSpec> specs;
  for (const ModelTensor& tensor : model_tensors(config))
    specs.push_back({tensor.gguf_name, random_gguf_dtype(tensor), tensor.shape});
  std::vector<GgufEntry> entries = gguf_config_entries(config);
  add_vocabulary(static_cast<size_t>(config.vocab_size), entries);
  GgufWriter writer(path, entries, specs);
  for (const ModelTensor& tensor : model_tensors(config)) write_random_tensor(writer, tensor);
  writer.commit();
}

}  // namespace onggi
