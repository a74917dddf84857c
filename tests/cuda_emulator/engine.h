// Runs the blocks of a kernel one after another, the threads of a block as fibers that give way to each other
// where they wait: at barriers and at what the lanes of a warp do together. What cannot go on (a barrier that
// not all threads reach, lanes of a mask that do something else) ends the kernel with a description.
//
// Blocks run their threads in ascending order, then in descending order, in turns: a missing barrier shows in
// one of the two.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>

namespace onggi::emulator {

inline constexpr int kLanes = 32;

// What a lane brings to an operation of its warp, and takes from it.
struct LaneData {
  uint32_t in[10];
  uint32_t out[4];
  const void* address;
};

// Fills `out` of the lanes of `mask` once all have come. lanes[i] is lane i of the warp.
using WarpOperation = void (*)(LaneData* const* lanes, unsigned mask);

// The calling lane's data, to be filled in before warp_operation().
LaneData& lane_data();
// Waits for all lanes of `mask`, which must come with the same operation and mask; the last one runs it.
// `name` is for messages.
void warp_operation(const char* name, unsigned mask, WarpOperation operation);

// bar.sync; id 0 with all threads of the block is __syncthreads(). Returns the sum of `predicate` over them.
int block_barrier(const char* name, int id, int threads, int predicate);
int threads_of_block();
// The calling thread's lane in its warp.
int lane_of_thread();

// Gives way until another thread calls wake_waiting() with the same address (a barrier in shared memory).
void wait_at(const char* name, const void* address);
void wake_waiting(const void* address);

// cp.async: the destination is unreadable (0xFF) until the wait; then it holds what the source had.
void queue_copy(void* to, const void* from, int bytes, int source_bytes);
void commit_copies();
void wait_for_copies(int pending_groups);

std::byte* dynamic_shared_memory();

// Ends the kernel with an error that names block and thread.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
// Fails unless the address is a multiple of `alignment`.
inline void expect_aligned(const void* address, size_t alignment, const char* operation) {
  if (reinterpret_cast<uintptr_t>(address) % alignment != 0)
    fail("%s of the address %p, which is not a multiple of %zu", operation, address, alignment);
}

// Runs `thread` once for every thread of the grid, at once or, where the stream is captured, when its graph
// is launched.
cudaError_t run_grid(const cudaLaunchConfig_t& config, const void* kernel,
                     const std::function<void()>& thread);

// ONGGI_EMULATED_HOPPER=1 in the environment: the device says that it is an H100 (compute capability 9.0),
// and its kernels run. Else it is an A100.
bool emulated_hopper();
// Bytes of shared memory that a block can have.
size_t most_shared_memory();

// When the work of streams that are made from now on is done: as soon as it is queued, or as late as can be,
// when the host waits for it or another stream's work comes after it. Where streams lack an order that they
// need, one of the two shows it.
enum class StreamPace { kAtOnce, kLate };
void set_stream_pace(StreamPace pace);

// Of runtime.cc: does the work now or keeps it for the graph that is captured; what cudaGetErrorString tells;
// whether device memory's guards are whole ("" if so).
cudaError_t enqueue(cudaStream_t stream, std::function<cudaError_t()> work);
void set_failure(const char* description);
const char* damaged_memory();
size_t allowed_shared_memory(const void* kernel);

}  // namespace onggi::emulator
