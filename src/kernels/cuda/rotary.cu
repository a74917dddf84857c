// HeadNormRope and its gradient. A few lanes per head: each holds eight neighbouring elements of the head's
// first half and their partners of the second, so that both the norm and the rotation stay in registers. The
// sines and cosines of a token are computed once for all of its heads.
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numbers>
#include <utility>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/rotary.cuh"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxTokensPerBlock = 8;

struct RotaryTables {
  std::map<std::pair<double, int64_t>, RotaryFrequencies> tables;
};

RotaryFrequencies make_frequencies(double theta, int64_t head_dim) {
  RotaryFrequencies frequencies{};
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    const double turns = frequency / (2 * std::numbers::pi);
    frequencies.turns[i] = static_cast<uint64_t>(std::ldexp(turns - std::floor(turns), 64));
  }
  return frequencies;
}

// The heads that one block computes: consecutive rows of [T * H, D], whole tokens.
struct BlockRows {
  int64_t first_token, first_row;
  int tokens, rows;
};
__device__ __forceinline__ BlockRows block_rows(int64_t tokens, int64_t heads, int per_block) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * per_block;
  const int here = first + per_block <= tokens ? per_block : static_cast<int>(tokens - first);
  return {first, first * heads, here, here * static_cast<int>(heads)};
}

// The rotations of a block's tokens: [tokens, kHalf].
template <int kHalf>
__device__ __forceinline__ void fill_rotations(const RotaryFrequencies& frequencies, const int32_t* positions,
                                               int tokens, Rotation (*rotations)[kHalf]) {
  for (int i = static_cast<int>(threadIdx.x); i < tokens * kHalf; i += kThreads)
    rotations[i / kHalf][i % kHalf] = rotation_of(frequencies.turns[i % kHalf], positions[i / kHalf]);
  __syncthreads();
}

// One lane's elements of a head: [column, column + 8) of each half.
struct Halves {
  float first[kVector], second[kVector];
};
template <typename T>
__device__ __forceinline__ Halves load_halves(const T* head, int half, int column) {
  Halves halves;
  load_8(head + column, halves.first);
  load_8(head + half + column, halves.second);
  return halves;
}
template <typename T>
__device__ __forceinline__ void store_halves(T* head, int half, int column, const Halves& halves) {
  store_8(head + column, halves.first);
  store_8(head + half + column, halves.second);
}

// kLanes lanes per head: D = 16 kLanes. Lanes beyond the block's rows compute on row 0 of the block and store
// nothing, since all lanes take part in the sums.
template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads)
    head_norm_rope_kernel(HeadNormRopeArgs args, RotaryFrequencies frequencies, int tokens_per_block) {
  constexpr int kHalf = kLanes * kVector, kGroups = kThreads / kLanes;
  __shared__ Rotation rotations[kMaxTokensPerBlock][kHalf];
  overlap_launches();
  const BlockRows block = block_rows(args.tokens, args.heads, tokens_per_block);
  fill_rotations<kHalf>(frequencies, args.positions + block.first_token, block.tokens, rotations);
  const int lane = static_cast<int>(threadIdx.x) % kLanes, column = lane * kVector;
  const int group = static_cast<int>(threadIdx.x) / kLanes;
  for (int begin = 0; begin < block.rows; begin += kGroups) {
    const bool active = begin + group < block.rows;
    const int in_block = active ? begin + group : 0;
    const int64_t row = block.first_row + in_block;
    Halves x = load_halves(static_cast<const T*>(args.x.data) + row * 2 * kHalf, kHalf, column);
    float inverse_rms = 1;
    if (args.weight != nullptr) {
      const Halves weight = load_halves(args.weight, kHalf, column);
      float squares = 0;
#pragma unroll
      for (int i = 0; i < kVector; ++i) squares += x.first[i] * x.first[i] + x.second[i] * x.second[i];
      inverse_rms = 1.0f / sqrtf(warp_sum<kLanes>(squares) / (2 * kHalf) + args.epsilon);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        x.first[i] *= inverse_rms * weight.first[i];
        x.second[i] *= inverse_rms * weight.second[i];
      }
    }
    const Rotation* rotation = rotations[in_block / static_cast<int>(args.heads)] + column;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const float first = x.first[i], second = x.second[i];
      x.first[i] = first * rotation[i].cosine - second * rotation[i].sine;
      x.second[i] = second * rotation[i].cosine + first * rotation[i].sine;
    }
    if (!active) continue;
    store_halves(static_cast<T*>(args.out.data) + row * 2 * kHalf, kHalf, column, x);
    if (args.inverse_rms != nullptr && lane == 0) args.inverse_rms[row] = inverse_rms;
  }
}

