// Stands in for CUDA's language: what kernels use besides PTX (kernels/cuda/ptx.cuh). Functions have the
// names and meanings of NVIDIA's CUDA C++ Programming Guide and Math API; what is missing here a kernel does
// not use yet: add it.
#pragma once

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdlib.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>

#include "tests/cuda_emulator/engine.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __grid_constant__
// The blocks run one after another, so one copy is enough.
#define __shared__ static
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)
#define __forceinline__ inline
// Empty, since it stands between the parentheses of attributes in the standard library's headers too.
#define __noinline__

// --- Vectors
// ---------------------------------------------------------------------------------------------------
#define ONGGI_EMULATED_VECTORS(type, name, alignment2, alignment4)            \
  struct name##1 {                                                            \
    type x;                                                                   \
  };                                                                          \
  struct alignas(alignment2) name##2 {                                        \
    type x, y;                                                                \
  };                                                                          \
  struct name##3 {                                                            \
    type x, y, z;                                                             \
  };                                                                          \
  struct alignas(alignment4) name##4 {                                        \
    type x, y, z, w;                                                          \
  };                                                                          \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }            \
  inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; } \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
ONGGI_EMULATED_VECTORS(signed char, char, 2, 4)
ONGGI_EMULATED_VECTORS(unsigned char, uchar, 2, 4)
ONGGI_EMULATED_VECTORS(short, short, 4, 8)
ONGGI_EMULATED_VECTORS(unsigned short, ushort, 4, 8)
ONGGI_EMULATED_VECTORS(int, int, 8, 16)
ONGGI_EMULATED_VECTORS(unsigned, uint, 8, 16)
ONGGI_EMULATED_VECTORS(float, float, 8, 16)
ONGGI_EMULATED_VECTORS(double, double, 16, 16)
ONGGI_EMULATED_VECTORS(long long, longlong, 16, 16)
ONGGI_EMULATED_VECTORS(unsigned long long, ulonglong, 16, 16)
#undef ONGGI_EMULATED_VECTORS

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// --- Launching
// -------------------------------------------------------------------------------------------------
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  return onggi::emulator::run_grid(*config, reinterpret_cast<const void*>(kernel),
                                   [kernel, values] { std::apply(kernel, values); });
}

// --- Threads together
// --------------------------------------------------------------------------------------------
inline void __syncthreads() {
  onggi::emulator::block_barrier("__syncthreads", 0, onggi::emulator::threads_of_block(), 0);
}
inline int __syncthreads_count(int predicate) {
  return onggi::emulator::block_barrier("__syncthreads_count", 0, onggi::emulator::threads_of_block(),
                                        predicate != 0);
}
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) > 0; }
inline int __syncthreads_and(int predicate) {
  return __syncthreads_count(predicate) == onggi::emulator::threads_of_block();
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFU) {
  onggi::emulator::warp_operation("__syncwarp", mask, [](onggi::emulator::LaneData* const*, unsigned) {});
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
[[noreturn]] inline void __trap() { onggi::emulator::fail("__trap()"); }

namespace onggi::emulator {

// Each lane gets in[0], in[1] of the lane in[2].
inline void exchange_lanes(LaneData* const* lanes, unsigned mask) {
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const uint32_t source = lanes[lane]->in[2];
    if ((mask >> source & 1) == 0)
      fail("lane %d takes a value from lane %u, which is not in the mask %08x", lane, source, mask);
    lanes[lane]->out[0] = lanes[source]->in[0];
    lanes[lane]->out[1] = lanes[source]->in[1];
  }
}

template <typename T>
T exchange(const char* name, unsigned mask, T value, int source) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  LaneData& data = lane_data();
  data.in[0] = data.in[1] = 0;
  std::memcpy(data.in, &value, sizeof value);
  data.in[2] = static_cast<uint32_t>(source);
  warp_operation(name, mask, exchange_lanes);
  std::memcpy(&value, data.out, sizeof value);
  return value;
}

