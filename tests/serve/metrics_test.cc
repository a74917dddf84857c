#include "serve/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace onggi {
namespace {

using ::testing::HasSubstr;

TEST(Percentiles, AreTheNearestRanks) {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i);
  const Percentiles result = percentiles_of(values);
  EXPECT_EQ(result.count, 100);
  EXPECT_EQ(result.p50, 50);
  EXPECT_EQ(result.p95, 95);
  EXPECT_EQ(result.p99, 99);
  EXPECT_EQ(percentiles_of({3}).p99, 3);
  EXPECT_EQ(percentiles_of({}).p50, 0);
}

RequestRecord answered() {
  RequestRecord record;
  record.api = "chat";
  record.status = 200;
  record.finish = "stop";
  record.generated_tokens = 11;
  record.first_token_s = 0.3;
  record.eval_s = 0.5;
  record.total_s = 0.8;
  return record;
}

TEST(Metrics, WritePrometheusText) {
  Metrics metrics;
  metrics.record(answered());
  RequestRecord busy;
  busy.api = "chat";
  busy.status = 503;
  metrics.record(busy);
  EngineStats stats;
  stats.generated_tokens = 11;
  stats.kv_pages_total = 10;
  stats.kv_pages_used = 4;
  stats.kv_pages_cached = 1;
  stats.steps_by_batch = {0, 3, 2};
  const std::string text = metrics.prometheus_text(stats, "m", "Q4_K_M");
  for (const char* line :
       {"# TYPE onggi_requests_total counter\n", "onggi_requests_total{api=\"chat\",status=\"200\"} 1\n",
        "onggi_requests_total{api=\"chat\",status=\"503\"} 1\n", "# TYPE onggi_request_seconds histogram\n",
        "onggi_request_seconds_bucket{api=\"chat\",le=\"0.5\"} 0\n",
        "onggi_request_seconds_bucket{api=\"chat\",le=\"1\"} 1\n",
        "onggi_time_to_first_token_seconds_bucket{api=\"chat\",le=\"0.5\"} 1\n",
        "onggi_time_per_output_token_seconds_bucket{api=\"chat\",le=\"0.05\"} 1\n",
        "onggi_generated_tokens_total 11\n", "onggi_kv_pages{state=\"used\"} 4\n",
        "onggi_kv_pages{state=\"free\"} 5\n", "onggi_truncated_prompts_total 0\n",
        "onggi_batch_size_bucket{le=\"1\"} 3\n", "onggi_batch_size_bucket{le=\"2\"} 5\n",
        "onggi_batch_size_bucket{le=\"+Inf\"} 5\n", "onggi_batch_size_sum 7\n",
        "onggi_model_info{model=\"m\",quantization=\"Q4_K_M\"} 1\n", "process_resident_memory_bytes "})
    EXPECT_THAT(text, HasSubstr(line));
  EXPECT_THAT(metrics.prometheus_text(std::nullopt, "", ""), ::testing::Not(HasSubstr("onggi_kv_pages")));
}

TEST(Metrics, KeepTheNewestRequestsAndLeaveProbesOut) {
  Metrics metrics;
  RequestRecord probe;
  probe.api = "health";
  probe.status = 200;
  metrics.record(probe);
  EXPECT_TRUE(metrics.recent().empty());
  for (size_t i = 0; i < Metrics::kKeptRequests + 5; ++i) {
    RequestRecord record = answered();
    record.id = std::to_string(i);
    metrics.record(record);
  }
  ASSERT_EQ(metrics.recent().size(), Metrics::kKeptRequests);
  EXPECT_EQ(metrics.recent().front().id, std::to_string(Metrics::kKeptRequests + 4));
  EXPECT_EQ(metrics.requests(), Metrics::kKeptRequests + 6);
}

TEST(Metrics, SamplesAreRates) {
  Metrics metrics;
  EngineStats stats;
  metrics.sample(stats, 1);
  stats.generated_tokens = 30;
  stats.prompt_tokens = 100;
  metrics.sample(stats, 3);
  ASSERT_EQ(metrics.samples().size(), 2u);
  EXPECT_EQ(metrics.samples()[1].tokens_per_s, 15);
  EXPECT_EQ(metrics.samples()[1].prompt_tokens_per_s, 50);
  EXPECT_EQ(tokens_per_second(answered()), 20);
}

}  // namespace
}  // namespace onggi
