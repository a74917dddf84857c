// Attention for training and its backward pass against the oracle, over packed segments of every kind.
#include <cmath>
#include <string>

#include "kernels/cuda/cuda.h"
#include "kernels/table.h"
#include "tests/kernels/harness.h"
#include "tests/kernels_cuda/activation_array.h"

namespace onggi::testing_cuda {
namespace {

using testing_ops::SegmentArrays;

struct Case {
  const char* name;
  std::vector<int32_t> starts;
  int64_t query_heads, kv_heads, head_dim;
  DType dtype = DType::kBF16;
  int64_t row_padding = 0;  // of out

  int64_t tokens() const { return starts.back(); }
  int64_t query_width() const { return query_heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
  int64_t out_stride() const { return query_width() + row_padding; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }
};

// Tiles are 128 rows, in parts of 16 to 64.
const std::vector<Case>& cases() {
  static const std::vector<Case> cases = {
      {"OneToken", {0, 1}, 1, 1, 128},
      {"OneTile", {0, 128}, 1, 1, 128},
      {"TailOfATile", {0, 37}, 3, 1, 128},
      {"TailOfTwoTiles", {0, 203}, 4, 1, 128, DType::kBF16, 64},
      {"LoneTokensAndBordersInsideTiles", {0, 1, 2, 3, 70, 129, 130, 258}, 3, 3, 128},
      {"EmptySegments", {0, 0, 33, 33, 140, 140}, 2, 1, 128},
      {"BordersAtTiles", {0, 64, 128, 256}, 2, 1, 128},
      {"OnlyLoneTokens", {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18}, 8, 1, 128},
      {"SegmentOverThreeTiles", {0, 100, 390}, 2, 1, 64},
      {"GroupsOf3", {0, 31, 33, 150}, 6, 2, 64},
      {"GroupsOf8", {0, 65, 66, 97}, 16, 2, 64},
      {"Padded", {0, 90, 130}, 4, 2, 64, DType::kBF16, 8},
      {"MisalignedRows", {0, 20}, 2, 1, 64, DType::kBF16, 3},
      {"OtherHeadDim", {0, 5, 43}, 4, 2, 80},
      {"OddHeadDim", {0, 1, 20, 33}, 3, 1, 23, DType::kBF16, 1},
      {"F32", {0, 1, 40, 75}, 4, 1, 128, DType::kF32},
      {"F32Padded", {0, 17, 29}, 6, 2, 20, DType::kF32, 4},
  };
  return cases;
}

struct DeviceSegments {
  explicit DeviceSegments(const SegmentArrays& host)
      : host(host), starts(host.starts), first_row(host.first_row), end_row(host.end_row) {}
  Segments view() const {
    Segments view = host.view();
    view.starts = starts.data();
    view.first_row = first_row.data();
    view.end_row = end_row.data();
    return view;
  }
  const SegmentArrays& host;
  DeviceArray<int32_t> starts, first_row, end_row;
};

struct Inputs {
  explicit Inputs(const Case& c) {
    const auto make = [&](int64_t width, uint64_t seed) {
      return rounded(testing_ops::normal(static_cast<size_t>(c.tokens() * width), seed), c.dtype);
    };
    q = make(c.query_width(), 1);
    k = make(c.kv_width(), 2);
    v = make(c.kv_width(), 3);
    dout = make(c.query_width(), 4);
  }
  Floats q, k, v, dout;
};

struct Result {
  Floats out, log_sum_exp;
};
Result oracle(const Case& c, const SegmentArrays& segments, const Inputs& in) {
  Result result{Floats(in.q.size()), Floats(static_cast<size_t>(c.tokens() * c.query_heads))};
  ref_ops().attention(testing_ops::context(), {.q = in.q.data(),
                                               .k = in.k.data(),
                                               .v = in.v.data(),
                                               .segments = segments.view(),
                                               .tokens = c.tokens(),
                                               .query_heads = c.query_heads,
                                               .kv_heads = c.kv_heads,
                                               .head_dim = c.head_dim,
                                               .scale = c.scale(),
                                               .out = result.out.data(),
                                               .log_sum_exp = result.log_sum_exp.data()});
  return result;
}

Precision precision_of(const Case& c) { return c.dtype == DType::kF32 ? Precision::kF32 : Precision::kFast; }

Result forward(const Case& c, const SegmentArrays& segments, const Inputs& in) {
  const DeviceSegments device_segments(segments);
  const auto width = static_cast<size_t>(c.query_width()), stride = static_cast<size_t>(c.out_stride());
  const ActivationArray q(in.q, c.dtype), k(in.k, c.dtype), v(in.v, c.dtype),
      out(static_cast<size_t>(c.tokens()) * stride, c.dtype);
  const DeviceArray<float> log_sum_exp(static_cast<size_t>(c.tokens() * c.query_heads));
  cuda::attention(device_context(), {.q = q,
                                     .k = k,
                                     .v = v,
                                     .segments = device_segments.view(),
                                     .tokens = c.tokens(),
                                     .query_heads = c.query_heads,
                                     .kv_heads = c.kv_heads,
                                     .head_dim = c.head_dim,
                                     .scale = c.scale(),
                                     .out = out,
                                     .out_stride = c.out_stride(),
                                     .log_sum_exp = log_sum_exp.data(),
                                     .precision = precision_of(c)});
  return {take_rows(out.values(), width, stride), log_sum_exp.values()};
}

struct Gradients {
  Floats dq, dk, dv;
};
Gradients oracle_gradients(const Case& c, const SegmentArrays& segments, const Inputs& in,
                           const Result& result) {
  Gradients gradients{Floats(in.q.size()), Floats(in.k.size()), Floats(in.v.size())};
  ref_ops().attention_backward(testing_ops::context(), {.dout = in.dout.data(),
                                                        .q = in.q.data(),
                                                        .k = in.k.data(),
                                                        .v = in.v.data(),
                                                        .out = result.out.data(),
                                                        .log_sum_exp = result.log_sum_exp.data(),
                                                        .segments = segments.view(),
                                                        .tokens = c.tokens(),
                                                        .query_heads = c.query_heads,
                                                        .kv_heads = c.kv_heads,
                                                        .head_dim = c.head_dim,
                                                        .scale = c.scale(),
                                                        .dq = gradients.dq.data(),
                                                        .dk = gradients.dk.data(),
                                                        .dv = gradients.dv.data()});
  return gradients;
}

Gradients backward(const Case& c, const SegmentArrays& segments, const Inputs& in, const Result& result) {
  const DeviceSegments device_segments(segments);
  const auto width = static_cast<size_t>(c.query_width()), stride = static_cast<size_t>(c.out_stride());
  const ActivationArray q(in.q, c.dtype), k(in.k, c.dtype), v(in.v, c.dtype), dout(in.dout, c.dtype),
      out(spread_rows(result.out, width, stride), c.dtype), dq(in.q.size(), c.dtype),
      dk(in.k.size(), c.dtype), dv(in.v.size(), c.dtype);
  const DeviceArray<float> log_sum_exp(result.log_sum_exp);
  cuda::attention_backward(device_context(), {.dout = dout,
                                              .q = q,
                                              .k = k,
                                              .v = v,
                                              .out = out,
                                              .out_stride = c.out_stride(),
                                              .log_sum_exp = log_sum_exp.data(),
                                              .segments = device_segments.view(),
                                              .tokens = c.tokens(),
                                              .query_heads = c.query_heads,
                                              .kv_heads = c.kv_heads,
                                              .head_dim = c.head_dim,
                                              .scale = c.scale(),
                                              .dq = dq,
                                              .dk = dk,
                                              .dv = dv,
                                              .precision = precision_of(c)});
  return {dq.values(), dk.values(), dv.values()};
}

// Each row and head for itself: the norm of its error within `limit` of its own norm plus the mean norm of
// all (rows whose exact gradient is zero have the rounding errors of what cancels in them).
testing::AssertionResult rows_are_close(const Floats& actual, const Floats& expected, int64_t head_dim,
                                        double limit) {
  double squares = 0;
  for (const float value : expected) squares += double{value} * value;
  const auto dim = static_cast<size_t>(head_dim);
  const size_t rows = expected.size() / dim;
  const double mean = std::sqrt(squares / static_cast<double>(rows)) + 1e-3 * std::sqrt(head_dim);
  double worst = 0;
  size_t worst_row = 0;
  for (size_t row = 0; row < rows; ++row) {
    double error = 0, norm = 0;
    for (size_t i = row * dim; i < (row + 1) * dim; ++i) {
      error += (double{actual[i]} - expected[i]) * (double{actual[i]} - expected[i]);
      norm += double{expected[i]} * expected[i];
    }
    const double relative = std::sqrt(error) / (std::sqrt(norm) + mean);
    if (relative > worst || std::isnan(relative)) worst = relative, worst_row = row;
    if (std::isnan(relative)) break;
  }
  if (worst <= limit) return testing::AssertionSuccess();
  const size_t first = worst_row * dim;
  size_t element = first;
  for (size_t i = first; i < first + dim; ++i)
    if (!(std::abs(actual[i] - expected[i]) <= std::abs(actual[element] - expected[element]))) element = i;
  return testing::AssertionFailure() << "row and head " << worst_row << ": relative error " << worst << " > "
                                     << limit << "; element " << element << " is " << actual[element]
                                     << " instead of " << expected[element];
}

// bf16: the weights, and the gradients of the scores, are rounded once before the product (1 unit each, of
// which sums keep less), the result once more; scores and sums are f32. f32: sums of D products, then of up
// to a few hundred keys.
double limit_of(const Case& c) { return c.dtype == DType::kF32 ? 64 * kUnitF32 : 2 * kUnitBf16; }

class AttentionTraining : public testing::TestWithParam<size_t> {
 protected:
  const Case& c = cases()[GetParam()];
  const SegmentArrays segments{c.starts};
  const Inputs in{c};
};

TEST_P(AttentionTraining, ForwardAgreesWithTheOracle) {
  const Result expected = oracle(c, segments, in), actual = forward(c, segments, in);
  EXPECT_TRUE(rows_are_close(actual.out, expected.out, c.head_dim, limit_of(c)));
  // The scores' products are exact and their sums f32 at any dtype.
  EXPECT_TRUE(within(actual.log_sum_exp, expected.log_sum_exp,
                     [&](size_t i) { return 1e-5 + 1e-5 * std::abs(expected.log_sum_exp[i]); }));
  EXPECT_EQ(actual.out, forward(c, segments, in).out) << "not the same bits";
}

TEST_P(AttentionTraining, BackwardAgreesWithTheOracle) {
  Result result = oracle(c, segments, in);
  result.out = rounded(result.out, c.dtype);
  const Gradients expected = oracle_gradients(c, segments, in, result);
  const Gradients actual = backward(c, segments, in, result);
  EXPECT_TRUE(rows_are_close(actual.dv, expected.dv, c.head_dim, limit_of(c)));
  EXPECT_TRUE(rows_are_close(actual.dk, expected.dk, c.head_dim, limit_of(c)));
  EXPECT_TRUE(rows_are_close(actual.dq, expected.dq, c.head_dim, limit_of(c)));
  const Gradients again = backward(c, segments, in, result);
  EXPECT_EQ(actual.dq, again.dq) << "not the same bits";
  EXPECT_EQ(actual.dk, again.dk) << "not the same bits";
  EXPECT_EQ(actual.dv, again.dv) << "not the same bits";
}

INSTANTIATE_TEST_SUITE_P(Cases, AttentionTraining, testing::Range(size_t{0}, cases().size()),
                         [](const auto& info) { return std::string(cases()[info.param].name); });

// Scores that grow along the keys move the softmax's reference in every tile, scores that fall leave it: both
// must come out right, and large ones must not overflow.
TEST(AttentionTraining, ScoresFarApartStayExact) {
  const Case c{"Steep", {0, 150}, 2, 1, 64};
  const SegmentArrays segments(c.starts);
  for (const float steepness : {0.5f, -0.5f, 40.0f}) {
    SCOPED_TRACE(steepness);
    Inputs in(c);
    for (int64_t t = 0; t < c.tokens(); ++t)
      for (int64_t d = 0; d < c.kv_width(); ++d)
        in.k[static_cast<size_t>(t * c.kv_width() + d)] *= steepness * static_cast<float>(t) / 8;
    in.k = rounded(in.k, c.dtype);
    for (float& value : in.q) value = std::abs(value);
    const Result expected = oracle(c, segments, in), actual = forward(c, segments, in);
    EXPECT_TRUE(rows_are_close(actual.out, expected.out, c.head_dim, limit_of(c)));
    EXPECT_TRUE(within(actual.log_sum_exp, expected.log_sum_exp,
                       [&](size_t i) { return 1e-5 + 1e-5 * std::abs(expected.log_sum_exp[i]); }));
  }
}

}  // namespace
}  // namespace onggi::testing_cuda
