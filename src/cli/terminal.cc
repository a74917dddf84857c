#include "cli/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "base/human.h"
#include "base/text.h"

namespace onggi {
namespace {

constexpr std::chrono::milliseconds kRedraw{100};
constexpr std::chrono::seconds kPlainLine{10};
constexpr size_t kBarColumns = 24;

const char* code_of(Colour colour) {
  switch (colour) {
    case Colour::kPlain:
      return "";
    case Colour::kBold:
      return "\033[1m";
    case Colour::kDim:
      return "\033[2m";
    case Colour::kRed:
      return "\033[31m";
    case Colour::kGreen:
      return "\033[32m";
    case Colour::kYellow:
      return "\033[33m";
    case Colour::kBlue:
      return "\033[34m";
  }
  return "";
}

}  // namespace

Terminal::Terminal(std::FILE* stream) : stream_(stream), is_terminal_(isatty(fileno(stream)) != 0) {
  const char* type = std::getenv("TERM");
  const char* no_colour = std::getenv("NO_COLOR");
  const bool forbidden = no_colour != nullptr && *no_colour != '\0';
  has_colours_ = is_terminal_ && !forbidden && type != nullptr && std::string_view(type) != "dumb";
}

size_t Terminal::width() const {
  winsize size{};
  if (ioctl(fileno(stream_), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

std::string Terminal::paint(Colour colour, std::string_view text) const {
  if (!has_colours_ || colour == Colour::kPlain) return std::string(text);
  return fmt::format("{}{}\033[0m", code_of(colour), text);
}

void Terminal::write(std::string_view text) const {
  std::fwrite(text.data(), 1, text.size(), stream_);
  std::fflush(stream_);
}

std::string fit_columns(std::string_view utf8, size_t columns) {
  size_t end = 0, used = 0;
  while (end < utf8.size()) {
    size_t next = end + 1;
    while (next < utf8.size() && (static_cast<unsigned char>(utf8[next]) & 0xC0) == 0x80) ++next;
    used += display_width(utf8.substr(end, next - end));
    if (used > columns) break;
    end = next;
  }
  return std::string(utf8.substr(0, end));
}

Table::Table(std::vector<std::string> head, std::vector<Align> alignment) : alignment_(std::move(alignment)) {
  alignment_.resize(head.size(), Align::kLeft);
  rows_.push_back(std::move(head));
}

void Table::add(std::vector<std::string> row) {
  ONGGI_CHECK(row.size() == alignment_.size());
  rows_.push_back(std::move(row));
}

std::string Table::to_string(const Terminal& terminal) const {
  std::vector<size_t> widths(alignment_.size());
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], display_width(row[i]));
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - display_width(row[i]), ' ');
      line += alignment_[i] == Align::kRight ? padding + row[i] : row[i] + padding;
      if (i + 1 < row.size()) line += "  ";
    }
    while (line.ends_with(' ')) line.pop_back();
    out += &row == &rows_.front() ? terminal.paint(Colour::kBold, line) : line;
    out += '\n';
  }
  return out;
}

std::string duration_text(double seconds) {
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

Progress::Progress(const Terminal& terminal, std::string label, ProgressUnit unit, uint64_t total)
    : terminal_(terminal),
      label_(std::move(label)),
      unit_(unit),
      total_(total),
      start_(std::chrono::steady_clock::now()),
      drawn_(start_) {}

Progress::~Progress() {
  // Something was thrown: the line ends, so that the message begins on its own.
  if (!finished_ && shown_ && terminal_.is_terminal()) terminal_.write("\n");
}

std::string Progress::amount(double value) const {
  return unit_ == ProgressUnit::kBytes ? bytes_text(value) : count_text(value);
}

std::string Progress::line(double seconds, std::string_view detail) const {
  std::string out = label_;
  const double done = static_cast<double>(done_), total = static_cast<double>(total_);
  if (total_ > 0) {
    const double share = std::min(1.0, done / total);
    if (terminal_.is_terminal()) {
      const auto filled = static_cast<size_t>(share * kBarColumns);
      out += " [" + std::string(filled, '#') + std::string(kBarColumns - filled, '.') + "]";
    }
    out += fmt::format(" {:3.0f} %  {} / {}", share * 100, amount(done), amount(total));
  } else {
    out += " " + amount(done);
  }
  const double rate = seconds > 0 ? static_cast<double>(done_ - std::min(done_, already_)) / seconds : 0;
  if (rate > 0) {
    const bool is_slow = unit_ == ProgressUnit::kItems && rate < 100;
    out += is_slow ? fmt::format("  {:.2f}/s", rate) : fmt::format("  {}/s", amount(rate));
    if (done_ < total_) out += "  " + text("{} left", duration_text((total - done) / rate));
  }
  if (total_ > 0 && done_ >= total_) out += "  " + duration_text(seconds);
  if (!detail.empty()) out += fmt::format("  {}", detail);
  return out;
}

void Progress::update(uint64_t done, std::string_view detail) {
  done_ = done;
  detail_ = detail;
  const auto now = std::chrono::steady_clock::now();
  const bool due = terminal_.is_terminal() ? !shown_ || now - drawn_ >= kRedraw : now - drawn_ >= kPlainLine;
  if (!due) return;
  drawn_ = now;
  shown_ = true;
  const std::string drawn = line(std::chrono::duration<double>(now - start_).count(), detail_);
  if (terminal_.is_terminal()) {
    terminal_.write("\r" + fit_columns(drawn, terminal_.width() - 1) + "\033[K");
  } else {
    terminal_.write(drawn + "\n");
  }
}

void Progress::finish() {
  if (finished_) return;
  finished_ = true;
  const std::string drawn =
      line(std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(), detail_);
  if (terminal_.is_terminal()) {
    terminal_.write("\r" + fit_columns(drawn, terminal_.width() - 1) + "\033[K\n");
  } else {
    terminal_.write(drawn + "\n");
  }
}

}  // namespace onggi
