#include "formats/tensor_sequence.h"

#include <utility>

#include "base/error.h"

namespace onggi {

TensorSequence::TensorSequence(std::vector<TensorSpec> tensors) : tensors_(std::move(tensors)) {
  skip_empty();
}

void TensorSequence::skip_empty() {
  while (current_ < tensors_.size() && tensors_[current_].bytes() == 0) ++current_;
}

TensorSequence::Step TensorSequence::advance(std::string_view name, size_t bytes) {
  if (bytes == 0) return Step::kInside;
  ONGGI_CHECK(current_ < tensors_.size(), "after the last tensor: " + std::string(name));
  const TensorSpec& spec = tensors_[current_];
  ONGGI_CHECK(spec.name == name, "expected " + spec.name + ", got " + std::string(name));
  ONGGI_CHECK(bytes <= spec.bytes() - written_, "too many bytes of " + spec.name);
  written_ += bytes;
  if (written_ < spec.bytes()) return Step::kInside;
  written_ = 0;
  ++current_;
  skip_empty();
  return Step::kTensorComplete;
}

void TensorSequence::check_complete() const {
  ONGGI_CHECK(current_ == tensors_.size(), current_ < tensors_.size() ? tensors_[current_].name : "");
}

}  // namespace onggi
