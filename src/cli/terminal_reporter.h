// The stages' reporter on a terminal.
#pragma once

#include <memory>

#include "cli/terminal.h"
#include "pipeline/reporter.h"

namespace onggi {

class TerminalReporter : public Reporter {
 public:
  explicit TerminalReporter(const Terminal& terminal) : terminal_(terminal) {}
  void stage_begins(int number, const std::string& name, const std::string& title) override;
  void stage_ends(const std::string& name, double seconds) override;
  void say(const std::string& lines) override;
  void warn(const std::string& line) override;
  void progress(const std::string& label, uint64_t done, uint64_t all, const std::string& unit) override;
  void progress_ends() override;

 private:
  const Terminal& terminal_;
  std::unique_ptr<Progress> progress_;
};

}  // namespace onggi