// The rotation's transpose, then the norm's gradient as in norm.cu.
template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads)
    head_norm_rope_backward_kernel(HeadNormRopeBackwardArgs args, RotaryFrequencies frequencies,
                                   int tokens_per_block) {
  constexpr int kHalf = kLanes * kVector, kGroups = kThreads / kLanes;
  __shared__ Rotation rotations[kMaxTokensPerBlock][kHalf];
  overlap_launches();
  const BlockRows block = block_rows(args.tokens, args.heads, tokens_per_block);
  fill_rotations<kHalf>(frequencies, args.positions + block.first_token, block.tokens, rotations);
  const int column = static_cast<int>(threadIdx.x) % kLanes * kVector;
  const int group = static_cast<int>(threadIdx.x) / kLanes;
  for (int begin = 0; begin < block.rows; begin += kGroups) {
    const bool active = begin + group < block.rows;
    const int in_block = active ? begin + group : 0;
    const int64_t row = block.first_row + in_block;
    Halves g = load_halves(static_cast<const T*>(args.dout.data) + row * 2 * kHalf, kHalf, column);
    const Rotation* rotation = rotations[in_block / static_cast<int>(args.heads)] + column;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const float first = g.first[i], second = g.second[i];
      g.first[i] = first * rotation[i].cosine + second * rotation[i].sine;
      g.second[i] = second * rotation[i].cosine - first * rotation[i].sine;
    }
    if (args.weight != nullptr) {
      const Halves x = load_halves(static_cast<const T*>(args.x.data) + row * 2 * kHalf, kHalf, column);
      const Halves weight = load_halves(args.weight, kHalf, column);
      const float inverse_rms = args.inverse_rms[row];
      float product = 0;
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        g.first[i] *= weight.first[i];
        g.second[i] *= weight.second[i];
        product += g.first[i] * x.first[i] + g.second[i] * x.second[i];
      }
      const float pull = inverse_rms * inverse_rms * (warp_sum<kLanes>(product) / (2 * kHalf));
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        g.first[i] = inverse_rms * (g.first[i] - x.first[i] * pull);
        g.second[i] = inverse_rms * (g.second[i] - x.second[i] * pull);
      }
    }
    const int heads = static_cast<int>(args.heads), token = in_block / heads;
    T* dx = static_cast<T*>(args.dx.data) + (block.first_token + token) * args.dx_stride +
            (in_block - token * heads) * 2 * kHalf;
    if (active) store_halves(dx, kHalf, column, g);
  }
}

// Any even D, any types and alignment: one warp per head.
__global__ void __launch_bounds__(kThreads)
    head_norm_rope_plain_kernel(HeadNormRopeArgs args, RotaryFrequencies frequencies) {
  overlap_launches();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warp_index();
  if (row >= args.tokens * args.heads) return;
  const int64_t begin = row * args.head_dim, half = args.head_dim / 2;
  float inverse_rms = 1;
  if (args.weight != nullptr) {
    float squares = 0;
    for (int64_t i = lane_index(); i < args.head_dim; i += kWarp) {
      const float value = load_any(args.x, begin + i);
      squares += value * value;
    }
    const float mean = warp_sum(squares) / static_cast<float>(args.head_dim);
    inverse_rms = 1.0f / sqrtf(mean + args.epsilon);
  }
  for (int64_t i = lane_index(); i < half; i += kWarp) {
    float first = load_any(args.x, begin + i), second = load_any(args.x, begin + half + i);
    if (args.weight != nullptr) {
      first *= inverse_rms * args.weight[i];
      second *= inverse_rms * args.weight[half + i];
    }
    const Rotation rotation = rotation_of(frequencies.turns[i], args.positions[row / args.heads]);
    store_any(args.out, begin + i, first * rotation.cosine - second * rotation.sine);
    store_any(args.out, begin + half + i, second * rotation.cosine + first * rotation.sine);
  }
  if (args.inverse_rms != nullptr && lane_index() == 0) args.inverse_rms[row] = inverse_rms;
}

// A pair of the gradient before the rotation, times the norm's weight.
__device__ __forceinline__ float2 turned_back(const HeadNormRopeBackwardArgs& args, int64_t begin, int64_t i,
                                              const Rotation& rotation) {
  const int64_t half = args.head_dim / 2;
  const float first = load_any(args.dout, begin + i), second = load_any(args.dout, begin + half + i);
  float2 g = make_float2(first * rotation.cosine + second * rotation.sine,
                         second * rotation.cosine - first * rotation.sine);
  if (args.weight != nullptr) {
    g.x *= args.weight[i];
    g.y *= args.weight[half + i];
  }
  return g;
}

__global__ void __launch_bounds__(kThreads)
    head_norm_rope_backward_plain_kernel(HeadNormRopeBackwardArgs args, RotaryFrequencies frequencies) {
  overlap_launches();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warp_index();
  if (row >= args.tokens * args.heads) return;
  const int64_t begin = row * args.head_dim, half = args.head_dim / 2, token = row / args.heads;
  const int64_t dx_begin = token * args.dx_stride + (row - token * args.heads) * args.head_dim;
  const int32_t position = args.positions[token];
  float inverse_rms = 1, pull = 0;
  if (args.weight != nullptr) {
    inverse_rms = args.inverse_rms[row];
    float product = 0;
    for (int64_t i = lane_index(); i < half; i += kWarp) {
      const float2 g = turned_back(args, begin, i, rotation_of(frequencies.turns[i], position));
      product += g.x * load_any(args.x, begin + i) + g.y * load_any(args.x, begin + half + i);
    }
    pull = inverse_rms * inverse_rms * (warp_sum(product) / static_cast<float>(args.head_dim));
  }
  for (int64_t i = lane_index(); i < half; i += kWarp) {
    float2 g = turned_back(args, begin, i, rotation_of(frequencies.turns[i], position));
    if (args.weight != nullptr) {
      g.x = inverse_rms * (g.x - load_any(args.x, begin + i) * pull);
      g.y = inverse_rms * (g.y - load_any(args.x, begin + half + i) * pull);
    }
    store_any(args.dx, dx_begin + i, g.x);
    store_any(args.dx, dx_begin + half + i, g.y);
  }
}

