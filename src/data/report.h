// What a data set holds, told before training starts.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace onggi {

struct Truncation {
  size_t line = 0;
  size_t full_length = 0;  // tokens before the cut
};

struct DatasetReport {
  std::string name;
  std::string sha256;
  std::string layout;  // "question/answer", ...
  std::string think;   // "empty", "kept", "mixed"
  size_t kept_rows = 0;
  size_t samples = 0;  // more than kept_rows where conversations were split at rewritten turns
  std::vector<DroppedRow> dropped;
  std::vector<Truncation> truncated;
  size_t cutoff_len = 0;
  size_t min_length = 0, median_length = 0, max_length = 0;  // tokens of a sample, after truncation
  size_t total_tokens = 0, trained_tokens = 0;
  // The first sample decoded from its ids, trained parts between the markers.
  std::string preview;

  double trained_share() const;  // trained_tokens / total_tokens

  // Lines for a terminal.
  std::string to_text() const;
  nlohmann::ordered_json to_json() const;
};

// The markers around trained parts in a preview.
inline constexpr const char* kTrainedBegin = "⟦";
inline constexpr const char* kTrainedEnd = "⟧";

}  // namespace onggi
