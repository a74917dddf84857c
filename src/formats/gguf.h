// GGUF, the format of llama.cpp's models (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
// Little-endian:
//
//   "GGUF"  u32 version (2 or 3)  u64 tensor count  u64 metadata count
//   metadata: string key, u32 type, value        string = u64 length, bytes; array = u32 type, u64 length,
//   values tensors:  string name, u32 dimensions, u64 sizes (innermost first), u32 ggml type, u64 offset in
//   the data padding to `general.alignment` (32) data:     each tensor starts at a multiple of the alignment
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/string_list.h"
#include "formats/mapped_tensors.h"
#include "formats/tensor_sequence.h"

namespace onggi {

// A metadata value with its exact type. Strings are bytes: vocabularies need not be UTF-8.
using GgufValue =
    std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool, std::string, uint64_t,
                 int64_t, double, std::vector<uint8_t>, std::vector<int8_t>, std::vector<uint16_t>,
                 std::vector<int16_t>, std::vector<uint32_t>, std::vector<int32_t>, std::vector<float>,
                 std::vector<bool>, StringList, std::vector<uint64_t>, std::vector<int64_t>,
                 std::vector<double>>;

using GgufEntry = std::pair<std::string, GgufValue>;

inline constexpr uint64_t kGgufAlignment = 32;

struct GgufFile {
  std::string source;  // names the file in errors
  uint32_t version = 3;
  uint64_t alignment = kGgufAlignment;
  std::vector<GgufEntry> metadata;  // in the order of the file
  std::vector<TensorInfo> tensors;  // in the order of the file; shapes outermost first

  // nullptr when there is no such key.
  const GgufValue* find(std::string_view key) const;
  // Any integer type that fits; any float or integer type; a string; arrays. The find_* forms give nullopt
  // when the key is missing. Throw InputError that names key and source for another type (and, get_*, when
  // the key is missing).
  std::optional<int64_t> find_int(std::string_view key) const;
  std::optional<double> find_number(std::string_view key) const;
  std::optional<bool> find_bool(std::string_view key) const;
  std::optional<std::string> find_string(std::string_view key) const;
  int64_t get_int(std::string_view key) const;
  double get_number(std::string_view key) const;
  std::string get_string(std::string_view key) const;
  const StringList& get_strings(std::string_view key) const;
  StringList take_strings(std::string_view key);                      // leaves none
  const std::vector<int32_t>* find_ints(std::string_view key) const;  // an i32 array, or nullptr
  const std::vector<float>* find_floats(std::string_view key) const;  // an f32 array, or nullptr
};

// Reads and checks everything before the data; `file` is the whole file. Throws InputError.
GgufFile parse_gguf(std::span<const std::byte> file, const std::string& source);

// ggml's number of a dtype (ggml.h, enum ggml_type); nullopt where ggml has none (nf4, u8, bool).
std::optional<uint32_t> ggml_type(DType dtype);
// The dtype of ggml's number; nullopt for types that Onggi does not read.
std::optional<DType> dtype_of_ggml_type(uint32_t type);

class GgufReader : public MappedTensors {
 public:
  // Throws InputError.
  explicit GgufReader(const fs::path& file);
  const GgufFile& header() const { return header_; }

 private:
  GgufFile header_;
};

// Writes GGUF v3, streaming: metadata and tensors are declared first, then the bytes are written in that
// order.
class GgufWriter {
 public:
  // Every dtype must have a ggml type (checked).
  GgufWriter(const fs::path& path, const std::vector<GgufEntry>& metadata, std::vector<TensorSpec> tensors);

  // Appends bytes of tensor `name`; a tensor may come in several pieces, but only after all before it are
  // whole.
  void write(std::string_view name, const void* data, size_t bytes);
  // Checks that everything was written and puts the file in place.
  void commit();
  uint64_t size() const { return file_.size(); }

 private:
  AtomicFile file_;
  TensorSequence sequence_;
};

}  // namespace onggi
