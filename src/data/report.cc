#include "data/report.h"

#include <nlohmann/json.hpp>

#include "base/text.h"

namespace onggi {
namespace {

constexpr size_t kShownRows = 20;  // of the dropped and of the truncated; all are in the JSON

}  // namespace

double DatasetReport::trained_share() const {
  return total_tokens == 0 ? 0.0 : static_cast<double>(trained_tokens) / static_cast<double>(total_tokens);
}

std::string DatasetReport::to_text() const {
  std::string out = text("Data: {} (layout {}, think mode {})\n", name, layout, think);
  out += text("Rows: {} kept, {} dropped; {} samples\n", kept_rows, dropped.size(), samples);
  for (size_t i = 0; i < dropped.size() && i < kShownRows; ++i) {
    out += text("  line {} dropped: {}\n", dropped[i].line, dropped[i].reason);
  }
  if (dropped.size() > kShownRows) out += text("  and {} more\n", dropped.size() - kShownRows);
  out +=
      text("Tokens per sample: shortest {}, median {}, longest {}\n", min_length, median_length, max_length);
  out += text("Trained tokens: {} of {} ({:.1f} %)\n", trained_tokens, total_tokens, 100.0 * trained_share());
  out += text("Cut off at {} tokens: {} samples\n", cutoff_len, truncated.size());
  for (size_t i = 0; i < truncated.size() && i < kShownRows; ++i) {
    out += text("  line {} cut off: it has {} tokens, raise cutoff_len to keep them\n", truncated[i].line,
                truncated[i].full_length);
  }
  if (truncated.size() > kShownRows) out += text("  and {} more\n", truncated.size() - kShownRows);
  out += text("The first sample as the model sees it, trained parts between {} and {}:\n", kTrainedBegin,
              kTrainedEnd);
  return out + preview + (preview.empty() || preview.back() != '\n' ? "\n" : "");
}

nlohmann::ordered_json DatasetReport::to_json() const {
  nlohmann::ordered_json dropped_rows = nlohmann::ordered_json::array(), cut_rows = dropped_rows;
  for (const auto& row : dropped) dropped_rows.push_back({{"line", row.line}, {"reason", row.reason}});
  for (const auto& row : truncated) cut_rows.push_back({{"line", row.line}, {"tokens", row.full_length}});
  return {{"name", name},
          {"sha256", sha256},
          {"layout", layout},
          {"think", think},
          {"kept_rows", kept_rows},
          {"samples", samples},
          {"dropped", dropped_rows},
          {"truncated", cut_rows},
          {"cutoff_len", cutoff_len},
          {"tokens",
           {{"min", min_length}, {"median", median_length}, {"max", max_length}, {"total", total_tokens}}},
          {"trained_tokens", trained_tokens},
          {"trained_share", trained_share()},
          {"preview", preview}};
}

}  // namespace onggi
