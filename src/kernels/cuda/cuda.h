// The CUDA kernels of the ops (kernels/ops/*.h), which table.cc enters into the table. They queue work on the
// context's stream, a CudaStream, and return.
#pragma once

#include <vector>

#include "kernels/ops/attention.h"
#include "kernels/ops/block.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/training.h"

namespace onggi::cuda {

// linear.cc
void linear(const OpContext& context, const LinearArgs& args);
void linear_backward(const OpContext& context, const LinearBackwardArgs& args);
void gemm(const OpContext& context, const GemmArgs& args);

// adapted_linear.cc, adapted_linear_backward.cc
void adapted_linear(const OpContext& context, const AdaptedLinearArgs& args);
void adapted_linear_backward(const OpContext& context, const AdaptedLinearBackwardArgs& args);
void gated_linear(const OpContext& context, const GatedLinearArgs& args);
void gated_linear_backward(const OpContext& context, const GatedLinearBackwardArgs& args);
// OpTable::row_padding: room for the u of three adapters.
int64_t row_padding(Precision precision, int64_t rank);

// place_weight.cc, encode_nf4.cc
WeightView place_weight(Stream& stream, const WeightView& host, std::vector<Buffer>& buffers);
WeightView encode_nf4(Stream& stream, const WeightView& host, std::vector<Buffer>& buffers);

// norm.cu, rotary.cu, elementwise.cu
void rms_norm(const OpContext& context, const RmsNormArgs& args);
void rms_norm_backward(const OpContext& context, const RmsNormBackwardArgs& args);
void head_norm_rope(const OpContext& context, const HeadNormRopeArgs& args);
void head_norm_rope_backward(const OpContext& context, const HeadNormRopeBackwardArgs& args);
void swiglu(const OpContext& context, const SwiGluArgs& args);
void swiglu_backward(const OpContext& context, const SwiGluBackwardArgs& args);
void dropout(const OpContext& context, const DropoutArgs& args);

// rows.cu. embedding: tables of f32, f16 and bf16, in the device's memory or page-locked host memory.
void gather_rows(const OpContext& context, const GatherRowsArgs& args);
void scatter_rows(const OpContext& context, const ScatterRowsArgs& args);
void embedding(const OpContext& context, const EmbeddingArgs& args);

// loss.cu, optimizer.cu, top_logits.cu
void cross_entropy(const OpContext& context, const CrossEntropyArgs& args);
void sum_of_squares(const OpContext& context, const SumOfSquaresArgs& args);
void adamw(const OpContext& context, const AdamWArgs& args);
void top_logits(const OpContext& context, const TopLogitsArgs& args);

// attention_input.cu, cached_attention.cu, decode_attention.cu
void kv_store(const OpContext& context, const KvStoreArgs& args);
void attention_input(const OpContext& context, const AttentionInputArgs& args);
void cached_attention(const OpContext& context, const CachedAttentionArgs& args);
void pass_attention(const OpContext& context, const PassAttentionArgs& args);

// attention_forward.cu, attention_backward.cu
void attention(const OpContext& context, const AttentionArgs& args);
void attention_backward(const OpContext& context, const AttentionBackwardArgs& args);

}  // namespace onggi::cuda
