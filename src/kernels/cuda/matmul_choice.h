// The fastest of several algorithms for products of one kind, found while they work. For matmul.cc alone.
//
// cuBLASLt guesses which of its algorithms is the fastest, and is often 2 to 10 % off. Which is faster
// depends on the card's clocks and may come out differently in each run, so it must not show in results: an
// algorithm is a candidate only when it gives, for random matrices of the product's own k, the bits of
// cuBLASLt's first choice. (They do where sums over k are made by the same instructions in the same order,
// whatever the tiles.)
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "kernels/cuda/matmul_plan.h"

namespace onggi {

class MatmulChoice {
 public:
  // `first`: cuBLASLt's first choice for the first product of this kind.
  explicit MatmulChoice(const MatmulAlgorithm& first);
  MatmulChoice(const MatmulChoice&) = delete;
  MatmulChoice& operator=(const MatmulChoice&) = delete;
  ~MatmulChoice();

  // Whether the algorithm is known to give the bits of the first.
  bool knows(const MatmulAlgorithm& algorithm) const;
  void add(const MatmulAlgorithm& algorithm);
  const MatmulAlgorithm& first() const { return candidates_.front().algorithm; }
  template <typename Function>
  void for_each(const Function& function) const {
    for (const Candidate& candidate : candidates_) function(candidate.algorithm);
  }

  // The algorithm to run next: one that is to be timed, or the fastest. `takes` says whether the product
  // takes an algorithm; null where it takes none of those in question.
  template <typename Takes>
  const MatmulAlgorithm* next(const Takes& takes) {
    settle();
    const bool is_timing = !best_ && timings_ < kRounds * candidates_.size();
    const size_t at = best_ ? *best_ : is_timing ? timings_ % candidates_.size() : 0;
    if (!takes(candidates_[at].algorithm)) return nullptr;
    timed_ = is_timing ? &candidates_[at] : nullptr;
    return &candidates_[at].algorithm;
  }
  // The fastest; null where that is not known yet.
  const MatmulAlgorithm* best() const { return best_ ? &candidates_[*best_].algorithm : nullptr; }
  // Around what next() gave.
  void begin(cudaStream_t stream);
  void end(cudaStream_t stream);

 private:
  // Each candidate's fastest of so many counts: what else runs on the card only makes it slower.
  static constexpr size_t kRounds = 3;
  struct Timing {
    cudaEvent_t begin = nullptr, end = nullptr;
  };
  struct Candidate {
    MatmulAlgorithm algorithm;
    std::vector<Timing> timings;
  };
  void settle();
  void forget_timings();

  std::vector<Candidate> candidates_;
  Candidate* timed_ = nullptr;  // the one that runs
  size_t timings_ = 0;          // of all candidates together
  std::optional<size_t> best_;
};

// What bits algorithms give for random matrices with a product's k, transposes and types: each is tried once,
// for products of whatever other size.
class MatmulBits {
 public:
  // Works in `workspace`.
  MatmulBits(CudaStream& stream, cublasLtHandle_t handle, void* workspace)
      : stream_(stream), handle_(handle), workspace_(workspace) {}
  // Waits for the stream where one of them was not tried yet.
  bool are_same(const MatmulArgs& like, const MatmulAlgorithm& one, const MatmulAlgorithm& other);

 private:
  using Digest = std::optional<uint64_t>;  // none where the algorithm does not serve
  Digest of(const MatmulArgs& test, const MatmulAlgorithm& algorithm);
  Digest measure(const MatmulArgs& test, const MatmulAlgorithm& algorithm);

  CudaStream& stream_;
  cublasLtHandle_t handle_;
  void* workspace_;
  std::map<std::array<int64_t, 12>, Digest> known_;
};

}  // namespace onggi
