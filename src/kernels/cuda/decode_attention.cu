// Attention of sequences with one new token each: the cache is read once, and that is all the time it takes.
#include <algorithm>
#include <bit>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/arrivals.h"
#include "kernels/cuda/cached_attention.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/decode_attention.cuh"

namespace onggi::cuda {
namespace {

using namespace decode;

struct Ranges;  // whose ends are counted
constexpr int64_t kMaxArrivals = 1 << 14;
// From here on a sequence is worth more blocks than a cluster has.
constexpr int64_t kLongestOfFewBlocks = 4096;

SplitRule split_rule(int64_t blocks_per_split, int multiprocessors) {
  const auto blocks = [&](int per_multiprocessor) {
    const int64_t splits = int64_t{per_multiprocessor} * multiprocessors / blocks_per_split;
    return static_cast<int>(std::clamp<int64_t>(splits, 1, kMaxSplits));
  };
  if (blocks_per_split > kMaxArrivals) return {1, 1};
  return {blocks(2), blocks(BlockShape<Merge::kInMemory>::kPerMultiprocessor)};
}

// Blocks of a sequence's cluster; 0: its ranges meet in memory.
int cluster_size(const CudaStream& stream, int64_t blocks_per_split, int64_t longest) {
  if (stream.compute_capability() < 90) return 0;
  const int64_t room = int64_t{BlockShape<Merge::kInCluster>::kPerMultiprocessor} * stream.multiprocessors();
  const int64_t useful = (longest + 2 * kChunk - 1) / (2 * kChunk);
  int64_t size = std::min({room / blocks_per_split, useful, int64_t{kMaxCluster}});
  // A cluster lies within a part of the device: larger ones do not fill it, and must not have to wait.
  while (size > 2 && size * blocks_per_split > room * 7 / 8) --size;
  if (size * blocks_per_split < stream.multiprocessors() && longest > kLongestOfFewBlocks) return 0;
  return static_cast<int>(size);
}

DecodeArgs decode_args(const CachedAttentionArgs& args) {
  const int group = static_cast<int>(args.query_heads / args.kv_heads);
  return {.q = args.q.as<BFloat16>(),
          .keys = args.cache.keys,
          .values = args.cache.values,
          .pages = args.sequences.pages,
          .page_stride = args.sequences.page_stride,
          .first_row = args.sequences.first_row,
          .rows = args.sequences.rows,
          .past = args.sequences.past,
          .page_shift = std::countr_zero(static_cast<unsigned>(args.cache.page_tokens)),
          .kv_heads = static_cast<int>(args.kv_heads),
          .group = group,
          .head_blocks = (group + kHeads - 1) / kHeads,
          .scale = args.scale * kLog2OfE,
          .out = args.out.as<BFloat16>(),
          .out_stride = args.out_stride != 0 ? args.out_stride : args.query_heads * args.head_dim,
          .rule = {1, 1},
          .partial = nullptr,
          .arrivals = nullptr};
}

template <typename Element, int kHeadDim, Merge kMerge, typename Tokens>
void launch_kernel(CudaStream& stream, const char* op, LaunchShape shape, const DecodeArgs& args,
                   const Tokens& tokens) {
  shape.block = BlockShape<kMerge>::kWarps * kWarp;
  shape.shared_bytes = sizeof(Shared<kHeadDim, kMerge>);
  shape.overlap = Overlap::kWithPrevious;
  launch(stream, op, shape, decode_attention_kernel<Element, kHeadDim, Tokens, kMerge>, args, tokens);
}

template <Merge kMerge, typename Tokens>
void launch_decode(CudaStream& stream, const LaunchShape& shape, const CachedAttentionArgs& args,
                   const DecodeArgs& work, const Tokens& tokens) {
  constexpr const char* kOp = Tokens::kAreCached ? "cached_attention (decode)" : "pass_attention";
  const bool is_bf16 = args.cache.dtype == DType::kBF16;
  if (args.head_dim == 128)
    is_bf16 ? launch_kernel<BFloat16, 128, kMerge>(stream, kOp, shape, work, tokens)
            : launch_kernel<Half, 128, kMerge>(stream, kOp, shape, work, tokens);
  else
    is_bf16 ? launch_kernel<BFloat16, 64, kMerge>(stream, kOp, shape, work, tokens)
            : launch_kernel<Half, 64, kMerge>(stream, kOp, shape, work, tokens);
}

template <typename Tokens>
void run_decode(CudaStream& stream, const CachedAttentionArgs& args, const Tokens& tokens) {
  DecodeArgs work = decode_args(args);
  const int64_t columns = args.kv_heads * work.head_blocks, counters = args.sequences.count * columns;
  const auto grid = [&](int splits) {
    return dim3(static_cast<unsigned>(columns), static_cast<unsigned>(splits),
                static_cast<unsigned>(args.sequences.count));
  };
  if constexpr (!Tokens::kAreCached) {
    const int blocks = cluster_size(stream, counters, args.sequences.longest);
    if (blocks > 0)
      return launch_decode<Merge::kInCluster>(
          stream, {.grid = grid(blocks), .block = {}, .cluster_y = static_cast<unsigned>(blocks)}, args, work,
          tokens);
  }
  work.rule = split_rule(counters, stream.multiprocessors());
  work.arrivals = arrivals<Ranges, kMaxArrivals>(stream);
  const int splits = std::max(1, splits_of(static_cast<int>(args.sequences.longest), work.rule));
  if (splits > 1) {
    const auto state_floats = static_cast<size_t>(kHeads * (args.head_dim + 2));
    const size_t states = static_cast<size_t>(counters) * static_cast<size_t>(splits);
    work.partial = static_cast<float*>(stream.scratch(states * state_floats * sizeof(float)));
  }
  launch_decode<Merge::kInMemory>(stream, {.grid = grid(splits), .block = {}}, args, work, tokens);
}

CachedAttentionArgs cached_args(const PassAttentionArgs& args) {
  const AttentionInputArgs& input = args.input;
  return {.q = input.q,
          .cache = input.cache,
          .sequences = input.sequences,
          .tokens = input.tokens,
          .query_heads = input.query_heads,
          .kv_heads = input.kv_heads,
          .head_dim = input.head_dim,
          .scale = args.scale,
          .out = args.out,
          .out_stride = args.out_stride};
}

// Whether one kernel does both.
bool can_take_new_tokens(const PassAttentionArgs& args) {
  const AttentionInputArgs& input = args.input;
  return input.sequences.longest_rows == 1 && input.k.dtype == DType::kBF16 &&
         input.v.dtype == DType::kBF16 && is_vector_aligned(input.k.data) &&
         is_vector_aligned(input.v.data) && can_use_tiles(cached_args(args));
}

}  // namespace

// Bytes: 2 S longest Hkv D of the cache and little else; Qwen3-8B (Hkv 8, D 128, bf16) 4 KiB per token of the
// cache and layer: 8192 tokens 34 MB, 11 us at 3 TB/s. Short contexts take as long as a handful of dependent
// loads from memory, about 3 us.
void decode_attention(CudaStream& stream, const CachedAttentionArgs& args) {
  run_decode(stream, args, CachedTokens{});
}

// Expected on an H100, Qwen3-8B: one user at 512 tokens 2 to 3 us after the products (a load of q, the sums,
// two barriers of the cluster), since the cache's 2 MB are fetched before; 64 users at 576 tokens 151 MB,
// 55 us.
void pass_attention(const OpContext& context, const PassAttentionArgs& args) {
  if (args.input.tokens == 0) return;
  if (!can_take_new_tokens(args)) {
    attention_input(context, args.input);
    return cached_attention(context, cached_args(args));
  }
  CudaStream& stream = cuda_stream(context);
  const AttentionInputArgs& input = args.input;
  run_decode(stream, cached_args(args),
             NewTokens{.k = input.k.as<BFloat16>(),
                       .v = input.v.as<BFloat16>(),
                       .query_norm = input.query_norm,
                       .key_norm = input.key_norm,
                       .epsilon = input.epsilon,
                       .frequencies = rotary_frequencies(stream, input.theta, input.head_dim)});
}

}  // namespace onggi::cuda
