// The order in which a streaming writer gets its tensors.
#pragma once

#include <string_view>
#include <vector>

#include "formats/mapped_tensors.h"

namespace onggi {

// Follows the bytes written against the tensors declared. A mismatch is a bug of the caller (InternalError).
class TensorSequence {
 public:
  explicit TensorSequence(std::vector<TensorSpec> tensors);

  enum class Step { kInside, kTensorComplete };
  // Notes that `bytes` more of tensor `name` are being written.
  Step advance(std::string_view name, size_t bytes);
  // Checks that all tensors are complete.
  void check_complete() const;
  const std::vector<TensorSpec>& tensors() const { return tensors_; }

 private:
  void skip_empty();

  std::vector<TensorSpec> tensors_;
  size_t current_ = 0;
  uint64_t written_ = 0;  // of the current tensor
};

}  // namespace onggi
