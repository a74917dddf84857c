// This process: stop requests, memory, and child processes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace onggi {

// From now on SIGINT and SIGTERM set a flag instead of ending the process; a third signal ends it at once.
void install_stop_handler();
// True once a stop was asked for; long loops ask between two steps.
bool stop_requested();
// Sets the flag as a signal would (the server's own shutdown, tests).
void request_stop();

// Resident memory of this process now, and its peak since the start (or since reset_peak_memory), in bytes.
uint64_t resident_memory_bytes();
uint64_t peak_memory_bytes();
// Restarts the peak's measurement; false where the kernel does not allow it (then the peak is the whole
// run's).
bool reset_peak_memory();

struct SubprocessResult {
  int exit_code = -1;  // 128 + signal where a signal ended it
  std::string output;  // standard output and standard error together
};
// Runs a program found on PATH, without a shell. nullopt where there is no such program.
std::optional<SubprocessResult> run_subprocess(const std::vector<std::string>& arguments);

}  // namespace onggi
