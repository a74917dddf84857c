// The header of a safetensors file, read as a stream of JSON events: no document is built, so that a hostile
// header of 100 MB cannot grow into gigabytes, and duplicate names are seen.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "formats/safetensors.h"

namespace onggi {
namespace {

using nlohmann::json;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as in Hugging Face's reader
constexpr size_t kMaxDimensions = 16;

constexpr std::pair<std::string_view, DType> kDTypeNames[] = {
    {"F32", DType::kF32}, {"F16", DType::kF16},   {"BF16", DType::kBF16}, {"F64", DType::kF64},
    {"I64", DType::kI64}, {"I32", DType::kI32},   {"I16", DType::kI16},   {"I8", DType::kI8},
    {"U8", DType::kU8},   {"BOOL", DType::kBool},
};

std::optional<DType> dtype_of_name(std::string_view name) {
  for (const auto& [known, dtype] : kDTypeNames)
    if (known == name) return dtype;
  return std::nullopt;
}

// One entry of the header as it stands there.
struct Entry {
  std::string name;
  std::optional<DType> dtype;
  std::optional<std::vector<uint64_t>> shape;
  std::optional<std::vector<uint64_t>> offsets;  // from the start of the data
};

class HeaderEvents : public json::json_sax_t {
 public:
  explicit HeaderEvents(const std::string& source) : source_(source) {}

  std::vector<Entry> entries;
  SafetensorsMetadata metadata;

  bool start_object(size_t) override {
    if (place_ == Place::kBeforeRoot) {
      place_ = Place::kRoot;
    } else if (place_ == Place::kRoot && entry_.name == "__metadata__") {
      place_ = Place::kMetadata;
    } else if (place_ == Place::kRoot) {
      place_ = Place::kTensor;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(string_t& name) override {
    if (place_ == Place::kRoot) {
      if (!names_.insert(name).second)
        throw InputError(text("tensor {} is in the header of {} twice", name, source_));
      entry_ = Entry{.name = std::move(name), .dtype = {}, .shape = {}, .offsets = {}};
    } else {
      field_ = std::move(name);
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      if (!entry_.dtype || !entry_.shape || !entry_.offsets)
        throw InputError(
            text("tensor {} in {} lacks one of dtype, shape and data_offsets", entry_.name, source_));
      entries.push_back(std::move(entry_));
      entry_ = {};
    }
    place_ = place_ == Place::kRoot ? Place::kAfterRoot : Place::kRoot;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kTensor) unexpected("an array");
    if (field_ == "shape") {
      numbers_ = &entry_.shape.emplace();
    } else if (field_ == "data_offsets") {
      numbers_ = &entry_.offsets.emplace();
    } else {
      unexpected("an array");
    }
    place_ = Place::kNumbers;
    return true;
  }

  bool end_array() override {
    if (field_ == "data_offsets" && numbers_->size() != 2) unexpected("an array that is not of two numbers");
    numbers_ = nullptr;
    place_ = Place::kTensor;
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      metadata[field_] = std::move(value);
    } else if (place_ == Place::kTensor && field_ == "dtype") {
      entry_.dtype = dtype_of_name(value);
      if (!entry_.dtype)
        throw InputError(
            text("tensor {} of {} has the dtype {}, which is not supported", entry_.name, source_, value));
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kNumbers) unexpected("a number");
    if (numbers_->size() == kMaxDimensions)
      throw InputError(
          text("tensor {} of {} has more than {} dimensions", entry_.name, source_, kMaxDimensions));
    numbers_->push_back(value);
    return true;
  }

  bool number_integer(number_integer_t) override { unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { unexpected("a fraction"); }
  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("a truth value"); }
  bool binary(binary_t&) override { unexpected("binary data"); }

  bool parse_error(size_t position, const std::string&, const json::exception&) override {
    throw InputError(text("the header of {} is not valid JSON at byte {}", source_, position + kLengthBytes));
  }

 private:
  enum class Place { kBeforeRoot, kRoot, kTensor, kNumbers, kMetadata, kAfterRoot };

  [[noreturn]] void unexpected(const char* what) const {
    throw InputError(text("the header of {} has {} where none belongs, at entry \"{}\", field \"{}\"",
                          source_, translate(what), entry_.name, field_));
  }

