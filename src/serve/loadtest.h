// A load test: several users at once against a running service, by its OpenAI API with streams.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "serve/metrics.h"

namespace onggi {

struct LoadTestOptions {
  std::string url;      // "http://127.0.0.1:8000"
  std::string api_key;  // empty: none
  int64_t users = 1;    // requests in flight at once
  int64_t requests_per_user = 2;
  int64_t max_new_tokens = 64;       // per answer
  std::vector<std::string> prompts;  // asked in turn; empty: some questions of our own
  // Instead of them: so many random words, others in each request, so that no service has read them before.
  int64_t prompt_words = 0;
  std::chrono::seconds timeout{600};  // per request
};

struct LoadTestResult {
  int64_t users = 0;
  int64_t requests = 0;
  int64_t errors = 0;
  std::string first_error;  // empty where there was none
  double seconds = 0;       // from the first request to the end of the last
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  double tokens_per_s = 0;            // generated, all users together
  Percentiles first_token_s;          // seconds from sending a request to its first piece of text
  Percentiles total_s;                // seconds to the end of the answer
  Percentiles per_user_tokens_per_s;  // of one answer, from its first to its last token
};

// Throws UsageError for options that make no sense, InputError where no service answers at the URL. A request
// that fails counts as an error. Ends early when a stop is requested.
LoadTestResult run_load_test(const LoadTestOptions& options);

// As JSON for reports; the keys are the members.
std::string to_json(const LoadTestResult& result);

}  // namespace onggi
