#include "formats/safetensors.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "formats/json_file.h"

namespace onggi {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr size_t kHeaderAlignment = 8;

std::string_view safetensors_dtype(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
    case DType::kF64:
      return "F64";
    case DType::kI64:
      return "I64";
    case DType::kI32:
      return "I32";
    case DType::kI16:
      return "I16";
    case DType::kI8:
      return "I8";
    case DType::kU8:
      return "U8";
    case DType::kBool:
      return "BOOL";
    default:
      break;
  }
  ONGGI_CHECK(false, "no safetensors dtype: " + std::string(dtype_name(dtype)));
  return "";
}

std::string header_bytes(const std::vector<TensorSpec>& tensors, const SafetensorsMetadata& metadata) {
  ordered_json header = ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  std::string out = header.dump();
  out.pop_back();  // the closing brace: entries are appended as text, which keeps thousands of them cheap
  for (const TensorSpec& spec : tensors) {
    const int element_bytes = dtype_info(spec.dtype).block_bytes;
    ONGGI_CHECK(offset % static_cast<uint64_t>(element_bytes) == 0,
                "declare wider types first: " + spec.name);
    const json entry = {{"dtype", safetensors_dtype(spec.dtype)},
                        {"shape", spec.shape},
                        {"data_offsets", {offset, offset + spec.bytes()}}};
    if (out.size() > 1) out += ',';
    out += json(spec.name).dump() + ":" + entry.dump();
    offset += spec.bytes();
  }
  out += '}';
  out.append((kHeaderAlignment - out.size() % kHeaderAlignment) % kHeaderAlignment, ' ');
  return out;
}

// The shard of each tensor, from the index.
std::map<std::string, std::string> read_weight_map(const fs::path& index_path) {
  const json index = read_json_file(index_path);
  const JsonObject weight_map = JsonObject(index, index_path.string()).object("weight_map");
  std::map<std::string, std::string> shard_of;
  for (const auto& [name, value] : weight_map.json().items()) {
    const std::string shard = weight_map.get_string(name.c_str());
    // An index is downloaded: it must not reach files outside its folder.
    if (shard.empty() || shard.find('/') != std::string::npos || shard == "." || shard == "..")
      throw InputError(text("{} gives tensor {} the shard \"{}\", which is not a file name",
                            index_path.string(), name, shard));
    shard_of.emplace(name, shard);
  }
  if (shard_of.empty()) throw InputError(text("{} lists no tensors", index_path.string()));
  return shard_of;
}

}  // namespace

SafetensorsReader::SafetensorsReader(const fs::path& file) : MappedTensors(file) {
  MappedFile mapped(file);
  SafetensorsFile parsed = parse_safetensors_header(mapped.bytes(), file.string());
  metadata_ = std::move(parsed.metadata);
  add_file(std::move(mapped), std::move(parsed.tensors));
}

ShardedSafetensors::ShardedSafetensors(const fs::path& folder) : MappedTensors(folder) {
  const fs::path index_path = folder / kIndexFile;
  std::map<std::string, std::string> shard_of;
  std::error_code ignored;
  if (fs::exists(folder / kSingleFile, ignored)) {
    shards_ = {kSingleFile};
  } else if (fs::exists(index_path, ignored)) {
    shard_of = read_weight_map(index_path);
    for (const auto& [name, shard] : shard_of) shards_.push_back(shard);
    std::sort(shards_.begin(), shards_.end());
    shards_.erase(std::unique(shards_.begin(), shards_.end()), shards_.end());
  } else {
    throw InputError(text("{} has neither {} nor {}: give a Hugging Face folder with safetensors weights",
                          folder.string(), kSingleFile, kIndexFile));
  }
  for (const std::string& shard : shards_)
    if (!fs::exists(folder / shard, ignored))
      throw InputError(
          text("the shard {} of {} is missing: download the model again", shard, folder.string()));
  for (const std::string& shard : shards_) {
    MappedFile mapped(folder / shard);
    SafetensorsFile parsed = parse_safetensors_header(mapped.bytes(), (folder / shard).string());
    add_file(std::move(mapped), std::move(parsed.tensors));
  }
  for (const auto& [name, shard] : shard_of)
    if (!has(name) || shards_[static_cast<size_t>(info(name).file)] != shard)
      throw InputError(text("the index of {} says that tensor {} is in {}, but it is not there",
                            folder.string(), name, shard));
}

SafetensorsWriter::SafetensorsWriter(const fs::path& path, std::vector<TensorSpec> tensors,
                                     const SafetensorsMetadata& metadata)
    : file_(path), sequence_(std::move(tensors)) {
  const std::string header = header_bytes(sequence_.tensors(), metadata);
  const uint64_t length = header.size();
  file_.write(&length, sizeof length);
  file_.write(header);
}

void SafetensorsWriter::write(std::string_view name, const void* data, size_t bytes) {
  sequence_.advance(name, bytes);
  file_.write(data, bytes);
}

void SafetensorsWriter::commit() {
  sequence_.check_complete();
  file_.commit();
}

std::vector<ShardPlan> plan_shards(const std::vector<TensorSpec>& tensors, uint64_t max_bytes) {
  std::vector<ShardPlan> shards;
  for (const TensorSpec& spec : tensors) {
    if (shards.empty() || (shards.back().bytes > 0 && shards.back().bytes + spec.bytes() > max_bytes))
      shards.emplace_back();
    shards.back().tensors.push_back(spec);
    shards.back().bytes += spec.bytes();
  }
  for (size_t i = 0; i < shards.size(); ++i)
    shards[i].file_name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  return shards;
}

void write_shard_index(const fs::path& folder, const std::vector<ShardPlan>& shards) {
  uint64_t bytes = 0, parameters = 0;
  json weight_map = json::object();
  for (const ShardPlan& shard : shards) {
    bytes += shard.bytes;
    for (const TensorSpec& spec : shard.tensors) {
      parameters += static_cast<uint64_t>(element_count(spec.shape));
      weight_map[spec.name] = shard.file_name;
    }
  }
  write_json_file(folder / kIndexFile,
                  {{"metadata", {{"total_parameters", parameters}, {"total_size", bytes}}},
                   {"weight_map", std::move(weight_map)}});
}

}  // namespace onggi
