#include "kernels/cuda/matmul_plan.h"

#include <bit>

#include "base/error.h"
#include "base/text.h"

namespace onggi {
namespace {

constexpr uint64_t kMaxAlignment = 256;

cudaDataType_t cuda_type(DType dtype) {
  ONGGI_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, std::string(dtype_name(dtype)));
  return dtype == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
}

}  // namespace

std::string describe(const MatmulArgs& args) {
  return fmt::format("{} x {} x {} ({} x {} -> {})", args.m, args.n, args.k, dtype_name(args.a.dtype),
                     dtype_name(args.b.dtype), dtype_name(args.d_dtype));
}

void check_cublas(cublasStatus_t status, const char* call, const MatmulArgs& args) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw MachineError(text("The GPU's matrix product {} failed: {} reports {}.", describe(args), call,
                          cublasLtGetStatusName(status)));
}

uint32_t matmul_alignment(const void* data) {
  const uint64_t address = reinterpret_cast<uint64_t>(data) | kMaxAlignment;
  return uint32_t{1} << std::countr_zero(address);
}

std::array<int64_t, 6> MatmulAlgorithm::configuration() const {
  // cuBLASLt's attributes have 16 or 32 bits; an unknown one stays zero.
  const auto read = [this](cublasLtMatmulAlgoConfigAttributes_t attribute, auto value) {
    size_t written = 0;
    cublasLtMatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof value, &written);
    return static_cast<int64_t>(value);
  };
  return {read(CUBLASLT_ALGO_CONFIG_ID, int32_t{0}),
          read(CUBLASLT_ALGO_CONFIG_TILE_ID, uint32_t{0}),
          read(CUBLASLT_ALGO_CONFIG_STAGES_ID, uint32_t{0}),
          read(CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, uint16_t{0}),
          read(CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, uint32_t{0}),
          read(CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, uint32_t{0})};
}

// cuBLASLt counts in columns: the row-major d = op(a) op(b) is the column-major d^T = op(b)^T op(a)^T, whose
// first factor is b. Its names ("A" is b, "B" is a) are cuBLASLt's from here on.
MatmulPlan::MatmulPlan(const MatmulArgs& args) {
  cublasLtMatmulDesc_t product = nullptr;
  check_cublas(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate",
               args);
  product_.reset(product);
  set_transpose(CUBLASLT_MATMUL_DESC_TRANSA, args.transpose_b, args);
  set_transpose(CUBLASLT_MATMUL_DESC_TRANSB, args.transpose_a, args);
  const bool a_turned = args.transpose_a == Transpose::kYes, b_turned = args.transpose_b == Transpose::kYes;
  describe_matrix(a_, args.b, b_turned ? args.k : args.n, b_turned ? args.n : args.k, args);
  describe_matrix(b_, args.a, a_turned ? args.m : args.k, a_turned ? args.k : args.m, args);
  const MatrixView d{args.d, args.d_dtype, args.d_stride};
  describe_matrix(c_, args.beta == 0 ? d : args.c, args.n, args.m, args);
  describe_matrix(d_, d, args.n, args.m, args);
}

void MatmulPlan::set_transpose(cublasLtMatmulDescAttributes_t attribute, Transpose transpose,
                               const MatmulArgs& args) {
  const cublasOperation_t operation = transpose == Transpose::kYes ? CUBLAS_OP_T : CUBLAS_OP_N;
  check_cublas(cublasLtMatmulDescSetAttribute(product_.get(), attribute, &operation, sizeof operation),
               "cublasLtMatmulDescSetAttribute", args);
}

// Column-major [rows, columns].
void MatmulPlan::describe_matrix(Layout& owner, const MatrixView& matrix, int64_t rows, int64_t columns,
                                 const MatmulArgs& args) {
  ONGGI_CHECK(matrix.stride >= rows, describe(args));
  cublasLtMatrixLayout_t layout = nullptr;
  check_cublas(cublasLtMatrixLayoutCreate(&layout, cuda_type(matrix.dtype), static_cast<uint64_t>(rows),
                                          static_cast<uint64_t>(columns), matrix.stride),
               "cublasLtMatrixLayoutCreate", args);
  owner.reset(layout);
}

std::vector<MatmulAlgorithm> MatmulPlan::algorithms(cublasLtHandle_t handle, int most,
                                                    const MatmulArgs& args) const {
  cublasLtMatmulPreference_t preference = nullptr;
  check_cublas(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate", args);
  const CublasOwner<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> owner(preference);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check_cublas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
                 "cublasLtMatmulPreferenceSetAttribute", args);
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kMatmulWorkspaceBytes});
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE});
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, matmul_alignment(args.b.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, matmul_alignment(args.a.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, matmul_alignment(args.beta == 0 ? args.d : args.c.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, matmul_alignment(args.d));
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<size_t>(most));
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, product_.get(), a_.get(), b_.get(), c_.get(), d_.get(),
                                     preference, most, results.data(), &found);
  check_cublas(status == CUBLAS_STATUS_SUCCESS && found == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : status,
               "cublasLtMatmulAlgoGetHeuristic", args);
  std::vector<MatmulAlgorithm> algorithms;
  for (int i = 0; i < found; ++i) {
    const cublasLtMatmulHeuristicResult_t& result = results[static_cast<size_t>(i)];
    algorithms.push_back({result.algo, result.workspaceSize});
  }
  return algorithms;
}

bool MatmulPlan::takes(cublasLtHandle_t handle, const MatmulAlgorithm& algorithm) const {
  cublasLtMatmulHeuristicResult_t result{};
  return cublasLtMatmulAlgoCheck(handle, product_.get(), a_.get(), b_.get(), c_.get(), d_.get(),
                                 &algorithm.algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
         result.state == CUBLAS_STATUS_SUCCESS && result.workspaceSize == 0;
}

void MatmulPlan::run(cublasLtHandle_t handle, const MatmulAlgorithm& algorithm, void* workspace,
                     cudaStream_t stream, const MatmulArgs& args) const {
  const void* c = args.beta == 0 ? args.d : args.c.data;
  check_cublas(cublasLtMatmul(handle, product_.get(), &args.alpha, args.b.data, a_.get(), args.a.data,
                              b_.get(), &args.beta, c, c_.get(), args.d, d_.get(), &algorithm.algorithm,
                              workspace, workspace == nullptr ? 0 : kMatmulWorkspaceBytes, stream),
               "cublasLtMatmul", args);
}

}  // namespace onggi