  const std::string& source_;
  Place place_ = Place::kBeforeRoot;
  Entry entry_;
  std::string field_;
  std::vector<uint64_t>* numbers_ = nullptr;
  std::unordered_set<std::string> names_;
};

// Bytes of `entry`'s elements; nullopt on overflow. Fills the shape. Zeros among the dimensions do not excuse
// the others: code that multiplies them in another order must not overflow either.
std::optional<uint64_t> bytes_of(const Entry& entry, Shape& shape) {
  uint64_t bytes = static_cast<uint64_t>(dtype_info(*entry.dtype).block_bytes);
  bool empty = false;
  for (const uint64_t dimension : *entry.shape) {
    empty |= dimension == 0;
    if (__builtin_mul_overflow(bytes, std::max<uint64_t>(1, dimension), &bytes) ||
        bytes > static_cast<uint64_t>(INT64_MAX))
      return std::nullopt;
    shape.push_back(static_cast<int64_t>(dimension));
  }
  return empty ? 0 : bytes;
}

TensorInfo to_info(const Entry& entry, uint64_t data_begin, uint64_t data_bytes, const std::string& source) {
  TensorInfo info;
  info.name = entry.name;
  info.dtype = *entry.dtype;
  const std::optional<uint64_t> expected = bytes_of(entry, info.shape);
  if (!expected) throw InputError(text("tensor {} of {} has an impossible shape", entry.name, source));
  const uint64_t begin = (*entry.offsets)[0], end = (*entry.offsets)[1];
  if (begin > end)
    throw InputError(text("tensor {} of {} ends before it begins ({} > {})", entry.name, source, begin, end));
  if (end > data_bytes)
    throw InputError(
        text("tensor {} of {} ends at byte {} of the data, which has only {}: the file is cut short or "
             "broken, download it again",
             entry.name, source, end, data_bytes));
  if (end - begin != *expected)
    throw InputError(text("tensor {} of {} takes {} bytes, but its shape {} and dtype {} need {}", entry.name,
                          source, end - begin, shape_text(info.shape), dtype_name(info.dtype), *expected));
  info.offset = data_begin + begin;
  info.bytes = end - begin;
  return info;
}

// The tensors, in order, must cover the data exactly: a gap could hide data, an overlap could alias weights.
void check_cover(const std::vector<TensorInfo>& tensors, uint64_t data_begin, uint64_t file_bytes,
                 const std::string& source) {
  uint64_t at = data_begin;
  for (const TensorInfo& info : tensors) {
    if (info.offset < at)
      throw InputError(text("tensor {} of {} overlaps the one before it", info.name, source));
    if (info.offset > at)
      throw InputError(
          text("there are {} unused bytes before tensor {} of {}", info.offset - at, info.name, source));
    at += info.bytes;
  }
  if (at != file_bytes)
    throw InputError(
        text("{} has {} bytes after its last tensor: the file is broken", source, file_bytes - at));
}

}  // namespace

SafetensorsFile parse_safetensors_header(std::span<const std::byte> file, const std::string& source) {
  if (file.size() < kLengthBytes)
    throw InputError(text("{} has {} bytes: too short for a safetensors file", source, file.size()));
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  if (length > kMaxHeaderBytes)
    throw InputError(text("{} claims a header of {} bytes: it is no safetensors file", source, length));
  if (length > file.size() - kLengthBytes)
    throw InputError(text("{} is cut short inside its header ({} of {} bytes): download it again", source,
                          file.size() - kLengthBytes, length));
  const char* begin = reinterpret_cast<const char*>(file.data()) + kLengthBytes;
  if (length == 0 || *begin != '{')
    throw InputError(text("{} has no JSON header: it is no safetensors file", source));

  HeaderEvents events(source);
  json::sax_parse(begin, begin + length, &events);

  SafetensorsFile parsed;
  parsed.metadata = std::move(events.metadata);
  const uint64_t data_begin = kLengthBytes + length;
  parsed.tensors.reserve(events.entries.size());
  for (const Entry& entry : events.entries)
    parsed.tensors.push_back(to_info(entry, data_begin, file.size() - data_begin, source));
  std::sort(
      parsed.tensors.begin(), parsed.tensors.end(), [](const TensorInfo& left, const TensorInfo& right) {
        return std::tie(left.offset, left.bytes, left.name) < std::tie(right.offset, right.bytes, right.name);
      });
  check_cover(parsed.tensors, data_begin, file.size(), source);
  return parsed;
}

}  // namespace onggi
