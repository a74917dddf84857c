// What the service counts: for Prometheus, and for its own dashboard.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "infer/engine.h"

namespace onggi {

// One finished request. No text of prompts or answers: those are the users'.
struct RequestRecord {
  std::string id;
  std::string time;  // RFC 3339, of its end
  std::string api;   // "chat", "openai_chat", "ollama_generate", ...
  int status = 0;    // HTTP; 499 where the client went away
  std::string
      finish;  // "stop", "length", "tool_calls", "cancelled", "error"; empty for requests without answer
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  double first_token_s = 0;  // seconds from arrival to the first token; 0: none came
  double total_s = 0;        // seconds
  double eval_s = 0;         // seconds from the first token to the last
};

// Tokens per second while an answer was written; 0 where that cannot be said.
double tokens_per_second(const RequestRecord& record);

struct Percentiles {
  int64_t count = 0;
  double p50 = 0, p95 = 0, p99 = 0;
};
// By the nearest rank; of an empty list all 0.
Percentiles percentiles_of(std::vector<double> values);

// The service's load at one moment, for the dashboard's charts.
struct LoadSample {
  double time = 0;          // seconds since the start of the service
  double tokens_per_s = 0;  // generated, since the sample before
  double prompt_tokens_per_s = 0;
  int64_t active = 0;
  int64_t queued = 0;
  int64_t kv_pages_used = 0;
  int64_t kv_pages_total = 0;
  uint64_t resident_bytes = 0;
  double cpu_cores = 0;  // CPU seconds per second, since the sample before
};

class Metrics {
 public:
  Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;
  ~Metrics();

  void record(RequestRecord record);
  // Adds a sample; rates are against the sample before.
  void sample(const EngineStats& stats, double time);

  // Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/). stats: absent
  // while the model loads.
  std::string prometheus_text(const std::optional<EngineStats>& stats, const std::string& model,
                              const std::string& quantization) const;

  std::vector<RequestRecord> recent() const;  // newest first, at most kKeptRequests
  std::vector<LoadSample> samples() const;    // oldest first, at most kKeptSamples
  uint64_t requests() const;
  uint64_t errors() const;  // status 500 and above

  static constexpr size_t kKeptRequests = 512;
  static constexpr size_t kKeptSamples = 300;

 private:
  struct Instruments;
  std::unique_ptr<Instruments> instruments_;
  mutable std::mutex mutex_;
  std::deque<RequestRecord> recent_;
  std::deque<LoadSample> samples_;
  uint64_t requests_ = 0, errors_ = 0;
  uint64_t last_generated_ = 0, last_prompt_ = 0;
  double last_cpu_ = 0;
};

// CPU seconds of this process, user and system.
double process_cpu_seconds();

}  // namespace onggi
