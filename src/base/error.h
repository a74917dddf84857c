// The one family of exceptions, and the check for our own bugs.
#pragma once

#include <stdexcept>
#include <string>

namespace onggi {

// What the process returns; the same numbers for every subcommand.
enum class ExitCode {
  kDone = 0,
  kWorkFailed = 1,  // a gate or a check failed
  kUsage = 2,       // wrong use or configuration
  kInput = 3,       // a missing or broken input
  kMachine = 4,     // the machine does not suffice (memory, disk, device)
};

// What a user, a file, the network or a device can cause. The message is one sentence that says what is
// wrong, where, and what to do; build it with text() (base/text.h) so that it can be translated.
class Error : public std::runtime_error {
 public:
  Error(ExitCode exit_code, const std::string& message)
      : std::runtime_error(message), exit_code_(exit_code) {}
  ExitCode exit_code() const { return exit_code_; }

 private:
  ExitCode exit_code_;
};

class WorkError : public Error {
 public:
  explicit WorkError(const std::string& message) : Error(ExitCode::kWorkFailed, message) {}
};

class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message) : Error(ExitCode::kUsage, message) {}
};

class InputError : public Error {
 public:
  explicit InputError(const std::string& message) : Error(ExitCode::kInput, message) {}
};

class MachineError : public Error {
 public:
  explicit MachineError(const std::string& message) : Error(ExitCode::kMachine, message) {}
};

// The user asked to stop (Ctrl-C, SIGTERM); work in progress has been saved where the stage can resume.
class Interrupted : public Error {
 public:
  explicit Interrupted(const std::string& message) : Error(ExitCode::kWorkFailed, message) {}
};

// A bug of ours. Never thrown for anything that an input can cause.
class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

[[noreturn]] void throw_internal_error(const char* condition, const char* file, int line,
                                       const std::string& detail);

}  // namespace onggi

// Checks an invariant of our own code: ONGGI_CHECK(rows == out.rows) or ONGGI_CHECK(rows == out.rows, "rows
// of q").
#define ONGGI_CHECK(condition, ...)                                                              \
  do {                                                                                           \
    if (!(condition)) [[unlikely]]                                                               \
      ::onggi::throw_internal_error(#condition, __FILE__, __LINE__, ::std::string{__VA_ARGS__}); \
  } while (false)
