#include "kernels/cuda/matmul_choice.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <string>

#include "base/error.h"
#include "base/random.h"

namespace onggi {
namespace {

// Sizes of the random matrices: what k sums up is the same in each element of a tile.
constexpr int64_t kTestRows = 128, kTestColumns = 256;

// bf16 numbers of a normal distribution; a period that divides no k.
const std::vector<uint16_t>& noise() {
  static const std::vector<uint16_t> values = [] {
    constexpr size_t kPeriod = 262139;
    Random random(20260101);
    std::vector<uint16_t> made(kPeriod);
    for (uint16_t& value : made) value = f32_to_bf16(random.normal());
    return made;
  }();
  return values;
}

void fill_with_noise(CudaStream& stream, std::byte* to, size_t bytes) {
  const std::vector<uint16_t>& values = noise();
  const size_t period = values.size() * sizeof(uint16_t);
  for (size_t at = 0; at < bytes; at += period)
    stream.copy_in(to + at, values.data(), std::min(period, bytes - at));
}

}  // namespace

MatmulChoice::MatmulChoice(const MatmulAlgorithm& first) { add(first); }

MatmulChoice::~MatmulChoice() { forget_timings(); }

bool MatmulChoice::knows(const MatmulAlgorithm& algorithm) const {
  const auto wanted = algorithm.configuration();
  return std::any_of(candidates_.begin(), candidates_.end(), [&](const Candidate& candidate) {
    return candidate.algorithm.configuration() == wanted;
  });
}

void MatmulChoice::add(const MatmulAlgorithm& algorithm) { candidates_.push_back({algorithm, {}}); }

void MatmulChoice::begin(cudaStream_t stream) {
  if (timed_ == nullptr) return;
  Timing timing;
  check_cuda(cudaEventCreate(&timing.begin), "cudaEventCreate", "timing a product");
  timed_->timings.push_back(timing);
  check_cuda(cudaEventCreate(&timed_->timings.back().end), "cudaEventCreate", "timing a product");
  check_cuda(cudaEventRecord(timing.begin, stream), "cudaEventRecord", "timing a product");
}

void MatmulChoice::end(cudaStream_t stream) {
  if (timed_ == nullptr) return;
  check_cuda(cudaEventRecord(timed_->timings.back().end, stream), "cudaEventRecord", "timing a product");
  timed_ = nullptr;
  ++timings_;
}

// Decides once all candidates have been timed. The host is ahead of the card: until the last has come past,
// the first choice runs on.
void MatmulChoice::settle() {
  if (best_ || timings_ < kRounds * candidates_.size()) return;
  const cudaError_t state = cudaEventQuery(candidates_.back().timings.back().end);
  if (state == cudaErrorNotReady) return;
  check_cuda(state, "cudaEventQuery", "timing a product");
  float fastest = std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < candidates_.size(); ++i)
    for (const Timing& timing : candidates_[i].timings) {
      float milliseconds = 0;
      check_cuda(cudaEventElapsedTime(&milliseconds, timing.begin, timing.end), "cudaEventElapsedTime",
                 "timing a product");
      if (milliseconds < fastest) fastest = milliseconds, best_ = i;
    }
  forget_timings();
}

void MatmulChoice::forget_timings() {
  for (Candidate& candidate : candidates_) {
    for (const Timing& timing : candidate.timings) {
      cudaEventDestroy(timing.begin);
      if (timing.end != nullptr) cudaEventDestroy(timing.end);
    }
    candidate.timings.clear();
  }
}

namespace {

// The product that is tried in place of one like it.
MatmulArgs test_like(const MatmulArgs& like) {
  MatmulArgs test = like;
  test.m = std::min(like.m, kTestRows);
  test.n = std::min(like.n, kTestColumns);
  test.alpha = 1.0f;
  test.beta = 0.0f;
  test.a.stride = like.transpose_a == Transpose::kYes ? test.m : test.k;
  test.b.stride = like.transpose_b == Transpose::kYes ? test.k : test.n;
  test.d_stride = test.n;
  return test;
}

}  // namespace

bool MatmulBits::are_same(const MatmulArgs& like, const MatmulAlgorithm& one, const MatmulAlgorithm& other) {
  ONGGI_CHECK(like.a.dtype == DType::kBF16);
  const MatmulArgs test = test_like(like);
  const Digest first = of(test, one);
  return first.has_value() && first == of(test, other);
}

MatmulBits::Digest MatmulBits::of(const MatmulArgs& test, const MatmulAlgorithm& algorithm) {
  const auto number = [](auto value) { return static_cast<int64_t>(value); };
  std::array<int64_t, 12> key{
      test.m, test.n, test.k, number(test.transpose_a), number(test.transpose_b), number(test.d_dtype)};
  const auto configuration = algorithm.configuration();
  std::copy(configuration.begin(), configuration.end(), key.begin() + 6);
  const auto [found, is_new] = known_.try_emplace(key);
  if (is_new) found->second = measure(test, algorithm);
  return found->second;
}

MatmulBits::Digest MatmulBits::measure(const MatmulArgs& like, const MatmulAlgorithm& algorithm) {
  MatmulArgs test = like;
  const auto a_bytes = static_cast<size_t>(dtype_bytes(test.a.dtype, test.m * test.k));
  const auto b_bytes = static_cast<size_t>(dtype_bytes(test.b.dtype, test.n * test.k));
  const auto d_bytes = static_cast<size_t>(dtype_bytes(test.d_dtype, test.m * test.n));
  const auto aligned = [](size_t bytes) { return (bytes + 255) / 256 * 256; };
  if (aligned(a_bytes) + aligned(b_bytes) + d_bytes > kMatmulWorkspaceBytes) return std::nullopt;
  auto* a = static_cast<std::byte*>(workspace_);
  std::byte *b = a + aligned(a_bytes), *d = b + aligned(b_bytes);
  test.a.data = a;
  test.b.data = b;
  test.d = d;
  const MatmulPlan plan(test);
  if (!plan.takes(handle_, algorithm)) return std::nullopt;
  fill_with_noise(stream_, a, a_bytes);
  fill_with_noise(stream_, b, b_bytes);
  stream_.fill_zero(d, d_bytes);
  plan.run(handle_, algorithm, nullptr, stream_.handle(), test);
  std::string result(d_bytes, '\0');
  stream_.copy_out(result.data(), d, d_bytes);
  return std::hash<std::string>{}(result);
}

}  // namespace onggi
