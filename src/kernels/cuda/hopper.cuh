// The PTX that only Hopper has (sm_90a): products by warpgroups of 4 warps from shared memory (wgmma), copies
// of boxes of tensors (TMA) and the barriers on which they end; after NVIDIA's "Parallel Thread Execution
// ISA". For files named *_sm90.cu. tests/cuda_emulator has its twin.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tensor_map.h"

namespace onggi {

// --- Barriers in shared memory (mbarrier): a phase ends when `count` arrivals and all announced bytes have
// come. The first phase has parity 0.
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
               : "memory");
}
// Makes the initialised barriers known to the copy engine; then a __syncthreads().
__device__ __forceinline__ void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async;" ::: "memory");
}
__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives and announces bytes that copies will bring.
__device__ __forceinline__ void mbarrier_arrive_expecting(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
// Waits for the end of the phase of this parity: returns at once when the current phase has the other.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// --- Copies by the copy engine (TMA)
// One thread: the box of columns column .. + 63 and rows row .. of a head; its bytes count on `barrier`. map
// lies in a __grid_constant__ parameter.
__device__ __forceinline__ void copy_box(void* shared, const TensorMap* map, int column, int head, int row,
                                         uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(head), "r"(row)
      : "memory");
}

// One thread: `bytes` that lie together; both addresses and bytes are multiples of 16.
__device__ __forceinline__ void copy_bytes(void* shared, const void* global, int bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

// --- Products of a warpgroup
// Operands in shared memory lie as copy_box leaves them. A descriptor names where the first element is, and:
//   by rows:    the operand's m or n are the rows, k the columns, 16 at a time from a multiple of 16 on;
//   by columns: n are the columns (64 of each box, `box_bytes` apart), k the rows, 16 at a time.
__device__ __forceinline__ uint64_t wgmma_by_rows(const void* shared) {
  constexpr uint64_t kEightRows = 1024 >> 4, kSwapped128 = uint64_t{1} << 62;
  return kSwapped128 | kEightRows << 32 | uint64_t{1} << 16 |
         static_cast<uint64_t>(shared_address(shared) >> 4);
}
__device__ __forceinline__ uint64_t wgmma_by_columns(const void* shared, int box_bytes) {
  constexpr uint64_t kEightRows = 1024 >> 4, kSwapped128 = uint64_t{1} << 62;
  return kSwapped128 | kEightRows << 32 | static_cast<uint64_t>(box_bytes >> 4) << 16 |
         static_cast<uint64_t>(shared_address(shared) >> 4);
}

// Before a warpgroup's first product, and before one whose registers were written otherwise.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// The products since the last commit become a group.
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most kPending groups are under way.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving uses of these registers to the other side of a wait or fence.
template <int kBlocks>
__device__ __forceinline__ void wgmma_pin(float (&d)[kBlocks][4]) {
#pragma unroll
  for (int n = 0; n < kBlocks; ++n)
    asm volatile("" : "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])::"memory");
}

__device__ __forceinline__ void wgmma_pin(uint64_t& descriptor) { asm volatile("" : "+l"(descriptor)); }

enum class Sums { kNew, kAdd };

// d [64, N] = or += A B. Warp w of the group has rows 16 w .. + 15; d[n] are columns 8 n .. + 7, each as
// mma's D (ptx.cuh), and a register operand A is mma's A of the warp's rows. A and B by rows; `by_columns`: B
// by columns.
#define ONGGI_D(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define ONGGI_D4(n) ONGGI_D(n), ONGGI_D(n + 1), ONGGI_D(n + 2), ONGGI_D(n + 3)
#define ONGGI_32_SUMS                                                                                     \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define ONGGI_40_SUMS ONGGI_32_SUMS ", %32, %33, %34, %35, %36, %37, %38, %39"
#define ONGGI_64_SUMS                                                                                      \
  ONGGI_40_SUMS                                                                                            \
  ", %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, " \
  "%60, %61, %62, %63"

__device__ __forceinline__ void wgmma(float (&d)[8][4], uint64_t a, uint64_t b, Sums sums) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " ONGGI_32_SUMS "}, %32, %33, add, 1, 1, 0, 0;\n}"
      : ONGGI_D4(0), ONGGI_D4(4)
      : "l"(a), "l"(b), "r"(sums == Sums::kAdd ? 1 : 0));
}
__device__ __forceinline__ void wgmma(float (&d)[10][4], uint64_t a, uint64_t b, Sums sums) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %42, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 " ONGGI_40_SUMS "}, %40, %41, add, 1, 1, 0, 0;\n}"
      : ONGGI_D4(0), ONGGI_D4(4), ONGGI_D(8), ONGGI_D(9)
      : "l"(a), "l"(b), "r"(sums == Sums::kAdd ? 1 : 0));
}
__device__ __forceinline__ void wgmma(float (&d)[16][4], uint64_t a, uint64_t b, Sums sums) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " ONGGI_64_SUMS
      "}, %64, %65, add, 1, 1, 0, 0;\n}"
      : ONGGI_D4(0), ONGGI_D4(4), ONGGI_D4(8), ONGGI_D4(12)
      : "l"(a), "l"(b), "r"(sums == Sums::kAdd ? 1 : 0));
}
// d += A B, A in registers, B by columns.
__device__ __forceinline__ void wgmma_add_by_columns(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " ONGGI_64_SUMS
               "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
               : ONGGI_D4(0), ONGGI_D4(4), ONGGI_D4(8), ONGGI_D4(12)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#undef ONGGI_64_SUMS
#undef ONGGI_40_SUMS
#undef ONGGI_32_SUMS
#undef ONGGI_D4
#undef ONGGI_D

// --- Registers per thread move between the warpgroups of a block: all 4 warps of a group call it.
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace onggi
