#include "kernels/cpu/attention_bf16.h"
#include "kernels/cpu/attention_f32.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/features.h"

namespace onggi::cpu {
namespace {

// Pairs of dimensions are what the bf16 dot product reads.
bool in_bf16(Precision precision, int64_t head_dim) {
  return precision == Precision::kFast && has_avx512_bf16() && head_dim % 2 == 0;
}

}  // namespace

void attention(const OpContext& context, const AttentionArgs& args) {
  check_dense(args.out_stride, args.query_heads * args.head_dim);
  if (in_bf16(args.precision, args.head_dim)) return attention_bf16(context, args);
  attention_f32(context, args);
}

void attention_backward(const OpContext& context, const AttentionBackwardArgs& args) {
  check_dense(args.out_stride, args.query_heads * args.head_dim);
  if (in_bf16(args.precision, args.head_dim)) return attention_backward_bf16(context, args);
  attention_backward_f32(context, args);
}

}  // namespace onggi::cpu
