// Embeddings over HTTP: a service whose model lies on the device against one on the CPU.
#include "serve/embeddings.h"

#include <gtest/gtest.h>

#include "tests/devices.h"
#include "tests/metrics.h"
#include "tests/serve/mini_service.h"

namespace onggi {
namespace {

std::vector<std::vector<float>> embeddings_of(const Device& device, const Json& texts) {
  ServerConfig config = free_ports();
  config.context_length = 64;
  config.max_batch = 2;
  config.prefill_chunk = 8;  // in pieces, and the emulator soon has warmed up
  const MiniService service(config, device);
  const Json answer = post(service.client(), "/v1/embeddings", {{"model", "mini"}, {"input", texts}});
  std::vector<std::vector<float>> vectors;
  for (const Json& one : answer.at("data")) vectors.push_back(one.at("embedding").get<std::vector<float>>());
  return vectors;
}

TEST(EmbeddingsOnTheDevice, AreThoseOfTheCpu) {
  if (test_devices().empty()) GTEST_SKIP() << "no GPU";
  // Of several lengths, so that both ways of the products are taken.
  const Json texts = {"도커", "a b c", "an image is a read-only template"};
  const auto expected = embeddings_of(Device{}, texts);
  const auto actual = embeddings_of({DeviceKind::kCuda, 0, ""}, texts);
  ASSERT_EQ(actual.size(), texts.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    // Both round what they multiply to bf16, the GPU also what lies between the ops (golden_test.cc).
    EXPECT_LT(relative_norm_error(actual[i], expected[i]), 2.5e-2) << texts[i];
    EXPECT_GT(relative_norm_error(actual[i], expected[(i + 1) % expected.size()]), 0.1);
  }
}

}  // namespace
}  // namespace onggi
