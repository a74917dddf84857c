// The backward of a feed-forward block's second half on the GPU against the oracle's parts of it.
#include <memory>

#include "kernels/table.h"
#include "tests/kernels_cuda/activation_array.h"

namespace onggi::testing_cuda {
namespace {

enum class Rows { kPadded, kDense };  // whether rows of the gradients have room for du

struct GatedCase {
  DType activations = DType::kBF16;
  DType weight = DType::kNF4;
  int64_t tokens = 1, width = 64, rows = 64;  // T, F, N
  int64_t rank = 16;                          // 0: no adapter
  float dropout = 0;
  Rows padding = Rows::kPadded;
};
std::ostream& operator<<(std::ostream& out, const GatedCase& c) {
  return out << dtype_name(c.weight) << " x " << dtype_name(c.activations) << " T=" << c.tokens
             << " F=" << c.width << " N=" << c.rows << " R=" << c.rank << " p=" << c.dropout
             << (c.padding == Rows::kDense ? " dense" : "");
}
std::vector<GatedCase> gated_cases() {
  return {{.tokens = 1},
          {.tokens = 37, .width = 320, .rows = 72},
          {.tokens = 200, .width = 64, .rows = 40, .dropout = 0.1f},
          {.tokens = 65, .width = 640, .rows = 24, .rank = 4, .dropout = 0.5f},
          {.tokens = 33, .width = 576, .rows = 40, .rank = 24},
          {.tokens = 33, .width = 128, .rows = 40, .rank = 32, .dropout = 0.1f},
          {.tokens = 40, .width = 128, .rows = 40, .rank = 8, .padding = Rows::kDense},
          {.weight = DType::kBF16, .tokens = 50, .width = 128, .rows = 41, .rank = 5},
          // Without a kernel for the whole.
          {.tokens = 20, .width = 128, .rows = 40, .rank = 48},
          {.tokens = 20, .width = 64, .rows = 40, .rank = 0},
          {.weight = DType::kBF16, .tokens = 9, .width = 77, .rows = 13, .rank = 4, .dropout = 0.1f},
          {.activations = DType::kF32, .tokens = 9, .rank = 4, .dropout = 0.2f}};
}

class CudaGatedLinearTest : public testing::TestWithParam<GatedCase> {};

TEST_P(CudaGatedLinearTest, BackwardAgreesWithTheOraclesParts) {
  const GatedCase& c = GetParam();
  const bool is_fast = c.activations == DType::kBF16;
  const Precision precision = is_fast ? Precision::kFast : Precision::kF32;
  const auto size = [](int64_t rows, int64_t columns) { return static_cast<size_t>(rows * columns); };
  const auto activations = [&](int64_t width, uint64_t seed) {
    return rounded(normal(size(c.tokens, width), seed), c.activations);
  };
  const Floats gate = activations(c.width, 1), up = activations(c.width, 2), dout = activations(c.rows, 3);
  const Floats u = activations(c.rank, 4);
  const Floats a = normal(size(c.rank, c.width), 5, 0.05f), b = normal(size(c.rows, c.rank), 6);
  const Floats a_before = normal(a.size(), 7), b_before = normal(b.size(), 8);
  const testing_ops::Weight weight = testing_ops::random_weight(c.weight, c.rows, c.width, 9);

  Floats a_gradient = a_before, b_gradient = b_before, dgate(gate.size()), dup(gate.size());
  Floats activated(gate.size()), dactivated(gate.size()), dropped(gate.size()), d_dropped(gate.size());
  Floats du(size(c.tokens, c.rank));
  GatedLinearBackwardArgs args;
  args.linear.tokens = c.tokens;
  const uint64_t first_stream = uint64_t{5} << 32;
  args.linear.dropout = {.probability = c.dropout, .seed = 11, .first_stream = &first_stream};
  args.linear.precision = precision;
  args.linear.x = args.activated = activated.data();
  args.linear.dx = dactivated.data();
  args.linear.dropped = dropped.data();
  args.linear.d_dropped = d_dropped.data();
  args.linear.d_u = du.data();
  AdaptedLinearBackwardArgs::Member& member = args.linear.members[0];
  const auto lora = [&](const float* a_data, const float* b_data) {
    return c.rank == 0 ? LoraView() : LoraView{.a = a_data, .b = b_data, .rank = c.rank, .scale = 0.5f};
  };
  member = {.weight = weight.view,
            .lora = lora(a.data(), b.data()),
            .dout = dout.data(),
            .dropout_stream = 7,
            .lora_u = u.data(),
            .a_gradient = a_gradient.data(),
            .b_gradient = b_gradient.data()};
  args.gate = gate.data();
  args.up = up.data();
  args.dgate = dgate.data();
  args.dup = dup.data();
  run_gated_linear_backward_parts(ref_ops(), testing_ops::context(), args);

  const int64_t padding = c.padding == Rows::kPadded ? cuda_ops().row_padding(precision, c.rank) : 0;
  const auto wide = static_cast<size_t>(c.width + padding),
             dout_stride = static_cast<size_t>(c.rows + padding);
  Floats spread(static_cast<size_t>(c.tokens) * dout_stride, NAN);
  for (size_t i = 0; i < dout.size(); ++i)
    spread[i / static_cast<size_t>(c.rows) * dout_stride + i % static_cast<size_t>(c.rows)] = dout[i];
  const ActivationArray device_gate(gate, c.activations), device_up(up, c.activations);
  const ActivationArray device_dout(spread, c.activations), device_u(u, c.activations);
  const ActivationArray device_activated(static_cast<size_t>(c.tokens) * wide, c.activations);
  const ActivationArray device_dactivated(gate.size(), c.activations);
  const ActivationArray device_dropped(gate.size(), c.activations),
      device_d_dropped(gate.size(), c.activations);
  const ActivationArray device_du(du.size(), c.activations);
  const DeviceArray<float> device_a(a), device_b(b), a_sums(a_before), b_sums(b_before);
  const DeviceArray<uint64_t> device_first_stream(std::vector<uint64_t>{first_stream});
  args.linear.dropout.first_stream = device_first_stream.data();
  std::vector<Buffer> buffers;
  member = {.weight = cuda_ops().place_weight(stream(), weight.view, buffers),
            .lora = lora(device_a.data(), device_b.data()),
            .dout = device_dout,
            .dout_stride = static_cast<int64_t>(dout_stride),
            .dropout_stream = 7,
            .lora_u = device_u,
            .a_gradient = a_sums.data(),
            .b_gradient = b_sums.data()};
  args.linear.x = args.activated = device_activated;
  args.linear.x_stride = args.dup_stride = static_cast<int64_t>(wide);
  args.linear.dx = device_dactivated;
  args.linear.dropped = device_dropped;
  args.linear.d_dropped = device_d_dropped;
  args.linear.d_u = device_du;
  args.gate = device_gate;
  args.up = device_up;
  args.dgate = device_gate;     // in place
  args.dup = device_activated;  // in place of what was activated
  cuda_ops().gated_linear_backward(device_context(), args);

  // bf16: the gradient of what is activated is rounded after each of up to two sums, u, A and the weight
  // before.
  const double limit = is_fast ? 2.5 * kUnitBf16 : 1e-6;
  EXPECT_TRUE(close_in_norm(device_gate.values(), dgate, limit));
  Floats dup_rows;
  const Floats padded = device_activated.values();
  for (size_t i = 0; i < padded.size(); ++i)
    if (i % wide < static_cast<size_t>(c.width)) dup_rows.push_back(padded[i]);
  EXPECT_TRUE(close_in_norm(dup_rows, dup, limit));
  if (c.rank == 0) return;
  EXPECT_TRUE(close_in_norm(a_sums.values(), a_gradient, limit));
  EXPECT_TRUE(close_in_norm(b_sums.values(), b_gradient, limit));
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaGatedLinearTest, testing::ValuesIn(gated_cases()),
                         [](const auto& info) { return "Case" + std::to_string(info.index); });

}  // namespace
}  // namespace onggi::testing_cuda
