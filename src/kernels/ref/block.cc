#include <cmath>

#include "base/random.h"
#include "kernels/ref/ref.h"

namespace onggi::ref {

void dropout(const OpContext&, const DropoutArgs& args) {
  const auto threshold = static_cast<uint32_t>(std::lround(double{args.probability} * 65536.0));
  const float kept_share = 1.0f - args.probability;
  const uint64_t stream = stream_of(args);
  for (int64_t i = 0; i < args.elements; ++i) {
    const auto words = philox(args.seed, stream, static_cast<uint64_t>(i) / 8);
    const auto word = static_cast<uint32_t>(i % 8);
    const uint32_t draw = (words[word / 2] >> (16 * (word % 2))) & 0xFFFF;
    const float value = draw >= threshold ? args.x[i] / kept_share : 0.0f;
    args.out[i] = args.output == Output::kAccumulate ? args.out[i] + value : value;
  }
}

void swiglu(const OpContext&, const SwiGluArgs& args) {
  check_dense(args.out_stride, args.width);
  for (int64_t i = 0; i < args.tokens * args.width; ++i) {
    const double gate = args.gate[i];
    args.out[i] = static_cast<float>(gate / (1.0 + std::exp(-gate)) * args.up[i]);
  }
}

// silu'(g) = s + g s (1 - s), s = 1 / (1 + exp(-g))
void swiglu_backward(const OpContext&, const SwiGluBackwardArgs& args) {
  check_dense(args.dup_stride, args.width);
  for (int64_t i = 0; i < args.tokens * args.width; ++i) {
    const double gate = args.gate[i], up = args.up[i], dout = args.dout[i];
    const double sigmoid = 1.0 / (1.0 + std::exp(-gate));
    args.dgate[i] = static_cast<float>(dout * up * (sigmoid + gate * sigmoid * (1.0 - sigmoid)));
    args.dup[i] = static_cast<float>(dout * gate * sigmoid);
  }
}

void gather_rows(const OpContext&, const GatherRowsArgs& args) {
  for (int64_t i = 0; i < args.count; ++i)
    for (int64_t c = 0; c < args.width; ++c)
      args.out[i * args.width + c] = args.x[args.rows[i] * args.width + c];
}

void scatter_rows(const OpContext&, const ScatterRowsArgs& args) {
  check_dense(args.out_stride, args.width);
  for (int64_t i = 0; i < args.count; ++i)
    for (int64_t c = 0; c < args.width; ++c)
      args.out[args.rows[i] * args.width + c] = args.x[i * args.width + c];
}

}  // namespace onggi::ref
