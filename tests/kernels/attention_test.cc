// Attention over segments and over the paged cache.
#include <algorithm>

#include "tests/kernels/harness.h"

namespace onggi::testing_ops {
namespace {

struct AttentionCase {
  std::vector<int32_t> starts;
  int64_t query_heads, kv_heads, head_dim;
  int64_t tokens() const { return starts.back(); }
  size_t q_size() const { return static_cast<size_t>(tokens() * query_heads * head_dim); }
  size_t kv_size() const { return static_cast<size_t>(tokens() * kv_heads * head_dim); }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }
};

const std::vector<AttentionCase>& attention_cases() {
  static const std::vector<AttentionCase> cases = {
      {{0, 1}, 1, 1, 2},
      {{0, 5}, 2, 1, 16},
      {{0, 0, 3, 3, 20, 20}, 4, 2, 24},  // empty segments, also first and last
      {{0, 17, 50, 131}, 6, 2, 64},
      {{0, 97, 290}, 2, 2, 80},
      {{0, 530}, 4, 2, 32},  // more keys than one step of the streaming softmax takes
      {{0, 33, 203}, 3, 1, 128},
  };
  return cases;
}

struct AttentionResult {
  Floats out, log_sum_exp;
};
AttentionResult attention(const OpTable& table, const AttentionCase& c, Precision precision, const Floats& q,
                          const Floats& k, const Floats& v) {
  const SegmentArrays segments(c.starts);
  Guarded<float> out(c.q_size()), log_sum_exp(static_cast<size_t>(c.tokens() * c.query_heads));
  table.attention(context(), {.q = q.data(),
                              .k = k.data(),
                              .v = v.data(),
                              .segments = segments.view(),
                              .tokens = c.tokens(),
                              .query_heads = c.query_heads,
                              .kv_heads = c.kv_heads,
                              .head_dim = c.head_dim,
                              .scale = c.scale(),
                              .out = out.data(),
                              .log_sum_exp = log_sum_exp.data(),
                              .precision = precision});
  return {out.values(), log_sum_exp.values()};
}

struct AttentionGradient {
  Floats dq, dk, dv;
};
struct AttentionInputs {
  Floats q, k, v, dout;
};
AttentionGradient attention_backward(const OpTable& table, const AttentionCase& c, Precision precision,
                                     const AttentionInputs& in, const AttentionResult& result) {
  const SegmentArrays segments(c.starts);
  Guarded<float> dq(c.q_size(), 1.0f), dk(c.kv_size(), 1.0f), dv(c.kv_size(), 1.0f);
  table.attention_backward(context(), {.dout = in.dout.data(),
                                       .q = in.q.data(),
                                       .k = in.k.data(),
                                       .v = in.v.data(),
                                       .out = result.out.data(),
                                       .log_sum_exp = result.log_sum_exp.data(),
                                       .segments = segments.view(),
                                       .tokens = c.tokens(),
                                       .query_heads = c.query_heads,
                                       .kv_heads = c.kv_heads,
                                       .head_dim = c.head_dim,
                                       .scale = c.scale(),
                                       .dq = dq.data(),
                                       .dk = dk.data(),
                                       .dv = dv.data(),
                                       .precision = precision});
  return {dq.values(), dk.values(), dv.values()};
}

class AttentionTest : public testing::TestWithParam<size_t> {
 protected:
  const AttentionCase& c = attention_cases()[GetParam()];
  AttentionInputs in{normal(c.q_size(), 1), normal(c.kv_size(), 2), normal(c.kv_size(), 3),
                     normal(c.q_size(), 4)};
  AttentionResult expected = attention(ref_ops(), c, Precision::kF32, in.q, in.k, in.v);
};

// fp32: roundings of a few hundred sums. bf16: the probabilities, the values and both sides of the scores are
// rounded, each score by up to 2 units of its size (here about 1), which its exponential repeats: 4 to 6
// units.
double attention_limit(Precision precision) {
  return precision == Precision::kF32 ? 64 * kUnitF32 : 4 * kUnitBf16;
}

TEST_P(AttentionTest, ForwardAgreesWithTheOracle) {
  for (const Precision precision : {Precision::kF32, Precision::kFast}) {
    SCOPED_TRACE(precision_name(precision));
    const AttentionResult actual = attention(cpu_ops(), c, precision, in.q, in.k, in.v);
    EXPECT_TRUE(close_in_norm(actual.out, expected.out, attention_limit(precision)));
    EXPECT_TRUE(close_in_norm(actual.log_sum_exp, expected.log_sum_exp, attention_limit(precision)));
    EXPECT_EQ(actual.out, attention(cpu_ops(), c, precision, in.q, in.k, in.v).out) << "not the same bits";
  }
}

TEST_P(AttentionTest, BackwardAgreesWithTheOracle) {
  const AttentionGradient gradient = attention_backward(ref_ops(), c, Precision::kF32, in, expected);
  for (const Precision precision : {Precision::kF32, Precision::kFast}) {
    SCOPED_TRACE(precision_name(precision));
    const AttentionGradient actual = attention_backward(cpu_ops(), c, precision, in, expected);
    EXPECT_TRUE(close_in_norm(actual.dv, gradient.dv, attention_limit(precision)));
    if (c.tokens() > 1) {  // a lone token's dq and dk are zero
      EXPECT_TRUE(close_in_norm(actual.dq, gradient.dq, 2 * attention_limit(precision)));
      EXPECT_TRUE(close_in_norm(actual.dk, gradient.dk, 2 * attention_limit(precision)));
    }
    EXPECT_EQ(actual.dk, attention_backward(cpu_ops(), c, precision, in, expected).dk) << "not the same bits";
  }
}

TEST_P(AttentionTest, OracleHasTheRightGradient) {
  if (c.tokens() == 1 || c.tokens() > 140) GTEST_SKIP() << "covered by the other cases";
  const AttentionGradient gradient = attention_backward(ref_ops(), c, Precision::kF32, in, expected);
  const auto forward = [&](const Floats& q, const Floats& k, const Floats& v) {
    return attention(ref_ops(), c, Precision::kF32, q, k, v).out;
  };
  expect_gradient(in.q, gradient.dq, in.dout, [&](const Floats& q) { return forward(q, in.k, in.v); });
  expect_gradient(in.k, gradient.dk, in.dout, [&](const Floats& k) { return forward(in.q, k, in.v); });
  expect_gradient(in.v, gradient.dv, in.dout, [&](const Floats& v) { return forward(in.q, in.k, v); });
}

INSTANTIATE_TEST_SUITE_P(Cases, AttentionTest, testing::Range(size_t{0}, attention_cases().size()));

// Scores far apart must not overflow: the softmax takes its maximum out.
TEST(AttentionTest, LargeScoresStayFinite) {
  const AttentionCase c{{0, 70}, 2, 1, 16};
  const Floats q = normal(c.q_size(), 1, 60.0f), k = normal(c.kv_size(), 2, 60.0f),
               v = normal(c.kv_size(), 3);
  const AttentionResult expected = attention(ref_ops(), c, Precision::kF32, q, k, v);
  const AttentionResult actual = attention(cpu_ops(), c, Precision::kF32, q, k, v);
  EXPECT_TRUE(close_in_norm(actual.log_sum_exp, expected.log_sum_exp, 1e-5));
  for (const float value : attention(cpu_ops(), c, Precision::kFast, q, k, v).out)
    ASSERT_TRUE(std::isfinite(value));
}

// ---- The paged cache ----

struct CachedSequence {
  int32_t rows, past;
};
struct CacheCase {
  DType dtype;
  std::vector<CachedSequence> sequences;
  int64_t query_heads, kv_heads, head_dim;
  int32_t page_tokens;
};

std::vector<CacheCase> cache_cases() {
  std::vector<CacheCase> cases;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    cases.push_back({dtype, {{1, 0}}, 1, 1, 8, 4});
    cases.push_back(
        {dtype, {{1, 5}, {1, 700}, {0, 3}, {1, 31}}, 4, 2, 64, 16});        // decoding, one in several ranges
    cases.push_back({dtype, {{70, 0}, {1, 40}, {33, 290}}, 6, 2, 64, 32});  // a mixed pass
    cases.push_back({dtype, {{300, 19}}, 2, 1, 80, 16});                    // a prompt in chunks
    cases.push_back({dtype, {{3, 600}}, 2, 1, 128, 64});                    // few rows, several ranges
  }
  return cases;
}

