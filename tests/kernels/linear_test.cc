// Embedding, linear layers and plain products.
#include <algorithm>

#include "base/text.h"
#include "kernels/cpu/quantized_dot.h"
#include "tests/kernels/harness.h"

namespace onggi::testing_ops {
namespace {

struct LinearCase {
  DType dtype;
  int64_t tokens, rows, columns;
  Output output = Output::kOverwrite;
};

std::ostream& operator<<(std::ostream& out, const LinearCase& c) {
  return out << dtype_name(c.dtype) << " T=" << c.tokens << " N=" << c.rows << " K=" << c.columns
             << (c.output == Output::kAccumulate ? " accumulate" : "");
}

std::vector<LinearCase> linear_cases() {
  std::vector<LinearCase> cases;
  for (const DType dtype : weight_dtypes()) {
    const int64_t block = std::max(dtype_info(dtype).block_elements, 64);
    cases.push_back({dtype, 1, 7, block});
    cases.push_back({dtype, 3, 100, 4 * block, Output::kAccumulate});
    cases.push_back({dtype, 33, 61, 5 * block});  // remainders of every tile
    cases.push_back({dtype, 70, 130, 5 * block, Output::kAccumulate});
    cases.push_back({dtype, 40, 24, 1024 + block});  // more than one pass over K
    cases.push_back({dtype, 37, 530, block});        // more than one pass over N in the backward
  }
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    cases.push_back({dtype, 2, 5, 13});  // odd, shorter than a vector
    cases.push_back({dtype, 35, 51, 77});
    cases.push_back({dtype, 300, 97, 102, Output::kAccumulate});
  }
  cases.push_back({DType::kBF16, 2100, 20, 64});  // more tokens than one pass takes
  return cases;
}

// Allowed error of sum a b over `depth` terms, given sum |a| |b|: the inputs' rounding (bf16: both of them)
// and a random walk of fp32 roundings in the sum.
double product_allowance(Precision precision, int64_t depth, double magnitude) {
  const double inputs = precision == Precision::kFast ? 2 * kUnitBf16 : 0;
  return (inputs + kUnitF32 * (8 + std::sqrt(static_cast<double>(depth)))) * magnitude + 1e-30;
}

class LinearTest : public testing::TestWithParam<LinearCase> {
 protected:
  const LinearCase& c = GetParam();
  Weight weight = random_weight(c.dtype, c.rows, c.columns, 1);
  Floats x = normal(static_cast<size_t>(c.tokens * c.columns), 2);
  Floats dout = normal(static_cast<size_t>(c.tokens * c.rows), 3);
  size_t entry = static_cast<size_t>(c.dtype);

