// The helpers of device code against plain loops: on the emulator this tests the emulator, on a card ptx.cuh,
// and that both agree on how fragments lie.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.h"
#include "kernels/cuda/launch.cuh"
#include "tensor/dtype.h"
#include "tests/kernels_cuda/device_array.h"

namespace onggi {
namespace {

using testing_cuda::DeviceArray;

CudaStream& cuda() { return static_cast<CudaStream&>(testing_cuda::stream()); }

std::vector<float> normal(size_t count, uint64_t seed) {
  Random random(seed, 1);
  std::vector<float> values(count);
  for (float& value : values) value = random.normal();
  return values;
}
std::vector<uint16_t> bf16_of(const std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (const float value : values) bits.push_back(f32_to_bf16(value));
  return bits;
}
std::vector<uint16_t> f16_of(const std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (const float value : values) bits.push_back(f32_to_f16(value));
  return bits;
}

// --- Reductions

__global__ void reduce_kernel(const float* x, float* out) {
  const float value = x[blockIdx.x * 256 + threadIdx.x];
  const float sum = block_sum<256>(value);
  const float maximum = block_max<256>(value);
  const float of_four = warp_sum<4>(value);
  out[3 * (blockIdx.x * 256 + threadIdx.x)] = sum;
  out[3 * (blockIdx.x * 256 + threadIdx.x) + 1] = maximum;
  out[3 * (blockIdx.x * 256 + threadIdx.x) + 2] = of_four;
}

TEST(CudaHelpers, ReductionsReachEveryThread) {
  const std::vector<float> x = normal(512, 1);
  const DeviceArray<float> in(x), out(3 * 512);
  launch(cuda(), "reduce", {.grid = 2, .block = 256}, reduce_kernel, in.data(), out.data());
  const std::vector<float> got = out.values();
  for (size_t i = 0; i < 512; ++i) {
    double sum = 0, of_four = 0;
    float maximum = -1e9F;
    for (size_t j = i / 256 * 256; j < i / 256 * 256 + 256; ++j) {
      sum += x[j];
      maximum = std::max(maximum, x[j]);
    }
    for (size_t j = i / 4 * 4; j < i / 4 * 4 + 4; ++j) of_four += x[j];
    EXPECT_NEAR(got[3 * i], sum, 1e-4) << i;
    EXPECT_EQ(got[3 * i + 1], maximum) << i;
    EXPECT_NEAR(got[3 * i + 2], of_four, 1e-6) << i;
  }
}

// --- Exchanges and votes

__global__ void exchange_kernel(int* out) {
  const int lane = lane_index();
  int* mine = out + 8 * lane;
  mine[0] = __shfl_sync(kAllLanes, lane, 3);
  mine[1] = __shfl_sync(kAllLanes, lane, 3, 8);
  mine[2] = __shfl_up_sync(kAllLanes, lane, 2, 16);
  mine[3] = __shfl_down_sync(kAllLanes, lane, 2, 16);
  mine[4] = __shfl_xor_sync(kAllLanes, lane, 5);
  mine[5] = static_cast<int>(__ballot_sync(kAllLanes, lane % 3 == 0));
  mine[6] = __reduce_max_sync(kAllLanes, lane == 7 ? -1 : -lane - 2);
  // The halves of a warp apart.
  const unsigned half = lane < 16 ? 0xFFFFU : 0xFFFF0000U;
  mine[7] = lane < 16 ? __any_sync(half, lane == 20) : __all_sync(half, lane > 15);
}

TEST(CudaHelpers, LanesExchangeValues) {
  const DeviceArray<int> out(8 * 32);
  launch(cuda(), "exchange", {.grid = 1, .block = 32}, exchange_kernel, out.data());
  const std::vector<int> got = out.values();
  unsigned thirds = 0;
  for (int lane = 0; lane < 32; lane += 3) thirds |= 1U << lane;
  for (int lane = 0; lane < 32; ++lane) {
    const int* mine = got.data() + 8 * lane;
    EXPECT_EQ(mine[0], 3);
    EXPECT_EQ(mine[1], lane / 8 * 8 + 3);
    EXPECT_EQ(mine[2], lane % 16 < 2 ? lane : lane - 2);
    EXPECT_EQ(mine[3], lane % 16 > 13 ? lane : lane + 2);
    EXPECT_EQ(mine[4], lane ^ 5);
    EXPECT_EQ(mine[5], static_cast<int>(thirds));
    EXPECT_EQ(mine[6], -1);
    EXPECT_EQ(mine[7], lane < 16 ? 0 : 1);
  }
}

// --- Matrix fragments: one tile [16, K] x [8, K]^T through shared memory and ldmatrix

enum class Input { kBF16, kF16, kBytes };

// Rows of the tiles are kRowBytes long. x4 loads of 8x8 16-bit matrices give the a registers in the order
// (rows 0-7, rows 8-15) x (first 16 bytes, next 16 bytes).
template <Input kInput, typename Sum>
__global__ void tile_kernel(const char* a, const char* b, Sum* d) {
  constexpr int kRowBytes = 32;
  char* shared_a = dynamic_shared<char>();
  char* shared_b = shared_a + 16 * kRowBytes;
  const int lane = lane_index();
  constexpr int kChunks = kRowBytes / 16;
  for (int chunk = lane; chunk < 24 * kChunks; chunk += 32) {
    const int from_a = 16 * kChunks;
    cp_async_16(shared_a + 16 * chunk, chunk < from_a ? a + 16 * chunk : b + 16 * (chunk - from_a));
  }
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();
  Sum sum[4];
  for (int i = 0; i < 4; ++i) sum[i] = d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
  const char* row_a = shared_a + lane % 16 * kRowBytes;
  const char* row_b = shared_b + lane % 8 * kRowBytes;
  uint32_t fragment_a[4], fragment_b[2];
  ldmatrix_x4(fragment_a, row_a + lane / 16 * 16);
  ldmatrix_x2(fragment_b, row_b + lane / 8 % 2 * 16);
  if constexpr (kInput == Input::kBF16) {
    mma_m16n8k16_bf16(sum, fragment_a, fragment_b[0], fragment_b[1]);
  } else if constexpr (kInput == Input::kF16) {
    mma_m16n8k16_f16(sum, fragment_a, fragment_b[0], fragment_b[1]);
  } else {
    mma_m16n8k32_u8_s8(sum, fragment_a, fragment_b[0], fragment_b[1]);
  }
  for (int i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

template <Input kInput, typename Sum, typename Element, typename DecodeA, typename DecodeB>
void expect_tile(const std::vector<Element>& a, const std::vector<Element>& b, const std::vector<Sum>& start,
                 const DecodeA& decode_a, const DecodeB& decode_b, double tolerance) {
  const DeviceArray<Element> in_a(a), in_b(b);
  const DeviceArray<Sum> out(start);
  launch(cuda(), "tile", {.grid = 1, .block = 32, .shared_bytes = 24 * 32}, tile_kernel<kInput, Sum>,
         reinterpret_cast<const char*>(in_a.data()), reinterpret_cast<const char*>(in_b.data()), out.data());
  const std::vector<Sum> got = out.values();
  const size_t depth = a.size() / 16;
  for (size_t row = 0; row < 16; ++row)
    for (size_t column = 0; column < 8; ++column) {
      double sum = start[row * 8 + column];
      for (size_t k = 0; k < depth; ++k)
        sum += double{decode_a(a[row * depth + k])} * decode_b(b[column * depth + k]);
      EXPECT_NEAR(got[row * 8 + column], sum, tolerance) << row << ", " << column;
    }
}

TEST(CudaHelpers, TilesOf16BitElements) {
  const std::vector<float> a = normal(256, 2), b = normal(128, 3), start = normal(128, 4);
  // fp32 sums of 17 terms of about 1.
  expect_tile<Input::kBF16>(bf16_of(a), bf16_of(b), start, bf16_to_f32, bf16_to_f32, 1e-5);
  expect_tile<Input::kF16>(f16_of(a), f16_of(b), start, f16_to_f32, f16_to_f32, 1e-5);
}

TEST(CudaHelpers, TilesOfBytes) {
  std::vector<uint8_t> a(16 * 32), b(8 * 32);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<uint8_t>(i * 37 % 256);
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<uint8_t>(i * 91 % 255 - 127);
  std::vector<int32_t> start(128);
  for (size_t i = 0; i < start.size(); ++i) start[i] = static_cast<int32_t>(i) * 1000 - 50000;
  expect_tile<Input::kBytes>(
      a, b, start, [](uint8_t value) { return static_cast<float>(value); },
      [](uint8_t value) { return static_cast<float>(static_cast<int8_t>(value)); }, 0);
}

__global__ void tf32_kernel(const float* a, const float* b, float* d) {
  const int group = lane_index() / 4, pair = lane_index() % 4;
  uint32_t fragment[4];
  for (int i = 0; i < 4; ++i) fragment[i] = round_to_tf32(a[(group + i % 2 * 8) * 8 + pair + i / 2 * 4]);
  float sum[4] = {0, 0, 0, 0};
  mma_m16n8k8_tf32(sum, fragment, round_to_tf32(b[group * 8 + pair]), round_to_tf32(b[group * 8 + pair + 4]));
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + pair * 2 + i % 2] = sum[i];
}

TEST(CudaHelpers, TilesOfTf32) {
  const std::vector<float> a = normal(128, 5), b = normal(64, 6);
  const DeviceArray<float> in_a(a), in_b(b), out(128);
  launch(cuda(), "tf32", {.grid = 1, .block = 32}, tf32_kernel, in_a.data(), in_b.data(), out.data());
  const std::vector<float> got = out.values();
  for (size_t row = 0; row < 16; ++row)
    for (size_t column = 0; column < 8; ++column) {
      double sum = 0, size = 0;
      for (size_t k = 0; k < 8; ++k) {
        sum += double{a[row * 8 + k]} * b[column * 8 + k];
        size += std::abs(double{a[row * 8 + k]} * b[column * 8 + k]);
      }
      // Each input is rounded to 11 bits.
      EXPECT_NEAR(got[row * 8 + column], sum, size * std::ldexp(1.0, -10)) << row << ", " << column;
    }
}

__global__ void transpose_kernel(const uint16_t* in, uint16_t* out) {
  uint16_t* shared = dynamic_shared<uint16_t>();
  const int lane = lane_index();
  for (int i = lane; i < 4 * 64; i += 32) shared[i] = in[i];
  __syncwarp();
  uint32_t four[4], two[2];
  ldmatrix_x4_trans(four, shared + 8 * lane);
  ldmatrix_x2_trans(two, shared + 8 * (lane % 16) + 128);
  for (int i = 0; i < 6; ++i) {
    const uint32_t word = i < 4 ? four[i] : two[i - 4];
    out[64 * i + 2 * lane] = static_cast<uint16_t>(word);
    out[64 * i + 2 * lane + 1] = static_cast<uint16_t>(word >> 16);
  }
}

TEST(CudaHelpers, MatricesAreLoadedTransposed) {
  std::vector<uint16_t> values(256);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint16_t>(i * 17);
  const DeviceArray<uint16_t> in(values), out(6 * 64);
  launch(cuda(), "transpose", {.grid = 1, .block = 32, .shared_bytes = 512}, transpose_kernel, in.data(),
         out.data());
  const std::vector<uint16_t> got = out.values();
  for (size_t i = 0; i < 6; ++i)
    for (size_t row = 0; row < 8; ++row)
      for (size_t column = 0; column < 8; ++column)
        EXPECT_EQ(got[64 * i + 8 * row + column], values[64 * (i < 4 ? i : i - 2) + 8 * column + row]) << i;
}

// --- A pipeline of three stages over rows of 128 floats, one block; the last chunk is partly zero-filled

__global__ void pipeline_kernel(const float* x, int count, float* out) {
  constexpr int kStages = 3, kChunk = 128;
  float* shared = dynamic_shared<float>();
  const int thread = static_cast<int>(threadIdx.x), chunks = (count + kChunk - 1) / kChunk;
  const auto fetch = [&](int chunk) {
    if (chunk < chunks) {
      const int first = chunk * kChunk + 4 * thread;
      const int left = max(0, min(4, count - first));
      cp_async_16(shared + chunk % kStages * kChunk + 4 * thread, left > 0 ? x + first : x, 4 * left);
    }
    cp_async_commit();
  };
  for (int chunk = 0; chunk < kStages - 1; ++chunk) fetch(chunk);
  float sum = 0;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    cp_async_wait<kStages - 2>();
    __syncthreads();
    fetch(chunk + kStages - 1);
    // Of another thread's copy.
    for (int i = 0; i < 4; ++i) sum += shared[chunk % kStages * kChunk + (4 * thread + 4 + i) % kChunk];
  }
  sum = block_sum<32>(sum);
  if (thread == 0) *out = sum;
}

TEST(CudaHelpers, CopiesRunAheadOfTheArithmetic) {
  const std::vector<float> x = normal(1000, 7);
  const DeviceArray<float> in(x), out(1);
  launch(cuda(), "pipeline", {.grid = 1, .block = 32, .shared_bytes = 3 * 128 * sizeof(float)},
         pipeline_kernel, in.data(), 1000, out.data());
  double sum = 0;
  for (const float value : x) sum += value;
  EXPECT_NEAR(out.values()[0], sum, 1e-3);
}

// --- Elements

template <typename T>
__global__ void convert_kernel(const float* x, T* stored, float* loaded) {
  float values[8];
  load_8(x + 8 * threadIdx.x, values);
  store_8(stored + 8 * threadIdx.x, values);
  load_8(stored + 8 * threadIdx.x, values);
  store_8(loaded + 8 * threadIdx.x, values);
  for (int i = 0; i < 8; ++i) {
    // The same one at a time.
    store_f32(stored + 8 * threadIdx.x + i, x[8 * threadIdx.x + i]);
    if (load_f32(stored + 8 * threadIdx.x + i) != loaded[8 * threadIdx.x + i])
      loaded[8 * threadIdx.x + i] = NAN;
  }
}

TEST(CudaHelpers, ElementsRoundToNearestEven) {
  std::vector<float> x = normal(8 * 32, 8);
  // Ties, subnormals and the largest values.
  const float special[] = {1.00390625F, 1.01171875F, -1.00390625F, 1e-40F, -6e-8F, 65504.0F, 65519.0F, 0.0F};
  std::copy(std::begin(special), std::end(special), x.begin());
  const DeviceArray<float> in(x), loaded(x.size());
  const DeviceArray<BFloat16> bf16(x.size());
  launch(cuda(), "convert", {.grid = 1, .block = 32}, convert_kernel<BFloat16>, in.data(), bf16.data(),
         loaded.data());
  std::vector<float> got = loaded.values();
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(got[i], bf16_to_f32(f32_to_bf16(x[i]))) << x[i];
  const DeviceArray<Half> f16(x.size());
  launch(cuda(), "convert", {.grid = 1, .block = 32}, convert_kernel<Half>, in.data(), f16.data(),
         loaded.data());
  got = loaded.values();
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(got[i], f16_to_f32(f32_to_f16(x[i]))) << x[i];
}

__global__ void arithmetic_kernel(float* out, int* integers, uint64_t* whole) {
  out[0] = exp2_approx(-3.5F);
  out[1] = log2_approx(10.0F);
  out[2] = exp2_approx(-200.0F);
  out[3] = rsqrtf(3.0F);
  integers[0] = static_cast<int>(__byte_perm(0x33221100, 0x77665544, 0x7250));
  integers[1] = static_cast<int>(__umulhi(0x80000000U, 6));
  integers[2] = __float2int_rn(2.5F) + 10 * __float2int_rn(-3.5F);
  integers[3] = static_cast<int>(__vsub4(0x00FF1080, 0x01FE1101));
  const char* source = reinterpret_cast<const char*>(integers);
  integers[4] = static_cast<int>(load_once_4(source));
  grid_dependency_wait();
  store_relaxed(whole + 1, load_relaxed(whole) + 1);
  grid_dependency_launch();
}

TEST(CudaHelpers, Arithmetic) {
  const DeviceArray<float> out(4);
  const DeviceArray<int> integers(5);
  const DeviceArray<uint64_t> numbers(std::vector<uint64_t>{0xFFFFFFFF, 0});
  launch(cuda(), "arithmetic", {.grid = 1, .block = 1, .overlap = Overlap::kWithPrevious}, arithmetic_kernel,
         out.data(), integers.data(), numbers.data());
  const std::vector<float> got = out.values();
  EXPECT_NEAR(got[0], std::exp2(-3.5), 1e-7);
  EXPECT_NEAR(got[1], std::log2(10.0), 2e-6);
  EXPECT_EQ(got[2], 0.0F);
  EXPECT_NEAR(got[3], 1 / std::sqrt(3.0), 1e-7);
  const std::vector<int> whole = integers.values();
  EXPECT_EQ(whole[0], 0x77225500);
  EXPECT_EQ(whole[1], 3);
  EXPECT_EQ(whole[2], 2 - 40);
  EXPECT_EQ(static_cast<unsigned>(whole[3]), 0xFF01FF7FU);
  EXPECT_EQ(numbers.values()[1], uint64_t{1} << 32);
}

}  // namespace
}  // namespace onggi