size_t element_bytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

// A cache filled with kv_store, and the attention over it.
struct CacheRun {
  explicit CacheRun(const CacheCase& the_case) : c(the_case) {
    int32_t next_page = 0, total_pages = 0;
    for (const CachedSequence& s : c.sequences) total_pages += (s.rows + s.past) / c.page_tokens + 1;
    for (const CachedSequence& s : c.sequences) {
      std::vector<int32_t> list;
      for (int32_t p = 0; p <= (s.rows + s.past) / c.page_tokens; ++p)
        list.push_back(total_pages - 1 - next_page++);  // any order
      pages.push_back(list);
      rows += s.rows;
    }
    const size_t bytes =
        static_cast<size_t>(total_pages * c.page_tokens * c.kv_heads * c.head_dim) * element_bytes(c.dtype);
    keys.resize(bytes);
    values.resize(bytes);
    q = normal(static_cast<size_t>(rows * c.query_heads * c.head_dim), 1);
  }
  KvLayer layer() { return {keys.data(), values.data(), c.dtype, c.page_tokens}; }
  SequenceArrays sequence_rows(bool past_too) const {
    SequenceArrays table;
    for (size_t s = 0; s < c.sequences.size(); ++s) {
      const CachedSequence& sequence = c.sequences[s];
      table.add(pages[s], past_too ? sequence.past + sequence.rows : sequence.rows,
                past_too ? 0 : sequence.past);
    }
    return table;
  }
  void fill(const OpTable& table) {
    const SequenceArrays list = sequence_rows(true);
    const auto tokens = static_cast<int64_t>(list.sequence.size());
    const Floats k = normal(static_cast<size_t>(tokens * c.kv_heads * c.head_dim), 2),
                 v = normal(k.size(), 3);
    table.kv_store(context(), {.k = k.data(),
                               .v = v.data(),
                               .cache = layer(),
                               .sequences = list.view(),
                               .tokens = tokens,
                               .kv_heads = c.kv_heads,
                               .head_dim = c.head_dim});
  }
  Floats attend(const OpTable& table) {
    const SequenceArrays list = sequence_rows(false);
    Guarded<float> out(q.size());
    table.cached_attention(context(), {.q = q.data(),
                                       .cache = layer(),
                                       .sequences = list.view(),
                                       .tokens = rows,
                                       .query_heads = c.query_heads,
                                       .kv_heads = c.kv_heads,
                                       .head_dim = c.head_dim,
                                       .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
                                       .out = out.data()});
    return out.values();
  }

