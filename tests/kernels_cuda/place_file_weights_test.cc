// Weights of files against the same weights placed one by one from memory.
#include <gmock/gmock.h>

#include <filesystem>
#include <utility>

#include "base/error.h"
#include "device/cuda_stream.h"
#include "kernels/cuda/placed_layout.h"
#include "tests/kernels/harness.h"
#include "tests/kernels_cuda/device_array.h"
#include "tests/scratch.h"

namespace onggi::testing_ops {
namespace {

using testing_cuda::stream;

struct Case {
  DType dtype;
  int64_t rows, columns;
};

size_t device_bytes(const Case& each) {
  return static_cast<size_t>(cuda::is_placed_in_tiles(each.dtype)
                                 ? cuda::placed_bytes(each.dtype, each.rows, each.columns)
                                 : dtype_bytes(each.dtype, each.rows * each.columns));
}

class PlaceFileWeights : public testing::Test {
 protected:
  // The weight's bytes, appended to the file at an odd place where its dtype allows it.
  void add(const Case& each) {
    Weight weight = random_weight(each.dtype, each.rows, each.columns, 10 + cases_.size());
    const auto bytes = static_cast<size_t>(dtype_bytes(each.dtype, each.rows * each.columns));
    content_.append(6 + 2 * cases_.size(), '#');
    weights_.push_back({each.dtype, each.rows, each.columns, nullptr, content_.size()});
    content_.append(static_cast<const char*>(weight.view.data), bytes);
    cases_.push_back(each);
    from_memory_.push_back(cuda_ops().place_weight(stream(), weight.view, buffers_));
  }
  void write() {
    write_file(path_, content_);
    file_ = MappedFile(path_);
    for (FileWeight& weight : weights_) weight.file = &file_;
  }
  static std::vector<uint8_t> bytes_of(const WeightView& view, size_t bytes) {
    std::vector<uint8_t> host(bytes);
    stream().copy_out(host.data(), view.data, bytes);
    return host;
  }

  TemporaryFolder temporary_;
  const fs::path path_ = temporary_ / "weights";
  std::vector<Case> cases_;
  std::string content_;
  MappedFile file_;
  std::vector<FileWeight> weights_;
  std::vector<Buffer> buffers_;
  std::vector<WeightView> from_memory_;
};

TEST_F(PlaceFileWeights, AreTheSameAsFromMemory) {
  // Odd numbers of rows, two weights of several pieces, and more pieces than there are buffers.
  for (const Case& each :
       {Case{DType::kQ4_K, 37, 512}, Case{DType::kBF16, 19, 72}, Case{DType::kQ6_K, 16, 256},
        Case{DType::kQ8_0, 50, 96}, Case{DType::kQ5_K, 1, 768}, Case{DType::kF32, 3, 5},
        Case{DType::kQ4_0, 33, 64}, Case{DType::kF16, 1500, 4096}, Case{DType::kQ2_K, 40, 256},
        Case{DType::kQ8_0, 16001, 256}, Case{DType::kQ3_K, 17, 256}})
    add(each);
  for (int i = 0; i < 40; ++i) add({DType::kQ4_K, 16, 256});
  write();
  // What comes first in the file need not be asked for first.
  std::swap(weights_[0], weights_[6]);
  std::swap(cases_[0], cases_[6]);
  std::swap(from_memory_[0], from_memory_[6]);
  std::vector<Buffer> buffers;
  const PlacedWeights placed = cuda_ops().place_file_weights(stream(), weights_, buffers);
  stream().synchronize();
  EXPECT_EQ(buffers.size(), 1U);
  ASSERT_EQ(placed.views.size(), cases_.size());
  for (size_t i = 0; i < cases_.size(); ++i) {
    const WeightView& view = placed.views[i];
    EXPECT_EQ(view.dtype, cases_[i].dtype);
    EXPECT_EQ(view.rows, cases_[i].rows);
    EXPECT_EQ(view.columns, cases_[i].columns);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data) % 256, 0U);
    const size_t bytes = device_bytes(cases_[i]);
    EXPECT_TRUE(bytes_of(view, bytes) == bytes_of(from_memory_[i], bytes)) << "weight " << i;
  }
}

TEST_F(PlaceFileWeights, TakeWhatTheyNeedOnce) {
  add({DType::kQ4_K, 64, 1024});
  add({DType::kBF16, 10, 100});
  write();
  from_memory_.clear();
  buffers_.clear();
  CudaStream own(0);
  std::vector<Buffer> buffers;
  const uint64_t weights = device_bytes(cases_[0]) + 2048;
  cuda_ops().place_file_weights(own, weights_, buffers);
  buffers.clear();
  const uint64_t working_memory = own.allocated_bytes();
  EXPECT_EQ(own.peak_bytes(), weights + working_memory);
  EXPECT_LE(working_memory, uint64_t{32} << 20);
}

TEST_F(PlaceFileWeights, AShortFileIsTold) {
  add({DType::kQ4_K, 64, 1024});
  add({DType::kF16, 3000, 1024});
  write();
  fs::resize_file(path_, content_.size() - 1);
  std::vector<Buffer> buffers;
  const std::string message =
      message_of<InputError>([&] { cuda_ops().place_file_weights(stream(), weights_, buffers); });
  EXPECT_THAT(message, testing::HasSubstr("has become shorter"));
  stream().synchronize();  // the stream goes on
  weights_.resize(1);
  const PlacedWeights placed = cuda_ops().place_file_weights(stream(), weights_, buffers);
  const size_t bytes = device_bytes(cases_[0]);
  EXPECT_TRUE(bytes_of(placed.views[0], bytes) == bytes_of(from_memory_[0], bytes));
}

TEST_F(PlaceFileWeights, TooLittleMemoryIsToldAndNothingIsKept) {
  add({DType::kQ4_K, 64, 1024});
  write();
  weights_[0].rows = int64_t{1} << 28;
  CudaStream own(0);
  std::vector<Buffer> buffers;
  const std::string message =
      message_of<MachineError>([&] { cuda_ops().place_file_weights(own, weights_, buffers); });
  EXPECT_THAT(message, testing::HasSubstr("more were asked for"));
  EXPECT_TRUE(buffers.empty());
}

TEST_F(PlaceFileWeights, NothingIsNoWork) {
  std::vector<Buffer> buffers;
  EXPECT_TRUE(cuda_ops().place_file_weights(stream(), {}, buffers).views.empty());
  EXPECT_TRUE(buffers.empty());
}

}  // namespace
}  // namespace onggi::testing_ops
