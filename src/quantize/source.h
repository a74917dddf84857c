// Where a conversion's weights come from: a Hugging Face folder, with or without an adapter, or a GGUF file.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/adapter.h"
#include "formats/gguf.h"
#include "formats/lora_product.h"
#include "formats/mapped_tensors.h"
#include "model/config.h"
#include "model/tensor_names.h"

namespace onggi {

class ConversionSource {
 public:
  // Opens and checks everything. Throws InputError.
  ConversionSource(const fs::path& source, const fs::path& adapter);

  const ModelConfig& config() const { return config_; }
  const std::vector<ModelTensor>& tensors() const { return tensors_; }
  // The metadata that describes the model and its tokenizer, without general.file_type and the version of the
  // quantisation, which depend on the target.
  std::vector<GgufEntry> metadata() const;

  // One tensor while it streams.
  class Rows {
   public:
    Rows(const MappedTensors& file, const TensorInfo& info, std::optional<LoraProduct> lora);
    int64_t rows() const { return rows_; }
    int64_t columns() const { return columns_; }
    // Row `row` in fp32 with the adapter's product added. Safe from several threads.
    void read(int64_t row, float* out) const;
    // The rows [begin, begin + count) will not be read again.
    void release(int64_t begin, int64_t count) const;

   private:
    const MappedTensors* file_;
    const TensorInfo* info_;
    TensorView view_;
    int64_t rows_, columns_;
    int64_t row_bytes_;
    std::optional<LoraProduct> lora_;
  };
  Rows open(const ModelTensor& tensor) const;

 private:
  void open_folder(const fs::path& folder);
  void open_gguf(const fs::path& file);
  void open_adapter(const fs::path& folder);

  fs::path path_;
  ModelConfig config_;
  std::vector<ModelTensor> tensors_;
  NameStyle style_ = NameStyle::kHuggingFace;
  std::unique_ptr<ShardedSafetensors> folder_;
  std::unique_ptr<GgufReader> gguf_;
  std::unique_ptr<AdapterReader> adapter_;
};

}  // namespace onggi
