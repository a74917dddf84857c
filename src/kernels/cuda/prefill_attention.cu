// Attention of sequences with several new tokens over the paged cache: streaming softmax over tiles of keys
// and values (Dao 2023, FlashAttention-2) with mma.sync.
//
// The rows of a tile are pairs (token, query head of one key/value head), token-major: the heads of a group
// share what is read of the cache, few tokens fill a tile, and the causal diagonal is cut finely. A warp has
// 32 rows, so that each fragment of keys and values that it reads from shared memory serves two mma.
#include <bit>

#include "kernels/cuda/cached_attention.h"
#include "kernels/cuda/prefill_tiles.cuh"

namespace onggi::cuda {
namespace {

using namespace prefill;

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kPageUnit = 16;  // tokens that surely lie in one page, if the first is a multiple of 16
constexpr int kUnits = kKeys / kPageUnit;

struct PrefillArgs {
  const BFloat16* q;
  const void* keys;
  const void* values;
  const int32_t* pages;
  int64_t page_stride;
  const int32_t* first_row;
  const int32_t* rows;
  const int32_t* past;
  int sequences;
  int least_rows;
  int page_shift;  // log2 P
  int kv_heads, group;
  float scale;  // of scores as exponents of 2
  BFloat16* out;
  int64_t out_stride;
};

// What a block works on: a tile of rows of one sequence, a row being token * group + head.
struct Work {
  int sequence;
  int first, count;  // rows; count 0: nothing
  int past;
  int all_visible;  // cached tokens that every row sees
  int length;       // cached tokens that the last row sees
};

__device__ __forceinline__ Work work_of(const PrefillArgs& args, int sequence, int first) {
  const int left = args.rows[sequence] * args.group - first, past = args.past[sequence];
  const int count = left < kRows ? left : kRows;
  return {.sequence = sequence,
          .first = first,
          .count = count,
          .past = past,
          .all_visible = past + first / args.group + 1,
          .length = past + (first + count - 1) / args.group + 1};
}

// Tiles are numbered sequence by sequence; within one the last tile, which sees most keys, comes first. All
// lanes of a warp take part.
__device__ __forceinline__ Work find_work(const PrefillArgs& args, int number) {
  for (int base = 0; base < args.sequences; base += kWarp) {
    const int sequence = base + lane_index();
    const int rows = sequence < args.sequences ? args.rows[sequence] : 0;
    const int tiles = rows >= args.least_rows ? (rows * args.group + kRows - 1) / kRows : 0;
    int end = tiles;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int before = __shfl_up_sync(kAllLanes, end, offset);
      if (lane_index() >= offset) end += before;
    }
    const unsigned reached = __ballot_sync(kAllLanes, number < end);
    if (reached != 0) {
      const int lane = __ffs(static_cast<int>(reached)) - 1;
      return work_of(args, base + lane, (__shfl_sync(kAllLanes, end, lane) - 1 - number) * kRows);
    }
    number -= __shfl_sync(kAllLanes, end, kWarp - 1);
  }
  return {};
}

template <typename Element, int kHeadDim>
__device__ __forceinline__ void load_queries(const PrefillArgs& args, const Work& work,
                                             unsigned char* shared) {
  using L = Layout<kHeadDim>;
  const int piece = static_cast<int>(threadIdx.x) % L::kPieces;
  const int64_t token_stride = int64_t{args.kv_heads} * args.group * kHeadDim;
  const BFloat16* q = args.q + args.first_row[work.sequence] * token_stride +
                      static_cast<int64_t>(blockIdx.x) * args.group * kHeadDim + piece * 8;
#pragma unroll 4
  for (int row = static_cast<int>(threadIdx.x) / L::kPieces; row < kRows; row += kThreads / L::kPieces) {
    uint4 packed = make_uint4(0, 0, 0, 0);
    if (row < work.count) {
      const int token = (work.first + row) / args.group, head = (work.first + row) - token * args.group;
      packed = CacheElement<Element>::from_bf16(
          *reinterpret_cast<const uint4*>(q + token * token_stride + head * kHeadDim));
    }
    *reinterpret_cast<uint4*>(shared + L::offset(row, piece)) = packed;
  }
}

// The page of the step's tokens from first_key + unit * kPageUnit on.
__device__ __forceinline__ int load_page(const PrefillArgs& args, const Work& work, int first_key, int unit) {
  const int token = first_key + unit * kPageUnit;
  if (token >= work.length) return 0;
  return args.pages[work.sequence * args.page_stride + (token >> args.page_shift)];
}

// Starts the copies of a step's keys and values. Rows that the tile does not see become zero: what lies there
// may be anything, NaN too.
template <typename Element, int kHeadDim>
__device__ __forceinline__ void copy_step(const PrefillArgs& args, const Work& work,
                                          const int (&pages)[kUnits], int first_key, unsigned char* keys,
                                          unsigned char* values) {
  using L = Layout<kHeadDim>;
  constexpr int kRowsAtOnce = kThreads / L::kPieces;
  static_assert(kPageUnit % kRowsAtOnce == 0);
  const int piece = static_cast<int>(threadIdx.x) % L::kPieces;
  const int row = static_cast<int>(threadIdx.x) / L::kPieces;
  const int row_stride = args.kv_heads * kHeadDim;
  const int lane_offset = row * row_stride + static_cast<int>(blockIdx.x) * kHeadDim + piece * 8;
#pragma unroll
  for (int unit = 0; unit < kUnits; ++unit) {
    const int token = first_key + unit * kPageUnit;
    const int64_t cache_row =
        (static_cast<int64_t>(pages[unit]) << args.page_shift) + (token & ((1 << args.page_shift) - 1));
    const int64_t offset = cache_row * row_stride + lane_offset;
#pragma unroll
    for (int i = 0; i < kPageUnit; i += kRowsAtOnce) {
      const bool inside = token + row + i < work.length;
      const int64_t from = inside ? offset + i * row_stride : 0;
      const int to = L::offset(unit * kPageUnit + row + i, piece);
      cp_async_16(keys + to, static_cast<const Element*>(args.keys) + from, inside ? 16 : 0);
      cp_async_16(values + to, static_cast<const Element*>(args.values) + from, inside ? 16 : 0);
    }
  }
}

// Divides and stores a warp's 32 rows. `staging`: its rows of the queries, which it alone has read.
template <int kHeadDim>
__device__ __forceinline__ void store_rows(const PrefillArgs& args, const Work& work,
                                           const WarpState<kHeadDim>& state, unsigned char* staging) {
  using L = Layout<kHeadDim>;
  const int lane = lane_index(), group = lane / 4, pair = lane % 4;
  __syncwarp();
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float inverse = 1 / warp_sum<4>(state.total[m][r]);
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n)
        *reinterpret_cast<uint32_t*>(staging + L::offset(16 * m + 8 * r + group, n) + 4 * pair) =
            pack_bf16(state.sums[m][n][2 * r] * inverse, state.sums[m][n][2 * r + 1] * inverse);
    }
  __syncwarp();
  const int piece = lane % L::kPieces;
  BFloat16* out = args.out + args.first_row[work.sequence] * args.out_stride +
                  static_cast<int64_t>(blockIdx.x) * args.group * kHeadDim + piece * 8;
