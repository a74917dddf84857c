// Products of a warpgroup whose first operand lies in registers and whose second by rows, of f16 or bf16, and
// loads from other blocks of a cluster; beside hopper.cuh. tests/cuda_emulator has its twin.
#pragma once

#include "kernels/cuda/hopper.cuh"

namespace onggi {

// d [64, 8 kBlocks] += A B, for 16, 32, 64 and 128 columns: A in registers, B by rows (hopper.cuh).
#define ONGGI_D(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define ONGGI_D4(n) ONGGI_D(n), ONGGI_D(n + 1), ONGGI_D(n + 2), ONGGI_D(n + 3)
#define ONGGI_8_SUMS "{%0, %1, %2, %3, %4, %5, %6, %7"
#define ONGGI_16_SUMS ONGGI_8_SUMS ", %8, %9, %10, %11, %12, %13, %14, %15"
#define ONGGI_32_SUMS \
  ONGGI_16_SUMS       \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define ONGGI_64_SUMS                                                                                      \
  ONGGI_32_SUMS                                                                                            \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, " \
  "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define ONGGI_WGMMA_BY_ROWS(TYPE, BLOCKS, N, SUMS, A, B, ...)                                                \
  __device__ __forceinline__ void wgmma_add_by_rows_##TYPE(float(&d)[BLOCKS][4], const uint32_t(&a)[4],      \
                                                           uint64_t b) {                                     \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #TYPE "." #TYPE " " SUMS "}, {" A "}, " B \
                 ", 1, 1, 1, 0;\n"                                                                           \
                 : __VA_ARGS__                                                                               \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                      \
  }
ONGGI_WGMMA_BY_ROWS(f16, 2, 16, ONGGI_8_SUMS, "%8, %9, %10, %11", "%12", ONGGI_D(0), ONGGI_D(1))
ONGGI_WGMMA_BY_ROWS(bf16, 2, 16, ONGGI_8_SUMS, "%8, %9, %10, %11", "%12", ONGGI_D(0), ONGGI_D(1))
ONGGI_WGMMA_BY_ROWS(f16, 4, 32, ONGGI_16_SUMS, "%16, %17, %18, %19", "%20", ONGGI_D4(0))
ONGGI_WGMMA_BY_ROWS(bf16, 4, 32, ONGGI_16_SUMS, "%16, %17, %18, %19", "%20", ONGGI_D4(0))
ONGGI_WGMMA_BY_ROWS(f16, 8, 64, ONGGI_32_SUMS, "%32, %33, %34, %35", "%36", ONGGI_D4(0), ONGGI_D4(4))
ONGGI_WGMMA_BY_ROWS(bf16, 8, 64, ONGGI_32_SUMS, "%32, %33, %34, %35", "%36", ONGGI_D4(0), ONGGI_D4(4))
ONGGI_WGMMA_BY_ROWS(f16, 16, 128, ONGGI_64_SUMS, "%64, %65, %66, %67", "%68", ONGGI_D4(0), ONGGI_D4(4),
                    ONGGI_D4(8), ONGGI_D4(12))
ONGGI_WGMMA_BY_ROWS(bf16, 16, 128, ONGGI_64_SUMS, "%64, %65, %66, %67", "%68", ONGGI_D4(0), ONGGI_D4(4),
                    ONGGI_D4(8), ONGGI_D4(12))
#undef ONGGI_WGMMA_BY_ROWS
#undef ONGGI_64_SUMS
#undef ONGGI_32_SUMS
#undef ONGGI_16_SUMS
#undef ONGGI_8_SUMS
#undef ONGGI_D4
#undef ONGGI_D

// Reads the shared memory of block `rank` of the cluster, at the address that `own` has in this block's. A
// barrier of the cluster comes before and, since that block must not have ended, after it.
__device__ __forceinline__ float cluster_load(const float* own, int rank) {
  uint32_t remote;
  float value;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(own)), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(remote) : "memory");
  return value;
}

}  // namespace onggi
