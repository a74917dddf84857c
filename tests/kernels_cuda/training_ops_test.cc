// The CUDA kernels of the loss, the largest logits, the gradient's norm and AdamW.
#include "kernels/cuda/cuda.h"
#include "kernels/ref/ref.h"
#include "tests/kernels_cuda/activation_array.h"

namespace onggi::testing_cuda {
namespace {

struct LossCase {
  int64_t rows, vocabulary;
  float size;  // of the logits
};
constexpr LossCase kLossCases[] = {{1, 1, 1},    {3, 5, 1},     {4, 33, 10},   {3, 1000, 0},
                                   {2, 8192, 5}, {1, 20008, 3}, {2, 104, 300}, {300, 8, 2}};

std::vector<int32_t> labels_for(const LossCase& c) {
  std::vector<int32_t> labels;
  for (int64_t m = 0; m < c.rows; ++m) labels.push_back(static_cast<int32_t>((m + 1) * 7919 % c.vocabulary));
  return labels;
}

enum class Gradient { kNone, kInPlace, kBFloat16 };

// Runs one case on the device and compares it with the oracle's.
void expect_loss(const LossCase& c, Gradient gradient) {
  const Floats logits = normal(static_cast<size_t>(c.rows * c.vocabulary), 1, c.size);
  const std::vector<int32_t> labels = labels_for(c);
  Floats losses(labels.size()), dlogits(logits.size());
  double sum = 3;
  CrossEntropyArgs args{.logits = logits.data(),
                        .labels = labels.data(),
                        .rows = c.rows,
                        .vocabulary = c.vocabulary,
                        .gradient_scale = 0.25f,
                        .losses = losses.data(),
                        .loss_sum = &sum,
                        .dlogits = dlogits.data()};
  ref::cross_entropy(testing_ops::context(), args);

  const ActivationArray device_logits(logits, DType::kF32), in_bf16(logits.size(), DType::kBF16);
  const DeviceArray<int32_t> device_labels(labels);
  const DeviceArray<float> device_losses(labels.size());
  const DeviceArray<double> device_sum(std::vector<double>{3});
  args.logits = static_cast<const float*>(device_logits.data());
  args.labels = device_labels.data();
  args.losses = device_losses.data();
  args.loss_sum = device_sum.data();
  args.dlogits = gradient == Gradient::kNone      ? Activation(nullptr)
                 : gradient == Gradient::kInPlace ? Activation(device_logits)
                                                  : Activation(in_bf16);
  cuda::cross_entropy(device_context(), args);
  EXPECT_TRUE(within(device_losses.values(), losses,
                     [&](size_t i) { return 8 * kUnitF32 * (std::abs(losses[i]) + c.size * 5 + 1); }));
  double expected_sum = 0;
  for (const float loss : device_losses.values()) expected_sum += loss;
  EXPECT_NEAR(device_sum.values()[0], 3 + expected_sum, 1e-12 * (3 + std::abs(expected_sum)))
      << "added to what was there";
  if (gradient == Gradient::kNone) {
    EXPECT_EQ(device_logits.values(), logits);
    return;
  }
  const DType dtype = gradient == Gradient::kInPlace ? DType::kF32 : DType::kBF16;
  const Floats actual = gradient == Gradient::kInPlace ? device_logits.values() : in_bf16.values();
  EXPECT_TRUE(within(actual, dlogits, [&](size_t i) {
    return ((16 + 5 * c.size) * kUnitF32 + storage_unit(dtype)) * std::abs(dlogits[i]) + kUnitF32;
  }));
}

TEST(CudaCrossEntropy, AgreesWithTheOracle) {
  for (const LossCase& c : kLossCases) {
    SCOPED_TRACE(testing::Message() << "M=" << c.rows << " V=" << c.vocabulary);
    expect_loss(c, Gradient::kNone);
    if (c.rows > 100) continue;  // many rows are for their sum
    expect_loss(c, Gradient::kInPlace);
    expect_loss(c, Gradient::kBFloat16);
  }
}

TEST(CudaCrossEntropy, OfTheWholeVocabulary) { expect_loss({1, 151936, 3}, Gradient::kInPlace); }

TEST(CudaCrossEntropy, SumsAreTheSameAtEachCall) {
  const LossCase c{30, 64, 4};
  const DeviceArray<float> logits(normal(static_cast<size_t>(c.rows * c.vocabulary), 1, c.size));
  const DeviceArray<int32_t> labels(labels_for(c));
  const DeviceArray<float> losses(static_cast<size_t>(c.rows));
  std::vector<double> sums;
  for (int i = 0; i < 2; ++i) {
    const DeviceArray<double> sum(std::vector<double>{0});
    cuda::cross_entropy(device_context(), {.logits = logits.data(),
                                           .labels = labels.data(),
                                           .rows = c.rows,
                                           .vocabulary = c.vocabulary,
                                           .gradient_scale = 1,
                                           .losses = losses.data(),
                                           .loss_sum = sum.data(),
                                           .dlogits = nullptr});
    sums.push_back(sum.values()[0]);
  }
  EXPECT_EQ(sums[0], sums[1]);
}

TEST(CudaSumOfSquares, DependsOnTheLengthAlone) {
  for (const size_t length : {size_t{0}, size_t{1}, size_t{13}, size_t{70000}, size_t{400003}}) {
    const Floats x = normal(length, 1, 10.0f);
    double expected = 0;
    ref::sum_of_squares(testing_ops::context(),
                        {.x = x.data(), .elements = static_cast<int64_t>(length), .sum = &expected});
    std::vector<double> sums;
    for (const size_t misalignment : {0, 1}) {
      const ActivationArray device_x(x, DType::kF32, misalignment);
      const DeviceArray<double> sum(1);
      cuda::sum_of_squares(device_context(), {.x = static_cast<const float*>(device_x.data()),
                                              .elements = static_cast<int64_t>(length),
                                              .sum = sum.data()});
      sums.push_back(sum.values()[0]);
    }
    EXPECT_EQ(sums[0], sums[1]) << length;
    const double allowed = static_cast<double>(length) * 0x1p-53 * expected;  // the oracle's own, mostly
    EXPECT_NEAR(sums[0], expected, allowed) << length;
  }
}

struct AdamWCase {
  size_t elements;
  size_t misalignment;
  bool clipped;
  float weight_decay;
  int64_t step;
};

TEST(CudaAdamW, AgreesWithTheOracle) {
  constexpr AdamWCase kCases[] = {{1, 0, false, 0, 1},
                                  {1023, 0, true, 0.01f, 1},
                                  {4096, 1, true, 0, 10},
                                  {5002, 0, false, 0.1f, 100000},
                                  {777, 2, false, 0.1f, 3}};
  for (const AdamWCase& c : kCases) {
    SCOPED_TRACE(testing::Message() << c.elements << " elements, step " << c.step);
    Floats weights = normal(c.elements, 1, 0.05f), gradient = normal(c.elements, 2);
    Floats first = normal(c.elements, 3, 0.1f), second = absolute(normal(c.elements, 4, 0.01f));
    const ActivationArray device_weights(weights, DType::kF32, c.misalignment);
    const ActivationArray device_gradient(gradient, DType::kF32, c.misalignment);
    const ActivationArray device_first(first, DType::kF32, c.misalignment);
    const ActivationArray device_second(second, DType::kF32, c.misalignment);
    const Floats weights_before = weights, first_before = first, second_before = second;
    // One norm far above the limit, one below it.
    const double squares = c.clipped ? 1e4 : 0.25;
    const DeviceArray<double> device_squares(std::vector<double>{squares});
    AdamWArgs args{.weights = weights.data(),
                   .gradient = gradient.data(),
                   .first_moment = first.data(),
                   .second_moment = second.data(),
                   .elements = static_cast<int64_t>(c.elements),
                   .sum_of_squares = &squares,
                   .max_norm = 1.0,
                   .learning_rate = 1e-3f,
                   .beta1 = 0.9f,
                   .beta2 = 0.999f,
                   .epsilon = 1e-8f,
                   .weight_decay = c.weight_decay,
                   .step = c.step};
    ref::adamw(testing_ops::context(), args);
    args.weights = static_cast<float*>(device_weights.data());
    args.gradient = static_cast<float*>(device_gradient.data());
    args.first_moment = static_cast<float*>(device_first.data());
    args.second_moment = static_cast<float*>(device_second.data());
    args.sum_of_squares = device_squares.data();
    cuda::adamw(device_context(), args);
    EXPECT_TRUE(within(device_first.values(), first, [&](size_t i) {
      return 4 * kUnitF32 * (std::abs(first_before[i]) + std::abs(gradient[i]));
    }));
    EXPECT_TRUE(within(device_second.values(), second, [&](size_t i) {
      return 4 * kUnitF32 * (std::abs(second_before[i]) + gradient[i] * gradient[i]);
    }));
    EXPECT_TRUE(within(device_weights.values(), weights, [&](size_t i) {
      const double change = std::abs(double{weights[i]} - weights_before[i]);
      return 2 * kUnitF32 * std::abs(weights_before[i]) + 64 * kUnitF32 * (change + 1e-3);
    }));
    EXPECT_NE(weights, weights_before);
  }
}

TEST(CudaAdamW, WithoutALimitDoesNotClip) {
  Floats weights(8, 1.0f), gradient(8, 100.0f), first(8, 0.0f), second(8, 0.0f);
  const DeviceArray<float> device_weights(weights), device_gradient(gradient), device_first(first),
      device_second(second);
  cuda::adamw(device_context(), {.weights = device_weights.data(),
                                 .gradient = device_gradient.data(),
                                 .first_moment = device_first.data(),
                                 .second_moment = device_second.data(),
                                 .elements = 8,
                                 .sum_of_squares = nullptr,
                                 .max_norm = 1,
                                 .learning_rate = 0.5f,
                                 .beta1 = 0.9f,
                                 .beta2 = 0.999f,
                                 .epsilon = 1e-8f,
                                 .weight_decay = 0,
                                 .step = 1});
  EXPECT_NEAR(device_first.values()[7], 10.0f, 1e-5);
  EXPECT_NEAR(device_weights.values()[7], 0.5f, 1e-5);
}

// Values in many orders: the kernel's quick bound is loose for some of them.
enum class Order {
  kRandom,
  kFewValues,  // many ties
  kAllEqual,
  kAscending,
  kInFewThreads,  // the best in the elements of 100 of a block's 512 threads
  kNotFinite,     // NaN and both infinities among them, and both zeros
  kNothingFinite,
};
Floats logits_in(Order order, size_t rows, size_t vocabulary) {
  Floats logits = normal(rows * vocabulary, 11, 3.0f);
  for (size_t i = 0; i < logits.size(); ++i) {
    const size_t v = i % vocabulary;
    constexpr float kSpecial[] = {std::numeric_limits<float>::quiet_NaN(), INFINITY, -INFINITY, 0.0f, -0.0f};
    switch (order) {
      case Order::kRandom:
        break;
      case Order::kFewValues:
        logits[i] = std::round(logits[i]);
        break;
      case Order::kAllEqual:
        logits[i] = -2.5f;
        break;
      case Order::kAscending:
        logits[i] = static_cast<float>(v) * 0.01f;
        break;
      case Order::kInFewThreads:
        if (v / 4 % 512 < 100) logits[i] += 100.0f;
        break;
      case Order::kNotFinite:
        if (v % 3 != 0) logits[i] = kSpecial[v % 5];
        break;
      case Order::kNothingFinite:
        logits[i] = kSpecial[v % 3];
        break;
    }
  }
  return logits;
}

struct TopCase {
  Order order;
  int64_t rows, vocabulary, count;
};
constexpr TopCase kTopCases[] = {{Order::kRandom, 1, 1, 1},           {Order::kRandom, 3, 7, 7},
                                 {Order::kRandom, 2, 200, 128},       {Order::kRandom, 3, 1001, 20},
                                 {Order::kRandom, 2, 8192, 1},        {Order::kRandom, 1, 8193, 128},
                                 {Order::kRandom, 2, 20004, 50},      {Order::kFewValues, 2, 9001, 128},
                                 {Order::kFewValues, 1, 20000, 40},   {Order::kAllEqual, 2, 9000, 128},
                                 {Order::kAscending, 2, 17000, 128},  {Order::kInFewThreads, 1, 16384, 128},
                                 {Order::kNotFinite, 2, 9000, 64},    {Order::kNotFinite, 2, 30, 30},
                                 {Order::kNothingFinite, 1, 300, 10}, {Order::kRandom, 300, 9, 4}};

void expect_top_logits(const TopCase& c) {
  const Floats logits = logits_in(c.order, static_cast<size_t>(c.rows), static_cast<size_t>(c.vocabulary));
  const auto taken = static_cast<size_t>(c.rows * c.count), rows = static_cast<size_t>(c.rows);
  Floats values(taken), log_sum_exp(rows);
  std::vector<int32_t> ids(taken);
  TopLogitsArgs args{.logits = logits.data(),
                     .rows = c.rows,
                     .vocabulary = c.vocabulary,
                     .count = c.count,
                     .values = values.data(),
                     .ids = ids.data(),
                     .log_sum_exp = log_sum_exp.data()};
  ref::top_logits(testing_ops::context(), args);
  const DeviceArray<float> device_logits(logits), device_values(taken), device_sums(rows);
  const DeviceArray<int32_t> device_ids(taken);
  args.logits = device_logits.data();
  args.values = device_values.data();
  args.ids = device_ids.data();
  args.log_sum_exp = device_sums.data();
  cuda::top_logits(device_context(), args);
  EXPECT_EQ(device_ids.values(), ids);
  EXPECT_EQ(device_values.values(), values);
  if (c.order == Order::kNothingFinite) return;  // the sum of nothing has no logarithm
  EXPECT_TRUE(within(device_sums.values(), log_sum_exp,
                     [&](size_t i) { return 8 * kUnitF32 * (std::abs(log_sum_exp[i]) + 10); }));
}

TEST(CudaTopLogits, AreExactlyTheOracles) {
  for (const TopCase& c : kTopCases) {
    SCOPED_TRACE(testing::Message() << "order " << static_cast<int>(c.order) << ", M=" << c.rows
                                    << " V=" << c.vocabulary << " k=" << c.count);
    expect_top_logits(c);
  }
}

TEST(CudaTopLogits, OfTheWholeVocabulary) { expect_top_logits({Order::kRandom, 1, 151936, 128}); }

}  // namespace
}  // namespace onggi::testing_cuda
