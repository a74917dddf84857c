// Attention over the paged cache, and what writes into it, against the scalar oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/cuda/cuda.h"
#include "tests/kernels_cuda/activation_array.h"

namespace onggi::testing_cuda {
namespace {

using testing_ops::SequenceArrays;

struct NewRows {
  int32_t past, rows;
};

struct Case {
  std::vector<NewRows> sequences;
  int64_t query_heads, kv_heads, head_dim;
  DType activations = DType::kBF16, cache = DType::kBF16;
  int32_t page_tokens = 32;
  int64_t gap = 0;             // elements between the rows of the output
  int64_t beyond_longest = 0;  // by how much the host's bound of the lengths exceeds them
  size_t misalignment = 0;     // of the activations, in elements

  int64_t tokens() const {
    return std::accumulate(sequences.begin(), sequences.end(), int64_t{0},
                           [](int64_t sum, const NewRows& s) { return sum + s.rows; });
  }
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  for (const NewRows& s : c.sequences) out << s.past << "+" << s.rows << " ";
  return out << "heads " << c.query_heads << "/" << c.kv_heads << " x " << c.head_dim << ", "
             << dtype_name(c.activations) << " with a cache of " << dtype_name(c.cache) << ", pages of "
             << c.page_tokens << ", gap " << c.gap << ", beyond " << c.beyond_longest << ", misaligned by "
             << c.misalignment;
}

// The pages of all sequences, shuffled, among some that belong to nobody.
struct Pages {
  explicit Pages(const Case& c) {
    int32_t needed = 0;
    const auto pages_of = [&](const NewRows& s) {
      return (s.past + s.rows + c.page_tokens - 1) / c.page_tokens;
    };
    // Of a long past all pages are one but the last two, so that the cache stays small.
    const auto own_pages_of = [&](const NewRows& s) {
      return s.past < kLongPast ? pages_of(s) : std::min(pages_of(s), 3);
    };
    for (const NewRows& s : c.sequences) needed += own_pages_of(s);
    count = needed + 3;
    std::vector<int32_t> order(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    Random random(17, 0);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.next_u32() % i]);
    auto next = order.begin();
    for (const NewRows& s : c.sequences) {
      std::vector<int32_t> pages(static_cast<size_t>(pages_of(s) - own_pages_of(s)), *next);
      pages.insert(pages.end(), next, next + own_pages_of(s));
      sequences.add(pages, s.rows, s.past);
      next += own_pages_of(s);
    }
  }
  static constexpr int32_t kLongPast = 10000;
  int32_t count;
  SequenceArrays sequences;
};

struct DeviceSequences {
  explicit DeviceSequences(const SequenceArrays& from, int64_t beyond_longest)
      : pages(from.pages),
        first_row(from.first_row),
        rows(from.rows),
        past(from.past),
        sequence(from.sequence),
        positions(from.positions) {
    table = from.view();
    table.pages = pages.data();
    table.first_row = first_row.data();
    table.rows = rows.data();
    table.past = past.data();
    table.sequence = sequence.data();
    table.positions = positions.data();
    table.longest += beyond_longest;
  }
  DeviceArray<int32_t> pages, first_row, rows, past, sequence, positions;
  SequenceTable table;
};

// Elements of a cache of any dtype, as f32.
Floats decode(const std::vector<uint8_t>& bytes, DType dtype) {
  Floats values(bytes.size() / (dtype == DType::kF32 ? 4 : 2));
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits = 0;
    if (dtype == DType::kF32) {
      std::memcpy(&values[i], bytes.data() + 4 * i, 4);
    } else {
      std::memcpy(&bits, bytes.data() + 2 * i, 2);
      values[i] = dtype == DType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
    }
  }
  return values;
}
std::vector<uint8_t> encode(const Floats& values, DType dtype) {
  std::vector<uint8_t> bytes(values.size() * (dtype == DType::kF32 ? 4 : 2));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = dtype == DType::kF16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    if (dtype == DType::kF32) {
      std::memcpy(bytes.data() + 4 * i, &values[i], 4);
    } else {
      std::memcpy(bytes.data() + 2 * i, &bits, 2);
    }
  }
  return bytes;
}

