// The tables of NF4 in the device's memory, one copy for a stream.
#pragma once

#include <memory>
#include <vector>

#include "blocks/nf4.h"
#include "device/cuda_stream.h"
#include "tensor/dtype.h"

namespace onggi::cuda {

// What kernels make their tables of: for a byte of codes its two values as f16, the upper half's first; and
// the dynamic_code() of that index.
struct Nf4Byte {
  uint32_t values;
  float dynamic;
};

struct Nf4Tables {
  explicit Nf4Tables(CudaStream& stream) {
    std::vector<float> values(kNf4Code.begin(), kNf4Code.end());
    values.insert(values.end(), dynamic_code().begin(), dynamic_code().end());
    std::vector<Nf4Byte> of_bytes;
    for (size_t byte = 0; byte < 256; ++byte)
      of_bytes.push_back({f32_to_f16(kNf4Code[byte / 16]) | uint32_t{f32_to_f16(kNf4Code[byte % 16])} << 16,
                          dynamic_code()[byte]});
    plain = place(stream, values);
    bytes = place(stream, of_bytes);
  }
  Buffer plain, bytes;

 private:
  template <typename T>
  static Buffer place(CudaStream& stream, const std::vector<T>& values) {
    Buffer buffer = stream.allocate(values.size() * sizeof(T));
    stream.copy_in(buffer.data(), values.data(), buffer.bytes());
    return buffer;
  }
};

// Made at the first use, which must not be while recording.
inline const Nf4Tables& nf4_tables_of(CudaStream& stream) {
  return stream.attachment<Nf4Tables>([&] { return std::make_shared<Nf4Tables>(stream); });
}
// f32 [16 + 256]: kNf4Code, dynamic_code().
inline const float* nf4_tables(CudaStream& stream) { return nf4_tables_of(stream).plain.as<float>(); }
// [256]
inline const Nf4Byte* nf4_bytes(CudaStream& stream) { return nf4_tables_of(stream).bytes.as<Nf4Byte>(); }

}  // namespace onggi::cuda
