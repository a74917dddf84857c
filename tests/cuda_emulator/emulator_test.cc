// What the emulator finds: bugs that would hang, corrupt memory or read too early on a GPU. That it computes
// what a GPU computes is in tests/kernels_cuda, which runs on both.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "device/cuda_stream.h"
#include "kernels/cuda/launch.cuh"
#include "tests/cuda_emulator/engine.h"

namespace onggi {
namespace {

using testing::HasSubstr;

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const MachineError& error) {
    return error.what();
  }
  return "no error";
}

__global__ void barrier_by_some() {
  if (threadIdx.x < 40) __syncthreads();
}
__global__ void exchange_by_some(int* out) {
  if (threadIdx.x % 32 != 5) out[threadIdx.x] = __shfl_xor_sync(kAllLanes, static_cast<int>(threadIdx.x), 1);
}
__global__ void mixed_operations(int* out) {
  if (threadIdx.x < 16) {
    out[threadIdx.x] = __any_sync(kAllLanes, 1);
  } else {
    __syncwarp();
  }
}

TEST(Emulator, ABarrierThatNotAllThreadsReachIsAnError) {
  CudaStream stream(0);
  const std::string error =
      error_of([&] { launch(stream, "some", {.grid = dim3(2, 1, 1), .block = 64}, barrier_by_some); });
  EXPECT_THAT(error, HasSubstr("some (grid 2 x 1 x 1, block 64 x 1 x 1"));
  EXPECT_THAT(error, HasSubstr("block (0, 0, 0)"));
  EXPECT_THAT(error, HasSubstr("40 wait at __syncthreads (the first is thread (0, 0, 0))"));
  EXPECT_THAT(error, HasSubstr("24 ended (the first is thread (40, 0, 0))"));
}

TEST(Emulator, LanesOfAMaskThatDoNotComeAreAnError) {
  CudaStream stream(0);
  const Buffer out = stream.allocate(64 * sizeof(int));
  const std::string error =
      error_of([&] { launch(stream, "some", {.grid = 1, .block = 64}, exchange_by_some, out.as<int>()); });
  EXPECT_THAT(error, HasSubstr("wait at __shfl_xor_sync with mask ffffffff"));
  EXPECT_THAT(error, HasSubstr("2 ended (the first is thread (5, 0, 0))"));
  EXPECT_THAT(
      error_of([&] { launch(stream, "mixed", {.grid = 1, .block = 32}, mixed_operations, out.as<int>()); }),
      HasSubstr("16 wait at __any_sync with mask ffffffff"));
}

__global__ void write_at(char* out, int64_t offset) { out[offset] = 1; }
__global__ void write_shared_at(int offset) { dynamic_shared<char>()[offset] = 1; }

TEST(Emulator, WritingBesideMemoryIsAnError) {
  CudaStream stream(0);
  const Buffer out = stream.allocate(1024);
  const auto error = [&](int64_t offset) {
    return error_of(
        [&] { launch(stream, "write", {.grid = 1, .block = 1}, write_at, out.as<char>(), offset); });
  };
  EXPECT_EQ(error(1023), "no error");
  EXPECT_THAT(error(1024), HasSubstr("wrote behind device memory of 1024 bytes"));
  EXPECT_THAT(error(-1), HasSubstr("wrote before device memory of 1024 bytes"));
  const auto shared_error = [&](int offset) {
    return error_of([&] {
      launch(stream, "shared", {.grid = 1, .block = 1, .shared_bytes = 64}, write_shared_at, offset);
    });
  };
  EXPECT_EQ(shared_error(63), "no error");
  EXPECT_THAT(shared_error(64), HasSubstr("wrote behind the dynamic shared memory of 64 bytes"));
}

// Thread t reads what its neighbour has written, without a barrier between.
__global__ void missing_barrier(int step, int* out) {
  int* shared = dynamic_shared<int>();
  const int thread = static_cast<int>(threadIdx.x), count = static_cast<int>(blockDim.x);
  shared[thread] = thread;
  out[blockIdx.x * blockDim.x + threadIdx.x] = shared[(thread + step + count) % count];
}

TEST(Emulator, AMissingBarrierShowsInOneOfTwoBlocks) {
  CudaStream stream(0);
  const Buffer out = stream.allocate(128 * sizeof(int));
  for (const int step : {1, -1}) {
    launch(stream, "missing", {.grid = 2, .block = 64, .shared_bytes = 256}, missing_barrier, step,
           out.as<int>());
    std::vector<int> values(128);
    stream.copy_out(values.data(), out.data(), out.bytes());
    int wrong = 0;
    for (int i = 0; i < 128; ++i) wrong += values[static_cast<size_t>(i)] != (i % 64 + step + 64) % 64;
    EXPECT_GT(wrong, 30) << step;
  }
}

__global__ void read_too_early(const int* in, int* out) {
  int* shared = dynamic_shared<int>();
  cp_async_16(shared + 4 * threadIdx.x, in + 4 * threadIdx.x);
  cp_async_commit();
  out[threadIdx.x] = shared[4 * threadIdx.x];
  cp_async_wait<0>();
  out[32 + threadIdx.x] = shared[4 * threadIdx.x];
}