double unit_of(DType dtype) {
  return dtype == DType::kBF16 ? kUnitBf16 : dtype == DType::kF16 ? 0x1p-11 : kUnitF32;
}

size_t cache_elements(const Case& c, const Pages& pages) {
  return static_cast<size_t>(int64_t{pages.count} * c.page_tokens * c.kv_heads * c.head_dim);
}

// Values for the tokens that the sequences have, NaN everywhere else in the cache.
Floats filled_cache(const Case& c, const Pages& pages, uint64_t seed) {
  Floats cache(cache_elements(c, pages), std::nanf(""));
  const size_t row = static_cast<size_t>(c.kv_heads * c.head_dim);
  for (size_t s = 0; s < c.sequences.size(); ++s) {
    const int32_t length = c.sequences[s].past + c.sequences[s].rows;
    const Floats values = normal(row * static_cast<size_t>(length), seed + s);
    for (int32_t t = 0; t < length; ++t) {
      const int64_t page = pages.sequences.page_lists[s][static_cast<size_t>(t / c.page_tokens)];
      const auto to = static_cast<size_t>(page * c.page_tokens + t % c.page_tokens) * row;
      std::copy_n(values.begin() + static_cast<int64_t>(row) * t, row,
                  cache.begin() + static_cast<int64_t>(to));
    }
  }
  return decode(encode(cache, c.cache), c.cache);
}

CachedAttentionArgs attention_args(const Case& c) {
  CachedAttentionArgs args{};
  args.tokens = c.tokens();
  args.query_heads = c.query_heads;
  args.kv_heads = c.kv_heads;
  args.head_dim = c.head_dim;
  args.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  return args;
}

Floats attend_on_host(const Case& c, const Pages& pages, Floats q, Floats keys, Floats values) {
  Floats out(q.size());
  CachedAttentionArgs args = attention_args(c);
  args.q = q.data();
  args.cache = {keys.data(), values.data(), DType::kF32, c.page_tokens};
  args.sequences = pages.sequences.view();
  args.out = out.data();
  ref_ops().cached_attention(testing_ops::context(), args);
  return out;
}

void expect_attention(const Case& c) {
  SCOPED_TRACE(testing::PrintToString(c));
  const Pages pages(c);
  const auto width = static_cast<size_t>(c.query_heads * c.head_dim);
  const size_t stride = width + static_cast<size_t>(c.gap);
  // Scores of a few units, so that some keys matter much and others hardly.
  const Floats q = rounded(normal(static_cast<size_t>(c.tokens()) * width, 1, 2.0f), c.activations);
  const Floats keys = filled_cache(c, pages, 100), values = filled_cache(c, pages, 200);
  const Floats expected = attend_on_host(c, pages, q, keys, values);
  // Sum of p |v|: what the errors of the probabilities are relative to.
  const Floats size = attend_on_host(c, pages, q, keys, absolute(values));

  const DeviceSequences sequences(pages.sequences, c.beyond_longest);
  const ActivationArray device_q(q, c.activations, c.misalignment);
  const DeviceArray<uint8_t> device_keys(encode(keys, c.cache)), device_values(encode(values, c.cache));
  CachedAttentionArgs args = attention_args(c);
  args.q = device_q;
  args.cache = {device_keys.data(), device_values.data(), c.cache, c.page_tokens};
  args.sequences = sequences.table;
  args.out_stride = static_cast<int64_t>(stride);
  Floats first;
  for (int run = 0; run < 2; ++run) {
    const ActivationArray out(static_cast<size_t>(c.tokens()) * stride, c.activations, c.misalignment);
    args.out = out;
    cuda::cached_attention(device_context(), args);
    const Floats actual = take_rows(out.values(), width, stride);
    // Probabilities are rounded to the cache's dtype where tensor cores multiply; the output once more.
    const double probability_unit = c.activations == DType::kF32 ? 0 : unit_of(c.cache);
    const double unit = probability_unit + storage_unit(c.activations) + 64 * kUnitF32;
    ASSERT_TRUE(within(actual, expected, [&](size_t i) { return unit * size[i]; }));
    if (run == 1) {
      EXPECT_EQ(first, actual) << "two runs of the same differ";
    }
    first = actual;
  }
}

