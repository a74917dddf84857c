// Passes that come again with the same shape: recorded once and replayed, where the device can. The host then
// gives a pass one or two calls instead of hundreds, and the device goes from kernel to kernel without it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "base/error.h"
#include "device/stream.h"

namespace onggi {

struct RecordingRules {
  // Passes of a key that are queued before one is recorded. At least one: it lets working memory grow and has
  // the products chosen.
  int64_t runs_before = 1;
  int64_t most = 0;  // recordings kept: each takes memory of the device
  enum class WhenFull { kMakeNoMore, kReplaceUnused } when_full = WhenFull::kMakeNoMore;
};

// Key: what the launches of a pass depend on besides the contents of memory. A recording is right for all
// passes of its key.
template <typename Key>
class Recordings {
 public:
  explicit Recordings(const RecordingRules& rules) : rules_(rules) {}

  // Whether the device was given the pass by replaying; else the caller queues it. A pass whose turn it is
  // becomes a recording of what work() queues. Where the device has no memory for that, none is made any
  // more.
  template <typename Work>
  bool replay(Stream& stream, const Key& key, const Work& work) {
    Pass& pass = passes_[key];
    pass.last_use = ++uses_;
    if (pass.recording == nullptr) {
      if (pass.runs++ < rules_.runs_before || has_no_room()) return false;
      return record(stream, pass, work);
    }
    stream.replay(*pass.recording);
    return true;
  }

  // Where memory that they work in has moved.
  void clear() {
    passes_.clear();
    count_ = 0;
    gave_up_ = false;
  }
  int64_t count() const { return count_; }

 private:
  struct Pass {
    int64_t runs = 0;  // before it was recorded
    int64_t last_use = 0;
    std::unique_ptr<Stream::Recording> recording;
  };

  bool has_no_room() const {
    return gave_up_ || (count_ >= rules_.most && rules_.when_full == RecordingRules::WhenFull::kMakeNoMore);
  }

  template <typename Work>
  bool record(Stream& stream, Pass& pass, const Work& work) {
    try {
      if (count_ >= rules_.most) drop_unused();
      auto recording = stream.record(work);
      if (recording == nullptr) return false;
      stream.replay(*recording);
      pass.recording = std::move(recording);
      ++count_;
      return true;
    } catch (const MachineError&) {
      gave_up_ = true;
      return false;
    }
  }

  // The one whose last use is the longest ago.
  void drop_unused() {
    Pass* unused = nullptr;
    for (auto& [key, pass] : passes_)
      if (pass.recording != nullptr && (unused == nullptr || pass.last_use < unused->last_use))
        unused = &pass;
    if (unused == nullptr) return;
    unused->recording.reset();
    --count_;
  }

  RecordingRules rules_;
  std::map<Key, Pass> passes_;
  int64_t uses_ = 0, count_ = 0;
  bool gave_up_ = false;
};

}  // namespace onggi