TEST(Emulator, ACopyIsThereAfterItsWaitAlone) {
  CudaStream stream(0);
  const std::vector<int> values(128, 7);
  const Buffer in = stream.allocate(512), out = stream.allocate(256);
  stream.copy_in(in.data(), values.data(), 512);
  launch(stream, "early", {.grid = 1, .block = 32, .shared_bytes = 512}, read_too_early, in.as<int>(),
         out.as<int>());
  std::vector<int> seen(64);
  stream.copy_out(seen.data(), out.data(), 256);
  EXPECT_EQ(seen[3], -1);
  EXPECT_EQ(seen[35], 7);
}

__global__ void misaligned_copy(const char* in) { cp_async_16(dynamic_shared<char>(), in + 8); }
__global__ void nothing() {}

// Work that nobody has waited for is not done yet: so tests see which order the streams' events make.
TEST(Emulator, LateStreamsDoTheirWorkWhenItIsWaitedFor) {
  emulator::set_stream_pace(emulator::StreamPace::kLate);
  cudaStream_t first = nullptr, second = nullptr;
  cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking);
  cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
  emulator::set_stream_pace(emulator::StreamPace::kAtOnce);
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  char memory[] = "....";
  cudaMemsetAsync(memory, 'a', 1, first);
  cudaEventRecord(event, first);
  cudaMemsetAsync(memory + 1, 'b', 1, first);
  cudaStreamWaitEvent(second, event, 0);
  cudaMemcpyAsync(memory + 2, memory, 2, cudaMemcpyDefault, second);
  EXPECT_STREQ(memory, "....");
  EXPECT_EQ(cudaStreamSynchronize(second), cudaSuccess);
  EXPECT_STREQ(memory, "a.a.");  // what was behind the event still waits
  EXPECT_EQ(cudaStreamSynchronize(first), cudaSuccess);
  EXPECT_STREQ(memory, "aba.");
  cudaEventDestroy(event);
  cudaStreamDestroy(first);
  cudaStreamDestroy(second);
}

// The copies of a prefetch come after the work that may still read the buffer and before the work that uses
// it, whichever of the two streams is behind.
TEST(Emulator, PrefetchesAreInOrderWhicheverStreamIsLate) {
  using emulator::StreamPace;
  for (const auto& [compute, copies] :
       {std::pair{StreamPace::kLate, StreamPace::kAtOnce}, {StreamPace::kAtOnce, StreamPace::kLate}}) {
    emulator::set_stream_pace(compute);
    CudaStream stream(0);
    emulator::set_stream_pace(copies);
    const auto buffer = stream.make_prefetch_buffer(4);
    emulator::set_stream_pace(StreamPace::kAtOnce);
    const Buffer host = stream.allocate_host(8), seen = stream.allocate(8);
    std::copy_n("oldnnewn", 8, host.as<char>());
    for (size_t i = 0; i < 8; i += 4) {
      buffer->fetch(host.as<char>() + i, 4);
      buffer->use();
      stream.copy(seen.as<char>() + i, buffer->data(), 4);
    }
    std::string got(8, '.');
    stream.copy_out(got.data(), seen.data(), 8);
    EXPECT_EQ(got, "oldnnewn");
  }
}

TEST(Emulator, RefusesWhatTheHardwareRefuses) {
  CudaStream stream(0);
  const Buffer in = stream.allocate(64);
  EXPECT_THAT(error_of([&] {
                launch(stream, "copy", {.grid = 1, .block = 1, .shared_bytes = 16}, misaligned_copy,
                       in.as<char>());
              }),
              HasSubstr("not a multiple of 16"));
  EXPECT_THAT(error_of([&] { launch(stream, "large", {.grid = 1, .block = 1025}, nothing); }),
              HasSubstr("cudaErrorInvalidConfiguration"));
  EXPECT_THROW(launch(stream, "shared", {.grid = 1, .block = 1, .shared_bytes = 200 * 1024}, nothing),
               InternalError);
  launch(stream, "shared", {.grid = 1, .block = 1, .shared_bytes = 160 * 1024}, nothing);
}

__global__ void __launch_bounds__(256) many_barriers(int* out) {
  int value = 0;
  for (int i = 0; i < 100; ++i) {
    ++value;
    __syncthreads();
  }
  out[threadIdx.x] = value;
}

TEST(Emulator, IsFastEnoughForEveryKernel) {
  CudaStream stream(0);
  const Buffer out = stream.allocate(256 * sizeof(int));
  constexpr int kBlocks = 20;
  // Of this process: other work of the machine does not count.
  const std::clock_t start = std::clock();
  launch(stream, "barriers", {.grid = kBlocks, .block = 256}, many_barriers, out.as<int>());
  const double milliseconds = 1e3 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  // About 0.3 ms a block; sanitizers are given room.
  EXPECT_LT(milliseconds / kBlocks, 10.0);
}

}  // namespace
}  // namespace onggi
