// What is recorded, and when, on a stream that notes it. (That recorded passes give the same bits:
// tests/model_cuda/recording_test.cc.)
#include "model/recordings.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>

namespace onggi {
namespace {

// Queues nothing: a recording is the number of its work.
class NotingStream : public Stream {
 public:
  std::function<void()> on_end = [] {}, on_replay = [] {};
  int recorded = 0, replayed = 0;
  bool can_record = true;

  const Device& device() const override { return device_; }
  Buffer allocate(size_t) override { return {}; }
  Buffer allocate_host(size_t) override { return {}; }
  void copy_in(void*, const void*, size_t) override {}
  void copy_out(void*, const void*, size_t) override {}
  void copy(void*, const void*, size_t) override {}
  void fill_zero(void*, size_t) override {}
  void synchronize() override {}
  std::unique_ptr<PrefetchBuffer> make_prefetch_buffer(size_t) override { return nullptr; }
  uint64_t allocated_bytes() const override { return 0; }
  uint64_t peak_bytes() const override { return 0; }
  void reset_peak() override {}
  uint64_t free_bytes() const override { return 0; }
  bool begin_recording() override { return can_record; }
  std::unique_ptr<Recording> end_recording() override {
    on_end();
    ++recorded;
    return std::make_unique<Recording>();
  }
  void replay(Recording&) override {
    on_replay();
    ++replayed;
  }

 private:
  void free(void*, size_t) override {}
  Device device_;
};

using WhenFull = RecordingRules::WhenFull;

class RecordingsTest : public ::testing::Test {
 public:
  // Whether it was replayed; what is not is queued, as callers do.
  bool pass(int key) {
    const auto work = [this] { ++worked; };
    const bool replayed = recordings.replay(stream, key, work);
    if (!replayed) work();
    return replayed;
  }
  NotingStream stream;
  Recordings<int> recordings{{.runs_before = 2, .most = 8}};
  int worked = 0;
};

TEST_F(RecordingsTest, TheThirdPassIsRecordedAndReplayed) {
  for (int i = 1; i <= 6; ++i) {
    EXPECT_EQ(pass(7), i >= 3);
    EXPECT_EQ(worked, std::min(i, 3));
    EXPECT_EQ(stream.replayed, std::max(i - 2, 0));
  }
  EXPECT_EQ(stream.recorded, 1);
  EXPECT_EQ(recordings.count(), 1);
}

TEST_F(RecordingsTest, NoMoreAreMadeThanTheRulesSay) {
  for (int round = 0; round < 4; ++round)
    for (int key = 0; key < 20; ++key) EXPECT_EQ(pass(key), round >= 2 && key < 8);
  EXPECT_EQ(stream.recorded, 8);
  EXPECT_EQ(recordings.count(), 8);
}

TEST_F(RecordingsTest, TheOneThatWasNotUsedForLongestIsReplaced) {
  recordings = Recordings<int>({.runs_before = 1, .most = 2, .when_full = WhenFull::kReplaceUnused});
  for (int i = 0; i < 2; ++i)
    for (const int key : {1, 2}) pass(key);
  EXPECT_TRUE(pass(1));
  EXPECT_FALSE(pass(3));
  EXPECT_TRUE(pass(3)) << "in place of 2";
  EXPECT_EQ(recordings.count(), 2);
  EXPECT_EQ(stream.recorded, 3);
  EXPECT_TRUE(pass(1));
  EXPECT_EQ(stream.recorded, 3) << "1 was kept";
  EXPECT_TRUE(pass(2));
  EXPECT_EQ(stream.recorded, 4) << "2 is known, and recorded at once";
  EXPECT_EQ(recordings.count(), 2);
}

TEST_F(RecordingsTest, ClearingForgetsThem) {
  for (int i = 0; i < 3; ++i) pass(7);
  EXPECT_EQ(recordings.count(), 1);
  recordings.clear();
  EXPECT_EQ(recordings.count(), 0);
  EXPECT_FALSE(pass(7));
}

TEST_F(RecordingsTest, WithoutThemAllIsQueued) {
  stream.can_record = false;
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(pass(7));
  EXPECT_EQ(worked, 5);
}

// A card that is full to its last mebibytes goes on without recordings.
TEST_F(RecordingsTest, TheyAreGivenUpWhereThereIsNoMemoryForThem) {
  const auto refuse = [] { throw MachineError("out of memory"); };
  for (const bool at_the_end : {true, false}) {
    stream.on_end = stream.on_replay = [] {};
    (at_the_end ? stream.on_end : stream.on_replay) = refuse;
    recordings.clear();
    for (int i = 1; i <= 6; ++i) {
      worked = 0;
      EXPECT_FALSE(pass(7));
      EXPECT_EQ(worked, i == 3 ? 2 : 1) << "tried once";
    }
  }
  EXPECT_EQ(stream.replayed, 0);
}

TEST_F(RecordingsTest, WhatTheWorkThrowsIsTold) {
  for (int i = 0; i < 2; ++i) pass(7);
  EXPECT_THROW(recordings.replay(stream, 7, [] { throw InputError("broken"); }), InputError);
}

}  // namespace
}  // namespace onggi
