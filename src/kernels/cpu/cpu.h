// The CPU's kernels. Each implements the contract of its Args struct (kernels/ops/*.h); the same call with
// the same number of threads gives the same bits.
#pragma once

#include "kernels/ops/attention.h"
#include "kernels/ops/block.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/training.h"

namespace onggi::cpu {

// linear.cc
void embedding(const OpContext& context, const EmbeddingArgs& args);
void linear(const OpContext& context, const LinearArgs& args);
void linear_backward(const OpContext& context, const LinearBackwardArgs& args);
// gemm.cc
void gemm(const OpContext& context, const GemmArgs& args);

// elementwise.cc
void swiglu(const OpContext& context, const SwiGluArgs& args);
void swiglu_backward(const OpContext& context, const SwiGluBackwardArgs& args);
void gather_rows(const OpContext& context, const GatherRowsArgs& args);
void scatter_rows(const OpContext& context, const ScatterRowsArgs& args);
void dropout(const OpContext& context, const DropoutArgs& args);

// norm.cc
void rms_norm(const OpContext& context, const RmsNormArgs& args);
void rms_norm_backward(const OpContext& context, const RmsNormBackwardArgs& args);
void head_norm_rope(const OpContext& context, const HeadNormRopeArgs& args);
void head_norm_rope_backward(const OpContext& context, const HeadNormRopeBackwardArgs& args);

// attention.cc
void attention(const OpContext& context, const AttentionArgs& args);
void attention_backward(const OpContext& context, const AttentionBackwardArgs& args);

// cached_attention.cc
void kv_store(const OpContext& context, const KvStoreArgs& args);
void cached_attention(const OpContext& context, const CachedAttentionArgs& args);

// training.cc
void cross_entropy(const OpContext& context, const CrossEntropyArgs& args);
void sum_of_squares(const OpContext& context, const SumOfSquaresArgs& args);
void adamw(const OpContext& context, const AdamWArgs& args);

}  // namespace onggi::cpu
