// A client's look at a running service: one real question on every API, and the service's parity with its
// file.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "eval/parity.h"

namespace onggi {

struct ProbeTarget {
  std::string url;         // of the OpenAI and seed APIs, "http://127.0.0.1:8000"
  std::string ollama_url;  // of Ollama's API
  std::string model;       // as clients call it
  std::string api_key;     // empty: none
};

struct ProbeResult {
  std::string api;  // "POST /chat"
  int status = 0;   // HTTP
  double seconds = 0;
  std::string answer;   // the text that came back
  std::string problem;  // empty: it worked
};

// Asks the question on /health, /chat, OpenAI's, Ollama's and the metrics' endpoints.
std::vector<ProbeResult> probe_service(const ProbeTarget& target, const std::string& question);

// Holds the service's greedy answers and their log-probabilities against those of the file that it serves. KL
// is taken over the most likely tokens that both name and the rest of the probability as one event.
ParityResult probe_parity(const ProbeTarget& target, const ParityReference& reference,
                          const Tokenizer& tokenizer, int64_t vocabulary, const ParityBound& bound);

nlohmann::ordered_json to_json(const std::vector<ProbeResult>& probes);

}  // namespace onggi
