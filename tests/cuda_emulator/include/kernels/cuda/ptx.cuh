// Stands in for src/kernels/cuda/ptx.cuh, which says what each function does and how fragments lie.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

namespace onggi {

template <typename T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulator::dynamic_shared_memory());
}

namespace ptx_detail {

using emulator::kLanes;
using emulator::LaneData;
using emulator::warp_operation;

inline void expect_all_lanes(const char* name, unsigned mask) {
  if (mask != 0xFFFFFFFFU) emulator::fail("%s by a part of a warp (%08x)", name, mask);
}

enum class Order { kPlain, kTransposed };

template <int kMatrices, Order kOrder>
void load_matrices(LaneData* const* lanes, unsigned mask) {
  expect_all_lanes("ldmatrix", mask);
  for (int matrix = 0; matrix < kMatrices; ++matrix) {
    uint16_t elements[8][8];
    for (int row = 0; row < 8; ++row) {
      const void* address = lanes[8 * matrix + row]->address;
      emulator::expect_aligned(address, 16, "ldmatrix");
      std::memcpy(elements[row], address, 16);
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      const int row = lane / 4, column = 2 * (lane % 4);
      const bool plain = kOrder == Order::kPlain;
      const uint32_t low = plain ? elements[row][column] : elements[column][row];
      const uint32_t high = plain ? elements[row][column + 1] : elements[column + 1][row];
      lanes[lane]->out[matrix] = high << 16 | low;
    }
  }
}

template <int kMatrices, Order kOrder>
void ldmatrix(uint32_t (&out)[kMatrices], const void* shared) {
  LaneData& data = emulator::lane_data();
  data.address = shared;
  warp_operation("ldmatrix", 0xFFFFFFFFU, load_matrices<kMatrices, kOrder>);
  for (int i = 0; i < kMatrices; ++i) out[i] = data.out[i];
}

inline void transpose_matrix(LaneData* const* lanes, unsigned mask) {
  expect_all_lanes("movmatrix", mask);
  const auto half = [&](int row, int column) {
    return lanes[4 * row + column / 2]->in[0] >> (16 * (column % 2)) & 0xFFFFU;
  };
  for (int lane = 0; lane < kLanes; ++lane) {
    const int row = lane / 4, column = 2 * (lane % 4);
    lanes[lane]->out[0] = half(column + 1, row) << 16 | half(column, row);
  }
}

inline float element(const __nv_bfloat16*, uint32_t word, int i) {
  return __ushort_as_bfloat16(static_cast<uint16_t>(word >> (16 * i)));
}
inline float element(const __half*, uint32_t word, int i) {
  return __ushort_as_half(static_cast<uint16_t>(word >> (16 * i)));
}
inline float element(const float*, uint32_t word, int) {
  return __uint_as_float(word & 0xFFFFE000U);
}  // tf32
inline int32_t element(const int8_t*, uint32_t word, int i) { return static_cast<int8_t>(word >> (8 * i)); }
inline int32_t element(const uint8_t*, uint32_t word, int i) { return static_cast<uint8_t>(word >> (8 * i)); }

// A fragment's registers come in `in`: a, then b, then c. An [16, kDepth] operand has, of each register, one
// 32-bit word for rows group and group + 8 and for each 4 words of depth.
template <typename Input, typename InputB, typename Sum, int kDepth>
void multiply(LaneData* const* lanes, unsigned mask) {
  expect_all_lanes("mma", mask);
  constexpr int kPerWord = std::is_same_v<Input, float> ? 1 : 4 / static_cast<int>(sizeof(Input));
  constexpr int kSpan = 4 * kPerWord;  // of the depth, in one register of the four lanes of a group
  constexpr int kSpans = kDepth / kSpan;
  using Wide = std::conditional_t<std::is_same_v<Sum, float>, double, int64_t>;
  constexpr const Input* kType = nullptr;
  constexpr const InputB* kTypeB = nullptr;
  Wide a[16][kDepth], b[kDepth][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4, pair = lane % 4;
    for (int span = 0; span < kSpans; ++span) {
      for (int i = 0; i < kPerWord; ++i) {
        const int k = span * kSpan + pair * kPerWord + i;
        a[group][k] = element(kType, lanes[lane]->in[2 * span], i);
        a[group + 8][k] = element(kType, lanes[lane]->in[2 * span + 1], i);
        b[k][group] = element(kTypeB, lanes[lane]->in[2 * kSpans + span], i);
      }
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      Sum start;
      std::memcpy(&start, &lanes[lane]->in[3 * kSpans + i], sizeof start);
      Wide sum = start;
      for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[k][column];
      const Sum result = static_cast<Sum>(sum);
      std::memcpy(&lanes[lane]->out[i], &result, sizeof result);
    }
  }
}

template <typename Input, int kDepth, typename InputB = Input, typename Sum, int kSpansTwice>
void mma(const char* name, Sum (&d)[4], const uint32_t (&a)[kSpansTwice], const uint32_t* b) {
  LaneData& data = emulator::lane_data();
  constexpr int kSpans = kSpansTwice / 2;
  for (int i = 0; i < kSpansTwice; ++i) data.in[i] = a[i];
  for (int i = 0; i < kSpans; ++i) data.in[kSpansTwice + i] = b[i];
  std::memcpy(&data.in[3 * kSpans], d, sizeof d);
  warp_operation(name, 0xFFFFFFFFU, multiply<Input, InputB, Sum, kDepth>);
  std::memcpy(d, data.out, sizeof d);
}

}  // namespace ptx_detail

