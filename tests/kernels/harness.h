// What the tests of the ops share: memory with guards, random data, weights of every dtype, and derivatives
// by finite differences. Each op's test file has one list of cases that drives parity of the fast tables with
// the oracle and the derivatives of the oracle.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/random.h"
#include "blocks/block_format.h"
#include "blocks/nf4.h"
#include "kernels/ops/weight.h"
#include "kernels/table.h"
#include "tests/metrics.h"

namespace onggi::testing_ops {

using Floats = std::vector<float>;

struct Machine {
  explicit Machine(int threads) : pool(threads), scratch(pool.size()), context{pool, scratch} {}
  ThreadPool pool;
  Scratch scratch;
  OpContext context;
};
// One pool for all tests of the program: two threads, also on larger machines, so that splits are tested.
inline const OpContext& context() {
  static Machine machine(2);
  return machine.context;
}

// An output array between guards, aligned to four bytes only, filled with what must be overwritten.
template <typename T>
class Guarded {
 public:
  explicit Guarded(size_t count, T fill = T{}) : memory_(count + 2 * kGuard), count_(count) {
    std::memset(static_cast<void*>(memory_.data()), 0x5A, memory_.size() * sizeof(T));
    std::fill_n(data(), count, fill);
  }
  explicit Guarded(const std::vector<T>& values) : Guarded(values.size()) {
    std::copy(values.begin(), values.end(), data());
  }
  ~Guarded() { EXPECT_TRUE(intact()) << "wrote outside of an output"; }
  T* data() { return memory_.data() + kGuard; }
  std::vector<T> values() const { return {memory_.begin() + kGuard, memory_.end() - kGuard}; }

