// Reading the head of a GGUF file. Counts and lengths are believed only as far as the bytes that are there.
#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "formats/gguf.h"
#include "formats/gguf_types.h"

namespace onggi {
namespace {

constexpr uint32_t kMaxDimensions = 4;  // as in ggml
constexpr uint32_t kMaxAlignment = 1 << 20;
constexpr uint64_t kMinMetadataBytes = 13;  // key length, type, one byte
constexpr uint64_t kMinTensorBytes = 24;    // name length, dimension count, type, offset

class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& source) : bytes_(bytes), source_(source) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

  template <typename T>
  T number() {
    need(sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof value);
    position_ += sizeof value;
    return value;
  }

  bool truth() {
    const auto value = number<uint8_t>();
    if (value > 1)
      throw InputError(text("{} has the truth value {} before byte {}", source_, value, position_));
    return value == 1;
  }

  // Bytes of the file.
  std::string_view string() {
    const auto length = number<uint64_t>();
    need(length);
    const std::string_view value(reinterpret_cast<const char*>(bytes_.data()) + position_, length);
    position_ += length;
    return value;
  }

  // A count of things of at least min_bytes each.
  uint64_t count(uint64_t min_bytes) {
    const auto count = number<uint64_t>();
    if (count > remaining() / min_bytes)
      throw InputError(
          text("{} claims {} entries before byte {}, more than fit in the file", source_, count, position_));
    return count;
  }

 private:
  void need(uint64_t bytes) const {
    if (bytes > remaining())
      throw InputError(text("{} is cut short: {} bytes are needed at byte {}, {} are left", source_, bytes,
                            position_, remaining()));
  }

  std::span<const std::byte> bytes_;
  const std::string& source_;
  uint64_t position_ = 0;
};

template <typename T>
T read_scalar(Cursor& cursor) {
  if constexpr (std::is_same_v<T, std::string>) {
    return std::string(cursor.string());
  } else if constexpr (std::is_same_v<T, bool>) {
    return cursor.truth();
  } else {
    return cursor.number<T>();
  }
}

StringList read_strings(Cursor& cursor) {
  const uint64_t count = cursor.count(sizeof(uint64_t));
  size_t bytes = 0;
  Cursor ahead = cursor;
  for (uint64_t i = 0; i < count; ++i) bytes += ahead.string().size();
  StringList strings;
  strings.reserve(count, bytes);
  for (uint64_t i = 0; i < count; ++i) strings.push_back(cursor.string());
  return strings;
}

template <typename T>
std::vector<T> read_array(Cursor& cursor) {
  const uint64_t count = cursor.count(sizeof(T));
  std::vector<T> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) values.push_back(read_scalar<T>(cursor));
  return values;
}

// Tries the alternatives of GgufValue from kIndex on until the one with this type number.
template <size_t kIndex>
GgufValue read_scalar_value(Cursor& cursor, uint32_t type, const std::string& where) {
  if constexpr (kIndex == kGgufScalarTypes) {
    throw InputError(text("{} has the unknown value type {}", where, type));
  } else {
    if (type == gguf_type_of_index(kIndex))
      return read_scalar<std::variant_alternative_t<kIndex, GgufValue>>(cursor);
    return read_scalar_value<kIndex + 1>(cursor, type, where);
  }
}

template <size_t kIndex>
GgufValue read_array_value(Cursor& cursor, uint32_t type, const std::string& where) {
  if constexpr (kIndex == kGgufScalarTypes) {
    if (type == kGgufArrayType)
      throw InputError(text("{} is an array of arrays, which is not supported", where));
    throw InputError(text("{} is an array of the unknown type {}", where, type));
  } else {
    using Element = std::variant_alternative_t<kIndex, GgufValue>;
    if (type == gguf_type_of_index(kIndex)) {
      if constexpr (std::is_same_v<Element, std::string>) {
        return read_strings(cursor);
      } else {
        return read_array<Element>(cursor);
      }
    }
    return read_array_value<kIndex + 1>(cursor, type, where);
  }
}

GgufEntry read_entry(Cursor& cursor, const std::string& source) {
  std::string key(cursor.string());
  const std::string where = text("the key {} of {}", key, source);
  const auto type = cursor.number<uint32_t>();
  GgufValue value = type == kGgufArrayType ? read_array_value<0>(cursor, cursor.number<uint32_t>(), where)
                                           : read_scalar_value<0>(cursor, type, where);
  return {std::move(key), std::move(value)};
}

