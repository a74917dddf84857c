#include "cli/terminal_reporter.h"

#include <sstream>

#include "base/text.h"

namespace onggi {

void TerminalReporter::stage_begins(int number, const std::string& name, const std::string& title) {
  terminal_.write("\n" + terminal_.paint(Colour::kBold, fmt::format("[{}] {}", number, title)) + "  " +
                  terminal_.paint(Colour::kDim, name) + "\n");
}

void TerminalReporter::stage_ends(const std::string& name, double seconds) {
  progress_ends();
  const std::string line = seconds < 0 ? text("done before; `onggi run --from {}` does it again", name)
                                       : text("done in {}", duration_text(seconds));
  terminal_.write("    " + terminal_.paint(Colour::kGreen, line) + "\n");
}

void TerminalReporter::say(const std::string& lines) {
  progress_ends();
  std::istringstream in(lines);
  std::string line;
  while (std::getline(in, line)) terminal_.write("    " + line + "\n");
}

void TerminalReporter::warn(const std::string& line) {
  progress_ends();
  terminal_.write("    " + terminal_.paint(Colour::kYellow, text("note: {}", line)) + "\n");
}

void TerminalReporter::progress(const std::string& label, uint64_t done, uint64_t all,
                                const std::string& unit) {
  // What changes goes behind the bar; the bar itself belongs to the whole work.
  if (progress_ == nullptr)
    progress_ = std::make_unique<Progress>(terminal_, "   ",
                                           unit == "B" ? ProgressUnit::kBytes : ProgressUnit::kItems, all);
  progress_->set_total(all);
  progress_->update(done, label);
}

void TerminalReporter::progress_ends() {
  if (progress_ != nullptr) progress_->finish();
  progress_.reset();
}

}  // namespace onggi
