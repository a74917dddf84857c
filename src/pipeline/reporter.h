// How stages speak to people. The terminal's implementation is in cli/; tests have a silent one.
#pragma once

#include <cstdint>
#include <string>

namespace onggi {

class Reporter {
 public:
  virtual ~Reporter() = default;
  // "2 train": a stage begins.
  virtual void stage_begins(int number, const std::string& name, const std::string& title) = 0;
  // A stage ended, or was done before (seconds < 0).
  virtual void stage_ends(const std::string& name, double seconds) = 0;
  // One or several whole lines.
  virtual void say(const std::string& lines) = 0;
  virtual void warn(const std::string& line) = 0;
  // Long work: done of all, in units of `unit` ("B", "tokens", ""); called often, shown as the terminal
  // allows.
  virtual void progress(const std::string& label, uint64_t done, uint64_t all, const std::string& unit) = 0;
  // The work of progress() ended; its line may be finished.
  virtual void progress_ends() = 0;
};

}  // namespace onggi
