#include "kernels/cpu/cpu.h"
#include "kernels/cpu/features.h"
#include "kernels/cpu/linear_bf16.h"
#include "kernels/cpu/linear_f32.h"
#include "kernels/cpu/quantized_dot.h"
#include "kernels/ops/weight.h"

namespace onggi::cpu {

void embedding(const OpContext& context, const EmbeddingArgs& args) {
  const int64_t width = args.table.columns;
  context.threads.parallel_for(args.tokens, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      decode_weight(args.table, args.ids[t], 0, width, args.out + t * width);
  });
}

void linear(const OpContext& context, const LinearArgs& args) {
  if (args.tokens == 0) return;
  if (args.precision == Precision::kF32) return linear_f32(context, args);
  if (args.tokens <= few_token_limit(args.weight.dtype)) return linear_few_tokens(context, args);
  if (has_avx512_bf16()) return linear_bf16(context, args);
  linear_f32(context, args);
}

void linear_backward(const OpContext& context, const LinearBackwardArgs& args) {
  if (args.tokens == 0) return;
  if (args.precision == Precision::kFast && has_avx512_bf16()) return linear_backward_bf16(context, args);
  linear_backward_f32(context, args);
}

}  // namespace onggi::cpu
