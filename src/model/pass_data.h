// The table of an inference pass: tokens, positions, sequences and pages, in one array of words.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/inference.h"
#include "model/model.h"

namespace onggi {

// What a pass is made of, as the host lays it out before it is copied to the device in one piece.
class PassData {
 public:
  PassData(const Model& model, std::span<const SequenceInput> inputs);

  int64_t tokens = 0;     // T
  int64_t sequences = 0;  // S
  int64_t wanted = 0;     // M: rows whose logits are asked for
  int64_t longest_rows = 0;
  int64_t longest = 0;      // rounded up, so that passes of growing sequences look alike
  int64_t page_stride = 0;  // likewise

  const std::vector<int32_t>& words() const { return words_; }
  // Arrays within a copy of words() at `base`.
  const int32_t* ids(const int32_t* base) const { return base; }
  const int32_t* wanted_rows(const int32_t* base) const { return base + wanted_at_; }
  SequenceTable table(const int32_t* base) const {
    const int32_t* per_sequence = base + 3 * tokens;
    return {.pages = base + pages_at_,
            .page_stride = page_stride,
            .first_row = per_sequence,
            .rows = per_sequence + sequences,
            .past = per_sequence + 2 * sequences,
            .sequence = base + 2 * tokens,
            .positions = base + tokens,
            .count = sequences,
            .longest_rows = longest_rows,
            .longest = longest};
  }

 private:
  void add_tokens(std::span<const SequenceInput> inputs);
  void add_sequences(std::span<const SequenceInput> inputs);

  int64_t wanted_at_ = 0, pages_at_ = 0;
  std::vector<int32_t> words_;
};

}  // namespace onggi
