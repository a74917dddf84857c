// One struct of functions per device, chosen once when a model is loaded. "Does device X support op Y for
// dtype Z" is answered by the same entries that execute: a null entry is an unsupported combination.
#pragma once

#include <array>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/ops/attention.h"
#include "kernels/ops/block.h"
#include "kernels/ops/file_weight.h"
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
  Op<GatherRowsArgs> gather_rows = nullptr;
  Op<ScatterRowsArgs> scatter_rows = nullptr;
  Op<AttentionArgs> attention = nullptr;
  Op<AttentionBackwardArgs> attention_backward = nullptr;
  Op<KvStoreArgs> kv_store = nullptr;
  Op<CachedAttentionArgs> cached_attention = nullptr;
  Op<TopLogitsArgs> top_logits = nullptr;
  Op<CrossEntropyArgs> cross_entropy = nullptr;
  Op<SumOfSquaresArgs> sum_of_squares = nullptr;
  Op<AdamWArgs> adamw = nullptr;

  // Ops made of others. Devices that have no kernel for the whole leave them null; run_* below then runs the
  // parts.
  Op<AdaptedLinearArgs> adapted_linear = nullptr;
  Op<AdaptedLinearBackwardArgs> adapted_linear_backward = nullptr;
  Op<GatedLinearArgs> gated_linear = nullptr;
  Op<GatedLinearBackwardArgs> gated_linear_backward = nullptr;
  Op<AttentionInputArgs> attention_input = nullptr;
  Op<PassAttentionArgs> pass_attention = nullptr;

  // The dtype in which activations are stored between the ops.
  DType (*activation_dtype)(Precision) = [](Precision) { return DType::kF32; };
  // Columns that the input rows of adapted linear layers have beyond K, for kernels to use, at this rank of
  // the adapter (0: none).
  int64_t (*row_padding)(Precision, int64_t rank) = [](Precision, int64_t) { return int64_t{0}; };
  // Memory of the device that the kernels keep from the first product on, besides working memory of single
  // ops.
  uint64_t workspace_bytes = 0;
  // Takes a weight from host memory to the stream's device, in the layout that the kernels want, into memory
  // that is appended to `buffers`. null: weights are used where they are.
  WeightView (*place_weight)(Stream& stream, const WeightView& host, std::vector<Buffer>& buffers) = nullptr;
  // The same of weights in files, all at once: reading, copying and laying out go on at the same time. Set
  // where place_weight is.
  PlacedWeights (*place_file_weights)(Stream& stream, std::span<const FileWeight> weights,
                                      std::vector<Buffer>& buffers) = nullptr;
  // Encodes a plain weight in host memory as NF4 on its way to the device, bit for bit as blocks/nf4.h; K is
  // a multiple of 64. null: it is encoded on the host.
  WeightView (*encode_nf4)(Stream& stream, const WeightView& host, std::vector<Buffer>& buffers) = nullptr;
};

// The scalar oracle: every op, plain loops.
const OpTable& ref_ops();
// The CPU's kernels, the instruction set chosen at run time.
const OpTable& cpu_ops();
// The kernels for NVIDIA GPUs. MachineError where this build has none.
const OpTable& cuda_ops();

// The ops made of others: the device's own kernel, or its parts one after another.
void run_adapted_linear(const OpTable& table, const OpContext& context, const AdaptedLinearArgs& args);
void run_adapted_linear_backward(const OpTable& table, const OpContext& context,
                                 const AdaptedLinearBackwardArgs& args);
void run_gated_linear(const OpTable& table, const OpContext& context, const GatedLinearArgs& args);
void run_gated_linear_backward(const OpTable& table, const OpContext& context,
                               const GatedLinearBackwardArgs& args);
void run_attention_input(const OpTable& table, const OpContext& context, const AttentionInputArgs& args);
void run_pass_attention(const OpTable& table, const OpContext& context, const PassAttentionArgs& args);
// The parts alone, whatever the device has: what its own kernels are compared with.
void run_adapted_linear_parts(const OpTable& table, const OpContext& context, const AdaptedLinearArgs& args);
void run_adapted_linear_backward_parts(const OpTable& table, const OpContext& context,
                                       const AdaptedLinearBackwardArgs& args);
void run_gated_linear_parts(const OpTable& table, const OpContext& context, const GatedLinearArgs& args);
void run_gated_linear_backward_parts(const OpTable& table, const OpContext& context,
                                     const GatedLinearBackwardArgs& args);
void run_attention_input_parts(const OpTable& table, const OpContext& context,
                               const AttentionInputArgs& args);

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