TEST(CudaCachedAttention, DecodesOneSequence) {
  for (const int32_t past : {0, 1, 15, 16, 31, 32, 63, 64, 200, 513})
    expect_attention({{{past, 1}}, 4, 1, 128});
}

TEST(CudaCachedAttention, DecodesGroupsOfEverySize) {
  for (const int64_t group : {1, 3, 4, 8, 11, 16})
    for (const int64_t dim : {64, 128}) expect_attention({{{70, 1}, {5, 1}}, 2 * group, 2, dim});
}

TEST(CudaCachedAttention, DecodesCachesOfEveryDType) {
  for (const DType cache : {DType::kBF16, DType::kF16, DType::kF32})
    for (const DType activations : {DType::kBF16, DType::kF32})
      expect_attention({{{300, 1}, {31, 1}, {0, 1}}, 4, 2, 64, activations, cache});
}

// Many ranges of one sequence: the emulated device has few multiprocessors, but one head alone uses them all.
TEST(CudaCachedAttention, DecodesInRanges) {
  expect_attention({{{1500, 1}}, 2, 1, 64});
  expect_attention({{{1500, 1}, {3, 1}, {130, 1}}, 4, 1, 128, DType::kBF16, DType::kF16});
  // More than 32 chunks for a warp, so that page numbers are read again; too many heads for ranges.
  expect_attention({{{2200, 1}}, 16, 16, 64});
}

TEST(CudaCachedAttention, TakesAnUpperBoundOfTheLengths) {
  for (const int64_t beyond : {1, 100, 4000}) {
    expect_attention({{{100, 1}, {7, 1}}, 4, 1, 64, DType::kBF16, DType::kBF16, 32, 0, beyond});
    expect_attention({{{100, 9}, {7, 1}}, 4, 1, 64, DType::kBF16, DType::kBF16, 32, 0, beyond});
  }
}

TEST(CudaCachedAttention, PrefillsAcrossPages) {
  for (const int32_t rows : {2, 31, 33, 64, 65, 150})
    for (const int64_t group : {1, 4}) expect_attention({{{0, rows}}, group, 1, 64});
  expect_attention({{{0, 130}}, 4, 2, 128});
}

TEST(CudaCachedAttention, PrefillsInParts) {
  expect_attention({{{1, 2}}, 4, 2, 128});
  expect_attention({{{63, 40}}, 4, 2, 128, DType::kBF16, DType::kF16});
  expect_attention({{{200, 90}}, 3, 1, 64, DType::kBF16, DType::kF16});
  expect_attention({{{32, 20}}, 16, 2, 64});
}

TEST(CudaCachedAttention, MixesPrefillAndDecode) {
  const std::vector<NewRows> mixed = {{40, 1}, {0, 37}, {129, 1}, {64, 5}, {0, 1}, {10, 2}};
  expect_attention({mixed, 4, 1, 64});
  expect_attention({mixed, 6, 2, 128, DType::kBF16, DType::kF16});
  // More sequences than a warp has lanes.
  std::vector<NewRows> many;
  for (int32_t i = 0; i < 70; ++i) many.push_back({i * 3 % 41, 1 + i % 5});
  expect_attention({many, 4, 1, 64});
}

