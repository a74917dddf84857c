// The tables of NF4 in the device's memory, one copy for a stream.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "blocks/nf4.h"
#include "device/cuda_stream.h"
#include "tensor/dtype.h"

namespace onggi::cuda {

// Two values for each byte, with a column for each lane of a warp, so that no two lanes meet in a bank of
// shared memory: [256][32] words of two f16, the byte's upper half first; then dynamic_code(), f32 [256].
inline constexpr int kNf4DynamicCode = 256 * 32 * 4;  // bytes before it
inline constexpr int kNf4LaneTableBytes = kNf4DynamicCode + 256 * 4;

struct Nf4Tables {
  explicit Nf4Tables(CudaStream& stream) {
    std::vector<float> values(kNf4Code.begin(), kNf4Code.end());
    values.insert(values.end(), dynamic_code().begin(), dynamic_code().end());
    std::vector<uint32_t> words(kNf4LaneTableBytes / 4);
    for (size_t i = 0; i < kNf4DynamicCode / 4; ++i) {
      const size_t byte = i / 32;
      words[i] = f32_to_f16(kNf4Code[byte / 16]) | uint32_t{f32_to_f16(kNf4Code[byte % 16])} << 16;
    }
    std::copy(dynamic_code().begin(), dynamic_code().end(),
              reinterpret_cast<float*>(words.data() + kNf4DynamicCode / 4));
    plain = place(stream, values);
    of_lanes = place(stream, words);
  }
  Buffer plain, of_lanes;

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
inline const void* nf4_lane_table(CudaStream& stream) { return nf4_tables_of(stream).of_lanes.data(); }

}  // namespace onggi::cuda