// Each lane gets in out[0] the combination of in[0] of all.
template <typename Combine>
uint32_t combine(const char* name, unsigned mask, uint32_t value, Combine) {
  LaneData& data = lane_data();
  data.in[0] = value;
  warp_operation(name, mask, [](LaneData* const* lanes, unsigned together) {
    uint32_t result = 0;
    bool first = true;
    for (int lane = 0; lane < kLanes; ++lane) {
      if ((together >> lane & 1) == 0) continue;
      result = first ? lanes[lane]->in[0] : Combine{}(result, lanes[lane]->in[0]);
      first = false;
    }
    for (int lane = 0; lane < kLanes; ++lane)
      if ((together >> lane & 1) != 0) lanes[lane]->out[0] = result;
  });
  return data.out[0];
}

}  // namespace onggi::emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize) {
  const int lane = onggi::emulator::lane_of_thread();
  return onggi::emulator::exchange("__shfl_sync", mask, value,
                                   (lane & ~(width - 1)) | (source & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize) {
  const int lane = onggi::emulator::lane_of_thread(), source = lane ^ lane_mask;
  return onggi::emulator::exchange("__shfl_xor_sync", mask, value,
                                   source > (lane | (width - 1)) ? lane : source);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  const int lane = onggi::emulator::lane_of_thread(), source = lane - static_cast<int>(delta);
  return onggi::emulator::exchange("__shfl_up_sync", mask, value,
                                   source < (lane & ~(width - 1)) ? lane : source);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  const int lane = onggi::emulator::lane_of_thread(), source = lane + static_cast<int>(delta);
  return onggi::emulator::exchange("__shfl_down_sync", mask, value,
                                   source > (lane | (width - 1)) ? lane : source);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned own = predicate != 0 ? 1U << onggi::emulator::lane_of_thread() : 0;
  return onggi::emulator::combine("__ballot_sync", mask, own, [](unsigned a, unsigned b) { return a | b; });
}
inline int __any_sync(unsigned mask, int predicate) {
  return static_cast<int>(onggi::emulator::combine("__any_sync", mask, predicate != 0,
                                                   [](unsigned a, unsigned b) { return a | b; }));
}
inline int __all_sync(unsigned mask, int predicate) {
  return static_cast<int>(onggi::emulator::combine("__all_sync", mask, predicate != 0,
                                                   [](unsigned a, unsigned b) { return a & b; }));
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  return onggi::emulator::combine("__reduce_add_sync", mask, value,
                                  [](unsigned a, unsigned b) { return a + b; });
}
inline int __reduce_add_sync(unsigned mask, int value) {
  return static_cast<int>(__reduce_add_sync(mask, static_cast<unsigned>(value)));
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
  return onggi::emulator::combine("__reduce_min_sync", mask, value,
                                  [](unsigned a, unsigned b) { return a < b ? a : b; });
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  return onggi::emulator::combine("__reduce_max_sync", mask, value,
                                  [](unsigned a, unsigned b) { return a > b ? a : b; });
}
inline int __reduce_min_sync(unsigned mask, int value) {
  return static_cast<int>(onggi::emulator::combine(
      "__reduce_min_sync", mask, static_cast<unsigned>(value),
      [](unsigned a, unsigned b) { return static_cast<int>(a) < static_cast<int>(b) ? a : b; }));
}
inline int __reduce_max_sync(unsigned mask, int value) {
  return static_cast<int>(onggi::emulator::combine(
      "__reduce_max_sync", mask, static_cast<unsigned>(value),
      [](unsigned a, unsigned b) { return static_cast<int>(a) > static_cast<int>(b) ? a : b; }));
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value) {
  return onggi::emulator::combine("__reduce_and_sync", mask, value,
                                  [](unsigned a, unsigned b) { return a & b; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return onggi::emulator::combine("__reduce_or_sync", mask, value,
                                  [](unsigned a, unsigned b) { return a | b; });
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value) {
  return onggi::emulator::combine("__reduce_xor_sync", mask, value,
                                  [](unsigned a, unsigned b) { return a ^ b; });
}

// --- Memory
// ------------------------------------------------------------------------------------------------------
template <typename T>
T __ldg(const T* address) {
  onggi::emulator::expect_aligned(address, sizeof(T), "__ldg");
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return __ldg(address);
}
template <typename T>
T __ldcg(const T* address) {
  return __ldg(address);
}
template <typename T>
T __ldca(const T* address) {
  return __ldg(address);
}
template <typename T>
void __stcs(T* address, T value) {
  onggi::emulator::expect_aligned(address, sizeof(T), "__stcs");
  *address = value;
}
template <typename T>
void __stcg(T* address, T value) {
  __stcs(address, value);
}

// One fiber runs at a time and gives way at collectives alone: plain reads and writes are atomic.
template <typename T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, value);
}
template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, *address + value);
}
template <typename T>
T atomicSub(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, *address - value);
}
template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, *address > value ? *address : value);
}
template <typename T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, *address < value ? *address : value);
}
template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return std::exchange(*address, *address == expected ? value : *address);
}
template <typename T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, *address | value);
}
template <typename T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, *address & value);
}
template <typename T>
T atomicXor(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, *address ^ value);
}
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return std::exchange(*address, *address >= limit ? 0 : *address + 1);
}