  Floats forward(const OpTable& table, Precision precision, const Floats& input, const WeightView& view,
                 const Floats& start) {
    Guarded<float> out(start);
    table.linear[static_cast<size_t>(view.dtype)](context(), {.x = input.data(),
                                                              .weight = view,
                                                              .tokens = c.tokens,
                                                              .out = out.data(),
                                                              .output = c.output,
                                                              .precision = precision});
    return out.values();
  }
  Floats backward(const OpTable& table, Precision precision, const Floats& input, const WeightView& view,
                  const Floats& start) {
    Guarded<float> dx(start);
    table.linear_backward[static_cast<size_t>(view.dtype)](context(), {.dout = input.data(),
                                                                       .weight = view,
                                                                       .tokens = c.tokens,
                                                                       .dx = dx.data(),
                                                                       .output = c.output,
                                                                       .precision = precision});
    return dx.values();
  }
};

// Few tokens may be rounded to int8 with a scale per 32 values: every value then errs by up to half a step,
// which is 1/254 of the largest of its block.
Floats largest_of_32(const Floats& x, int64_t row) {
  Floats bounds(x.size());
  for (size_t start = 0; start < x.size(); start += static_cast<size_t>(row))
    for (size_t i = 0; i < static_cast<size_t>(row); i += 32) {
      const size_t end = std::min(i + 32, static_cast<size_t>(row));
      float largest = 0;
      for (size_t j = i; j < end; ++j) largest = std::max(largest, std::abs(x[start + j]));
      for (size_t j = i; j < end; ++j) bounds[start + j] = largest;
    }
  return bounds;
}

TEST_P(LinearTest, ForwardAgreesWithTheOracle) {
  const Floats start = normal(static_cast<size_t>(c.tokens * c.rows), 4);
  const Floats expected = forward(ref_ops(), Precision::kF32, x, weight.view, start);
  const Floats weight_size = absolute(weight.decoded);
  const bool few = c.tokens <= cpu::few_token_limit(c.dtype) && dtype_info(c.dtype).block_elements > 1;
  for (const Precision precision : {Precision::kF32, Precision::kFast}) {
    SCOPED_TRACE(precision_name(precision));
    const Floats bounds = few && precision == Precision::kFast ? largest_of_32(x, c.columns) : absolute(x);
    const Floats magnitude = forward(ref_ops(), Precision::kF32, bounds,
                                     plain_view(weight_size, c.rows, c.columns), absolute(start));
    const Floats actual = forward(cpu_ops(), precision, x, weight.view, start);
    EXPECT_TRUE(within(actual, expected,
                       [&](size_t i) { return product_allowance(precision, c.columns, magnitude[i]); }));
    EXPECT_EQ(actual, forward(cpu_ops(), precision, x, weight.view, start)) << "not the same bits";
  }
}

TEST_P(LinearTest, BackwardAgreesWithTheOracle) {
  const Floats start = normal(x.size(), 5);
  const Floats expected = backward(ref_ops(), Precision::kF32, dout, weight.view, start);
  const Floats weight_size = absolute(weight.decoded);
  const Floats magnitude = backward(ref_ops(), Precision::kF32, absolute(dout),
                                    plain_view(weight_size, c.rows, c.columns), absolute(start));
  for (const Precision precision : {Precision::kF32, Precision::kFast}) {
    SCOPED_TRACE(precision_name(precision));
    const Floats actual = backward(cpu_ops(), precision, dout, weight.view, start);
    EXPECT_TRUE(within(actual, expected,
                       [&](size_t i) { return product_allowance(precision, c.rows, magnitude[i]); }));
    EXPECT_EQ(actual, backward(cpu_ops(), precision, dout, weight.view, start)) << "not the same bits";
  }
}

TEST_P(LinearTest, OracleHasTheRightGradient) {
  if (c.output == Output::kAccumulate || c.tokens > 40) GTEST_SKIP() << "covered by the small cases";
  const Floats dx = backward(ref_ops(), Precision::kF32, dout, weight.view, Floats(x.size()));
  expect_gradient(x, dx, dout, [&](const Floats& input) {
    return forward(ref_ops(), Precision::kF32, input, weight.view, Floats(dout.size()));
  });
}

INSTANTIATE_TEST_SUITE_P(Cases, LinearTest, testing::ValuesIn(linear_cases()),
                         [](const auto& info) { return "Case" + std::to_string(info.index); });

TEST(EmbeddingTest, CopiesTheRowsOfTheIds) {
  for (const DType dtype : weight_dtypes()) {
    SCOPED_TRACE(dtype_name(dtype));
    const Weight table = random_weight(dtype, 9, 256, 11);
    const std::vector<int32_t> ids = {8, 0, 3, 3, 1};
    for (const OpTable* ops : {&ref_ops(), &cpu_ops()}) {
      Guarded<float> out(ids.size() * 256);
      ops->embedding[static_cast<size_t>(dtype)](
          context(), {.ids = ids.data(), .table = table.view, .tokens = 5, .out = out.data()});
      const Floats values = out.values();
      for (size_t t = 0; t < ids.size(); ++t)
        EXPECT_TRUE(std::equal(values.begin() + static_cast<long>(t) * 256,
                               values.begin() + static_cast<long>(t + 1) * 256,
                               table.decoded.begin() + ids[t] * 256))
            << ops->name << " token " << t;
    }
  }
}

struct GemmCase {
  Transpose a, b;
  int64_t m, n, k;
  float alpha;
  Output output;
};

std::vector<GemmCase> gemm_cases() {
  std::vector<GemmCase> cases;
  for (const Transpose a : {Transpose::kNo, Transpose::kYes})
    for (const Transpose b : {Transpose::kNo, Transpose::kYes})
      for (const Output output : {Output::kOverwrite, Output::kAccumulate}) {
        cases.push_back({a, b, 1, 1, 1, 1.0f, output});
        cases.push_back({a, b, 130, 16, 515, 0.5f, output});  // LoRA down
        cases.push_back({a, b, 67, 403, 16, 2.0f, output});   // LoRA up
        cases.push_back({a, b, 16, 301, 130, 1.0f, output});  // LoRA's weight gradients
      }
  return cases;
}

Floats run_gemm(const OpTable& table, const GemmCase& c, Precision precision, const Floats& a,
                const Floats& b, const Floats& start) {
  Guarded<float> out(start);
  table.gemm(context(), {.transpose_a = c.a,
                         .transpose_b = c.b,
                         .m = c.m,
                         .n = c.n,
                         .k = c.k,
                         .alpha = c.alpha,
                         .a = a.data(),
                         .b = b.data(),
                         .c = out.data(),
                         .output = c.output,
                         .precision = precision});
  return out.values();
}

TEST(GemmTest, AgreesWithTheOracle) {
  for (const GemmCase& c : gemm_cases()) {
    SCOPED_TRACE(
        text("{}x{}x{} turned {} {}", c.m, c.n, c.k, c.a == Transpose::kYes, c.b == Transpose::kYes));
    const Floats a = normal(static_cast<size_t>(c.m * c.k), 1), b = normal(static_cast<size_t>(c.k * c.n), 2);
    const Floats start = normal(static_cast<size_t>(c.m * c.n), 3);
    const Floats expected = run_gemm(ref_ops(), c, Precision::kF32, a, b, start);
    const Floats magnitude =
        run_gemm(ref_ops(), c, Precision::kF32, absolute(a), absolute(b), absolute(start));
    for (const Precision precision : {Precision::kF32, Precision::kFast}) {
      const Floats actual = run_gemm(cpu_ops(), c, precision, a, b, start);
      EXPECT_TRUE(within(actual, expected,
                         [&](size_t i) { return product_allowance(precision, c.k, magnitude[i]); }));
      EXPECT_EQ(actual, run_gemm(cpu_ops(), c, precision, a, b, start)) << "not the same bits";
    }
  }
}

// The oracle itself, on numbers that can be checked by hand: [[1, 2], [3, 4]] [[5, 6], [7, 8]].
TEST(GemmTest, OracleMultipliesMatrices) {
  const Floats a = {1, 2, 3, 4}, b = {5, 6, 7, 8};
  const auto product = [&](Transpose ta, Transpose tb) {
    return run_gemm(ref_ops(), {ta, tb, 2, 2, 2, 1.0f, Output::kOverwrite}, Precision::kF32, a, b, Floats(4));
  };
  EXPECT_EQ(product(Transpose::kNo, Transpose::kNo), (Floats{19, 22, 43, 50}));
  EXPECT_EQ(product(Transpose::kYes, Transpose::kNo), (Floats{26, 30, 38, 44}));
  EXPECT_EQ(product(Transpose::kNo, Transpose::kYes), (Floats{17, 23, 39, 53}));
}

}  // namespace
}  // namespace onggi::testing_ops
