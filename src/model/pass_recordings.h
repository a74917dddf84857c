// Training passes that come again with the same shape: recorded once and replayed, where the device can. The
// host then gives a pass two calls instead of some two thousand, and the device goes from kernel to kernel
// without it.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "base/error.h"
#include "device/stream.h"

namespace onggi {

class PassRecordings {
 public:
  // What the launches of a pass depend on besides the contents of memory: a recording is right for all passes
  // of its key, whatever their tokens, segments, labels and masks are.
  struct Key {
    enum class Part { kForward, kBackward } part;
    int64_t tokens = 0;           // T
    bool is_one_segment = false;  // S = 1
    double dropout = 0;           // probability
    uint64_t seed = 0;            // of the masks
    const float* gradient = nullptr;
    auto operator<=>(const Key&) const = default;
  };

  // Queues work(), the part of a pass that the key describes.
  template <typename Work>
  void run(Stream& stream, const Key& key, const Work& work) {
    Recorded& recorded = find(key);
    if (recorded.recording != nullptr) return stream.replay(*recorded.recording);
    if (recorded.runs++ >= kRunsBefore && count_ < kMost && record(stream, recorded, work)) return;
    work();
  }

  int64_t count() const { return count_; }

 private:
  // The first run lets working memory grow and has the products chosen; a shape that came twice is likely to
  // come again.
  static constexpr int kRunsBefore = 2;
  // A recording takes some MiB of the device's memory, which no plan counts, and as long as a few passes
  // save.
  static constexpr int64_t kMost = 8;

  struct Recorded {
    int runs = 0;  // before it was recorded
    std::unique_ptr<Stream::Recording> recording;
  };

  // Whether work() is recorded and was replayed. Where the device has no memory for it, nothing is recorded
  // any more.
  template <typename Work>
  bool record(Stream& stream, Recorded& recorded, const Work& work) {
    try {
      auto recording = stream.record(work);
      if (recording == nullptr) return false;
      stream.replay(*recording);
      recorded.recording = std::move(recording);
      ++count_;
      return true;
    } catch (const MachineError&) {
      count_ = kMost;
      return false;
    }
  }

  Recorded& find(const Key& key) {
    // A longer pass than before lets working memory grow, and recordings would hold on to the smaller one.
    if (key.tokens > longest_) {
      recordings_.clear();
      count_ = 0;
      longest_ = key.tokens;
    }
    return recordings_[key];
  }

  int64_t longest_ = 0;  // tokens
  int64_t count_ = 0;
  std::map<Key, Recorded> recordings_;
};

}  // namespace onggi
