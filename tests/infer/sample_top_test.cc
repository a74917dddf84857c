// Sampling from the likeliest tokens alone gives what the whole row gives, or nothing.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "base/error.h"
#include "infer/sampler.h"

namespace onggi {
namespace {

constexpr size_t kVocabulary = 1000;
constexpr int64_t kLimit = 128;

// Allows the ids of a residue class, so that it rejects most likely tokens.
class EveryNth final : public TokenConstraint {
 public:
  explicit EveryNth(int32_t n) : n_(n) {}
  bool allows(int32_t id) const override { return id % n_ == 1; }
  void accept(int32_t id) override { accepted.push_back(id); }
  bool finished() const override { return false; }
  std::vector<int32_t> accepted;

 private:
  int32_t n_;
};

// Logits of few values, so that there are ties, among them at the border of any number of candidates.
std::vector<float> coarse_logits(uint64_t seed) {
  Random random(seed);
  std::vector<float> logits(kVocabulary);
  for (float& logit : logits) logit = std::round(4 * random.normal()) / 2;
  return logits;
}
std::vector<float> fine_logits(uint64_t seed) {
  Random random(seed);
  std::vector<float> logits(kVocabulary);
  for (float& logit : logits) logit = 3 * random.normal();
  return logits;
}

// What a device finds in a row.
struct Top {
  Top(const std::vector<float>& logits, int64_t count) : vocabulary(std::ssize(logits)) {
    for (const Candidate& c : largest(logits, static_cast<size_t>(count))) {
      values.push_back(c.value);
      ids.push_back(c.id);
    }
    normaliser = static_cast<float>(log_sum_exp(logits));
  }
  TopRow view() const { return {values, ids, normaliser, vocabulary}; }
  std::vector<float> values;
  std::vector<int32_t> ids;
  float normaliser;
  int64_t vocabulary;
};

SamplingParams basic(double temperature, int64_t top_k) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_k = top_k;
  params.seed = 5;
  return params;
}

void expect_equal(const SampledToken& actual, const SampledToken& expected) {
  ASSERT_EQ(actual.id, expected.id);
  ASSERT_NEAR(actual.logprob, expected.logprob, 2e-6);
  ASSERT_EQ(actual.top.size(), expected.top.size());
  for (size_t i = 0; i < actual.top.size(); ++i) {
    ASSERT_EQ(actual.top[i].id, expected.top[i].id);
    ASSERT_NEAR(actual.top[i].logprob, expected.top[i].logprob, 2e-6);
  }
}

struct Options {
  int64_t count = kLimit;
  int64_t top_logprobs = 0;
  int32_t allow_every = 0;  // 0: no constraint
  std::function<std::vector<float>(uint64_t)> row = fine_logits;
};

// Generates answers with both samplers side by side; where the likeliest tokens do not suffice the row is
// taken, as an engine does. Returns the share of tokens for which they sufficed.
double sufficient(const SamplingParams& params, const Options& options) {
  const std::vector<int32_t> prompt = {3, 1, 4, 1, 5, 9, 2, 6};
  constexpr int kAnswers = 8, kTokens = 24;
  int sufficed = 0;
  for (uint64_t answer = 0; answer < kAnswers; ++answer) {
    SamplingParams own = params;
    own.seed = answer;
    Sampler of_row(own, prompt), of_top(own, prompt);
    EveryNth row_constraint(options.allow_every), top_constraint(options.allow_every);
    TokenConstraint* for_row = options.allow_every == 0 ? nullptr : &row_constraint;
    TokenConstraint* for_top = options.allow_every == 0 ? nullptr : &top_constraint;
    for (uint64_t t = 0; t < kTokens; ++t) {
      // Rows repeat within an answer, so that penalties hit tokens that are likely again.
      const std::vector<float> logits = options.row(10 * answer + t % 3);
      const SampledToken expected = of_row.sample(logits, options.top_logprobs, for_row);
      auto actual = of_top.sample_top(Top(logits, options.count).view(), options.top_logprobs, for_top);
      if (actual) ++sufficed;
      if (!actual) actual = of_top.sample(logits, options.top_logprobs, for_top);
      expect_equal(*actual, expected);
      if (testing::Test::HasFatalFailure()) return 0;
    }
    EXPECT_EQ(row_constraint.accepted, top_constraint.accepted);
  }
  return sufficed / double{kAnswers * kTokens};
}

TEST(SampleTop, AsManyTokensAsAreAskedForSuffice) {
  for (const auto& row : {fine_logits, coarse_logits})
    for (const int64_t top_k : {1, 20, 128})
      for (const double temperature : {0.0, 0.7, 2.0}) {
        SamplingParams params = basic(temperature, top_k);
        const int64_t count = top_logits_for(params, 5, nullptr, kLimit, kVocabulary);
        EXPECT_EQ(count, std::max<int64_t>(5, temperature == 0 ? 1 : top_k));
        EXPECT_EQ(sufficient(params, {.count = count, .top_logprobs = 5, .row = row}), 1);
        params.top_p = 0.7;
        params.typical_p = 0.9;
        params.min_p = 0.05;
        EXPECT_EQ(sufficient(params, {.count = count, .top_logprobs = 5, .row = row}), 1);
      }
}

TEST(SampleTop, SaysWhenTheRowIsNeeded) {
  EXPECT_EQ(top_logits_for(basic(1, 0), 0, nullptr, kLimit, kVocabulary), 0);
  EXPECT_EQ(top_logits_for(basic(1, 129), 0, nullptr, kLimit, kVocabulary), 0);
  EXPECT_EQ(top_logits_for(basic(1, 60), 0, nullptr, kLimit, 60), 0);  // cuts nothing: ids in order
  EXPECT_EQ(top_logits_for(basic(1, 20), 129, nullptr, kLimit, kVocabulary), 0);
  EXPECT_EQ(top_logits_for(basic(0, 0), 0, nullptr, kLimit, kVocabulary), 1);
  EXPECT_EQ(top_logits_for(basic(0, 500), 20, nullptr, kLimit, kVocabulary), 20);
  const EveryNth constraint(2);
  EXPECT_EQ(top_logits_for(basic(1, 20), 0, &constraint, kLimit, kVocabulary), kLimit);
  SamplingParams penalised = basic(1, 20);
  penalised.repeat_penalty = 1.1;
  EXPECT_EQ(top_logits_for(penalised, 0, nullptr, kLimit, kVocabulary), kLimit);
  penalised.repeat_last_n = 0;
  EXPECT_EQ(top_logits_for(penalised, 0, nullptr, kLimit, kVocabulary), 20);
  EXPECT_EQ(top_logits_for(basic(0, 0), 0, &constraint, kLimit, 50), 50);
}

TEST(SampleTop, PenaltiesAndBias) {
  for (const double temperature : {0.0, 0.8})
    for (const auto& row : {fine_logits, coarse_logits}) {
      SamplingParams params = basic(temperature, 20);
      params.repeat_penalty = 1.3;
      EXPECT_EQ(sufficient(params, {.row = row}), 1);
      params.presence_penalty = 0.5;
      params.frequency_penalty = 0.5;
      EXPECT_EQ(sufficient(params, {.top_logprobs = 3, .row = row}), 1);
      // With few candidates the penalties soon push some below what is outside.
      const double few = sufficient(params, {.count = 24, .row = row});
      EXPECT_GT(few, 0.02);
      EXPECT_LT(few, temperature == 0 ? 1.01 : 0.9);
      params.logit_bias = {{7, -100.0f}, {11, 100.0f}, {12, 0.5f}, {7, 30.0f}};
      params.presence_penalty = -0.5;  // lifts
      params.repeat_penalty = 0.9;
      sufficient(params, {.row = row});
    }
}

TEST(SampleTop, BiasFromOutsideNeedsTheRow) {
  std::vector<float> logits(kVocabulary, 0.0f);
  for (size_t i = 0; i < 200; ++i) logits[i] = 10 - 0.01f * static_cast<float>(i);
  const Top top(logits, kLimit);
  SamplingParams params = basic(0, 0);
  params.logit_bias = {{500, 30.0f}};
  EXPECT_FALSE(Sampler(params, {}).sample_top(top.view()).has_value());
  EXPECT_EQ(Sampler(params, {}).sample(logits).id, 500);
  params.logit_bias = {{500, 1.0f}};  // at most 9.73: not the best
  EXPECT_EQ(Sampler(params, {}).sample_top(top.view())->id, 0);
  params.temperature = 1;
  params.top_k = 20;  // down to 9.81
  EXPECT_TRUE(Sampler(params, {}).sample_top(top.view()).has_value());
  params.top_k = 40;  // to 9.61: 500 could be among them, for all that is known
  EXPECT_FALSE(Sampler(params, {}).sample_top(top.view()).has_value());
  params.logit_bias = {{0, -50.0f}};  // leaves 127 certain ones
  params.top_k = 127;
  EXPECT_TRUE(Sampler(params, {}).sample_top(top.view()).has_value());
  params.top_k = 128;
  EXPECT_FALSE(Sampler(params, {}).sample_top(top.view()).has_value());
}

TEST(SampleTop, Constraints) {
  for (const double temperature : {0.0, 1.0}) {
    const SamplingParams params = basic(temperature, 20);
    EXPECT_EQ(sufficient(params, {.allow_every = 2}), 1);
    EXPECT_GT(sufficient(params, {.allow_every = 40}), 0.8);
    const double rare = sufficient(params, {.allow_every = 300});
    EXPECT_GT(rare, 0.05);
    EXPECT_LT(rare, 0.95);
  }
}

TEST(SampleTop, KeepsItsStateWhenItAnswersNothing) {
  SamplingParams params = basic(1, 20);
  params.presence_penalty = 1;
  const std::vector<float> logits = fine_logits(1);
  Sampler asked(params, {}), fresh(params, {});
  EveryNth constraint(301);
  for (int i = 0; i < 3; ++i)
    EXPECT_FALSE(asked.sample_top(Top(logits, 20).view(), 0, &constraint).has_value());
  EXPECT_TRUE(constraint.accepted.empty());
  for (int i = 0; i < 5; ++i) EXPECT_EQ(asked.sample(logits).id, fresh.sample(logits).id);
}

TEST(SampleTop, RefusesWhatIsNoNumber) {
  const std::vector<float> logits = fine_logits(1);
  Top top(logits, 20);
  top.normaliser = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(Sampler(basic(1, 20), {}).sample_top(top.view()), WorkError);
}

}  // namespace
}  // namespace onggi
