#include <algorithm>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/sgemm.h"

namespace onggi::cpu {

// The products of LoRA are thin (one side is R = 8 .. 64), so fp32 costs little beside the base weight's and
// is used for both precisions. The longer side of c is shared among the threads.
void gemm(const OpContext& context, const GemmArgs& args) {
  const bool by_rows = args.m >= args.n;
  const int64_t a_row = args.transpose_a == Transpose::kYes ? args.m : args.k;
  const int64_t b_row = args.transpose_b == Transpose::kYes ? args.k : args.n;
  const auto slice = [&](int64_t begin, int64_t end, int) {
    SgemmArgs product{.transpose_a = args.transpose_a,
                      .transpose_b = args.transpose_b,
                      .m = args.m,
                      .n = args.n,
                      .k = args.k,
                      .alpha = args.alpha,
                      .a = args.a,
                      .a_row = a_row,
                      .b = args.b,
                      .b_row = b_row,
                      .c = args.c,
                      .c_row = args.n,
                      .accumulate = args.output == Output::kAccumulate};
    if (by_rows) {
      product.m = end - begin;
      product.a += begin * (args.transpose_a == Transpose::kYes ? 1 : a_row);
      product.c += begin * args.n;
    } else {
      product.n = end - begin;
      product.b += begin * (args.transpose_b == Transpose::kYes ? b_row : 1);
      product.c += begin;
    }
    sgemm(product);
  };
  // A smaller product is done before another thread has woken.
  constexpr int64_t kWorthSharing = 1 << 18;
  const int64_t length = std::max(args.m, args.n);
  if (args.m * args.n * args.k < kWorthSharing) return slice(0, length, 0);
  context.threads.parallel_for(length, 16, slice);
}

}  // namespace onggi::cpu
