// Training passes that are replayed from a recording give the bits of passes that are queued one by one.
#include <gtest/gtest.h>

#include "tests/model_cuda/tiny_model.h"

namespace onggi {
namespace {

class PassRecording : public ::testing::TestWithParam<TestDevice> {};

// A batch of the tiny model: its tokens follow from `number`, its samples and labels are given.
struct NumberedBatch {
  std::vector<int32_t> tokens, labels, starts;
  NumberedBatch(int32_t number, std::vector<int32_t> borders, int32_t labels_from)
      : starts(std::move(borders)) {
    for (int32_t i = 0; i < starts.back(); ++i) {
      tokens.push_back((i * 37 + number * 11) % 251);
      labels.push_back(i < labels_from ? -100 : (i * 29 + number) % 251);
    }
  }
  TrainingBatch view() const { return {tokens, labels, starts}; }
};

// Twelve tokens in one sample or two, with many labels and few; then more tokens; then twelve again.
std::vector<NumberedBatch> batches() {
  std::vector<NumberedBatch> all;
  for (int32_t i = 0; i < 5; ++i) all.emplace_back(i, std::vector<int32_t>{0, 3 + i, 12}, 2 * i);
  for (int32_t i = 5; i < 9; ++i) all.emplace_back(i, std::vector<int32_t>{0, 12}, i);
  all.emplace_back(9, std::vector<int32_t>{0, 4, 9, 15}, 1);
  for (int32_t i = 10; i < 14; ++i) all.emplace_back(i, std::vector<int32_t>{0, i - 9, 12}, 1);
  return all;
}

enum class Memory { kKept, kNewForEachPass };

// The sum of the losses, and the gradient of all passes.
struct Trained {
  double loss = 0;
  std::vector<float> gradient;
  std::vector<int64_t> recordings;  // after each pass
};

Trained run_all(const Model& model, const Compute& compute, ActivationPolicy policy, Memory kind) {
  Stream& stream = compute.stream();
  Trained trained;
  trained.gradient.resize(model.adapter->values.size());
  const Buffer gradient = stream.allocate(trained.gradient.size() * sizeof(float));
  stream.fill_zero(gradient.data(), gradient.bytes());
  auto memory = std::make_unique<TrainingMemory>(model, compute, 16, policy);
  uint64_t pass = 0;
  for (const NumberedBatch& batch : batches()) {
    if (kind == Memory::kNewForEachPass) {
      trained.loss += memory->take_loss_sum();
      memory = std::make_unique<TrainingMemory>(model, compute, 16, policy);
    }
    forward_backward(model, compute, batch.view(), {0.3, 5, pass++}, 0.1f, *memory, gradient.as<float>());
    trained.recordings.push_back(memory->recording_count());
  }
  trained.loss += memory->take_loss_sum();
  stream.copy_out(trained.gradient.data(), gradient.data(), gradient.bytes());
  return trained;
}

TEST_P(PassRecording, GivesTheSameBits) {
  for (const auto& [precision, policy] : {std::pair{Precision::kFast, ActivationPolicy::kKeepAll},
                                          {Precision::kFast, ActivationPolicy::kRecomputeBlocks},
                                          {Precision::kF32, ActivationPolicy::kKeepAll}}) {
    TestCompute session(GetParam(), precision);
    const auto model = tiny_model(2, session.placement(), 0);
    const Trained queued = run_all(*model, session.compute, policy, Memory::kNewForEachPass);
    const Trained recorded = run_all(*model, session.compute, policy, Memory::kKept);
    EXPECT_EQ(queued.recordings, std::vector<int64_t>(14, 0));
    // Forward and backward of a shape at its third pass; a longer pass drops them.
    EXPECT_EQ(recorded.recordings, (std::vector<int64_t>{0, 0, 2, 2, 2, 2, 2, 4, 4, 0, 0, 0, 2, 2}));
    EXPECT_EQ(recorded.gradient, queued.gradient);
    EXPECT_NEAR(recorded.loss, queued.loss, 1e-12 * queued.loss);  // losses are added in another order
    EXPECT_NE(std::accumulate(queued.gradient.begin(), queued.gradient.end(), 0.0), 0);
  }
}

// What launches hold by value, the probability and where the gradient lies, has a recording of its own.
TEST_P(PassRecording, IsOfOneGradientAndDropout) {
  TestCompute session(GetParam(), Precision::kFast);
  const auto model = tiny_model(1, session.placement(), 0);
  Stream& stream = session.compute.stream();
  const size_t bytes = model->adapter->values.size() * sizeof(float);
  const Buffer one = stream.allocate(bytes), other = stream.allocate(bytes);
  const NumberedBatch batch(1, {0, 5, 12}, 0);
  const auto gradient_of = [&](double dropout, const Buffer& gradient, TrainingMemory& memory) {
    stream.fill_zero(gradient.data(), bytes);
    forward_backward(*model, session.compute, batch.view(), {dropout, 5, 3}, 0.1f, memory,
                     gradient.as<float>());
    std::vector<float> values(model->adapter->values.size());
    stream.copy_out(values.data(), gradient.data(), bytes);
    return values;
  };
  TrainingMemory fresh(*model, session.compute, 12, ActivationPolicy::kKeepAll);
  const std::vector<float> kept = gradient_of(0, one, fresh), dropped = gradient_of(0.5, one, fresh);
  EXPECT_NE(kept, dropped);
  TrainingMemory memory(*model, session.compute, 12, ActivationPolicy::kKeepAll);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(gradient_of(0.5, one, memory), dropped) << i;
    EXPECT_EQ(gradient_of(0, one, memory), kept) << i;
    EXPECT_EQ(gradient_of(0, other, memory), kept) << i;
  }
  // Two forwards, three backwards.
  EXPECT_EQ(memory.recording_count(), 5);
}

// The stream that brings the layers is none that is recorded.
TEST_P(PassRecording, IsNotMadeOfOffloadedLayers) {
  TestCompute session(GetParam(), Precision::kFast);
  const auto resident = tiny_model(3, session.placement(), 0),
             offloaded = tiny_model(3, session.placement(), 2);
  const Trained expected =
      run_all(*resident, session.compute, ActivationPolicy::kRecomputeBlocks, Memory::kKept);
  const Trained trained =
      run_all(*offloaded, session.compute, ActivationPolicy::kRecomputeBlocks, Memory::kKept);
  EXPECT_EQ(trained.gradient, expected.gradient);
  EXPECT_EQ(trained.recordings.back(), 0);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(PassRecording);
INSTANTIATE_TEST_SUITE_P(Devices, PassRecording, ::testing::ValuesIn(test_devices()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace onggi