using SharedAddress = uintptr_t;
inline SharedAddress shared_address(const void* shared) { return reinterpret_cast<SharedAddress>(shared); }
inline uint32_t load_shared(SharedAddress address) {
  const auto* word = reinterpret_cast<const uint32_t*>(address);
  emulator::expect_aligned(word, sizeof *word, "ld.shared");
  return *word;
}

inline void ldmatrix_x4(uint32_t (&out)[4], const void* shared) {
  ptx_detail::ldmatrix<4, ptx_detail::Order::kPlain>(out, shared);
}
inline void ldmatrix_x4_trans(uint32_t (&out)[4], const void* shared) {
  ptx_detail::ldmatrix<4, ptx_detail::Order::kTransposed>(out, shared);
}
inline void ldmatrix_x2(uint32_t (&out)[2], const void* shared) {
  ptx_detail::ldmatrix<2, ptx_detail::Order::kPlain>(out, shared);
}
inline void ldmatrix_x2_trans(uint32_t (&out)[2], const void* shared) {
  ptx_detail::ldmatrix<2, ptx_detail::Order::kTransposed>(out, shared);
}
inline uint32_t movmatrix_trans(uint32_t x) {
  emulator::LaneData& data = emulator::lane_data();
  data.in[0] = x;
  emulator::warp_operation("movmatrix", 0xFFFFFFFFU, ptx_detail::transpose_matrix);
  return data.out[0];
}

inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  ptx_detail::mma<__nv_bfloat16, 16>("mma_m16n8k16_bf16", d, a, b);
}
inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  ptx_detail::mma<__half, 16>("mma_m16n8k16_f16", d, a, b);
}
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  ptx_detail::mma<float, 8>("mma_m16n8k8_tf32", d, a, b);
}
inline void mma_m16n8k32_u8_s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  ptx_detail::mma<uint8_t, 32, int8_t>("mma_m16n8k32_u8_s8", d, a, b);
}
inline uint32_t round_to_tf32(float x) {
  // To nearest, halves away from zero.
  const uint32_t bits = __float_as_uint(x);
  return std::isfinite(x) ? (bits + 0x1000) & 0xFFFFE000U : bits;
}

inline void prefetch_l2(const void*) {}
inline void cp_async_16(void* shared, const void* global, int source_bytes = 16) {
  emulator::queue_copy(shared, global, 16, source_bytes);
}
inline void cp_async_4(void* shared, const void* global, int source_bytes = 4) {
  emulator::queue_copy(shared, global, 4, source_bytes);
}
inline void cp_async_commit() { emulator::commit_copies(); }
template <int kPending>
void cp_async_wait() {
  emulator::wait_for_copies(kPending);
}

// Subnormal arguments and results become zero.
inline float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0F, x) : x; }
inline float exp2_approx(float x) { return flushed(exp2f(flushed(x))); }
inline float log2_approx(float x) { return log2f(flushed(x)); }
inline uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) { return (a & b) | c; }

namespace ptx_detail {
template <typename T>
T load(const void* global) {
  emulator::expect_aligned(global, sizeof(T), "load_once");
  T value;
  std::memcpy(&value, global, sizeof value);
  return value;
}
}  // namespace ptx_detail
inline uint32_t load_once_4(const void* global) { return ptx_detail::load<uint32_t>(global); }

inline void barrier_sync(int id, int threads) { emulator::block_barrier("barrier_sync", id, threads, 0); }
inline uint64_t load_relaxed(const uint64_t* global) {
  emulator::expect_aligned(global, sizeof(uint64_t), "load_relaxed");
  return *global;
}
inline void store_relaxed(uint64_t* global, uint64_t value) {
  emulator::expect_aligned(global, sizeof(uint64_t), "store_relaxed");
  *global = value;
}
inline void grid_dependency_wait() {}
inline void grid_dependency_launch() {}

// Blocks run one after another here: clusters of one.
inline void cluster_arrive() {}
inline void cluster_wait() { emulator::block_barrier("cluster_wait", 0, emulator::threads_of_block(), 0); }
inline void cluster_store(float* own, int rank, float value) {
  if (rank != 0) emulator::fail("a cluster of several blocks is not emulated");
  *own = value;
}

}  // namespace onggi
