// safetensors, the format of Hugging Face's weights (https://huggingface.co/docs/safetensors, "Format"):
//
//   8 bytes   little-endian u64 n: length of the header
//   n bytes   UTF-8 JSON: {"name": {"dtype": "BF16", "shape": [N, K], "data_offsets": [begin, end]}, ...,
//             "__metadata__": {"key": "value"}}; starts with '{', may end with spaces
//   the rest  data; offsets count from here; the tensors cover it without gaps or overlaps
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/mapped_tensors.h"
#include "formats/tensor_sequence.h"

namespace onggi {

using SafetensorsMetadata = std::map<std::string, std::string>;

struct SafetensorsFile {
  std::vector<TensorInfo> tensors;  // in the order of their data
  SafetensorsMetadata metadata;     // the strings of "__metadata__"
};

// Reads and checks the header; `file` is the whole file, of which only the header is touched. `source` names
// it in errors. Throws InputError that names the tensor for: a header that is too long or no JSON, unknown
// dtypes, sizes that do not fit shape and dtype, offsets outside the file, overlaps, gaps, duplicate names.
SafetensorsFile parse_safetensors_header(std::span<const std::byte> file, const std::string& source);

// One file.
class SafetensorsReader : public MappedTensors {
 public:
  // Throws InputError.
  explicit SafetensorsReader(const fs::path& file);
  const SafetensorsMetadata& metadata() const { return metadata_; }

 private:
  SafetensorsMetadata metadata_;
};

// A Hugging Face folder: model.safetensors, or model.safetensors.index.json and its shards.
class ShardedSafetensors : public MappedTensors {
 public:
  // Throws InputError that names the missing shard, or the tensor that the index and the shards do not agree
  // on.
  explicit ShardedSafetensors(const fs::path& folder);
  // File names inside the folder, in the order of files().
  const std::vector<std::string>& shards() const { return shards_; }

 private:
  std::vector<std::string> shards_;
};

// Writes one file, streaming: all tensors are declared first, then their bytes are written in the declared
// order.
class SafetensorsWriter {
 public:
  // Wider element types should be declared first, so that all data is aligned (checked).
  SafetensorsWriter(const fs::path& path, std::vector<TensorSpec> tensors,
                    const SafetensorsMetadata& metadata = {{"format", "pt"}});

  // Appends bytes of tensor `name`; a tensor may come in several pieces, but only after all before it are
  // whole.
  void write(std::string_view name, const void* data, size_t bytes);
  // Checks that everything was written and puts the file in place.
  void commit();

 private:
  AtomicFile file_;
  TensorSequence sequence_;
};

struct ShardPlan {
  std::string file_name;  // "model-00001-of-00002.safetensors"
  std::vector<TensorSpec> tensors;
  uint64_t bytes = 0;
};

// Cuts the tensors, in order, into shards of at most max_bytes of data (a larger tensor gets a shard of its
// own).
std::vector<ShardPlan> plan_shards(const std::vector<TensorSpec>& tensors, uint64_t max_bytes);
// Writes model.safetensors.index.json with "weight_map" and the sums total_size (bytes) and total_parameters.
void write_shard_index(const fs::path& folder, const std::vector<ShardPlan>& shards);

}  // namespace onggi
