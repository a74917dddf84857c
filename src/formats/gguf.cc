#include "formats/gguf.h"

#include <limits>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "formats/gguf_types.h"

namespace onggi {
namespace {

constexpr size_t kMaxTensorNameBytes = 63;  // ggml keeps names in 64 bytes with a final zero

[[noreturn]] void wrong_type(const GgufFile& file, std::string_view key, const char* expected) {
  throw InputError(text("the key {} of {} must be {}", key, file.source, translate(expected)));
}

[[noreturn]] void missing(const GgufFile& file, std::string_view key) {
  throw InputError(text("{} lacks the key {}", file.source, key));
}

template <typename T>
void append_number(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_string(std::string& out, std::string_view value) {
  append_number<uint64_t>(out, value.size());
  out += value;
}

template <typename T>
void append_scalar(std::string& out, const T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    append_string(out, value);
  } else if constexpr (std::is_same_v<T, bool>) {
    append_number<uint8_t>(out, value ? 1 : 0);
  } else {
    append_number(out, value);
  }
}

template <typename T>
void append_payload(std::string& out, const T& value) {
  append_scalar(out, value);
}

template <typename T>
void append_payload(std::string& out, const std::vector<T>& values) {
  append_number<uint64_t>(out, values.size());
  for (const T& value : values) append_scalar<T>(out, value);
}

void append_payload(std::string& out, const StringList& strings) {
  append_number<uint64_t>(out, strings.size());
  for (const std::string_view string : strings) append_string(out, string);
}

void append_entry(std::string& out, const GgufEntry& entry) {
  append_string(out, entry.first);
  const uint32_t type = gguf_type_of_index(entry.second.index());
  if (entry.second.index() >= kGgufScalarTypes) append_number(out, kGgufArrayType);
  append_number(out, type);
  std::visit([&](const auto& value) { append_payload(out, value); }, entry.second);
}

uint64_t padding(uint64_t size) { return (kGgufAlignment - size % kGgufAlignment) % kGgufAlignment; }

std::string head_bytes(const std::vector<GgufEntry>& metadata, const std::vector<TensorSpec>& tensors) {
  std::string out = "GGUF";
  append_number<uint32_t>(out, 3);
  append_number<uint64_t>(out, tensors.size());
  append_number<uint64_t>(out, metadata.size());
  for (const GgufEntry& entry : metadata) append_entry(out, entry);
  uint64_t offset = 0;
  for (const TensorSpec& spec : tensors) {
    const std::optional<uint32_t> type = ggml_type(spec.dtype);
    ONGGI_CHECK(type.has_value() && spec.name.size() <= kMaxTensorNameBytes, spec.name);
    append_string(out, spec.name);
    append_number(out, static_cast<uint32_t>(spec.shape.size()));
    // Innermost size first: the only place that turns the shape round when writing.
    for (auto size = spec.shape.rbegin(); size != spec.shape.rend(); ++size)
      append_number(out, static_cast<uint64_t>(*size));
    append_number(out, *type);
    append_number(out, offset);
    offset += spec.bytes() + padding(spec.bytes());
  }
  out.append(padding(out.size()), '\0');
  return out;
}

}  // namespace

const GgufValue* GgufFile::find(std::string_view key) const {
  for (const GgufEntry& entry : metadata)
    if (entry.first == key) return &entry.second;
  return nullptr;
}

std::optional<int64_t> GgufFile::find_int(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  return std::visit(
      [&](const auto& held) -> int64_t {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
          if (std::in_range<int64_t>(held)) return static_cast<int64_t>(held);
        }
        wrong_type(*this, key, "an integer");
      },
      *value);
}

std::optional<double> GgufFile::find_number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  return std::visit(
      [&](const auto& held) -> double {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) return static_cast<double>(held);
        wrong_type(*this, key, "a number");
      },
      *value);
}

std::optional<bool> GgufFile::find_bool(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto* held = std::get_if<bool>(value);
  if (held == nullptr) wrong_type(*this, key, "true or false");
  return *held;
}

std::optional<std::string> GgufFile::find_string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto* held = std::get_if<std::string>(value);
  if (held == nullptr) wrong_type(*this, key, "a string");
  return *held;
}

int64_t GgufFile::get_int(std::string_view key) const {
  const auto value = find_int(key);
  return value ? *value : (missing(*this, key), 0);
}

double GgufFile::get_number(std::string_view key) const {
  const auto value = find_number(key);
  return value ? *value : (missing(*this, key), 0);
}

std::string GgufFile::get_string(std::string_view key) const {
  auto value = find_string(key);
  if (!value) missing(*this, key);
  return std::move(*value);
}

const StringList& GgufFile::get_strings(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) missing(*this, key);
  const auto* held = std::get_if<StringList>(value);
  if (held == nullptr) wrong_type(*this, key, "an array of strings");
  return *held;
}

StringList GgufFile::take_strings(std::string_view key) {
  return std::move(const_cast<StringList&>(get_strings(key)));
}

const std::vector<int32_t>* GgufFile::find_ints(std::string_view key) const {
  const GgufValue* value = find(key);
  return value == nullptr ? nullptr : std::get_if<std::vector<int32_t>>(value);
}

const std::vector<float>* GgufFile::find_floats(std::string_view key) const {
  const GgufValue* value = find(key);
  return value == nullptr ? nullptr : std::get_if<std::vector<float>>(value);
}

GgufReader::GgufReader(const fs::path& file) : MappedTensors(file) {
  MappedFile mapped(file);
  header_ = parse_gguf(mapped.bytes(), file.string());
  add_file(std::move(mapped), header_.tensors);
}

GgufWriter::GgufWriter(const fs::path& path, const std::vector<GgufEntry>& metadata,
                       std::vector<TensorSpec> tensors)
    : file_(path), sequence_(std::move(tensors)) {
  file_.write(head_bytes(metadata, sequence_.tensors()));
}

void GgufWriter::write(std::string_view name, const void* data, size_t bytes) {
  const TensorSequence::Step step = sequence_.advance(name, bytes);
  file_.write(data, bytes);
  // The head is padded, so the size of the file has the same remainder as the data's.
  if (step == TensorSequence::Step::kTensorComplete) file_.write(std::string(padding(file_.size()), '\0'));
}

void GgufWriter::commit() {
  sequence_.check_complete();
  file_.commit();
}

}  // namespace onggi