#pragma unroll 4
  for (int row = lane / L::kPieces; row < 32; row += kWarp / L::kPieces) {
    const int of_tile = warp_index() * 32 + row;
    if (of_tile >= work.count) break;
    const int token = (work.first + of_tile) / args.group;
    const int head = work.first + of_tile - token * args.group;
    *reinterpret_cast<uint4*>(out + token * args.out_stride + head * kHeadDim) =
        *reinterpret_cast<const uint4*>(staging + L::offset(row, piece));
  }
}

// Grid: Hkv (neighbours read neighbouring rows of the cache), tiles.
template <typename Element, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 2) prefill_attention_kernel(PrefillArgs args) {
  using L = Layout<kHeadDim>;
  auto* shared = dynamic_shared<unsigned char>();
  grid_dependency_launch();
  grid_dependency_wait();
  // In shared memory for the sake of registers, of which the loop needs all.
  __shared__ Work work;
  __shared__ int pages[2][kUnits];  // of the next step and the one after
  const int unit = static_cast<int>(threadIdx.x);
  if (warp_index() == 0) {
    const Work found = find_work(args, static_cast<int>(blockIdx.y));
    if (unit == 0) work = found;
    if (unit < 2 * kUnits && found.count > 0)
      pages[unit / kUnits][unit % kUnits] = load_page(args, found, 0, unit);
  }
  __syncthreads();
  if (work.count == 0) return;
  const int steps = (work.length + kKeys - 1) / kKeys;

  // Rows see the tokens up to their own. Those beyond the tile's count compute what the last one does, of
  // zeros.
  __shared__ int visible[kRows];
  static_assert(kThreads == kRows);
  visible[unit] = work.past + (work.first + (unit < work.count ? unit : work.count - 1)) / args.group + 1;
  copy_step<Element, kHeadDim>(args, work, pages[0], 0, shared + L::keys(0), shared + L::values(0));
  cp_async_commit();
  load_queries<Element, kHeadDim>(args, work, shared);

  const LaneOffsets<kHeadDim> lane;
  unsigned char* queries = shared + warp_index() * 32 * L::kRowBytes;
  WarpState<kHeadDim> state;
  for (int step = 0; step < steps; ++step) {
    const int buffer = step & 1, first_key = step * kKeys;
    cp_async_wait<0>();
    __syncthreads();  // this step's rows are there, and nobody reads the other buffer any more
    if (step + 1 < steps) {
      copy_step<Element, kHeadDim>(args, work, pages[buffer ^ 1], first_key + kKeys,
                                   shared + L::keys(buffer ^ 1), shared + L::values(buffer ^ 1));
      cp_async_commit();
    }
    int page = 0;
    if (unit < kUnits) page = load_page(args, work, first_key + 2 * kKeys, unit);
    float scores[2][kKeys / 8][4];
    score<Element, kHeadDim>(scores, queries, shared + L::keys(buffer), lane);
    if (first_key + kKeys > work.all_visible) hide(scores, visible + warp_index() * 32, first_key);
    take_scores(state, scores, args.scale);
    // This step's own pages were used before its barrier; those of the one after the next take their place.
    if (unit < kUnits) pages[buffer][unit] = page;
    add_values<Element, kHeadDim>(state, scores, shared + L::values(buffer), lane);
  }
  store_rows(args, work, state, queries);
}