 private:
  static constexpr size_t kGuard = 67;  // odd: misaligned
  bool intact() const {
    T pattern;
    std::memset(static_cast<void*>(&pattern), 0x5A, sizeof pattern);
    for (size_t i = 0; i < kGuard; ++i)
      if (std::memcmp(&memory_[i], &pattern, sizeof pattern) != 0 ||
          std::memcmp(&memory_[kGuard + count_ + i], &pattern, sizeof pattern) != 0)
        return false;
    return true;
  }
  std::vector<T> memory_;
  size_t count_;
};

// Who sees whom in a packed batch, from the segments' borders.
struct SegmentArrays {
  explicit SegmentArrays(std::vector<int32_t> borders) : starts(std::move(borders)) {
    for (size_t s = 0; s + 1 < starts.size(); ++s) {
      for (int32_t row = starts[s]; row < starts[s + 1]; ++row) {
        first_row.push_back(starts[s]);
        end_row.push_back(starts[s + 1]);
      }
    }
  }
  Segments view() const {
    return {starts.data(), first_row.data(), end_row.data(), static_cast<int64_t>(starts.size()) - 1};
  }
  std::vector<int32_t> starts, first_row, end_row;
};

// The sequences of an inference pass.
struct SequenceArrays {
  // Sequences come one after another in the rows of the pass.
  void add(const std::vector<int32_t>& page_list, int32_t row_count, int32_t past_tokens) {
    const auto index = static_cast<int32_t>(rows.size());
    first_row.push_back(static_cast<int32_t>(sequence.size()));
    rows.push_back(row_count);
    past.push_back(past_tokens);
    for (int32_t i = 0; i < row_count; ++i) {
      sequence.push_back(index);
      positions.push_back(past_tokens + i);
    }
    page_lists.push_back(page_list);
    stride = std::max(stride, page_list.size());
    pages.assign(page_lists.size() * stride, -1);
    for (size_t s = 0; s < page_lists.size(); ++s)
      std::copy(page_lists[s].begin(), page_lists[s].end(), pages.begin() + static_cast<int64_t>(s * stride));
    longest_rows = std::max<int64_t>(longest_rows, row_count);
    longest = std::max<int64_t>(longest, past_tokens + row_count);
  }
  SequenceTable view() const {
    return {pages.data(),     static_cast<int64_t>(stride),
            first_row.data(), rows.data(),
            past.data(),      sequence.data(),
            positions.data(), static_cast<int64_t>(rows.size()),
            longest_rows,     longest};
  }
  std::vector<std::vector<int32_t>> page_lists;
  size_t stride = 0;
  std::vector<int32_t> pages, first_row, rows, past, sequence, positions;
  int64_t longest_rows = 0, longest = 0;
};

inline Floats normal(size_t count, uint64_t seed, float scale = 1.0f) {
  Random random(seed, 7);
  Floats values(count);
  for (float& value : values) value = scale * random.normal();
  return values;
}

inline Floats absolute(Floats values) {
  for (float& value : values) value = std::abs(value);
  return values;
}

// Owns a weight of random values.
struct Weight {
  WeightView view;
  std::vector<uint8_t> data;
  Nf4Storage nf4;
  Floats decoded;  // [N, K], by decode_weight
};
inline Weight random_weight(DType dtype, int64_t rows, int64_t columns, uint64_t seed) {
  Weight weight;
  weight.view = {.dtype = dtype, .rows = rows, .columns = columns};
  const Floats values = normal(static_cast<size_t>(rows * columns), seed, 0.05f);
  if (dtype == DType::kNF4) {
    Nf4Encoder encoder(rows, columns);
    encoder.encode(0, rows * columns, values.data());
    weight.nf4 = encoder.finish();
    weight.view.data = weight.nf4.packed.data();
    weight.view.nf4_absmax = weight.nf4.absmax_q8.data();
    weight.view.nf4_nested_absmax = weight.nf4.nested_absmax.data();
    weight.view.nf4_offset = weight.nf4.offset;
  } else {
    const int64_t row_bytes = weight_row_bytes(weight.view);
    weight.data.resize(static_cast<size_t>(rows * row_bytes));
    weight.view.data = weight.data.data();
    for (int64_t row = 0; row < rows; ++row)
      block_format(dtype).encode(values.data() + row * columns, columns, nullptr,
                                 weight.data.data() + row * row_bytes);
  }
  weight.decoded.resize(values.size());
  for (int64_t row = 0; row < rows; ++row)
    decode_weight(weight.view, row, 0, columns, weight.decoded.data() + row * columns);
  return weight;
}
inline WeightView plain_view(const Floats& values, int64_t rows, int64_t columns) {
  return {.dtype = DType::kF32, .rows = rows, .columns = columns, .data = values.data()};
}

inline std::vector<DType> weight_dtypes() {
  std::vector<DType> dtypes;
  for (int i = 0; i < kDTypeCount; ++i)
    if (is_weight_dtype(static_cast<DType>(i))) dtypes.push_back(static_cast<DType>(i));
  return dtypes;
}

inline std::string precision_name(Precision precision) {
  return precision == Precision::kF32 ? "f32" : "fast";
}

// Compares the gradient of f(x) = sum(cotangent * forward(x)) with central differences in random directions.
// The step is large enough for fp32 outputs and small enough for the curvature of the ops: errors of 1e-3 of
// |gradient| |direction| remain.
using Forward = std::function<Floats(const Floats&)>;
inline void expect_gradient(const Floats& x, const Floats& gradient, const Floats& cotangent,
                            const Forward& forward, double step = 1e-2) {
  double gradient_norm = 0;
  for (const float value : gradient) gradient_norm += double{value} * value;
  gradient_norm = std::sqrt(gradient_norm);
  ASSERT_GT(gradient_norm, 0);
  for (uint64_t trial = 0; trial < 4; ++trial) {
    // Half of the trials follow the gradient, where its size shows best; half are random.
    Floats direction = normal(x.size(), 900 + trial);
    double norm = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      if (trial % 2 == 0)
        direction[i] = direction[i] * 0.1f + gradient[i] / static_cast<float>(gradient_norm);
      norm += double{direction[i]} * direction[i];
    }
    Floats above = x, below = x;
    double expected = 0, length = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const auto change =
          static_cast<float>(step * direction[i] * std::sqrt(static_cast<double>(x.size()) / norm));
      above[i] = x[i] + change;
      below[i] = x[i] - change;
      const double taken = (double{above[i]} - below[i]) / 2;
      expected += taken * gradient[i];
      length += taken * taken;
    }
    const Floats up = forward(above), down = forward(below);
    double measured = 0;
    for (size_t i = 0; i < up.size(); ++i) measured += (double{up[i]} - down[i]) / 2 * cotangent[i];
    EXPECT_NEAR(measured, expected, 2e-3 * gradient_norm * std::sqrt(length)) << "direction " << trial;
  }
}

}  // namespace onggi::testing_ops
