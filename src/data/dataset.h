// A user's questions and answers: JSON Lines, JSON and CSV files in the layouts that people have.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "tokenizer/chat_template.h"

namespace onggi {

// How the rows of a file are written.
enum class DataLayout {
  kMessages,        // {"messages": [{"role", "content"}, ...], "tools"?}
  kQuestionAnswer,  // {"question", "answer"}
  kInstruction,     // {"instruction", "input"?, "output"}
  kConversations,   // {"conversations": [{"from": human | gpt | system | tool, "value"}, ...]} (ShareGPT)
};
std::string_view name_of(DataLayout layout);

// One row that can be trained on.
struct DataRow {
  size_t line = 0;  // 1-based line of the file where the row begins (of an array: where its object begins)
  std::string question;       // the last user turn
  std::string answer;         // the last assistant turn, without an empty or removed <think> block
  std::string style, domain;  // empty where the row has none
  std::string messages_json;  // the whole conversation, for ChatTemplate
  std::string tools_json;     // empty where the row has none
  bool reasons = false;       // an answer has a non-empty <think> block or reasoning_content
};

struct DroppedRow {
  size_t line = 0;
  std::string reason;
};

struct Dataset {
  std::string name;  // the file's name, for messages
  std::string sha256;
  DataLayout layout = DataLayout::kQuestionAnswer;
  std::vector<DataRow> rows;
  std::vector<DroppedRow> dropped;
  ThinkMode think = ThinkMode::kEmpty;  // by what the answers hold
};

struct DatasetOptions {
  std::string system_prompt;         // put before conversations that have no system turn; empty: none
  std::optional<ThinkMode> think;    // kEmpty removes reasoning from the answers; absent: detected
  std::optional<DataLayout> layout;  // absent: detected from the first readable row
};

// Reads .jsonl, .json (an array of rows) or .csv (RFC 4180 with a header row). Bad rows are dropped with line
// and reason. Throws InputError where the file is none of these, its layout is not known, or no row is left.
Dataset load_dataset(const fs::path& path, const DatasetOptions& options = {});

enum class DataFormat { kJsonLines, kJsonArray, kCsv };
// The same from bytes; name is for messages.
Dataset parse_dataset(std::string_view bytes, DataFormat format, std::string_view name,
                      const DatasetOptions& options = {});

}  // namespace onggi
