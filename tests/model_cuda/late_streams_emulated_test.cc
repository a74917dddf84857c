// Passes over offloaded layers, where the stream that computes or the one that copies is as late as its
// events allow: an event that is missing shows.
#include <gtest/gtest.h>

#include "device/cuda_stream.h"
#include "tests/cuda_emulator/engine.h"
#include "tests/model_cuda/tiny_model.h"

namespace onggi {
namespace {

using emulator::StreamPace;

PassResult run_at(StreamPace computing, StreamPace copying, int64_t offloaded) {
  emulator::set_stream_pace(computing);
  CudaStream stream(0);
  emulator::set_stream_pace(copying);  // the stream that copies is made with the first buffer
  TestCompute session({"cuda", &cuda_ops(), &stream}, Precision::kFast);
  const auto model = tiny_model(6, session.placement(), offloaded);
  PassResult result = run_passes(*model, session.compute, ActivationPolicy::kRecomputeBlocks);
  emulator::set_stream_pace(StreamPace::kAtOnce);
  return result;
}

TEST(LateStreams, AnyOrderThatTheEventsAllowGivesTheSameBits) {
  const PassResult expected = run_at(StreamPace::kAtOnce, StreamPace::kAtOnce, 0);
  for (const int64_t offloaded : {1, 3, 6}) {
    EXPECT_TRUE(run_at(StreamPace::kLate, StreamPace::kAtOnce, offloaded) == expected) << offloaded;
    EXPECT_TRUE(run_at(StreamPace::kAtOnce, StreamPace::kLate, offloaded) == expected) << offloaded;
  }
}

}  // namespace
}  // namespace onggi
