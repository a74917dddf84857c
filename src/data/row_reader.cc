#include "data/row_reader.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/json_scanner.h"
#include "base/text.h"
#include "tokenizer/utf8.h"

namespace onggi {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxNesting =
    100;  // of JSON; deeper rows are hostile, and writing them out again would recurse

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

RawRow read_object(std::string_view row, size_t line) {
  RawRow result;
  result.line = line;
  try {
    result.object = parse_row_json(row);
    if (!result.object.is_object()) result.reason = text("the row is not a JSON object");
  } catch (const InputError& error) {
    result.reason = error.what();
  }
  return result;
}

std::vector<RawRow> read_json_lines(std::string_view bytes) {
  std::vector<RawRow> rows;
  size_t line = 0;
  while (!bytes.empty()) {
    ++line;
    const size_t end = std::min(bytes.find('\n'), bytes.size());
    const std::string_view row = bytes.substr(0, end);
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
    if (!std::all_of(row.begin(), row.end(), is_space)) rows.push_back(read_object(row, line));
  }
  return rows;
}

// Splits the array at its commas, so that each row has its line and a broken row harms no other.
class ArrayReader {
 public:
  ArrayReader(std::string_view bytes, std::string_view name) : bytes_(bytes), name_(name) {}

  std::vector<RawRow> run() {
    skip_space();
    if (position_ == bytes_.size() || bytes_[position_] != '[') {
      throw InputError(
          text("{} is not a JSON array of rows; write one, or name the file .jsonl for one object per line",
               name_));
    }
    ++position_;
    skip_space();
    if (position_ < bytes_.size() && bytes_[position_] == ']') return std::move(rows_);
    while (read_element()) {
    }
    return std::move(rows_);
  }

 private:
  void skip_space() {
    for (; position_ < bytes_.size() && is_space(bytes_[position_]); ++position_)
      line_ += bytes_[position_] == '\n';
  }

  // Reads one row and the comma or bracket behind it; false behind the bracket.
  bool read_element() {
    skip_space();
    const size_t begin = position_, line = line_;
    JsonScanner scanner;
    for (; position_ < bytes_.size(); ++position_) {
      const char c = bytes_[position_];
      const bool outside = !scanner.in_string() && scanner.depth() == 0;
      if (outside && (c == ',' || c == ']' || c == '}')) {
        rows_.push_back(read_object(bytes_.substr(begin, position_ - begin), line));
        ++position_;
        return c == ',';
      }
      scanner.next(c);
      line_ += c == '\n';
    }
    throw InputError(
        text("{} ends inside the row that begins at line {}; the file is incomplete or a quote is missing",
             name_, line));
  }

  std::string_view bytes_, name_;
  size_t position_ = 0, line_ = 1;
  std::vector<RawRow> rows_;
};

// RFC 4180: fields with commas, quotes or line ends stand in quotes; a quote inside is doubled.
class CsvReader {
 public:
  explicit CsvReader(std::string_view bytes) : bytes_(bytes) {}

  struct Record {
    size_t line = 0;
    std::vector<std::string> fields;
    std::string reason;
  };

  std::optional<Record> next() {
    while (position_ < bytes_.size() && (bytes_[position_] == '\n' || bytes_[position_] == '\r')) {
      line_ += bytes_[position_++] == '\n';  // an empty line
    }
    if (position_ >= bytes_.size()) return std::nullopt;
    Record record;
    record.line = line_;
    for (;;) {
      record.fields.push_back(at('"') ? quoted(record) : plain());
      if (at(',')) {
        ++position_;
        continue;
      }
      if (position_ < bytes_.size() && !at('\n') && !at('\r')) {
        if (record.reason.empty()) record.reason = text("a quoted field goes on behind its closing quote");
        skip_line();
      }
      break;
    }
    return record;
  }

 private:
  bool at(char c) const { return position_ < bytes_.size() && bytes_[position_] == c; }

  std::string plain() {
    const size_t begin = position_;
    while (position_ < bytes_.size() && !at(',') && !at('\n') && !at('\r')) ++position_;
    return std::string(bytes_.substr(begin, position_ - begin));
  }

  std::string quoted(Record& record) {
    std::string field;
    for (++position_; position_ < bytes_.size(); ++position_) {
      if (at('"')) {
        ++position_;
        if (!at('"')) return field;
      }
      line_ += at('\n');
      field.push_back(bytes_[position_]);
    }
    record.reason = text("a quoted field has no closing quote");
    return field;
  }

  void skip_line() {
    while (position_ < bytes_.size() && !at('\n')) ++position_;
  }

  std::string_view bytes_;
  size_t position_ = 0, line_ = 1;
};

RawRow row_of(CsvReader::Record record, const std::vector<std::string>& header) {
  RawRow row;
  row.line = record.line;
  row.reason = std::move(record.reason);
  if (!row.reason.empty()) return row;
  if (record.fields.size() != header.size()) {
    row.reason = text("the row has {} fields, the header {}", record.fields.size(), header.size());
    return row;
  }
  row.object = Json::object();
  for (size_t i = 0; i < header.size(); ++i) {
    std::string& field = record.fields[i];
    if (!is_valid_utf8(field)) {
      row.reason = text("the field \"{}\" is not valid UTF-8", header[i]);
      return row;
    }
    // Lists cannot be written in CSV but as JSON inside a field.
    if (header[i] == "messages" || header[i] == "conversations" || header[i] == "history") {
      try {
        if (!field.empty()) row.object[header[i]] = parse_row_json(field);
      } catch (const InputError& error) {
        row.reason = error.what();
        return row;
      }
    } else if (!field.empty()) {
      row.object[header[i]] = std::move(field);  // an empty field is an absent one
    }
  }
  return row;
}

std::vector<RawRow> read_csv(std::string_view bytes, std::string_view name) {
  CsvReader reader(bytes);
  const auto header = reader.next();
  if (!header || !header->reason.empty()) {
    throw InputError(
        text("{} has no header row; write the names of the columns (such as question,answer) first", name));
  }
  for (const auto& column : header->fields) {
    if (!is_valid_utf8(column)) {
      throw InputError(text("the header of {} is not valid UTF-8; convert the file to UTF-8", name));
    }
  }
  std::vector<RawRow> rows;
  while (auto record = reader.next()) rows.push_back(row_of(std::move(*record), header->fields));
  return rows;
}

}  // namespace

Json parse_row_json(std::string_view row) {
  const size_t valid = valid_utf8_prefix(row);
  if (valid != row.size()) throw InputError(text("invalid UTF-8 at byte {} of the row", valid));
  JsonScanner scanner;
  for (const char c : row) {
    scanner.next(c);
    if (scanner.depth() > kMaxNesting) throw InputError(text("JSON nested deeper than {}", kMaxNesting));
  }
  try {
    return Json::parse(row);
  } catch (const Json::exception&) {
    throw InputError(text("not valid JSON"));
  }
}

std::vector<RawRow> read_rows(std::string_view bytes, DataFormat format, std::string_view name) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (bytes.substr(0, kByteOrderMark.size()) == kByteOrderMark) bytes.remove_prefix(kByteOrderMark.size());
  switch (format) {
    case DataFormat::kJsonLines:
      return read_json_lines(bytes);
    case DataFormat::kJsonArray:
      return ArrayReader(bytes, name).run();
    case DataFormat::kCsv:
      return read_csv(bytes, name);
  }
  return {};
}

}  // namespace onggi
