// The stream: memory, copies, working memory, recordings.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/cuda_stream.h"

namespace onggi {
namespace {

std::vector<uint8_t> pattern(size_t bytes, uint32_t seed) {
  std::vector<uint8_t> values(bytes);
  for (size_t i = 0; i < bytes; ++i) values[i] = static_cast<uint8_t>((i * 2654435761U + seed) >> 13);
  return values;
}

TEST(CudaStream, CopiesOfEverySizeArriveAndTheirSourceCanBeReused) {
  CudaStream stream(0);
  // Around the ring's largest copy, and around the large buffers.
  for (const size_t bytes :
       {size_t{1}, size_t{4095}, size_t{65536}, size_t{65537}, (size_t{33} << 20) + 13}) {
    const std::vector<uint8_t> values = pattern(bytes, static_cast<uint32_t>(bytes));
    const Buffer buffer = stream.allocate(bytes), second = stream.allocate(bytes);
    std::vector<uint8_t> source = values;
    stream.copy_in(buffer.data(), source.data(), bytes);
    std::fill(source.begin(), source.end(), uint8_t{0xEE});
    stream.copy(second.data(), buffer.data(), bytes);
    std::vector<uint8_t> got(bytes);
    stream.copy_out(got.data(), second.data(), bytes);
    EXPECT_TRUE(got == values) << bytes;
  }
}

TEST(CudaStream, IsOfAnOlderCardWhereTheEnvironmentAsksForIt) {
  const char* before = std::getenv("ONGGI_COMPUTE_CAPABILITY");
  const std::string kept = before == nullptr ? "" : before;
  const auto capability_under = [](const char* value) {
    setenv("ONGGI_COMPUTE_CAPABILITY", value, 1);
    return CudaStream(0).compute_capability();
  };
  const int own = capability_under("");
  EXPECT_GE(own, 80);
  EXPECT_EQ(capability_under("80"), 80);
  EXPECT_EQ(capability_under("75"), own) << "no kernels for it";
  EXPECT_EQ(capability_under("999"), own) << "newer than it is";
  before == nullptr ? unsetenv("ONGGI_COMPUTE_CAPABILITY")
                    : setenv("ONGGI_COMPUTE_CAPABILITY", kept.c_str(), 1);
}

TEST(CudaStream, ManySmallCopiesGoAroundTheRing) {
  CudaStream stream(0);
  constexpr size_t kCount = 3000, kBytes = 1000;
  const Buffer buffer = stream.allocate(kCount * kBytes);
  std::vector<uint8_t> source(kBytes);
  for (size_t i = 0; i < kCount; ++i) {
    std::fill(source.begin(), source.end(), static_cast<uint8_t>(i));
    stream.copy_in(buffer.as<uint8_t>() + i * kBytes, source.data(), kBytes);
  }
  std::vector<uint8_t> got(kCount * kBytes);
  stream.copy_out(got.data(), buffer.data(), got.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], static_cast<uint8_t>(i / kBytes)) << i;
}

TEST(CudaStream, HostMemoryOfTheDeviceIsCopiedWithoutWaiting) {
  CudaStream stream(0);
  const Buffer host = stream.allocate_host(1 << 20), device = stream.allocate(1 << 20);
  const std::vector<uint8_t> values = pattern(1 << 20, 3);
  std::copy(values.begin(), values.end(), host.as<uint8_t>());
  stream.copy(device.data(), host.data(), host.bytes());
  stream.synchronize();
  std::fill_n(host.as<uint8_t>(), host.bytes(), uint8_t{0});
  stream.copy(host.data(), device.data(), host.bytes());
  stream.synchronize();
  EXPECT_TRUE(std::equal(values.begin(), values.end(), host.as<uint8_t>()));
}

// Buffers in turns, as layers pass through them: what is used is what was fetched, and a fetch leaves alone
// what queued work still reads.
TEST(CudaStream, PrefetchedMemoryHoldsWhatWasFetchedLast) {
  constexpr size_t kBytes = size_t{4} << 20;
  constexpr uint32_t kTurns = 20;
  CudaStream stream(0);
  std::vector<Buffer> sources, copies;
  for (uint32_t i = 0; i < kTurns; ++i) {
    const std::vector<uint8_t> values = pattern(kBytes, i);
    std::copy(values.begin(), values.end(), sources.emplace_back(stream.allocate_host(kBytes)).as<uint8_t>());
    copies.push_back(stream.allocate(kBytes));
  }
  const uint64_t before = stream.allocated_bytes();
  {
    const auto first = stream.make_prefetch_buffer(kBytes), second = stream.make_prefetch_buffer(kBytes);
    EXPECT_EQ(stream.allocated_bytes(), before + 2 * kBytes);
    first->fetch(sources[0].data(), kBytes);
    for (uint32_t i = 0; i < kTurns; ++i) {
      PrefetchBuffer& current = i % 2 == 0 ? *first : *second;
      PrefetchBuffer& next = i % 2 == 0 ? *second : *first;
      if (i + 1 < kTurns) next.fetch(sources[i + 1].data(), kBytes);
      current.use();
      stream.copy(copies[i].data(), current.data(), kBytes);
    }
  }
  EXPECT_EQ(stream.allocated_bytes(), before);
  std::vector<uint8_t> got(kBytes);
  for (uint32_t i = 0; i < kTurns; ++i) {
    stream.copy_out(got.data(), copies[i].data(), kBytes);
    EXPECT_TRUE(got == pattern(kBytes, i)) << i;
  }
}

TEST(CudaStream, CountsWhatItHolds) {
  CudaStream stream(0);
  EXPECT_EQ(stream.allocated_bytes(), 0U);
  {
    const Buffer first = stream.allocate(1000);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first.data()) % 256, 0U);
    EXPECT_EQ(stream.allocated_bytes(), 1024U);
    const Buffer second = stream.allocate(512), host = stream.allocate_host(4096);
    EXPECT_EQ(stream.allocated_bytes(), 1536U);
  }
  EXPECT_EQ(stream.allocated_bytes(), 0U);
  EXPECT_EQ(stream.peak_bytes(), 1536U);
  stream.reset_peak();
  EXPECT_EQ(stream.peak_bytes(), 0U);
}

