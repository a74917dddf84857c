#include "serve/engine_metrics.h"

#include "base/process.h"
#include "serve/metrics.h"

namespace onggi {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

class Writer {
 public:
  explicit Writer(std::vector<MetricFamily>& families) : families_(families) {}

  void counter(const std::string& name, const std::string& help, double value) {
    ClientMetric metric;
    metric.counter.value = value;
    families_.push_back({name, help, MetricType::Counter, {std::move(metric)}});
  }
  void gauge(const std::string& name, const std::string& help, double value,
             std::vector<ClientMetric::Label> labels = {}) {
    ClientMetric metric;
    metric.label = std::move(labels);
    metric.gauge.value = value;
    if (!families_.empty() && families_.back().name == name)
      families_.back().metric.push_back(std::move(metric));
    else
      families_.push_back({name, help, MetricType::Gauge, {std::move(metric)}});
  }
  void histogram(const std::string& name, const std::string& help, ClientMetric::Histogram histogram) {
    ClientMetric metric;
    metric.histogram = std::move(histogram);
    families_.push_back({name, help, MetricType::Histogram, {std::move(metric)}});
  }

 private:
  std::vector<MetricFamily>& families_;
};

// Steps by the number of sequences that shared them.
ClientMetric::Histogram batch_histogram(const EngineStats& stats) {
  ClientMetric::Histogram histogram;
  for (size_t batch = 1; batch < stats.steps_by_batch.size(); ++batch) {
    histogram.sample_count += stats.steps_by_batch[batch];
    histogram.sample_sum += static_cast<double>(batch * stats.steps_by_batch[batch]);
    histogram.bucket.push_back({histogram.sample_count, static_cast<double>(batch)});
  }
  return histogram;
}

}  // namespace

void add_engine_metrics(const EngineStats& stats, const std::string& model, const std::string& quantization,
                        std::vector<MetricFamily>& families) {
  Writer out(families);
  const auto number = [](auto value) { return static_cast<double>(value); };
  out.gauge("onggi_model_info", "The served model.", 1, {{"model", model}, {"quantization", quantization}});
  out.gauge("onggi_active_sequences", "Answers that are being written or whose prompt is being read.",
            number(stats.active));
  out.gauge("onggi_queued_requests", "Requests that wait for a place in the batch.", number(stats.queued));
  out.counter("onggi_prompt_tokens_total", "Prompt tokens, with those from the prefix cache.",
              number(stats.prompt_tokens));
  out.counter("onggi_cached_prompt_tokens_total", "Prompt tokens taken from the prefix cache.",
              number(stats.cached_tokens));
  out.counter("onggi_generated_tokens_total", "Tokens of answers.", number(stats.generated_tokens));
  out.counter("onggi_truncated_prompts_total",
              "Prompts that were cut. Always 0: a prompt longer than the context is refused.", 0);
  out.counter("onggi_refused_busy_total", "Requests refused because the queue was full.",
              number(stats.refused_busy));
  out.counter("onggi_preemptions_total", "Sequences that gave their pages back and began again.",
              number(stats.preemptions));
  const char* pages_help = "Pages of the KV cache by use.";
  out.gauge("onggi_kv_pages", pages_help, number(stats.kv_pages_used), {{"state", "used"}});
  out.gauge("onggi_kv_pages", pages_help, number(stats.kv_pages_cached), {{"state", "cached"}});
  out.gauge("onggi_kv_pages", pages_help,
            number(stats.kv_pages_total - stats.kv_pages_used - stats.kv_pages_cached), {{"state", "free"}});
  out.gauge("onggi_kv_bytes", "Memory of the KV cache.", number(stats.kv_bytes));
  out.counter("onggi_steps_total", "Passes over the model.", number(stats.steps));
  out.counter("onggi_step_seconds_total", "Time spent in passes over the model.", stats.step_seconds);
  out.histogram("onggi_batch_size", "Sequences per pass over the model.", batch_histogram(stats));
}

void add_process_metrics(double started, std::vector<MetricFamily>& families) {
  Writer out(families);
  out.gauge("process_resident_memory_bytes", "Resident memory size in bytes.",
            static_cast<double>(resident_memory_bytes()));
  out.counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.",
              process_cpu_seconds());
  out.gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", started);
}

}  // namespace onggi
