#include "base/process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

namespace onggi {
namespace {

TEST(Subprocess, ReturnsBothOutputsAndTheExitCode) {
  const auto result = run_subprocess({"sh", "-c", "echo out; echo err >&2; exit 7"});
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->exit_code, 7);
  EXPECT_EQ(result->output, "out\nerr\n");
}

TEST(Subprocess, ArgumentsArriveWithoutAShell) {
  const auto result = run_subprocess({"printf", "%s|", "a b", "$HOME", "*", ""});
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->output, "a b|$HOME|*||");
}

// More than a pipe holds: the child must not block for ever.
TEST(Subprocess, LongOutputArrivesWhole) {
  const auto result = run_subprocess({"head", "-c", "1000000", "/dev/zero"});
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->exit_code, 0);
  EXPECT_EQ(result->output.size(), 1000000u);
}

TEST(Subprocess, ASignalIs128PlusItsNumber) {
  const auto result = run_subprocess({"sh", "-c", "kill -KILL $$"});
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->exit_code, 128 + SIGKILL);
}

TEST(Subprocess, AMissingProgramIsNoResult) {
  EXPECT_FALSE(run_subprocess({"onggi-has-no-such-program"}).has_value());
}

TEST(Memory, ATouchedBufferShowsInResidentAndPeak) {
  constexpr size_t kBytes = size_t{64} << 20;
  const bool can_reset = reset_peak_memory();
  const uint64_t before = resident_memory_bytes();
  ASSERT_GT(before, 0u);
  // Not from the heap: allocators (a sanitizer's above all) keep what is freed.
  void* buffer = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(buffer, MAP_FAILED);
  std::memset(buffer, 1, kBytes);
  EXPECT_GE(resident_memory_bytes(), before + kBytes / 2);
  EXPECT_GE(peak_memory_bytes(), before + kBytes / 2);
  munmap(buffer, kBytes);
  EXPECT_GE(peak_memory_bytes(), before + kBytes / 2);  // the peak stays
  if (!can_reset) return;
  ASSERT_TRUE(reset_peak_memory());
  EXPECT_LT(peak_memory_bytes(), before + kBytes / 2);
}

// In a child process, since the flag cannot be taken back.
TEST(StopHandler, SignalsSetTheFlagAndTheThirdEndsTheProcess) {
  const auto two = [] {
    install_stop_handler();
    if (stop_requested()) _exit(1);
    raise(SIGTERM);
    if (!stop_requested()) _exit(2);
    raise(SIGINT);
    _exit(0);
  };
  EXPECT_EXIT(two(), testing::ExitedWithCode(0), "");
  const auto three = [] {
    install_stop_handler();
    for (int i = 0; i < 3; ++i) raise(SIGINT);
    _exit(3);
  };
  EXPECT_EXIT(three(), testing::ExitedWithCode(130), "");
  const auto asked = [] {
    request_stop();
    _exit(stop_requested() ? 0 : 1);
  };
  EXPECT_EXIT(asked(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace onggi
