// JSON text followed without parsing it: what has to be bounded before a parser, and code that walks its
// document by recursion, may see it.
#pragma once

#include <cstddef>
#include <vector>

namespace onggi {

class JsonScanner {
 public:
  // The next byte of the text. Whether the text is valid is not checked.
  void next(char c);

  bool in_string() const { return in_string_; }
  // Objects and arrays that are open; below 0 where more were closed.
  int depth() const { return depth_; }
  // Of the innermost open object, the members that have begun; 0 in an array.
  size_t members() const { return members_.empty() ? 0 : members_.back(); }

 private:
  bool in_string_ = false, escaped_ = false;
  int depth_ = 0;
  std::vector<size_t> members_;  // of each open object or array
};

}  // namespace onggi
