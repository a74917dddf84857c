#include "model/pass_data.h"

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "model/linear.h"

namespace onggi {

PassData::PassData(const Model& model, std::span<const SequenceInput> inputs)
    : sequences(static_cast<int64_t>(inputs.size())), wanted(logit_rows(inputs)) {
  for (const SequenceInput& input : inputs) {
    const auto rows = static_cast<int64_t>(input.tokens.size());
    ONGGI_CHECK(rows > 0);
    check_ids(model, input.tokens.data(), rows);
    tokens += rows;
    longest_rows = std::max(longest_rows, rows);
    longest = std::max(longest, input.sequence->length() + rows);
    page_stride = std::max(page_stride, static_cast<int64_t>(input.sequence->pages().size()));
  }
  constexpr uint64_t kShortest = 256;
  longest = static_cast<int64_t>(std::bit_ceil(std::max(static_cast<uint64_t>(longest), kShortest)));
  page_stride = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(page_stride)));
  wanted_at_ = 3 * tokens + 3 * sequences;
  pages_at_ = wanted_at_ + wanted;
  words_.assign(static_cast<size_t>(pages_at_ + sequences * page_stride), 0);
  add_tokens(inputs);
  add_sequences(inputs);
}

void PassData::add_tokens(std::span<const SequenceInput> inputs) {
  int32_t* ids = words_.data();
  int32_t* positions = ids + tokens;
  int32_t* sequence = positions + tokens;
  int32_t* wanted_row = words_.data() + wanted_at_;
  int32_t row = 0;
  for (size_t s = 0; s < inputs.size(); ++s) {
    const SequenceInput& input = inputs[s];
    for (size_t i = 0; i < input.tokens.size(); ++i, ++row) {
      ids[row] = input.tokens[i];
      positions[row] = static_cast<int32_t>(input.sequence->length()) + static_cast<int32_t>(i);
      sequence[row] = static_cast<int32_t>(s);
      const bool last = i + 1 == input.tokens.size();
      if (input.logits == SequenceInput::Logits::kAll ||
          (input.logits == SequenceInput::Logits::kLast && last))
        *wanted_row++ = row;
    }
  }
}

void PassData::add_sequences(std::span<const SequenceInput> inputs) {
  int32_t* first_row = words_.data() + 3 * tokens;
  int32_t* rows = first_row + sequences;
  int32_t* past = rows + sequences;
  int32_t* pages = words_.data() + pages_at_;
  int32_t row = 0;
  for (size_t s = 0; s < inputs.size(); ++s) {
    const SequenceInput& input = inputs[s];
    first_row[s] = row;
    rows[s] = static_cast<int32_t>(input.tokens.size());
    past[s] = static_cast<int32_t>(input.sequence->length());
    row += rows[s];
    const std::span<const int32_t> own = input.sequence->pages();
    std::copy(own.begin(), own.end(), pages + static_cast<int64_t>(s) * page_stride);
  }
}

}  // namespace onggi