// --- Bits
// --------------------------------------------------------------------------------------------------------
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned result = 0;
  for (int bit = 0; bit < 32; ++bit) result |= (x >> bit & 1) << (31 - bit);
  return result;
}
// Byte i of the result is byte (selector >> 4 i) % 8 of y:x; where bit 3 of the nibble is set, its sign.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned nibble = selector >> (4 * i) & 0xF;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (nibble & 7))) & 0xFF;
    if ((nibble & 8) != 0) byte = (byte & 0x80) != 0 ? 0xFF : 0;
    result |= byte << (8 * i);
  }
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}
inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<unsigned>(uint64_t{x} * y >> 32); }
inline int __mulhi(int x, int y) { return static_cast<int>(int64_t{x} * y >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}

// Four bytes at a time.
namespace onggi::emulator {
template <typename Byte, typename Function>
unsigned each_byte(unsigned x, unsigned y, Function function) {
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const int value = function(int{static_cast<Byte>(x >> (8 * i))}, int{static_cast<Byte>(y >> (8 * i))});
    result |= (static_cast<unsigned>(value) & 0xFF) << (8 * i);
  }
  return result;
}
template <typename A, typename B>
int dot_bytes(unsigned a, unsigned b, int c) {
  auto sum = static_cast<unsigned>(c);
  for (int i = 0; i < 4; ++i)
    sum += static_cast<unsigned>(int{static_cast<A>(a >> (8 * i))} * int{static_cast<B>(b >> (8 * i))});
  return static_cast<int>(sum);
}
}  // namespace onggi::emulator
inline unsigned __vadd4(unsigned x, unsigned y) {
  return onggi::emulator::each_byte<int8_t>(x, y, [](int a, int b) { return a + b; });
}
inline unsigned __vsub4(unsigned x, unsigned y) {
  return onggi::emulator::each_byte<int8_t>(x, y, [](int a, int b) { return a - b; });
}
inline unsigned __vsubss4(unsigned x, unsigned y) {
  return onggi::emulator::each_byte<int8_t>(x, y, [](int a, int b) {
    return a - b > 127 ? 127 : a - b < -128 ? -128 : a - b;
  });
}
inline unsigned __vcmpeq4(unsigned x, unsigned y) {
  return onggi::emulator::each_byte<uint8_t>(x, y, [](int a, int b) { return a == b ? 0xFF : 0; });
}
inline unsigned __vcmpne4(unsigned x, unsigned y) { return ~__vcmpeq4(x, y); }
inline int __dp4a(int a, int b, int c) {
  return onggi::emulator::dot_bytes<int8_t, int8_t>(static_cast<unsigned>(a), static_cast<unsigned>(b), c);
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  return static_cast<unsigned>(onggi::emulator::dot_bytes<uint8_t, uint8_t>(a, b, static_cast<int>(c)));
}

// --- Arithmetic
// ----------------------------------------------------------------------------------------------------
template <typename A, typename B>
requires(std::is_arithmetic_v<A>&& std::is_arithmetic_v<B>) constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <typename A, typename B>
requires(std::is_arithmetic_v<A>&& std::is_arithmetic_v<B>) constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}
inline float rsqrtf(float x) { return 1.0F / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float exp10f(float x) { return powf(10.0F, x); }
inline double sinpi(double x) { return sin(M_PI * fmod(x, 2.0)); }
inline double cospi(double x) { return cos(M_PI * fmod(x, 2.0)); }
inline void sincospi(double x, double* sine, double* cosine) { *sine = sinpi(x), *cosine = cospi(x); }
inline float sinpif(float x) { return static_cast<float>(sinpi(x)); }
inline float cospif(float x) { return static_cast<float>(cospi(x)); }
inline void sincospif(float x, float* sine, float* cosine) { *sine = sinpif(x), *cosine = cospif(x); }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return exp10f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline void __sincosf(float x, float* sine, float* cosine) { *sine = sinf(x), *cosine = cosf(x); }
// As CUDA documents it: nothing is left of a quotient by more than 2^126.
inline float __fdividef(float x, float y) {
  const bool is_beyond = fabsf(y) > 0x1p126F && fabsf(y) < HUGE_VALF;
  return is_beyond ? x * 0.0F : x / y;
}
inline float __saturatef(float x) { return x > 0.0F ? (x < 1.0F ? x : 1.0F) : 0.0F; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __frcp_rn(float x) { return 1.0F / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(double{x})); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline double __dsqrt_rn(double x) { return sqrt(x); }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
// _rn: to nearest even; _rz: towards zero; out of range: the nearest that there is; NaN: 0.
namespace onggi::emulator {
template <typename T>
T saturated(double x) {
  if (std::isnan(x)) return 0;
  constexpr auto kLow = static_cast<double>(std::numeric_limits<T>::min());
  constexpr auto kHigh = static_cast<double>(std::numeric_limits<T>::max());
  return x <= kLow    ? std::numeric_limits<T>::min()
         : x >= kHigh ? std::numeric_limits<T>::max()
                      : static_cast<T>(x);
}
}  // namespace onggi::emulator
inline int __float2int_rn(float x) { return onggi::emulator::saturated<int>(nearbyint(double{x})); }
inline int __float2int_rz(float x) { return onggi::emulator::saturated<int>(trunc(double{x})); }
inline int __float2int_rd(float x) { return onggi::emulator::saturated<int>(floor(double{x})); }
inline int __float2int_ru(float x) { return onggi::emulator::saturated<int>(ceil(double{x})); }
inline unsigned __float2uint_rn(float x) {
  return onggi::emulator::saturated<unsigned>(nearbyint(double{x}));
}
inline unsigned __float2uint_rz(float x) { return onggi::emulator::saturated<unsigned>(trunc(double{x})); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