TEST(CudaCachedAttention, ComputesAnyShape) {
  const std::vector<NewRows> mixed = {{40, 1}, {0, 7}, {33, 2}};
  expect_attention({mixed, 6, 2, 80});
  expect_attention({mixed, 2, 1, 7, DType::kF32, DType::kF32});
  expect_attention({mixed, 4, 2, 64, DType::kBF16, DType::kBF16, 5});
  expect_attention({mixed, 4, 2, 64, DType::kBF16, DType::kBF16, 24});
  expect_attention({mixed, 4, 2, 64, DType::kBF16, DType::kBF16, 32, 0, 0, /*misalignment=*/1});
  for (const int32_t page : {16, 64, 256})
    expect_attention({mixed, 4, 2, 64, DType::kBF16, DType::kBF16, page});
}

TEST(CudaCachedAttention, LeavesAloneWhatLiesBetweenTheRows) {
  for (const int64_t gap : {8, 64, 3}) {
    expect_attention({{{40, 1}, {3, 1}}, 4, 2, 64, DType::kBF16, DType::kBF16, 32, gap});
    expect_attention({{{0, 40}}, 4, 2, 64, DType::kBF16, DType::kBF16, 32, gap});
    expect_attention({{{0, 4}}, 4, 2, 32, DType::kF32, DType::kF32, 32, gap});
  }
}

// --- What writes into the cache

enum class Norms { kBoth, kNone };

struct InputArrays {
  Floats q, k, v, query_norm, key_norm;
};

AttentionInputArgs input_args(const Case& c) {
  AttentionInputArgs args{};
  args.epsilon = 1e-6f;
  args.theta = 1e6;
  args.tokens = c.tokens();
  args.query_heads = c.query_heads;
  args.kv_heads = c.kv_heads;
  args.head_dim = c.head_dim;
  return args;
}

// Elements that both leave NaN are equal; the others must be within `unit` of what their rotation mixes.
void expect_written(const Floats& actual, Floats expected, double unit, const char* what) {
  Floats got = actual;
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(std::isnan(got[i]), std::isnan(expected[i])) << what << ", element " << i;
    if (std::isnan(expected[i])) got[i] = expected[i] = 0;
  }
  // |out| <= |first| + |second|; both are a few units at most after a norm and for normal numbers.
  ASSERT_TRUE(within(got, expected, [&](size_t i) { return unit * std::abs(expected[i]) + 4e-6; })) << what;
}

void expect_input(const Case& c, Norms norms) {
  SCOPED_TRACE(testing::PrintToString(c) + (norms == Norms::kBoth ? ", norms" : ""));
  const Pages pages(c);
  const auto tokens = static_cast<size_t>(c.tokens()), dim = static_cast<size_t>(c.head_dim);
  const size_t q_size = tokens * static_cast<size_t>(c.query_heads) * dim;
  const size_t kv_size = tokens * static_cast<size_t>(c.kv_heads) * dim;
  Floats q = rounded(normal(q_size, 1), c.activations), k = rounded(normal(kv_size, 2), c.activations);
  const Floats v = rounded(normal(kv_size, 3), c.activations);
  const Floats query_norm = normal(dim, 4), key_norm = normal(dim, 5);
  const DeviceSequences sequences(pages.sequences, c.beyond_longest);
  const ActivationArray device_q(q, c.activations, c.misalignment),
      device_k(k, c.activations, c.misalignment), device_v(v, c.activations, c.misalignment);
  const DeviceArray<float> device_query_norm(query_norm), device_key_norm(key_norm);
  const Floats empty(cache_elements(c, pages), std::nanf(""));
  const DeviceArray<uint8_t> device_keys(encode(empty, c.cache)), device_values(encode(empty, c.cache));
  AttentionInputArgs args = input_args(c);
  args.q = device_q;
  args.k = device_k;
  args.v = device_v;
  if (norms == Norms::kBoth)
    args.query_norm = device_query_norm.data(), args.key_norm = device_key_norm.data();
  args.cache = {device_keys.data(), device_values.data(), c.cache, c.page_tokens};
  args.sequences = sequences.table;
  cuda::attention_input(device_context(), args);

  Floats keys = empty, values = empty;
  args.q = q.data();
  args.k = k.data();
  args.v = v.data();
  if (norms == Norms::kBoth) args.query_norm = query_norm.data(), args.key_norm = key_norm.data();
  args.cache = {keys.data(), values.data(), DType::kF32, c.page_tokens};
  args.sequences = pages.sequences.view();
  run_attention_input_parts(ref_ops(), testing_ops::context(), args);
  expect_written(device_q.values(), q, storage_unit(c.activations), "q");
  expect_written(decode(device_keys.values(), c.cache), keys, unit_of(c.cache), "keys");
  expect_written(decode(device_values.values(), c.cache), values, unit_of(c.cache), "values");
}