  const CacheCase& c;
  std::vector<std::vector<int32_t>> pages;
  int64_t rows = 0;
  std::vector<uint8_t> keys, values;
  Floats q;
};

TEST(CachedAttentionTest, AgreesWithTheOracle) {
  const auto cases = cache_cases();
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "case " << i << " " << dtype_name(cases[i].dtype));
    CacheRun oracle(cases[i]), fast(cases[i]);
    oracle.fill(ref_ops());
    fast.fill(cpu_ops());
    EXPECT_EQ(fast.keys, oracle.keys);
    EXPECT_EQ(fast.values, oracle.values);
    const Floats expected = oracle.attend(ref_ops()), actual = fast.attend(cpu_ops());
    // Prompts over a 16-bit cache use bf16 products.
    const bool exact = cases[i].dtype == DType::kF32;
    EXPECT_TRUE(close_in_norm(actual, expected, attention_limit(exact ? Precision::kF32 : Precision::kFast)));
    EXPECT_EQ(actual, fast.attend(cpu_ops())) << "not the same bits";
  }
}

// One row at a time over a cache in f32 is what attention over a segment computes.
TEST(CachedAttentionTest, OracleEqualsAttentionOverASegment) {
  const CacheCase cache{DType::kF32, {{50, 0}}, 4, 2, 16, 8};
  CacheRun run(cache);
  run.fill(ref_ops());
  const AttentionCase c{{0, 50}, 4, 2, 16};
  const Floats k = normal(c.kv_size(), 2), v = normal(c.kv_size(), 3);
  const Floats expected = attention(ref_ops(), c, Precision::kF32, run.q, k, v).out;
  EXPECT_TRUE(close_in_norm(run.attend(ref_ops()), expected, 1e-6));
}

}  // namespace
}  // namespace onggi::testing_ops
