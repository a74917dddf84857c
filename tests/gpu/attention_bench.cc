// The speed of attention in training on a card, at the shapes of Qwen3-8B: forward and backward over packed
// segments, what a token costs in all 36 layers, and the share of the rate of a plain product of
// 8192 x 8192 x 8192 in the same run. Operations are counted for the pairs of a query and a key that it sees:
// 4 D forward, 10 D backward (5 products, whatever the kernels compute again).
//
//   gpu_attention_bench [tokens segment]...      default 16384 2048  4096 2048  1024 256
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "device/cuda_stream.h"
#include "kernels/cuda/matmul.h"
#include "kernels/table.h"
#include "tests/gpu/event_timer.h"

namespace onggi {
namespace {

constexpr int64_t kQueryHeads = 32, kKvHeads = 8, kHeadDim = 128, kLayers = 36;

class Bench {
 public:
  void reference_product();
  void attention(int64_t tokens, int64_t segment);

 private:
  // Microseconds: the median of several runs after warming up.
  double time(const std::function<void()>& work) { return timer_.median(3, 11, work); }
  template <typename T>
  T* array(const std::vector<T>& values) {
    buffers_.push_back(stream_.allocate(values.size() * sizeof(T)));
    stream_.copy_in(buffers_.back().data(), values.data(), values.size() * sizeof(T));
    return buffers_.back().template as<T>();
  }
  Activation random(int64_t elements) {
    Random random(static_cast<uint64_t>(buffers_.size()) + 1);
    std::vector<uint16_t> values(static_cast<size_t>(elements));
    for (uint16_t& value : values) value = f32_to_bf16(2 * random.uniform() - 1);
    return {array(values), DType::kBF16};
  }
  void print(const char* name, double microseconds, double operations) const {
    const double rate = operations / microseconds / 1e6;
    std::printf("%-26s %10.1f us %8.1f TFLOP/s  %5.1f%% of the product's\n", name, microseconds, rate,
                100 * rate / product_rate_);
  }

  CudaStream stream_{0};
  ThreadPool threads_{1};
  Scratch scratch_{1};
  OpContext context_{threads_, scratch_, stream_};
  const OpTable& ops_ = cuda_ops();
  EventTimer timer_{stream_};
  std::vector<Buffer> buffers_;
  double product_rate_ = 1;  // TFLOP/s
};

void Bench::reference_product() {
  constexpr int64_t kSize = 8192;
  const MatrixView a{random(kSize * kSize).data, DType::kBF16, kSize},
      b{random(kSize * kSize).data, DType::kBF16, kSize};
  void* d = random(kSize * kSize).data;
  const double taken = time([&] {
    matmul(stream_, {.m = kSize,
                     .n = kSize,
                     .k = kSize,
                     .a = a,
                     .b = b,
                     .c = {},
                     .d = d,
                     .d_dtype = DType::kBF16,
                     .d_stride = kSize});
  });
  product_rate_ = 2.0 * kSize * kSize * kSize / taken / 1e6;
  print("product 8192^3", taken, 2.0 * kSize * kSize * kSize);
  buffers_.clear();
}

void Bench::attention(int64_t tokens, int64_t segment) {
  std::vector<int32_t> starts, first_row, end_row;
  double pairs = 0;
  for (int64_t first = 0; first < tokens; first += segment) {
    const int64_t end = std::min(first + segment, tokens), length = end - first;
    starts.push_back(static_cast<int32_t>(first));
    first_row.insert(first_row.end(), static_cast<size_t>(length), static_cast<int32_t>(first));
    end_row.insert(end_row.end(), static_cast<size_t>(length), static_cast<int32_t>(end));
    pairs += static_cast<double>(length) * static_cast<double>(length + 1) / 2;
  }
  const auto count = static_cast<int64_t>(starts.size());
  starts.push_back(static_cast<int32_t>(tokens));
  const Segments segments{array(starts), array(first_row), array(end_row), count};
  const int64_t q_size = tokens * kQueryHeads * kHeadDim, kv_size = tokens * kKvHeads * kHeadDim;
  const Activation q = random(q_size), k = random(kv_size), v = random(kv_size), out = random(q_size);
  const Activation dout = random(q_size), dq = random(q_size), dk = random(kv_size), dv = random(kv_size);
  float* log_sum_exp = array(std::vector<float>(static_cast<size_t>(tokens * kQueryHeads)));
  const float scale = 1 / std::sqrt(static_cast<float>(kHeadDim));
  const AttentionArgs forward{.q = q,
                              .k = k,
                              .v = v,
                              .segments = segments,
                              .tokens = tokens,
                              .query_heads = kQueryHeads,
                              .kv_heads = kKvHeads,
                              .head_dim = kHeadDim,
                              .scale = scale,
                              .out = out,
                              .log_sum_exp = log_sum_exp};
  const AttentionBackwardArgs backward{.dout = dout,
                                       .q = q,
                                       .k = k,
                                       .v = v,
                                       .out = out,
                                       .log_sum_exp = log_sum_exp,
                                       .segments = segments,
                                       .tokens = tokens,
                                       .query_heads = kQueryHeads,
                                       .kv_heads = kKvHeads,
                                       .head_dim = kHeadDim,
                                       .scale = scale,
                                       .dq = dq,
                                       .dk = dk,
                                       .dv = dv};
  std::printf("\n%lld tokens in segments of %lld\n", static_cast<long long>(tokens),
              static_cast<long long>(segment));
  const double operations = 4.0 * kHeadDim * kQueryHeads * pairs;
  const double forward_time = time([&] { ops_.attention(context_, forward); });
  print("forward", forward_time, operations);
  const double backward_time = time([&] { ops_.attention_backward(context_, backward); });
  print("backward", backward_time, 2.5 * operations);
  print("both", forward_time + backward_time, 3.5 * operations);
  std::printf("%-26s %10.2f us a token\n", "both, 36 layers",
              (forward_time + backward_time) * kLayers / static_cast<double>(tokens));
  buffers_.clear();
}

int run(int argc, char** argv) {
  Bench bench;
  bench.reference_product();
  if (argc < 3) {
    bench.attention(16384, 2048);
    bench.attention(4096, 2048);
    bench.attention(1024, 256);
  }
  for (int i = 1; i + 1 < argc; i += 2) bench.attention(std::atoll(argv[i]), std::atoll(argv[i + 1]));
  return 0;
}

}  // namespace
}  // namespace onggi

int main(int argc, char** argv) {
  try {
    return onggi::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 4;
  }
}
