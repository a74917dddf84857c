// What passes of inference take is what was planned for them.
#include <gtest/gtest.h>

#include "model/inference.h"
#include "tests/model_cuda/tiny_model.h"

namespace onggi {
namespace {

class InferenceMemory : public ::testing::TestWithParam<TestDevice> {};

TEST_P(InferenceMemory, IsAsPlanned) {
  TestCompute session(GetParam(), Precision::kFast);
  const Compute& compute = session.compute;
  const auto model = tiny_model(1, session.placement(), 0);
  KvCache cache(model->config, 4, DType::kBF16, compute.stream());
  KvSequence first(cache), second(cache);
  const std::vector<int32_t> many(40, 3), one(1, 5);
  ASSERT_TRUE(first.reserve(40));
  ASSERT_TRUE(second.reserve(1));
  const std::vector<SequenceInput> inputs = {{&first, many}, {&second, one}};
  InferenceBuffers buffers(compute.stream());
  infer(*model, compute, cache, inputs, buffers);
  const auto format = ActivationFormat::of(compute.ops, compute.stream().device().kind, compute.precision,
                                           model->adapter->rank());
  const uint64_t planned = InferenceBuffers::bytes_for(
      model->config, format, {.tokens = 41, .rows = 2, .rank = model->adapter->rank()});
  // Host memory for the logits, and a table of two pages for each sequence.
  const uint64_t besides = sizeof(float) * 2 * static_cast<uint64_t>(model->config.vocab_size) + 16;
  EXPECT_EQ(buffers.bytes(), planned + besides);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(InferenceMemory);
INSTANTIATE_TEST_SUITE_P(Devices, InferenceMemory, ::testing::ValuesIn(test_devices()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace onggi
