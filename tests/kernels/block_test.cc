// Norms, rotary embedding, SwiGLU, rows picked and put back, dropout.
#include <algorithm>

#include "tests/kernels/harness.h"

namespace onggi::testing_ops {
namespace {

// Elementwise fp32 arithmetic of a dozen operations, relative to the value and to the size of its summands.
auto elementwise(const Floats& expected, double size) {
  return [&expected, size](size_t i) { return 16 * kUnitF32 * (std::abs(expected[i]) + size); };
}

struct NormCase {
  int64_t tokens, width;
};
constexpr NormCase kNormCases[] = {{1, 1}, {2, 7}, {3, 16}, {5, 33}, {70, 512}, {9, 1024}, {40, 1000}};

struct NormResult {
  Floats out, inverse_rms;
};
NormResult rms_norm(const OpTable& table, const NormCase& c, const Floats& x, const Floats& weight) {
  Guarded<float> out(x.size()), inverse_rms(static_cast<size_t>(c.tokens));
  table.rms_norm(context(), {.x = x.data(),
                             .weight = weight.data(),
                             .tokens = c.tokens,
                             .width = c.width,
                             .epsilon = 1e-6f,
                             .out = out.data(),
                             .inverse_rms = inverse_rms.data()});
  return {out.values(), inverse_rms.values()};
}
Floats rms_norm_backward(const OpTable& table, const NormCase& c, const Floats& dout, const Floats& x,
                         const Floats& weight, const Floats& inverse_rms, const Floats* start) {
  Guarded<float> dx = start != nullptr ? Guarded<float>(*start) : Guarded<float>(x.size());
  table.rms_norm_backward(context(), {.dout = dout.data(),
                                      .x = x.data(),
                                      .weight = weight.data(),
                                      .inverse_rms = inverse_rms.data(),
                                      .tokens = c.tokens,
                                      .width = c.width,
                                      .dx = dx.data(),
                                      .output = start != nullptr ? Output::kAccumulate : Output::kOverwrite});
  return dx.values();
}

TEST(RmsNormTest, AgreesWithTheOracleAndItsDerivative) {
  for (const NormCase& c : kNormCases) {
    SCOPED_TRACE(testing::Message() << "T=" << c.tokens << " C=" << c.width);
    const auto size = static_cast<size_t>(c.tokens * c.width);
    const Floats x = normal(size, 1, 3.0f), weight = normal(static_cast<size_t>(c.width), 2),
                 dout = normal(size, 3);
    const NormResult expected = rms_norm(ref_ops(), c, x, weight), actual = rms_norm(cpu_ops(), c, x, weight);
    EXPECT_TRUE(within(actual.out, expected.out, elementwise(expected.out, 0)));
    EXPECT_TRUE(within(actual.inverse_rms, expected.inverse_rms, elementwise(expected.inverse_rms, 0)));
    const Floats start = normal(size, 4);
    for (const Floats* before : {static_cast<const Floats*>(nullptr), &start}) {
      const Floats dx = rms_norm_backward(ref_ops(), c, dout, x, weight, expected.inverse_rms, before);
      const Floats fast = rms_norm_backward(cpu_ops(), c, dout, x, weight, expected.inverse_rms, before);
      EXPECT_TRUE(within(fast, dx, elementwise(dx, 2.0)));
    }
    if (c.width < 3) continue;  // the derivative vanishes at width 1
    expect_gradient(x, rms_norm_backward(ref_ops(), c, dout, x, weight, expected.inverse_rms, nullptr), dout,
                    [&](const Floats& input) { return rms_norm(ref_ops(), c, input, weight).out; });
  }
}

TEST(RmsNormTest, MayWriteOverItsInput) {
  const Floats x = normal(2 * 100, 1), weight = normal(100, 2);
  for (const OpTable* table : {&ref_ops(), &cpu_ops()}) {
    const Floats expected = rms_norm(*table, {2, 100}, x, weight).out;
    Guarded<float> inout(x);
    table->rms_norm(context(), {.x = inout.data(),
                                .weight = weight.data(),
                                .tokens = 2,
                                .width = 100,
                                .epsilon = 1e-6f,
                                .out = inout.data(),
                                .inverse_rms = nullptr});
    EXPECT_EQ(inout.values(), expected) << table->name;
  }
}

struct RopeCase {
  int64_t tokens, heads, head_dim;
  bool normalized;
  int32_t first_position;
};
constexpr RopeCase kRopeCases[] = {
    {1, 1, 2, true, 0},     {3, 2, 6, true, 5},        {150, 2, 64, true, 0},
    {40, 16, 128, true, 7}, {33, 3, 80, false, 40000}, {70, 4, 128, true, 32000},
};

std::vector<int32_t> positions_of(const RopeCase& c) {
  std::vector<int32_t> positions;
  for (int32_t t = 0; t < c.tokens; ++t)  // two segments
    positions.push_back(c.first_position + (t < c.tokens / 2 ? t : t - static_cast<int32_t>(c.tokens) / 2));
  return positions;
}
NormResult head_norm_rope(const OpTable& table, const RopeCase& c, const Floats& x, const Floats& weight) {
  const auto positions = positions_of(c);
  Guarded<float> out(x.size()), inverse_rms(static_cast<size_t>(c.tokens * c.heads));
  table.head_norm_rope(context(), {.x = x.data(),
                                   .weight = c.normalized ? weight.data() : nullptr,
                                   .positions = positions.data(),
                                   .tokens = c.tokens,
                                   .heads = c.heads,
                                   .head_dim = c.head_dim,
                                   .epsilon = 1e-6f,
                                   .theta = 1e6,
                                   .out = out.data(),
                                   .inverse_rms = inverse_rms.data()});
  return {out.values(), inverse_rms.values()};
}
Floats head_norm_rope_backward(const OpTable& table, const RopeCase& c, const Floats& dout, const Floats& x,
                               const Floats& weight, const Floats& inverse_rms) {
  const auto positions = positions_of(c);
  Guarded<float> dx(dout);  // in place
  table.head_norm_rope_backward(context(), {.dout = dx.data(),
                                            .x = x.data(),
                                            .weight = c.normalized ? weight.data() : nullptr,
                                            .positions = positions.data(),
                                            .inverse_rms = inverse_rms.data(),
                                            .tokens = c.tokens,
                                            .heads = c.heads,
                                            .head_dim = c.head_dim,
                                            .theta = 1e6,
                                            .dx = dx.data()});
  return dx.values();
}

TEST(HeadNormRopeTest, AgreesWithTheOracleAndItsDerivative) {
  for (const RopeCase& c : kRopeCases) {
    SCOPED_TRACE(testing::Message() << "T=" << c.tokens << " H=" << c.heads << " D=" << c.head_dim);
    const auto size = static_cast<size_t>(c.tokens * c.heads * c.head_dim);
    const Floats x = normal(size, 1, 2.0f), weight = normal(static_cast<size_t>(c.head_dim), 2),
                 dout = normal(size, 3);
    const NormResult expected = head_norm_rope(ref_ops(), c, x, weight);
    const NormResult actual = head_norm_rope(cpu_ops(), c, x, weight);
    EXPECT_TRUE(within(actual.out, expected.out, elementwise(expected.out, 4.0)));
    EXPECT_TRUE(within(actual.inverse_rms, expected.inverse_rms, elementwise(expected.inverse_rms, 0)));
    const Floats dx = head_norm_rope_backward(ref_ops(), c, dout, x, weight, expected.inverse_rms);
    const Floats fast = head_norm_rope_backward(cpu_ops(), c, dout, x, weight, expected.inverse_rms);
    EXPECT_TRUE(within(fast, dx, elementwise(dx, 8.0)));
    if (c.head_dim < 3 && c.normalized) continue;
    expect_gradient(x, dx, dout,
                    [&](const Floats& input) { return head_norm_rope(ref_ops(), c, input, weight).out; });
  }
}

// Position 1 turns the first pair by one radian, whatever theta is.
TEST(HeadNormRopeTest, OracleTurnsByThePosition) {
  const Floats x = {1, 0, 0, 0};
  const Floats out = head_norm_rope(ref_ops(), {1, 1, 4, false, 1}, x, {}).out;
  EXPECT_FLOAT_EQ(out[0], std::cos(1.0f));
  EXPECT_FLOAT_EQ(out[2], std::sin(1.0f));
}

constexpr int64_t kLengths[] = {1, 7, 16, 33, 1000, 40001};

TEST(SwiGluTest, AgreesWithTheOracleAndItsDerivative) {
  for (const int64_t length : kLengths) {
    SCOPED_TRACE(length);
    const auto size = static_cast<size_t>(length);
    Floats gate = normal(size, 1, 4.0f);
    const Floats up = normal(size, 2), dout = normal(size, 3);
    if (length > 20) {
      gate[3] = 200.0f, gate[4] = -200.0f, gate[5] = 0.0f, gate[6] = -88.0f;
    }
    const auto forward = [&](const OpTable& table, const Floats& g, const Floats& u) {
      Guarded<float> out(size);
      table.swiglu(context(),
                   {.gate = g.data(), .up = u.data(), .tokens = 1, .width = length, .out = out.data()});
      return out.values();
    };
    const auto backward = [&](const OpTable& table) {
      Guarded<float> dgate(gate), dup(up);  // in place
      table.swiglu_backward(context(), {.dout = dout.data(),
                                        .gate = dgate.data(),
                                        .up = dup.data(),
                                        .tokens = 1,
                                        .width = length,
                                        .dgate = dgate.data(),
                                        .dup = dup.data()});
      return std::pair(dgate.values(), dup.values());
    };
    const Floats expected = forward(ref_ops(), gate, up);
    EXPECT_TRUE(within(forward(cpu_ops(), gate, up), expected, elementwise(expected, 1e-6)));
    const auto [dgate, dup] = backward(ref_ops());
    const auto [fast_dgate, fast_dup] = backward(cpu_ops());
    EXPECT_TRUE(within(fast_dgate, dgate, elementwise(dgate, 1.0)));
    EXPECT_TRUE(within(fast_dup, dup, elementwise(dup, 1e-6)));
    expect_gradient(gate, dgate, dout, [&](const Floats& input) { return forward(ref_ops(), input, up); });
    expect_gradient(up, dup, dout, [&](const Floats& input) { return forward(ref_ops(), gate, input); });
  }
}

TEST(RowsTest, ArePickedAndPutBack) {
  const int64_t width = 37;
  const Floats x = normal(static_cast<size_t>(9 * width), 1);
  const std::vector<int32_t> rows = {8, 0, 3};
  for (const OpTable* table : {&ref_ops(), &cpu_ops()}) {
    Guarded<float> picked(static_cast<size_t>(3 * width)), back(x.size(), 5.0f);
    table->gather_rows(
        context(), {.x = x.data(), .rows = rows.data(), .count = 3, .width = width, .out = picked.data()});
    table->scatter_rows(
        context(), {.x = picked.data(), .rows = rows.data(), .count = 3, .width = width, .out = back.data()});
    const Floats values = picked.values(), all = back.values();
    for (int64_t row = 0; row < 9; ++row) {
      const auto place = std::find(rows.begin(), rows.end(), row);
      for (int64_t c = 0; c < width; ++c) {
        const auto at = static_cast<size_t>(row * width + c);
        ASSERT_EQ(all[at], place == rows.end() ? 5.0f : x[at]) << table->name;
        if (place == rows.end()) continue;
        ASSERT_EQ(values[static_cast<size_t>((place - rows.begin()) * width + c)], x[at]) << table->name;
      }
    }
  }
}

Floats dropout(const OpTable& table, const Floats& x, float probability, uint64_t stream,
               const Floats* start) {
  Guarded<float> out = start != nullptr ? Guarded<float>(*start) : Guarded<float>(x.size());
  table.dropout(context(), {.x = x.data(),
                            .elements = static_cast<int64_t>(x.size()),
                            .probability = probability,
                            .seed = 0x123456789ABCDEFull,
                            .stream = stream,
                            .out = out.data(),
                            .output = start != nullptr ? Output::kAccumulate : Output::kOverwrite});
  return out.values();
}

TEST(DropoutTest, AgreesWithTheOracleBitForBit) {
  for (const int64_t length : kLengths) {
    const Floats x = normal(static_cast<size_t>(length), 1), start = normal(static_cast<size_t>(length), 2);
    for (const float probability : {0.0f, 0.05f, 0.5f})
      for (const uint64_t stream : {uint64_t{3}, uint64_t{0x900000001}}) {
        EXPECT_EQ(dropout(cpu_ops(), x, probability, stream, nullptr),
                  dropout(ref_ops(), x, probability, stream, nullptr));
        EXPECT_EQ(dropout(cpu_ops(), x, probability, stream, &start),
                  dropout(ref_ops(), x, probability, stream, &start));
      }
  }
}

TEST(DropoutTest, TheFirstStreamIsReadFromMemory) {
  const Floats x = normal(1000, 1);
  const uint64_t first_stream = 0x900000000;
  for (const OpTable* table : {&cpu_ops(), &ref_ops()}) {
    Guarded<float> out(x.size());
    table->dropout(context(), {.x = x.data(),
                               .elements = static_cast<int64_t>(x.size()),
                               .probability = 0.5f,
                               .seed = 0x123456789ABCDEFull,
                               .stream = 1,
                               .first_stream = &first_stream,
                               .out = out.data()});
    EXPECT_EQ(out.values(), dropout(ref_ops(), x, 0.5f, 0x900000001, nullptr)) << table->name;
  }
}

TEST(DropoutTest, OracleKeepsTheRightShare) {
  const Floats ones(100000, 1.0f);
  const Floats out = dropout(ref_ops(), ones, 0.25f, 1, nullptr);
  const auto kept = std::count_if(out.begin(), out.end(), [](float value) { return value != 0; });
  EXPECT_NEAR(static_cast<double>(kept), 75000, 5 * std::sqrt(100000 * 0.25 * 0.75));
  EXPECT_EQ(*std::max_element(out.begin(), out.end()), 1.0f / 0.75f);
  EXPECT_EQ(dropout(ref_ops(), ones, 0.0f, 1, nullptr), ones);
}

}  // namespace
}  // namespace onggi::testing_ops
