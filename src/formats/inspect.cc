#include "formats/inspect.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "formats/adapter.h"
#include "formats/gguf.h"
#include "formats/json_file.h"
#include "formats/safetensors.h"

namespace onggi {
namespace {

using nlohmann::json;

constexpr size_t kArrayShown = 8;  // a vocabulary is not printed whole

json describe_tensors(const MappedTensors& tensors) {
  json list = json::array(), by_dtype = json::object();
  int64_t elements = 0;
  for (const TensorInfo& info : tensors.tensors()) {
    const std::string dtype(dtype_name(info.dtype));
    list.push_back({{"name", info.name}, {"dtype", dtype}, {"shape", info.shape}, {"bytes", info.bytes}});
    json& sum = by_dtype.emplace(dtype, json{{"tensors", 0}, {"bytes", 0}}).first.value();
    sum["tensors"] = sum["tensors"].get<uint64_t>() + 1;
    sum["bytes"] = sum["bytes"].get<uint64_t>() + info.bytes;
    elements += element_count(info.shape);
  }
  return {{"tensors", std::move(list)},
          {"totals",
           {{"tensors", tensors.tensors().size()},
            {"elements", elements},
            {"bytes", tensors.total_bytes()},
            {"by_dtype", std::move(by_dtype)}}}};
}

json describe_files(const MappedTensors& tensors) {
  json files = json::array();
  for (const MappedFile& file : tensors.files())
    files.push_back({{"name", file.path().filename().string()}, {"bytes", file.bytes().size()}});
  return files;
}

json describe_value(const GgufValue& value) {
  return std::visit(
      [](const auto& held) -> json {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
          return held;
        } else {
          json first = json::array();
          for (size_t i = 0; i < std::min(kArrayShown, held.size()); ++i)
            first.push_back(typename T::value_type(held[i]));
          if (held.size() <= kArrayShown) return first;
          return {{"length", held.size()}, {"first", std::move(first)}};
        }
      },
      value);
}

// Tokens are bytes; JSON is UTF-8. What is no UTF-8 becomes U+FFFD here, for display alone.
json printable(const json& value) {
  return json::parse(value.dump(-1, ' ', false, json::error_handler_t::replace));
}

json describe_source(const char* kind, const MappedTensors& tensors) {
  json described = describe_tensors(tensors);
  described["kind"] = kind;
  described["path"] = tensors.path().string();
  described["files"] = describe_files(tensors);
  return described;
}

json describe_gguf(const fs::path& path) {
  const GgufReader reader(path);
  json described = describe_source("gguf", reader);
  json metadata = json::object();
  for (const auto& [key, value] : reader.header().metadata) metadata[key] = describe_value(value);
  described["metadata"] = std::move(metadata);
  described["version"] = reader.header().version;
  return described;
}

json describe_folder(const fs::path& path) {
  std::error_code ignored;
  if (fs::exists(path / "adapter_config.json", ignored)) {
    const AdapterReader adapter(path);
    json described = describe_source("adapter", adapter.tensors());
    described["path"] = path.string();
    described["config"] = read_json_file(path / "adapter_config.json");
    described["metadata"] = adapter.tensors().metadata();
    return described;
  }
  if (!fs::exists(path / "config.json", ignored))
    throw InputError(
        text("{} is neither a model nor an adapter: it has no config.json and no adapter_config.json",
             path.string()));
  json described = describe_source("hf", ShardedSafetensors(path));
  described["config"] = read_json_file(path / "config.json");
  described["metadata"] = json::object();
  return described;
}

bool starts_with_gguf(const fs::path& path) {
  const MappedFile file(path);
  constexpr std::string_view kMagic = "GGUF";
  const std::string_view bytes(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  return bytes.starts_with(kMagic);
}

}  // namespace

json describe(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) throw InputError(text("there is no {}", path.string()));
  if (fs::is_directory(path, ignored)) return printable(describe_folder(path));
  if (starts_with_gguf(path)) return printable(describe_gguf(path));
  const SafetensorsReader reader(path);
  json described = describe_source("safetensors", reader);
  described["metadata"] = reader.metadata();
  return printable(described);
}

}  // namespace onggi
