// Finds stop strings in a text that arrives in pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace onggi {

class StopMatcher {
 public:
  // No string may be empty.
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // The text that can no longer be a part of a stop string. Once a stop string is complete, everything from
  // it on is dropped, now and later.
  std::string push(std::string_view piece);
  // What push() still held back; for the end of an answer.
  std::string flush();
  // The stop string that was found; empty before.
  const std::string& found() const { return found_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  std::string found_;
};

}  // namespace onggi
