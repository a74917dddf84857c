#include "kernels/cuda/matmul.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <memory>
#include <string>
#include <type_traits>

#include "base/error.h"
#include "base/text.h"

namespace onggi {
namespace {

// NVIDIA's advice for Hopper is 32 MiB; older cards need less.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
// Passes of ever new lengths make ever new plans; a full cache starts again.
constexpr size_t kMaxPlans = 4096;
// The largest alignment that cuBLASLt distinguishes.
constexpr uint64_t kMaxAlignment = 256;

std::string describe(const MatmulArgs& args) {
  return fmt::format("{} x {} x {} ({} x {} -> {})", args.m, args.n, args.k, dtype_name(args.a.dtype),
                     dtype_name(args.b.dtype), dtype_name(args.d_dtype));
}

void check_cublas(cublasStatus_t status, const char* call, const MatmulArgs& args) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw MachineError(text("The GPU's matrix product {} failed: {} reports {}.", describe(args), call,
                          cublasLtGetStatusName(status)));
}

cudaDataType_t cuda_type(DType dtype) {
  ONGGI_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, std::string(dtype_name(dtype)));
  return dtype == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
}

uint32_t alignment_of(const void* data) {
  const uint64_t address = reinterpret_cast<uint64_t>(data) | kMaxAlignment;
  return uint32_t{1} << std::countr_zero(address);
}

template <auto kDestroy>
struct Destroy {
  template <typename T>
  void operator()(T* handle) const {
    kDestroy(handle);
  }
};
template <typename Handle, auto kDestroy>
using Owner = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<kDestroy>>;
using Product = Owner<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owner<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owner<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

// cuBLASLt counts in columns: the row-major d = op(a) op(b) is the column-major d^T = op(b)^T op(a)^T, whose
// first factor is b. Its names below ("A" is b, "B" is a) are cuBLASLt's.
class Plan {
 public:
  Plan(cublasLtHandle_t handle, const MatmulArgs& args) {
    cublasLtMatmulDesc_t product = nullptr;
    check_cublas(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                 "cublasLtMatmulDescCreate", args);
    product_.reset(product);
    set_transpose(CUBLASLT_MATMUL_DESC_TRANSA, args.transpose_b, args);
    set_transpose(CUBLASLT_MATMUL_DESC_TRANSB, args.transpose_a, args);
    const bool a_turned = args.transpose_a == Transpose::kYes, b_turned = args.transpose_b == Transpose::kYes;
    describe_matrix(a_, args.b, b_turned ? args.k : args.n, b_turned ? args.n : args.k, args);
    describe_matrix(b_, args.a, a_turned ? args.m : args.k, a_turned ? args.k : args.m, args);
    const MatrixView d{args.d, args.d_dtype, args.d_stride};
    describe_matrix(c_, args.beta == 0 ? d : args.c, args.n, args.m, args);
    describe_matrix(d_, d, args.n, args.m, args);
    choose(handle, args);
  }

  void run(cublasLtHandle_t handle, void* workspace, cudaStream_t stream, const MatmulArgs& args) const {
    const void* c = args.beta == 0 ? args.d : args.c.data;
    check_cublas(cublasLtMatmul(handle, product_.get(), &args.alpha, args.b.data, a_.get(), args.a.data,
                                b_.get(), &args.beta, c, c_.get(), args.d, d_.get(), &algorithm_, workspace,
                                kWorkspaceBytes, stream),
                 "cublasLtMatmul", args);
  }

 private:
  void set_transpose(cublasLtMatmulDescAttributes_t attribute, Transpose transpose, const MatmulArgs& args) {
    const cublasOperation_t operation = transpose == Transpose::kYes ? CUBLAS_OP_T : CUBLAS_OP_N;
    check_cublas(cublasLtMatmulDescSetAttribute(product_.get(), attribute, &operation, sizeof operation),
                 "cublasLtMatmulDescSetAttribute", args);
  }

  // Column-major [rows, columns].
  static void describe_matrix(Layout& owner, const MatrixView& matrix, int64_t rows, int64_t columns,
                              const MatmulArgs& args) {
    ONGGI_CHECK(matrix.stride >= rows, describe(args));
    cublasLtMatrixLayout_t layout = nullptr;
    check_cublas(cublasLtMatrixLayoutCreate(&layout, cuda_type(matrix.dtype), static_cast<uint64_t>(rows),
                                            static_cast<uint64_t>(columns), matrix.stride),
                 "cublasLtMatrixLayoutCreate", args);
    owner.reset(layout);
  }

  void choose(cublasLtHandle_t handle, const MatmulArgs& args) {
    cublasLtMatmulPreference_t preference = nullptr;
    check_cublas(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate", args);
    const Preference owner(preference);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      check_cublas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
                   "cublasLtMatmulPreferenceSetAttribute", args);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(args.b.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(args.a.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(args.beta == 0 ? args.d : args.c.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(args.d));
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, product_.get(), a_.get(), b_.get(), c_.get(), d_.get(), preference, 1, &result, &found);
    check_cublas(status == CUBLAS_STATUS_SUCCESS && found == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : status,
                 "cublasLtMatmulAlgoGetHeuristic", args);
    algorithm_ = result.algo;
  }

  Product product_;
  Layout a_, b_, c_, d_;
  cublasLtMatmulAlgo_t algorithm_{};
};

// Everything that the choice of an algorithm depends on.
using PlanKey = std::array<int64_t, 14>;
PlanKey key_of(const MatmulArgs& args) {
  const auto number = [](auto value) { return static_cast<int64_t>(value); };
  const bool reads_c = args.beta != 0;
  return {args.m, args.n, args.k, number(args.transpose_a) * 2 + number(args.transpose_b),
          number(args.a.dtype) * kDTypeCount + number(args.d_dtype), args.a.stride, args.b.stride,
          args.d_stride, reads_c ? args.c.stride : -1,
          // In place and out of place may differ.
          reads_c && args.c.data == args.d, alignment_of(args.a.data), alignment_of(args.b.data),
          reads_c ? alignment_of(args.c.data) : 0, alignment_of(args.d)};
}

class Products {
 public:
  Products(CudaStream& stream, const MatmulArgs& args) : workspace_(stream.allocate(kWorkspaceBytes)) {
    cublasLtHandle_t handle = nullptr;
    check_cublas(cublasLtCreate(&handle), "cublasLtCreate", args);
    handle_.reset(handle);
  }

  void run(cudaStream_t stream, const MatmulArgs& args) {
    const PlanKey key = key_of(args);
    auto found = plans_.find(key);
    if (found == plans_.end()) {
      if (plans_.size() >= kMaxPlans) plans_.clear();
      found = plans_.emplace(key, std::make_unique<Plan>(handle_.get(), args)).first;
    }
    found->second->run(handle_.get(), workspace_.data(), stream, args);
  }

 private:
  Buffer workspace_;
  Owner<cublasLtHandle_t, cublasLtDestroy> handle_;
  std::map<PlanKey, std::unique_ptr<Plan>> plans_;
};

}  // namespace

void matmul(CudaStream& stream, const MatmulArgs& args) {
  if (args.m == 0 || args.n == 0) return;
  ONGGI_CHECK(args.k > 0 && args.a.dtype == args.b.dtype, describe(args));
  ONGGI_CHECK(args.beta == 0 || args.c.dtype == args.d_dtype, describe(args));
  stream.activate();
  stream.note_op("matmul");
  auto& products = stream.attachment<Products>([&] { return std::make_shared<Products>(stream, args); });
  products.run(stream.handle(), args);
}

}  // namespace onggi
