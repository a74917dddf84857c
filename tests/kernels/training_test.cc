// Cross-entropy, the norm of gradients, and AdamW.
#include <algorithm>

#include "tests/kernels/harness.h"

namespace onggi::testing_ops {
namespace {

struct LossCase {
  int64_t rows, vocabulary;
  float size;  // of the logits
};
constexpr LossCase kLossCases[] = {{1, 1, 1},    {3, 5, 1},      {4, 33, 10},
                                   {7, 8192, 5}, {2, 151936, 3}, {2, 100, 300}};

struct Loss {
  Floats losses, dlogits;
};
Loss cross_entropy(const OpTable& table, const LossCase& c, const Floats& logits,
                   const std::vector<int32_t>& labels) {
  Guarded<float> losses(static_cast<size_t>(c.rows)), dlogits(logits);  // in place
  double sum = 3;
  table.cross_entropy(context(), {.logits = dlogits.data(),
                                  .labels = labels.data(),
                                  .rows = c.rows,
                                  .vocabulary = c.vocabulary,
                                  .gradient_scale = 0.25f,
                                  .losses = losses.data(),
                                  .loss_sum = &sum,
                                  .dlogits = dlogits.data()});
  double expected_sum = 3;
  for (const float loss : losses.values()) expected_sum += loss;
  EXPECT_DOUBLE_EQ(sum, expected_sum) << "added to what was there";
  return {losses.values(), dlogits.values()};
}

TEST(CrossEntropyTest, AgreesWithTheOracleAndItsDerivative) {
  for (const LossCase& c : kLossCases) {
    SCOPED_TRACE(testing::Message() << "M=" << c.rows << " V=" << c.vocabulary);
    const Floats logits = normal(static_cast<size_t>(c.rows * c.vocabulary), 1, c.size);
    std::vector<int32_t> labels;
    for (int64_t m = 0; m < c.rows; ++m) labels.push_back(static_cast<int32_t>(m * 7919 % c.vocabulary));
    const Loss expected = cross_entropy(ref_ops(), c, logits, labels);
    const Loss actual = cross_entropy(cpu_ops(), c, logits, labels);
    EXPECT_TRUE(within(actual.losses, expected.losses,
                       [&](size_t i) { return 8 * kUnitF32 * (std::abs(expected.losses[i]) + c.size * 5); }));
    EXPECT_TRUE(within(actual.dlogits, expected.dlogits, [&](size_t i) {
      return (16 + 5 * c.size) * kUnitF32 * std::abs(expected.dlogits[i]) + kUnitF32;
    }));
    if (c.vocabulary == 1 || c.vocabulary > 10000 || c.size > 100) continue;
    const Floats ones(static_cast<size_t>(c.rows), 0.25f);
    expect_gradient(logits, expected.dlogits, ones,
                    [&](const Floats& input) { return cross_entropy(ref_ops(), c, input, labels).losses; });
  }
}

TEST(CrossEntropyTest, LossAloneLeavesTheLogits) {
  const Floats logits = normal(2 * 40, 1);
  const std::vector<int32_t> labels = {0, 39};
  for (const OpTable* table : {&ref_ops(), &cpu_ops()}) {
    Guarded<float> losses(2), kept(logits);
    table->cross_entropy(context(), {.logits = kept.data(),
                                     .labels = labels.data(),
                                     .rows = 2,
                                     .vocabulary = 40,
                                     .gradient_scale = 1.0f,
                                     .losses = losses.data(),
                                     .loss_sum = nullptr,
                                     .dlogits = nullptr});
    EXPECT_EQ(kept.values(), logits);
    // Equal logits cost log V each.
    const Floats flat(80, 2.0f);
    EXPECT_NEAR(cross_entropy(*table, {2, 40, 1}, flat, labels).losses[0], std::log(40.0), 1e-6);
  }
}

TEST(SumOfSquaresTest, DependsOnTheLengthAlone) {
  Machine one(1), three(3);
  for (const size_t length : {size_t{0}, size_t{1}, size_t{13}, size_t{70000}, size_t{400003}}) {
    const Floats x = normal(length, 1, 10.0f);
    double expected = 0, alone = 0, together = 0;
    const auto run = [&](const OpTable& table, const OpContext& where, double* sum) {
      table.sum_of_squares(where, {.x = x.data(), .elements = static_cast<int64_t>(length), .sum = sum});
    };
    run(ref_ops(), context(), &expected);
    run(cpu_ops(), one.context, &alone);
    run(cpu_ops(), three.context, &together);
    EXPECT_NEAR(alone, expected, 1e-12 * expected);
    EXPECT_EQ(alone, together);
  }
}

struct AdamWState {
  Floats weights, first, second;
};
AdamWState adamw(const OpTable& table, AdamWState state, const Floats& gradient, int64_t step) {
  Guarded<float> weights(state.weights), first(state.first), second(state.second);
  const double squares = 9;  // a norm of 3, clipped by 0.7
  table.adamw(context(), {.weights = weights.data(),
                          .gradient = gradient.data(),
                          .first_moment = first.data(),
                          .second_moment = second.data(),
                          .elements = static_cast<int64_t>(gradient.size()),
                          .sum_of_squares = &squares,
                          .max_norm = 0.7 * 3,
                          .learning_rate = 2e-4f,
                          .beta1 = 0.9f,
                          .beta2 = 0.999f,
                          .epsilon = 1e-8f,
                          .weight_decay = 0.01f,
                          .step = step});
  return {weights.values(), first.values(), second.values()};
}

TEST(AdamWTest, AgreesWithTheOracle) {
  for (const size_t length : {size_t{1}, size_t{31}, size_t{40007}}) {
    AdamWState expected{normal(length, 1), Floats(length), Floats(length)};
    AdamWState actual = expected;
    for (int64_t step = 1; step <= 5; ++step) {
      const Floats gradient = normal(length, 10 + static_cast<uint64_t>(step), 0.01f);
      expected = adamw(ref_ops(), expected, gradient, step);
      actual = adamw(cpu_ops(), actual, gradient, step);
    }
    EXPECT_TRUE(within(actual.weights, expected.weights, [&](size_t i) {
      return 16 * kUnitF32 * std::abs(expected.weights[i]) + 5 * 2e-4 * 32 * kUnitF32;
    }));
    EXPECT_TRUE(close_in_norm(actual.first, expected.first, 16 * kUnitF32));
    EXPECT_TRUE(close_in_norm(actual.second, expected.second, 32 * kUnitF32));
  }
}

// The first step moves every weight by the learning rate against its gradient's sign, whatever its size.
TEST(AdamWTest, OracleStepsByTheLearningRate) {
  const AdamWState start{{1, 1, 1}, {0, 0, 0}, {0, 0, 0}};
  const AdamWState end = adamw(ref_ops(), start, {5, -0.01f, 1000}, 1);
  const float decayed = 1 - 2e-4f * 0.01f;
  EXPECT_NEAR(end.weights[0], decayed - 2e-4, 1e-7);
  EXPECT_NEAR(end.weights[1], decayed + 2e-4, 1e-7);
  EXPECT_NEAR(end.weights[2], decayed - 2e-4, 1e-7);
}

}  // namespace
}  // namespace onggi::testing_ops