// Sizes come innermost first; Shape is outermost first. The only place that turns them round when reading.
Shape read_shape(Cursor& cursor, const std::string& name, const std::string& source) {
  const auto dimensions = cursor.number<uint32_t>();
  if (dimensions > kMaxDimensions)
    throw InputError(
        text("tensor {} of {} has {} dimensions, more than {}", name, source, dimensions, kMaxDimensions));
  Shape shape(dimensions);
  // Without the zeros, so that no order of multiplying the dimensions overflows.
  uint64_t elements = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    const auto size = cursor.number<uint64_t>();
    if (size > static_cast<uint64_t>(INT64_MAX) ||
        __builtin_mul_overflow(elements, std::max<uint64_t>(1, size), &elements) ||
        elements > static_cast<uint64_t>(INT64_MAX) / 8)
      throw InputError(text("tensor {} of {} has an impossible shape", name, source));
    shape[dimensions - 1 - i] = static_cast<int64_t>(size);
  }
  return shape;
}

TensorInfo read_tensor(Cursor& cursor, const std::string& source) {
  TensorInfo info;
  info.name = cursor.string();
  info.shape = read_shape(cursor, info.name, source);
  const auto type = cursor.number<uint32_t>();
  const std::optional<DType> dtype = dtype_of_ggml_type(type);
  if (!dtype)
    throw InputError(text("tensor {} of {} has the type {}, which is not supported", info.name, source,
                          ggml_type_text(type)));
  info.dtype = *dtype;
  const int64_t row = info.shape.empty() ? 1 : info.shape.back();
  if (row % dtype_info(info.dtype).block_elements != 0)
    throw InputError(text("rows of tensor {} of {} have {} elements, not whole blocks of {}", info.name,
                          source, row, dtype_name(info.dtype)));
  info.bytes = static_cast<uint64_t>(dtype_bytes(info.dtype, element_count(info.shape)));
  info.offset = cursor.number<uint64_t>();
  return info;
}

uint64_t alignment_of(const GgufFile& file) {
  const GgufValue* value = file.find("general.alignment");
  if (value == nullptr) return kGgufAlignment;
  const auto* alignment = std::get_if<uint32_t>(value);
  if (alignment == nullptr || !std::has_single_bit(*alignment) || *alignment > kMaxAlignment)
    throw InputError(text("general.alignment of {} is not a power of two", file.source));
  return *alignment;
}

void place_tensors(GgufFile& file, uint64_t head_bytes, uint64_t file_bytes) {
  const uint64_t data_begin = (head_bytes + file.alignment - 1) / file.alignment * file.alignment;
  const uint64_t data_bytes = data_begin <= file_bytes ? file_bytes - data_begin : 0;
  std::vector<const TensorInfo*> in_order;
  for (TensorInfo& info : file.tensors) {
    if (info.offset % file.alignment != 0)
      throw InputError(
          text("tensor {} of {} does not start at a multiple of {}", info.name, file.source, file.alignment));
    if (info.offset > data_bytes || info.bytes > data_bytes - info.offset)
      throw InputError(
          text("tensor {} of {} ends behind the end of the file: it is cut short or broken, fetch it again",
               info.name, file.source));
    // A file without data may end before the padding; its empty tensors lie at its end.
    info.offset = std::min(info.offset + data_begin, file_bytes);
    in_order.push_back(&info);
  }
  std::sort(in_order.begin(), in_order.end(),
            [](const TensorInfo* left, const TensorInfo* right) { return left->offset < right->offset; });
  uint64_t end = 0;
  for (const TensorInfo* info : in_order) {
    if (info->bytes == 0) continue;
    if (info->offset < end)
      throw InputError(text("tensor {} of {} overlaps another one", info->name, file.source));
    end = info->offset + info->bytes;
  }
}

}  // namespace

GgufFile parse_gguf(std::span<const std::byte> bytes, const std::string& source) {
  constexpr char kMagic[] = {'G', 'G', 'U', 'F'};
  if (bytes.size() < sizeof kMagic || std::memcmp(bytes.data(), kMagic, sizeof kMagic) != 0)
    throw InputError(text("{} is no GGUF file: it does not start with \"GGUF\"", source));
  Cursor cursor(bytes.subspan(sizeof kMagic), source);
  GgufFile file;
  file.source = source;
  file.version = cursor.number<uint32_t>();
  if (file.version != 2 && file.version != 3)
    throw InputError(text("{} has the GGUF version {}; versions 2 and 3 (little-endian) are supported",
                          source, file.version));
  const uint64_t tensor_count = cursor.count(kMinTensorBytes);
  const uint64_t metadata_count = cursor.count(kMinMetadataBytes);

  std::unordered_set<std::string> seen;
  for (uint64_t i = 0; i < metadata_count; ++i) {
    file.metadata.push_back(read_entry(cursor, source));
    if (!seen.insert(file.metadata.back().first).second)
      throw InputError(text("the key {} is in {} twice", file.metadata.back().first, source));
  }
  seen.clear();
  for (uint64_t i = 0; i < tensor_count; ++i) {
    file.tensors.push_back(read_tensor(cursor, source));
    if (!seen.insert(file.tensors.back().name).second)
      throw InputError(text("tensor {} is in {} twice", file.tensors.back().name, source));
  }
  file.alignment = alignment_of(file);
  place_tensors(file, sizeof kMagic + cursor.position(), bytes.size());
  return file;
}

}  // namespace onggi