template <typename Element, int kHeadDim>
void launch_prefill(CudaStream& stream, const PrefillArgs& args, dim3 grid) {
  launch(stream, "cached_attention (prefill)",
         {.grid = grid,
          .block = kThreads,
          .shared_bytes = Layout<kHeadDim>::kBytes,
          .overlap = Overlap::kWithPrevious},
         prefill_attention_kernel<Element, kHeadDim>, args);
}

}  // namespace

// Operations: 4 Hq D per query and key that it sees. Qwen3-8B, 4096 tokens: 137 GFLOP per layer; at the
// 350 TFLOP/s that mma.sync can keep up, 0.4 ms.
void prefill_attention(CudaStream& stream, const CachedAttentionArgs& args, int least_rows) {
  const int64_t group = args.query_heads / args.kv_heads;
  const PrefillArgs work{
      .q = args.q.as<BFloat16>(),
      .keys = args.cache.keys,
      .values = args.cache.values,
      .pages = args.sequences.pages,
      .page_stride = args.sequences.page_stride,
      .first_row = args.sequences.first_row,
      .rows = args.sequences.rows,
      .past = args.sequences.past,
      .sequences = static_cast<int>(args.sequences.count),
      .least_rows = least_rows,
      .page_shift = std::countr_zero(static_cast<unsigned>(args.cache.page_tokens)),
      .kv_heads = static_cast<int>(args.kv_heads),
      .group = static_cast<int>(group),
      .scale = args.scale * kLog2OfE,
      .out = args.out.as<BFloat16>(),
      .out_stride = args.out_stride != 0 ? args.out_stride : args.query_heads * args.head_dim};
  // The host does not know the lengths: every sequence may have a tile that is not full.
  const int64_t tiles = args.tokens * group / kRows + args.sequences.count;
  const dim3 grid(static_cast<unsigned>(args.kv_heads), static_cast<unsigned>(tiles));
  const bool is_bf16 = args.cache.dtype == DType::kBF16;
  if (args.head_dim == 128)
    is_bf16 ? launch_prefill<BFloat16, 128>(stream, work, grid)
            : launch_prefill<Half, 128>(stream, work, grid);
  else
    is_bf16 ? launch_prefill<BFloat16, 64>(stream, work, grid) : launch_prefill<Half, 64>(stream, work, grid);
}

}  // namespace onggi::cuda
