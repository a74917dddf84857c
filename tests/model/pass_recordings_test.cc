// What is recorded, and when, on a stream that notes it. (That recorded passes give the same bits:
// tests/model_cuda/recording_test.cc.)
#include "model/pass_recordings.h"

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

using Key = PassRecordings::Key;

Key key_of(int64_t tokens) { return {.part = Key::Part::kForward, .tokens = tokens}; }

TEST(PassRecordings, RecordTheThirdPassAndReplayIt) {
  NotingStream stream;
  PassRecordings recordings;
  int worked = 0;
  for (int pass = 1; pass <= 6; ++pass) {
    recordings.run(stream, key_of(7), [&] { ++worked; });
    EXPECT_EQ(worked, std::min(pass, 3)) << "the third time it is recorded";
    EXPECT_EQ(stream.replayed, std::max(pass - 2, 0));
  }
  EXPECT_EQ(stream.recorded, 1);
  EXPECT_EQ(recordings.count(), 1);
}

TEST(PassRecordings, AreNotMadeOfMoreThanEightParts) {
  NotingStream stream;
  PassRecordings recordings;
  int worked = 0;
  for (int round = 0; round < 4; ++round)
    for (int64_t tokens = 20; tokens > 0; --tokens) recordings.run(stream, key_of(tokens), [&] { ++worked; });
  EXPECT_EQ(stream.recorded, 8);
  EXPECT_EQ(recordings.count(), 8);
  EXPECT_EQ(worked, 4 * 20 - 8);  // the fourth round replays them
}

TEST(PassRecordings, ALongerPassDropsThem) {
  NotingStream stream;
  PassRecordings recordings;
  for (int i = 0; i < 3; ++i) recordings.run(stream, key_of(7), [] {});
  EXPECT_EQ(recordings.count(), 1);
  recordings.run(stream, key_of(8), [] {});
  EXPECT_EQ(recordings.count(), 0);
}

TEST(PassRecordings, WithoutThemAllIsQueued) {
  NotingStream stream;
  stream.can_record = false;
  PassRecordings recordings;
  int worked = 0;
  for (int i = 0; i < 5; ++i) recordings.run(stream, key_of(7), [&] { ++worked; });
  EXPECT_EQ(worked, 5);
}

// A card that is full to its last mebibytes trains without recordings.
TEST(PassRecordings, AreGivenUpWhereThereIsNoMemoryForThem) {
  const auto refuse = [] { throw MachineError("out of memory"); };
  for (const bool at_the_end : {true, false}) {
    NotingStream stream;
    (at_the_end ? stream.on_end : stream.on_replay) = refuse;
    PassRecordings recordings;
    for (int64_t pass = 1; pass <= 6; ++pass) {
      int worked = 0;
      recordings.run(stream, key_of(7), [&] { ++worked; });
      EXPECT_EQ(worked, pass == 3 ? 2 : 1) << "tried once";
    }
    EXPECT_EQ(stream.replayed, 0);
  }
}

TEST(PassRecordings, WhatTheWorkThrowsIsTold) {
  NotingStream stream;
  PassRecordings recordings;
  for (int i = 0; i < 2; ++i) recordings.run(stream, key_of(7), [] {});
  EXPECT_THROW(recordings.run(stream, key_of(7), [] { throw InputError("broken"); }), InputError);
}

}  // namespace
}  // namespace onggi
