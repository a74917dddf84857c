// Loading a 16-bit weight as NF4: its values pass through the device a piece at a time.
#include <algorithm>

#include "base/error.h"
#include "blocks/nf4.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/nf4_quantize.h"

namespace onggi::cuda {

WeightView encode_nf4(Stream& stream, const WeightView& host, std::vector<Buffer>& buffers) {
  ONGGI_CHECK(host.columns % kNf4BlockElements == 0);
  const int64_t elements = host.rows * host.columns, blocks = elements / kNf4BlockElements;
  const int64_t nested = (blocks + kNf4NestedBlocks - 1) / kNf4NestedBlocks;
  const auto own = [&](int64_t bytes) {
    return buffers.emplace_back(stream.allocate(static_cast<size_t>(bytes))).data();
  };
  WeightView weight{.dtype = DType::kNF4, .rows = host.rows, .columns = host.columns};
  auto* packed = static_cast<uint8_t*>(own(elements / 2));
  auto* absmax_q8 = static_cast<uint8_t*>(own(blocks));
  auto* nested_absmax = static_cast<float*>(own(nested * static_cast<int64_t>(sizeof(float))));

  constexpr int64_t kPieceElements = int64_t{16} << 20;
  const int64_t piece = std::min(elements, kPieceElements);
  const Buffer values = stream.allocate(static_cast<size_t>(dtype_bytes(host.dtype, piece)));
  const Buffer absmax = stream.allocate(static_cast<size_t>(blocks + 1) * sizeof(float));
  for (int64_t begin = 0; begin < elements; begin += piece) {
    const int64_t count = std::min(piece, elements - begin);
    stream.copy_in(values.data(), static_cast<const std::byte*>(host.data) + dtype_bytes(host.dtype, begin),
                   static_cast<size_t>(dtype_bytes(host.dtype, count)));
    nf4_indices(stream, {.values = values.data(),
                         .dtype = host.dtype,
                         .begin = begin,
                         .count = count,
                         .packed = packed,
                         .absmax = absmax.as<float>()});
  }
  float* offset = absmax.as<float>() + blocks;
  nf4_quantize_absmax(stream, {.absmax = absmax.as<float>(),
                               .blocks = blocks,
                               .absmax_q8 = absmax_q8,
                               .nested_absmax = nested_absmax,
                               .offset = offset});
  stream.copy_out(&weight.nf4_offset, offset, sizeof(float));
  weight.data = packed;
  weight.nf4_absmax = absmax_q8;
  weight.nf4_nested_absmax = nested_absmax;
  return weight;
}

}  // namespace onggi::cuda
