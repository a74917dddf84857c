// One struct of functions per device, chosen once when a model is loaded. "Does device X support op Y for
// dtype Z" is answered by the same entries that execute: a null entry is an unsupported combination.
#pragma once

#include <array>
#include <string_view>

#include "kernels/ops/attention.h"
#include "kernels/ops/block.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/training.h"

namespace onggi {

struct OpTable {
  std::string_view name;  // "ref", "cpu", "cuda"

  template <typename Args>
  using Op = void (*)(const OpContext&, const Args&);
  // One entry per weight dtype.
  template <typename Args>
  using OpByDType = std::array<Op<Args>, kDTypeCount>;

  OpByDType<EmbeddingArgs> embedding{};
  OpByDType<LinearArgs> linear{};
  OpByDType<LinearBackwardArgs> linear_backward{};
  Op<GemmArgs> gemm = nullptr;
  Op<DropoutArgs> dropout = nullptr;
  Op<RmsNormArgs> rms_norm = nullptr;
  Op<RmsNormBackwardArgs> rms_norm_backward = nullptr;
  Op<HeadNormRopeArgs> head_norm_rope = nullptr;
  Op<HeadNormRopeBackwardArgs> head_norm_rope_backward = nullptr;
  Op<SwiGluArgs> swiglu = nullptr;
  Op<SwiGluBackwardArgs> swiglu_backward = nullptr;
  Op<AddArgs> add = nullptr;
  Op<AttentionArgs> attention = nullptr;
  Op<AttentionBackwardArgs> attention_backward = nullptr;
  Op<KvStoreArgs> kv_store = nullptr;
  Op<CachedAttentionArgs> cached_attention = nullptr;
  Op<CrossEntropyArgs> cross_entropy = nullptr;
  Op<SumOfSquaresArgs> sum_of_squares = nullptr;
  Op<AdamWArgs> adamw = nullptr;
};

// The scalar oracle: every op, plain loops.
const OpTable& ref_ops();
// The CPU's kernels, the instruction set chosen at run time.
const OpTable& cpu_ops();

[[noreturn]] void throw_unsupported(std::string_view op, DType dtype, std::string_view device);

// Runs op entry `by_dtype[dtype]`, or throws an InputError that names the op, the dtype and the device.
template <typename Args>
void run_op(const OpTable::OpByDType<Args>& by_dtype, std::string_view op, const OpTable& table, DType dtype,
            const OpContext& context, const Args& args) {
  const auto function = by_dtype[static_cast<size_t>(dtype)];
  if (function == nullptr) throw_unsupported(op, dtype, table.name);
  function(context, args);
}

}  // namespace onggi