TEST(CudaAttentionInput, MatchesTheOracle) {
  const std::vector<NewRows> mixed = {{40, 1}, {0, 37}, {129, 1}, {64, 5}};
  for (const Norms norms : {Norms::kBoth, Norms::kNone}) {
    for (const DType cache : {DType::kBF16, DType::kF16, DType::kF32})
      for (const DType activations : {DType::kBF16, DType::kF32})
        expect_input({mixed, 4, 2, 128, activations, cache}, norms);
    expect_input({{{511, 1}}, 32, 8, 128}, norms);
    expect_input({{{33, 70}}, 3, 1, 64}, norms);  // more tokens than are spread over blocks
    expect_input({mixed, 6, 2, 80}, norms);
    expect_input({mixed, 3, 1, 10, DType::kF32, DType::kF32, 5}, norms);
    expect_input({mixed, 4, 2, 64, DType::kBF16, DType::kF16, 32, 0, 0, /*misalignment=*/1}, norms);
  }
}

// Angles of 40,960 radians, whose sines and cosines the oracle computes in fp64.
TEST(CudaAttentionInput, RotatesExactlyAtHighPositions) {
  expect_input({{{40959, 2}}, 2, 1, 128, DType::kF32, DType::kF32}, Norms::kBoth);
  expect_input({{{40960, 1}}, 2, 1, 128, DType::kF32, DType::kF32}, Norms::kNone);
}

TEST(CudaAttentionInput, StoresAlone) {
  for (const DType cache : {DType::kBF16, DType::kF16, DType::kF32}) {
    const Case c{{{40, 1}, {0, 37}}, 2, 2, 24, DType::kBF16, cache};
    SCOPED_TRACE(testing::PrintToString(c));
    const Pages pages(c);
    const auto size = static_cast<size_t>(c.tokens() * c.kv_heads * c.head_dim);
    const Floats k = rounded(normal(size, 2), c.activations), v = rounded(normal(size, 3), c.activations);
    const DeviceSequences sequences(pages.sequences, 0);
    const ActivationArray device_k(k, c.activations), device_v(v, c.activations);
    const Floats empty(cache_elements(c, pages), std::nanf(""));
    const DeviceArray<uint8_t> device_keys(encode(empty, cache)), device_values(encode(empty, cache));
    KvStoreArgs args{.k = device_k,
                     .v = device_v,
                     .cache = {device_keys.data(), device_values.data(), cache, c.page_tokens},
                     .sequences = sequences.table,
                     .tokens = c.tokens(),
                     .kv_heads = c.kv_heads,
                     .head_dim = c.head_dim};
    cuda::kv_store(device_context(), args);
    Floats keys = empty, values = empty;
    args.k = k.data();
    args.v = v.data();
    args.cache = {keys.data(), values.data(), DType::kF32, c.page_tokens};
    args.sequences = pages.sequences.view();
    ref_ops().kv_store(testing_ops::context(), args);
    expect_written(decode(device_keys.values(), cache), keys, unit_of(cache), "keys");
    expect_written(decode(device_values.values(), cache), values, unit_of(cache), "values");
  }
}