// Enough whole tokens for all groups of a block to have a head.
int tokens_per_block(int64_t heads, int lanes) {
  return static_cast<int>(std::clamp<int64_t>(kThreads / lanes / heads, 1, kMaxTokensPerBlock));
}

LaunchShape shape_of_plain(int64_t rows) {
  return {.grid = blocks_for(rows, kThreads / kWarp), .block = kThreads, .overlap = Overlap::kWithPrevious};
}

// function(std::integral_constant<int, kLanes>{}) where vectors serve this head_dim; false otherwise.
template <typename Function>
bool with_lanes(int64_t head_dim, const Function& function) {
  switch (head_dim) {
    case 64:
      function(std::integral_constant<int, 4>{});
      return true;
    case 128:
      function(std::integral_constant<int, 8>{});
      return true;
    case 256:
      function(std::integral_constant<int, 16>{});
      return true;
    default:
      return false;
  }
}

}  // namespace

const RotaryFrequencies& rotary_frequencies(CudaStream& stream, double theta, int64_t head_dim) {
  ONGGI_CHECK(head_dim % 2 == 0 && head_dim / 2 <= kMaxRotaryPairs, "head_dim of the rotary embedding");
  auto& tables = stream.attachment<RotaryTables>([] { return std::make_shared<RotaryTables>(); }).tables;
  const auto found = tables.find({theta, head_dim});
  if (found != tables.end()) return found->second;
  return tables.emplace(std::pair{theta, head_dim}, make_frequencies(theta, head_dim)).first->second;
}

// Bytes: T H D (x + out). Qwen3-8B, T = 4096, bf16: q 67 MB, 22 us at 3 TB/s; k a quarter of it.
void head_norm_rope(const OpContext& context, const HeadNormRopeArgs& args) {
  CudaStream& stream = cuda_stream(context);
  const RotaryFrequencies& frequencies = rotary_frequencies(stream, args.theta, args.head_dim);
  const bool vectors =
      args.x.dtype == args.out.dtype &&
      fits_vectors(args.head_dim, args.x.data, args.weight, args.out.data) &&
      with_lanes(args.head_dim, [&](auto lanes) {
        with_activation_type(args.x.dtype, [&](auto x) {
          const int per_block = tokens_per_block(args.heads, lanes());
          launch(stream, "head_norm_rope",
                 {.grid = blocks_for(args.tokens, per_block),
                  .block = kThreads,
                  .overlap = Overlap::kWithPrevious},
                 head_norm_rope_kernel<typename decltype(x)::Type, lanes()>, args, frequencies, per_block);
        });
      });
  if (vectors) return;
  launch(stream, "head_norm_rope", shape_of_plain(args.tokens * args.heads), head_norm_rope_plain_kernel,
         args, frequencies);
}

// Bytes: T H D (dout + x + dx). Qwen3-8B, T = 4096, bf16: q 101 MB, 34 us.
void head_norm_rope_backward(const OpContext& context, const HeadNormRopeBackwardArgs& given) {
  CudaStream& stream = cuda_stream(context);
  HeadNormRopeBackwardArgs args = given;
  if (args.dx_stride == 0) args.dx_stride = args.heads * args.head_dim;
  const RotaryFrequencies& frequencies = rotary_frequencies(stream, args.theta, args.head_dim);
  const bool vectors = args.dout.dtype == args.x.dtype && args.dout.dtype == args.dx.dtype &&
                       args.dx_stride % kVector == 0 &&
                       fits_vectors(args.head_dim, args.dout.data, args.x.data, args.weight, args.dx.data) &&
                       with_lanes(args.head_dim, [&](auto lanes) {
                         with_activation_type(args.dout.dtype, [&](auto dout) {
                           const int per_block = tokens_per_block(args.heads, lanes());
                           launch(stream, "head_norm_rope_backward",
                                  {.grid = blocks_for(args.tokens, per_block),
                                   .block = kThreads,
                                   .overlap = Overlap::kWithPrevious},
                                  head_norm_rope_backward_kernel<typename decltype(dout)::Type, lanes()>,
                                  args, frequencies, per_block);
                         });
                       });
  if (vectors) return;
  launch(stream, "head_norm_rope_backward", shape_of_plain(args.tokens * args.heads),
         head_norm_rope_backward_plain_kernel, args, frequencies);
}

}  // namespace onggi::cuda
