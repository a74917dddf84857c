#include "data/dataset.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "data/layouts.h"
#include "data/row_reader.h"

namespace onggi {
namespace {

using Json = nlohmann::ordered_json;

std::string field_names(const Json& row) {
  std::string names;
  for (const auto& [name, value] : row.items()) names += (names.empty() ? "" : ", ") + name.substr(0, 40);
  return names.substr(0, 300);
}

// The layout of the first row that has one; a file without any is not ours to guess about.
DataLayout detect_layout(const std::vector<RawRow>& rows, std::string_view name) {
  const RawRow* readable = nullptr;
  for (const RawRow& row : rows) {
    if (!row.reason.empty()) continue;
    if (const auto layout = layout_of(row.object)) return *layout;
    if (readable == nullptr) readable = &row;
  }
  if (readable == nullptr) {
    throw InputError(rows.empty() ? text("{} has no rows", name)
                                  : text("{} has no row that can be read; line {}: {}", name, rows[0].line,
                                         rows[0].reason));
  }
  throw InputError(
      text("{} has rows with the fields {} (line {}), which is none of the known layouts; name them question "
           "and answer, "
           "or instruction, input and output, or messages, or conversations",
           name, field_names(readable->object), readable->line));
}

bool is_assistant(const Json& message) { return message["role"] == "assistant"; }

// Takes the think block out of an answer where it is empty, or unwanted. Templates write the empty block
// themselves.
void strip_reasoning(Json& message, bool keep) {
  if (keep && reasons(message)) return;
  message["content"] = without_reasoning(message["content"].get<std::string>());
  message.erase("reasoning_content");
}

DataRow make_row(const RawRow& raw, DataLayout layout, const DatasetOptions& options) {
  Conversation conversation = read_conversation(raw.object, layout);
  Json& messages = conversation.messages;
  DataRow row;
  row.line = raw.line;
  row.style = optional_text(raw.object, "style");
  row.domain = optional_text(raw.object, "domain");
  if (!options.system_prompt.empty() && messages.front()["role"] != "system") {
    messages.insert(messages.begin(), Json{{"role", "system"}, {"content", options.system_prompt}});
  }
  const bool keep = options.think != ThinkMode::kEmpty;
  for (Json& message : messages) {
    if (message["role"] == "user") row.question = message["content"].get<std::string>();
    if (!is_assistant(message)) continue;
    const bool was_empty = message["content"].get<std::string>().empty();
    strip_reasoning(message, keep);
    row.answer = message["content"].get<std::string>();
    if (row.answer.empty() && !was_empty) throw InputError(text("an answer has nothing but a <think> block"));
    row.reasons = row.reasons || reasons(message);
  }
  row.messages_json = messages.dump();
  if (!conversation.tools.is_null()) row.tools_json = conversation.tools.dump();
  return row;
}

ThinkMode detect_think(const std::vector<DataRow>& rows) {
  const auto count = std::count_if(rows.begin(), rows.end(), [](const DataRow& row) { return row.reasons; });
  if (count == 0) return ThinkMode::kEmpty;
  return static_cast<size_t>(count) == rows.size() ? ThinkMode::kKept : ThinkMode::kMixed;
}

}  // namespace

Dataset parse_dataset(std::string_view bytes, DataFormat format, std::string_view name,
                      const DatasetOptions& options) {
  const std::vector<RawRow> raw = read_rows(bytes, format, name);
  Dataset dataset;
  dataset.name = std::string(name);
  dataset.sha256 = sha256_hex(bytes);
  dataset.layout = options.layout ? *options.layout : detect_layout(raw, name);
  for (const RawRow& row : raw) {
    if (!row.reason.empty()) {
      dataset.dropped.push_back({row.line, row.reason});
      continue;
    }
    try {
      dataset.rows.push_back(make_row(row, dataset.layout, options));
    } catch (const InputError& error) {
      dataset.dropped.push_back({row.line, error.what()});
    }
  }
  if (dataset.rows.empty()) {
    if (dataset.dropped.empty()) throw InputError(text("{} has no rows", name));
    throw InputError(text("{} has no row that can be trained on; line {}: {}", name, dataset.dropped[0].line,
                          dataset.dropped[0].reason));
  }
  dataset.think = options.think ? *options.think : detect_think(dataset.rows);
  return dataset;
}

Dataset load_dataset(const fs::path& path, const DatasetOptions& options) {
  const std::string extension = path.extension().string();
  DataFormat format;
  if (extension == ".jsonl" || extension == ".ndjson") {
    format = DataFormat::kJsonLines;
  } else if (extension == ".json") {
    format = DataFormat::kJsonArray;
  } else if (extension == ".csv") {
    format = DataFormat::kCsv;
  } else {
    throw InputError(text("{} is not a data file that is known: its name has to end in .jsonl, .json or .csv",
                          path.string()));
  }
  return parse_dataset(read_file(path), format, path.filename().string(), options);
}

}  // namespace onggi