// --- Both at once

// The cache before the pass: values for the tokens of the past, NaN for the new ones and everywhere else.
Floats past_cache(const Case& c, const Pages& pages, uint64_t seed) {
  Case before = c;
  for (NewRows& s : before.sequences) s.rows = 0;
  return filled_cache(before, pages, seed);
}

void expect_pass(const Case& c, Norms norms) {
  SCOPED_TRACE(testing::PrintToString(c) + (norms == Norms::kBoth ? ", norms" : ""));
  const Pages pages(c);
  const auto tokens = static_cast<size_t>(c.tokens()), dim = static_cast<size_t>(c.head_dim);
  const size_t width = static_cast<size_t>(c.query_heads) * dim, stride = width + static_cast<size_t>(c.gap);
  const size_t kv_size = tokens * static_cast<size_t>(c.kv_heads) * dim;
  Floats q = rounded(normal(tokens * width, 1), c.activations),
         k = rounded(normal(kv_size, 2), c.activations);
  const Floats v = rounded(normal(kv_size, 3), c.activations);
  const Floats query_norm = normal(dim, 4), key_norm = normal(dim, 5);
  const Floats old_keys = past_cache(c, pages, 100), old_values = past_cache(c, pages, 200);
  const DeviceSequences sequences(pages.sequences, c.beyond_longest);
  const DeviceArray<float> device_query_norm(query_norm), device_key_norm(key_norm);
  const ActivationArray device_v(v, c.activations, c.misalignment);
  PassAttentionArgs args{.input = input_args(c),
                         .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
                         .out = {},
                         .out_stride = static_cast<int64_t>(stride)};
  args.input.v = device_v;
  args.input.sequences = sequences.table;
  if (norms == Norms::kBoth)
    args.input.query_norm = device_query_norm.data(), args.input.key_norm = device_key_norm.data();
  Floats first, keys, values;
  for (int run = 0; run < 2; ++run) {
    const ActivationArray device_q(q, c.activations, c.misalignment),
        device_k(k, c.activations, c.misalignment), out(tokens * stride, c.activations, c.misalignment);
    const DeviceArray<uint8_t> device_keys(encode(old_keys, c.cache)),
        device_values(encode(old_values, c.cache));
    args.input.q = device_q;
    args.input.k = device_k;
    args.input.cache = {device_keys.data(), device_values.data(), c.cache, c.page_tokens};
    args.out = out;
    cuda::pass_attention(device_context(), args);
    const Floats actual = take_rows(out.values(), width, stride);
    if (run == 1) {
      EXPECT_EQ(first, actual) << "two runs of the same differ";
    }
    first = actual;
    keys = decode(device_keys.values(), c.cache);
    values = decode(device_values.values(), c.cache);
  }

  Floats expected_keys = old_keys, expected_values = old_values, expected(first.size());
  AttentionInputArgs input = input_args(c);
  input.q = q.data();
  input.k = k.data();
  input.v = v.data();
  if (norms == Norms::kBoth) input.query_norm = query_norm.data(), input.key_norm = key_norm.data();
  input.cache = {expected_keys.data(), expected_values.data(), DType::kF32, c.page_tokens};
  input.sequences = pages.sequences.view();
  run_attention_input_parts(ref_ops(), testing_ops::context(), input);
  expect_written(keys, expected_keys, unit_of(c.cache), "keys");
  expect_written(values, expected_values, unit_of(c.cache), "values");
  // Attention over what was written, so that the roundings of the keys do not count again.
  const Floats seen = attend_on_host(c, pages, q, keys, values);
  const Floats size = attend_on_host(c, pages, q, keys, absolute(values));
  // A query that is rounded moves its scores by unit |q| |k| / sqrt(D) at most, as a share of a probability.
  const auto norm_of = [&](const Floats& rows, size_t at) {
    double squares = 0;
    for (size_t d = 0; d < dim; ++d) squares += std::pow(std::isnan(rows[at + d]) ? 0 : rows[at + d], 2);
    return std::sqrt(squares);
  };
  double key_norm_most = 0;
  for (size_t at = 0; at < keys.size(); at += dim) key_norm_most = std::max(key_norm_most, norm_of(keys, at));
  const double query_unit = c.activations == DType::kF32 ? 0 : std::max(unit_of(c.cache), kUnitBf16);
  const double probability_unit = c.activations == DType::kF32 ? 0 : unit_of(c.cache);
  ASSERT_TRUE(within(first, seen, [&](size_t i) {
    const double moved = query_unit * norm_of(q, i / dim * dim) * key_norm_most * args.scale;
    return (2 * moved + probability_unit + storage_unit(c.activations) + 256 * kUnitF32) * size[i];
  }));
}

