// All inline PTX of the kernels, as small functions, after NVIDIA's "Parallel Thread Execution ISA" (names of
// its instructions in the comments). Everything here compiles for sm_80.
//
// This is the one header of kernels/cuda that the tests replace (tests/cuda_emulator runs the kernels on the
// CPU): a function that is added here is added there too. Pointers are ordinary C++ pointers; those named
// `shared` must point into shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace onggi {

// The block's dynamic shared memory (LaunchShape::shared_bytes), aligned to 1024. The same bytes at each
// call.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char onggi_dynamic_shared[];
  return reinterpret_cast<T*>(onggi_dynamic_shared);
}

// An address in shared memory as a number: where an address is computed in one operation.
using SharedAddress = uint32_t;
__device__ __forceinline__ SharedAddress shared_address(const void* shared) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(shared));
}
// The aligned 32-bit word there.
__device__ __forceinline__ uint32_t load_shared(SharedAddress address) {
  uint32_t word;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(address));
  return word;
}

// --- Matrix fragments
// ----------------------------------------------------------------------------------------- Layouts, with
// group = lane / 4 and pair = lane % 4. A is [m, k] row-major, B is [k, n] "column-major" (that is W[n, k]
// row-major, as weights lie), C and D are [m, n].
//   m16n8k16, 16-bit:  a[0] = A[group][2 pair, +1]      a[1] = A[group + 8][2 pair, +1]
//                      a[2] = A[group][2 pair + 8, +9]  a[3] = A[group + 8][2 pair + 8, +9]
//                      b0 = B[2 pair, +1][group]        b1 = B[2 pair + 8, +9][group]
//   m16n8k32, 8-bit:   a[0] = A[group][4 pair .. +3]        a[1] = A[group + 8][4 pair .. +3]
//                      a[2] = A[group][4 pair + 16 .. +19]  a[3] = A[group + 8][4 pair + 16 .. +19]
//                      b0 = B[4 pair .. +3][group]          b1 = B[4 pair + 16 .. +19][group]
//   m16n8k8, tf32:     a[0] = A[group][pair]      a[1] = A[group + 8][pair]
//                      a[2] = A[group][pair + 4]  a[3] = A[group + 8][pair + 4]
//                      b0 = B[pair][group]        b1 = B[pair + 4][group]
//   C, D of all:       d[0], d[1] = D[group][2 pair, +1]    d[2], d[3] = D[group + 8][2 pair, +1]
// The lower element lies in the lower bits.

// ldmatrix: loads 8x8 matrices of 16-bit elements. Lane l gives the address of row l % 8 (16 bytes, aligned
// to 16) of matrix l / 8; out[i] of lane l = elements [l / 4][2 (l % 4), +1] of matrix i. _trans: of the
// transposed matrix. x2 reads the addresses of lanes 0 to 15 alone. All 32 lanes take part.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&out)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(shared))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&out)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(shared))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&out)[2], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(out[0]), "=r"(out[1])
               : "r"(shared_address(shared))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&out)[2], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(out[0]), "=r"(out[1])
               : "r"(shared_address(shared))
               : "memory");
}

// movmatrix: the 8x8 matrix of 16-bit elements whose elements [lane / 4][2 (lane % 4), +1] each lane holds,
// transposed. All 32 lanes take part.
__device__ __forceinline__ uint32_t movmatrix_trans(uint32_t x) {
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// mma.sync: d += A B, all 32 lanes together. Inputs bf16, sums fp32.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                  uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Inputs f16, sums fp32.
__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                 uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Inputs tf32 (f32 bits of which 10 of the mantissa count; round_to_tf32 rounds), sums fp32.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                 uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Inputs bytes, A's unsigned and B's signed; sums int32 (no saturation).
__device__ __forceinline__ void mma_m16n8k32_u8_s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                   uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// cvt.rna.tf32.f32: the nearest tf32, as f32 bits.
__device__ __forceinline__ uint32_t round_to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

// --- Copies from global to shared memory beside the arithmetic
// ------------------------------------------------- cp.async.cg: 16 bytes, both addresses aligned to 16. The
// first `source_bytes` (0 to 16) are read, the rest of the 16 becomes zero; with 0 the source is not touched
// (it must still be a valid pointer value).
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, int source_bytes = 16) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(source_bytes)
               : "memory");
}
// Brings the line of the address into L2.
__device__ __forceinline__ void prefetch_l2(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}
// cp.async.ca: 4 bytes, both addresses aligned to 4.
__device__ __forceinline__ void cp_async_4(void* shared, const void* global, int source_bytes = 4) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(source_bytes)
               : "memory");
}
// The copies of this thread since the last commit become a group.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kPending of this thread's youngest groups are on their way. What the other threads
// copied is there after their wait and a __syncthreads().
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// --- Arithmetic
// ---------------------------------------------------------------------------------------------- 2^x, about 2
// ulp; flushes subnormals (ex2.approx.ftz).
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// log2 x, absolute error about 2^-22 (lg2.approx.ftz).
__device__ __forceinline__ float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// (a & b) | c in one operation (lop3.b32); the compiler makes two of it where b and c are constants.
__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// --- Loads that leave no trace
// --------------------------------------------------------------------------------- For data that is read
// once, such as weights while decoding: not kept in L1. Not for data that the same kernel writes. Aligned to
// their size.
__device__ __forceinline__ uint32_t load_once_4(const void* global) {
  uint32_t v;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(global));
  return v;
}

// --- Order
// -----------------------------------------------------------------------------------------------------
// bar.sync: a barrier of `threads` threads of the block (a multiple of 32), whole warps. Barrier 0 is
// __syncthreads(); id is 1 to 15.
__device__ __forceinline__ void barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// A number that other blocks read and write at the same time, whole and as it is in memory (ld.relaxed.gpu,
// st.relaxed.gpu): nothing is said of what else the other block has written.
__device__ __forceinline__ uint64_t load_relaxed(const uint64_t* global) {
  uint64_t value;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(global) : "memory");
  return value;
}
__device__ __forceinline__ void store_relaxed(uint64_t* global, uint64_t value) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(global), "l"(value) : "memory");
}
// Programmatic dependent launch (LaunchShape::overlap = Overlap::kWithPrevious): wait until the kernels
// queued before are done and their writes seen; before it, nothing that they write may be read. Every kernel
// that is launched with the overlap must wait. Nothing happens below sm_90, where kernels do not overlap.
__device__ __forceinline__ void grid_dependency_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel of the stream may start its prologue once every block has come here or ended.
__device__ __forceinline__ void grid_dependency_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// --- Blocks of a cluster (LaunchShape::cluster_y), which run side by side. sm_90 alone; below it nothing may
// call these.
// A barrier of all threads of the cluster, in two parts: what was written before one's arrival, to one's own
// and to others' shared memory, is seen by all after the wait.
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
// Writes to the shared memory of block `rank` of the cluster, at the address that `own` has in this block's.
// That block must have started: a barrier of the cluster comes before.
__device__ __forceinline__ void cluster_store(float* own, int rank, float value) {
#if __CUDA_ARCH__ >= 900
  uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(own)), "r"(rank));
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(remote), "f"(value) : "memory");
#endif
}

}  // namespace onggi