TEST(CudaStream, SaysHowMuchMemoryIsMissing) {
  CudaStream stream(0);
  try {
    stream.allocate(size_t{1} << 50);
    FAIL() << "a pebibyte was had";
  } catch (const MachineError& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kMachine);
    EXPECT_THAT(error.what(), testing::HasSubstr("1073741824.0 MiB more were asked for"));
    EXPECT_THAT(error.what(), testing::HasSubstr("smaller model"));
  }
  EXPECT_EQ(stream.allocated_bytes(), 0U);
  try {
    stream.allocate_host(size_t{1} << 50);
    FAIL() << "a pebibyte was page-locked";
  } catch (const MachineError& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kMachine);
    EXPECT_THAT(error.what(), testing::HasSubstr("1073741824.0 MiB of page-locked memory"));
    EXPECT_THAT(error.what(), testing::HasSubstr("larger memory_budget"));
  }
  // Nothing remains of the errors.
  const Buffer buffer = stream.allocate(16);
  stream.fill_zero(buffer.data(), 16);
  stream.synchronize();
}

TEST(CudaStream, WorkingMemoryGrowsAndIsKept) {
  CudaStream stream(0);
  void* small = stream.scratch(1000);
  EXPECT_EQ(stream.scratch(1024), small);
  EXPECT_EQ(stream.allocated_bytes(), 1024U);
  void* large = stream.scratch(100000);
  EXPECT_EQ(stream.scratch(10), large);
  EXPECT_EQ(stream.allocated_bytes(), 100096U);
}

TEST(CudaStream, KeepsOneObjectOfAType) {
  struct Counter {
    explicit Counter(int& destroyed) : destroyed(destroyed) {}
    ~Counter() { ++destroyed; }
    int& destroyed;
    int uses = 0;
  };
  int made = 0, destroyed = 0;
  {
    CudaStream stream(0);
    const auto make = [&] {
      ++made;
      return std::make_shared<Counter>(destroyed);
    };
    ++stream.attachment<Counter>(make).uses;
    EXPECT_EQ(++stream.attachment<Counter>(make).uses, 2);
    EXPECT_EQ(destroyed, 0);
  }
  EXPECT_EQ(made, 1);
  EXPECT_EQ(destroyed, 1);
}

TEST(CudaStream, ReplaysWhatItRecorded) {
  CudaStream stream(0);
  const Buffer from = stream.allocate(256), to = stream.allocate(256);
  const std::vector<uint8_t> first = pattern(256, 1), second = pattern(256, 2);
  stream.copy_in(from.data(), first.data(), 256);
  stream.fill_zero(to.data(), 256);
  void* scratch = stream.scratch(256);
  const auto recording = stream.record([&] {
    stream.copy(scratch, from.data(), 256);
    stream.copy(to.data(), scratch, 256);
    EXPECT_EQ(stream.scratch(256), scratch);
    EXPECT_THROW(stream.copy_in(to.data(), first.data(), 256), InternalError);
    EXPECT_THROW(stream.allocate(256), InternalError);
    EXPECT_THROW(stream.scratch(512), InternalError);
  });
  ASSERT_NE(recording, nullptr);
  std::vector<uint8_t> got(256);
  stream.copy_out(got.data(), to.data(), 256);
  EXPECT_THAT(got, testing::Each(0)) << "recorded work ran";
  for (const auto& values : {first, second}) {
    stream.copy_in(from.data(), values.data(), 256);
    stream.replay(*recording);
    stream.copy_out(got.data(), to.data(), 256);
    EXPECT_EQ(got, values);
    // The recording keeps the working memory that it uses, and nothing else may have it.
    scratch = stream.scratch(1 << 20);
    stream.fill_zero(scratch, 1 << 20);
  }
}

TEST(CudaStream, AnErrorWhileRecordingLeavesTheStreamUsable) {
  CudaStream stream(0);
  const Buffer from = stream.allocate(256), to = stream.allocate(256);
  const std::vector<uint8_t> values = pattern(256, 5);
  stream.copy_in(from.data(), values.data(), 256);
  EXPECT_THROW(stream.record([&] {
    const Buffer kept_until_the_end = stream.allocate_host(0);
    (void)kept_until_the_end;
  }),
               InternalError);
  EXPECT_THROW(stream.record([&] {
    stream.copy(to.data(), from.data(), 256);
    throw MachineError("an op failed");
  }),
               MachineError);
  const auto recording = stream.record([&] { stream.copy(to.data(), from.data(), 256); });
  stream.replay(*recording);
  std::vector<uint8_t> got(256);
  stream.copy_out(got.data(), to.data(), 256);
  EXPECT_EQ(got, values);
}

TEST(CudaStream, MemoryThatIsGivenBackWhileRecordingGoesAfterwards) {
  CudaStream stream(0);
  Buffer buffer = stream.allocate(1024);
  const auto recording = stream.record([&] {
    buffer.reset();
    EXPECT_EQ(stream.allocated_bytes(), 1024U);
  });
  EXPECT_EQ(stream.allocated_bytes(), 0U);
}

}  // namespace
}  // namespace onggi
