#include "infer/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace onggi {

std::string StopMatcher::push(std::string_view piece) {
  if (!found_.empty()) return {};
  held_ += piece;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at < first) {
      first = at;
      found_ = stop;
    }
  }
  std::string ready;
  if (first != std::string::npos) {
    ready = held_.substr(0, first);
    held_.clear();
    return ready;
  }
  size_t held = 0;
  for (const std::string& stop : stops_) {
    for (size_t length = std::min(stop.size() - 1, held_.size()); length > held; --length) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, length))) held = length;
    }
  }
  ready = held_.substr(0, held_.size() - held);
  held_.erase(0, ready.size());
  return ready;
}

std::string StopMatcher::flush() { return std::exchange(held_, {}); }

}  // namespace onggi
