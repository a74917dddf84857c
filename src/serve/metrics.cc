#include "serve/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <ctime>

#include "base/process.h"
#include "serve/engine_metrics.h"

namespace onggi {
namespace {

using prometheus::Histogram;

// Seconds. Answers of a small model take milliseconds, those of a large one on a CPU minutes.
const Histogram::BucketBoundaries kRequestBuckets = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,  2.5,
                                                     5,    10,    20,   40,  80,   160, 320};
const Histogram::BucketBoundaries kFirstTokenBuckets = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                                        1,     2.5,  5,     10,   20,  40,   80};
const Histogram::BucketBoundaries kTokenBuckets = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                                   0.1,   0.25,   0.5,   1,    2.5};

}  // namespace

double tokens_per_second(const RequestRecord& record) {
  if (record.eval_s <= 0 || record.generated_tokens < 2) return 0;
  return static_cast<double>(record.generated_tokens - 1) / record.eval_s;
}

Percentiles percentiles_of(std::vector<double> values) {
  Percentiles result;
  result.count = static_cast<int64_t>(values.size());
  if (values.empty()) return result;
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(values.size())));
    return values[std::clamp<size_t>(rank, 1, values.size()) - 1];
  };
  result.p50 = at(0.50);
  result.p95 = at(0.95);
  result.p99 = at(0.99);
  return result;
}

double process_cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Metrics::Instruments {
  prometheus::Registry registry;
  prometheus::Family<prometheus::Counter>& requests =
      prometheus::BuildCounter()
          .Name("onggi_requests_total")
          .Help("HTTP requests by API and status; 499: the client went away.")
          .Register(registry);
  prometheus::Family<Histogram>& seconds = prometheus::BuildHistogram()
                                               .Name("onggi_request_seconds")
                                               .Help("From arrival to the end of the answer.")
                                               .Register(registry);
  prometheus::Family<Histogram>& first_token = prometheus::BuildHistogram()
                                                   .Name("onggi_time_to_first_token_seconds")
                                                   .Help("From arrival to the first token of the answer.")
                                                   .Register(registry);
  prometheus::Family<Histogram>& per_token = prometheus::BuildHistogram()
                                                 .Name("onggi_time_per_output_token_seconds")
                                                 .Help("Mean time between two tokens of an answer.")
                                                 .Register(registry);
  double started = static_cast<double>(std::time(nullptr));
};

Metrics::Metrics() : instruments_(std::make_unique<Instruments>()), last_cpu_(process_cpu_seconds()) {}
Metrics::~Metrics() = default;

void Metrics::record(RequestRecord record) {
  instruments_->requests.Add({{"api", record.api}, {"status", std::to_string(record.status)}}).Increment();
  const prometheus::Labels api = {{"api", record.api}};
  if (!record.finish.empty()) {
    instruments_->seconds.Add(api, kRequestBuckets).Observe(record.total_s);
    if (record.first_token_s > 0)
      instruments_->first_token.Add(api, kFirstTokenBuckets).Observe(record.first_token_s);
    if (const double rate = tokens_per_second(record); rate > 0)
      instruments_->per_token.Add(api, kTokenBuckets).Observe(1 / rate);
  }
  const std::lock_guard lock(mutex_);
  ++requests_;
  if (record.status >= 500) ++errors_;
  // Health checks and scrapes would push the answers out.
  if (record.finish.empty() && record.status < 400) return;
  recent_.push_front(std::move(record));
  if (recent_.size() > kKeptRequests) recent_.pop_back();
}

void Metrics::sample(const EngineStats& stats, double time) {
  const std::lock_guard lock(mutex_);
  LoadSample sample;
  const double cpu = process_cpu_seconds();
  const double passed = samples_.empty() ? 0 : time - samples_.back().time;
  if (passed > 0) {
    sample.tokens_per_s = static_cast<double>(stats.generated_tokens - last_generated_) / passed;
    sample.prompt_tokens_per_s = static_cast<double>(stats.prompt_tokens - last_prompt_) / passed;
    sample.cpu_cores = (cpu - last_cpu_) / passed;
  }
  last_generated_ = stats.generated_tokens;
  last_prompt_ = stats.prompt_tokens;
  last_cpu_ = cpu;
  sample.time = time;
  sample.active = stats.active;
  sample.queued = stats.queued;
  sample.kv_pages_used = stats.kv_pages_used;
  sample.kv_pages_total = stats.kv_pages_total;
  sample.resident_bytes = resident_memory_bytes();
  samples_.push_back(sample);
  if (samples_.size() > kKeptSamples) samples_.pop_front();
}

std::string Metrics::prometheus_text(const std::optional<EngineStats>& stats, const std::string& model,
                                     const std::string& quantization) const {
  auto families = instruments_->registry.Collect();
  add_process_metrics(instruments_->started, families);
  if (stats) add_engine_metrics(*stats, model, quantization, families);
  return prometheus::TextSerializer().Serialize(families);
}

std::vector<RequestRecord> Metrics::recent() const {
  const std::lock_guard lock(mutex_);
  return {recent_.begin(), recent_.end()};
}

std::vector<LoadSample> Metrics::samples() const {
  const std::lock_guard lock(mutex_);
  return {samples_.begin(), samples_.end()};
}

uint64_t Metrics::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

uint64_t Metrics::errors() const {
  const std::lock_guard lock(mutex_);
  return errors_;
}

}  // namespace onggi
