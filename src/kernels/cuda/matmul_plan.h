// A matrix product as cuBLASLt wants it described. For matmul.cc and what it is made of alone.
#pragma once

#include <cublasLt.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cuda/matmul.h"

namespace onggi {

// NVIDIA's advice for Hopper is 32 MiB; older cards need less.
inline constexpr size_t kMatmulWorkspaceBytes = size_t{32} << 20;

std::string describe(const MatmulArgs& args);
void check_cublas(cublasStatus_t status, const char* call, const MatmulArgs& args);
// The largest power of two, up to the largest alignment that cuBLASLt distinguishes, that divides an address.
uint32_t matmul_alignment(const void* data);

template <auto kDestroy>
struct DestroyCublas {
  template <typename T>
  void operator()(T* handle) const {
    kDestroy(handle);
  }
};
template <typename Handle, auto kDestroy>
using CublasOwner = std::unique_ptr<std::remove_pointer_t<Handle>, DestroyCublas<kDestroy>>;

struct MatmulAlgorithm {
  cublasLtMatmulAlgo_t algorithm{};
  size_t workspace_bytes = 0;

  // What tells algorithms apart: kernel, tile, stages, cluster and options.
  std::array<int64_t, 6> configuration() const;
};

class MatmulPlan {
 public:
  explicit MatmulPlan(const MatmulArgs& args);

  // cuBLASLt's choices, the likeliest to be fast first; at least one, at most `most`. Sums over k are never
  // split.
  std::vector<MatmulAlgorithm> algorithms(cublasLtHandle_t handle, int most, const MatmulArgs& args) const;
  // Whether an algorithm that was chosen for another m serves here, without a workspace.
  bool takes(cublasLtHandle_t handle, const MatmulAlgorithm& algorithm) const;
  void run(cublasLtHandle_t handle, const MatmulAlgorithm& algorithm, void* workspace, cudaStream_t stream,
           const MatmulArgs& args) const;

 private:
  using Product = CublasOwner<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
  using Layout = CublasOwner<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
  void set_transpose(cublasLtMatmulDescAttributes_t attribute, Transpose transpose, const MatmulArgs& args);
  static void describe_matrix(Layout& owner, const MatrixView& matrix, int64_t rows, int64_t columns,
                              const MatmulArgs& args);

  Product product_;
  Layout a_, b_, c_, d_;
};

}  // namespace onggi
