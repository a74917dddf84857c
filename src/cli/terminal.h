// What commands show on a terminal: colours, tables, progress. Elsewhere (pipes, logs) the same as plain
// lines.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace onggi {

enum class Colour { kPlain, kBold, kDim, kRed, kGreen, kYellow, kBlue };

class Terminal {
 public:
  // stdout or stderr. Colours need a terminal that is not "dumb" and no NO_COLOR (https://no-color.org).
  explicit Terminal(std::FILE* stream);

  bool is_terminal() const { return is_terminal_; }
  // Columns; 80 where they are not known.
  size_t width() const;
  std::string paint(Colour colour, std::string_view text) const;
  void write(std::string_view text) const;
  std::FILE* stream() const { return stream_; }

 private:
  std::FILE* stream_;
  bool is_terminal_ = false;
  bool has_colours_ = false;
};

enum class Align { kLeft, kRight };

// Rows in columns, wide Korean characters counted as two. The first row is the head.
class Table {
 public:
  explicit Table(std::vector<std::string> head, std::vector<Align> alignment = {});
  // As many cells as the head.
  void add(std::vector<std::string> row);
  std::string to_string(const Terminal& terminal) const;

 private:
  std::vector<Align> alignment_;
  std::vector<std::vector<std::string>> rows_;
};

// The longest beginning that takes at most so many columns.
std::string fit_columns(std::string_view utf8, size_t columns);

// "4.2 s", "3:05", "1:02:03".
std::string duration_text(double seconds);

enum class ProgressUnit { kBytes, kItems };

// A line with a bar, the rate and the time left, redrawn at most ten times a second; off a terminal a plain
// line at most every ten seconds, and one at the end.
class Progress {
 public:
  // total 0: not known yet.
  Progress(const Terminal& terminal, std::string label, ProgressUnit unit, uint64_t total);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();

  void set_total(uint64_t total) { total_ = total; }
  // done counts what was there from the start (a resumed download) as `already` does, which the rate leaves
  // out.
  void set_already(uint64_t already) { already_ = already; }
  void update(uint64_t done, std::string_view detail = {});
  // Draws the last state and ends the line.
  void finish();

 private:
  std::string line(double seconds, std::string_view detail) const;
  std::string amount(double value) const;

  const Terminal& terminal_;
  std::string label_;
  ProgressUnit unit_;
  uint64_t total_, done_ = 0, already_ = 0;
  std::string detail_;
  std::chrono::steady_clock::time_point start_, drawn_;
  bool shown_ = false, finished_ = false;
};

}  // namespace onggi