TEST(CudaPassAttention, TakesNewTokensOfOneSequence) {
  for (const Norms norms : {Norms::kBoth, Norms::kNone})
    for (const int32_t past : {0, 1, 15, 16, 31, 32, 63, 64, 127, 200, 513})
      expect_pass({{{past, 1}}, 4, 1, 128}, norms);
}

TEST(CudaPassAttention, TakesGroupsOfEverySize) {
  for (const int64_t group : {1, 3, 4, 8, 11, 16})
    for (const int64_t dim : {64, 128}) expect_pass({{{70, 1}, {5, 1}}, 2 * group, 2, dim}, Norms::kBoth);
}

TEST(CudaPassAttention, TakesCachesOfEveryDType) {
  for (const DType cache : {DType::kBF16, DType::kF16, DType::kF32})
    for (const DType activations : {DType::kBF16, DType::kF32})
      expect_pass({{{300, 1}, {31, 1}, {0, 1}}, 4, 2, 64, activations, cache}, Norms::kBoth);
}

TEST(CudaPassAttention, TakesManySequencesAndRanges) {
  std::vector<NewRows> many;
  for (int32_t i = 0; i < 40; ++i) many.push_back({i * 37 % 150, 1});
  expect_pass({many, 8, 2, 128}, Norms::kBoth);
  expect_pass({{{1500, 1}, {3, 1}, {130, 1}}, 4, 1, 128, DType::kBF16, DType::kF16}, Norms::kBoth);
  expect_pass({{{2200, 1}}, 32, 8, 128}, Norms::kBoth);
  expect_pass({{{100, 1}, {7, 1}}, 4, 1, 64, DType::kBF16, DType::kBF16, 32, 0, 4000}, Norms::kBoth);
}

// As many as a device of 4 multiprocessors gives a large block each; more than 32 pages.
TEST(CudaPassAttention, TakesASequenceInABlock) {
  expect_pass({{{0, 1}, {1, 1}, {40, 1}, {127, 1}, {128, 1}, {700, 1}, {511, 1}, {200, 1}},
               4,
               1,
               128,
               DType::kBF16,
               DType::kBF16,
               /*page_tokens=*/16},
              Norms::kBoth);
}

TEST(CudaPassAttention, TakesAnyPass) {
  const std::vector<NewRows> mixed = {{40, 1}, {0, 7}, {33, 2}};
  expect_pass({mixed, 6, 2, 128}, Norms::kBoth);
  expect_pass({{{40, 1}, {9, 1}}, 4, 2, 80}, Norms::kBoth);
  expect_pass({{{40, 1}, {9, 1}}, 4, 2, 64, DType::kBF16, DType::kBF16, 32, /*gap=*/64}, Norms::kBoth);
  expect_pass({{{40, 1}, {9, 1}}, 4, 2, 64, DType::kBF16, DType::kBF16, 32, 0, 0, /*misalignment=*/1},
              Norms::kBoth);
}

}  // namespace
}  // namespace onggi::testing_cuda
