// How weights come to the device. NF4 and plain types keep the host's layout, blocks become tiles.
#include "blocks/nf4.h"
#include "kernels/cuda/block_weight.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/placed_layout.h"
#include "kernels/ops/weight.h"

namespace onggi::cuda {
namespace {

template <typename T>
const T* place(Stream& stream, const T* host, int64_t bytes, std::vector<Buffer>& buffers) {
  buffers.push_back(stream.allocate(static_cast<size_t>(bytes)));
  stream.copy_in(buffers.back().data(), host, static_cast<size_t>(bytes));
  return buffers.back().as<T>();
}

}  // namespace

WeightView place_weight(Stream& stream, const WeightView& host, std::vector<Buffer>& buffers) {
  if (is_placed_in_tiles(host.dtype)) return place_block_weight(stream, host, buffers);
  WeightView placed = host;
  const int64_t elements = host.rows * host.columns;
  const auto* bytes = static_cast<const std::byte*>(host.data);
  placed.data = place(stream, bytes, dtype_bytes(host.dtype, elements), buffers);
  if (host.dtype != DType::kNF4) return placed;
  const int64_t blocks = elements / kNf4BlockElements;
  const int64_t nested = (blocks + kNf4NestedBlocks - 1) / kNf4NestedBlocks;
  placed.nf4_absmax = place(stream, host.nf4_absmax, blocks, buffers);
  placed.nf4_nested_absmax =
      place(stream, host.nf4_nested_absmax, nested * static_cast<int64_t>(sizeof(float)), buffers);
  return placed;
}

}  // namespace onggi::cuda
