#include "infer/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "base/error.h"
#include "infer/softmax.h"

namespace onggi {
namespace {

SamplingParams params_with(double temperature, int64_t top_k, double top_p, uint64_t seed = 1) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_k = top_k;
  params.top_p = top_p;
  params.seed = seed;
  return params;
}

std::vector<float> random_logits(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = 3 * random.normal();
  return logits;
}

// Draws `draws` first tokens, each with its own seed, and returns the shares.
std::map<int32_t, double> shares(const SamplingParams& params, const std::vector<float>& logits, int draws) {
  std::map<int32_t, double> counts;
  for (int i = 0; i < draws; ++i) {
    SamplingParams own = params;
    own.seed = static_cast<uint64_t>(i);
    counts[Sampler(own, {}).sample(logits).id] += 1.0 / draws;
  }
  return counts;
}

// Chi-square of shares against probabilities; the tokens outside `expected` must never have come.
double chi_square(const std::map<int32_t, double>& seen, const std::map<int32_t, double>& expected,
                  int draws) {
  double sum = 0;
  for (const auto& [id, share] : seen) EXPECT_TRUE(expected.contains(id)) << "token " << id << " was cut";
  for (const auto& [id, probability] : expected) {
    const double share = seen.contains(id) ? seen.at(id) : 0;
    sum += draws * (share - probability) * (share - probability) / probability;
  }
  return sum;
}

TEST(Softmax, MatchesTheStandardLibrary) {
  for (float x = 0; x > -87; x -= 0.0137f) {
    const double exact = std::exp(static_cast<double>(x));
    ASSERT_NEAR(exp_of_negative(x) / exact, 1.0, 3e-7) << x;
  }
  EXPECT_EQ(exp_of_negative(-100), 0);
  EXPECT_EQ(exp_of_negative(-std::numeric_limits<float>::infinity()), 0);
  EXPECT_TRUE(std::isnan(exp_of_negative(std::nanf(""))));
  for (size_t n : {1u, 15u, 16u, 17u, 1024u, 151936u}) {
    const std::vector<float> logits = random_logits(n, n);
    double exact = 0;
    for (float logit : logits) exact += std::exp(static_cast<double>(logit));
    EXPECT_NEAR(log_sum_exp(logits), std::log(exact), 1e-6) << n;
    EXPECT_EQ(max_of(logits), *std::max_element(logits.begin(), logits.end()));
  }
}

TEST(Largest, EqualsAFullSort) {
  std::vector<float> values = random_logits(5000, 7);
  for (size_t i = 0; i + 3 < values.size(); i += 3) values[i + 2] = values[i];  // ties
  std::vector<Candidate> sorted;
  for (size_t i = 0; i < values.size(); ++i) sorted.push_back({static_cast<int32_t>(i), values[i]});
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Candidate& a, const Candidate& b) { return a.value > b.value; });
  for (size_t n : {0u, 1u, 20u, 512u, 513u, 4999u, 5000u, 6000u}) {
    const auto top = largest(values, n);
    ASSERT_EQ(top.size(), std::min<size_t>(n, values.size()));
    for (size_t i = 0; i < top.size(); ++i) ASSERT_EQ(top[i].id, sorted[i].id) << "n " << n << " place " << i;
  }
}

TEST(Sampler, TemperatureZeroTakesTheLowestOfTheBest) {
  const std::vector<float> logits = {1, 5, 2, 5, 5};
  Sampler sampler(params_with(0, 0, 1), {});
  const SampledToken token = sampler.sample(logits, 2);
  EXPECT_EQ(token.id, 1);
  EXPECT_NEAR(token.logprob, 5 - std::log(std::exp(1.0) + std::exp(2.0) + 3 * std::exp(5.0)), 1e-6);
  ASSERT_EQ(token.top.size(), 2u);
  EXPECT_EQ(token.top[0].id, 1);
  EXPECT_EQ(token.top[1].id, 3);
}

TEST(Sampler, DrawsFromTheTemperedDistribution) {
  const std::vector<float> logits = {0, 1, 2, -1, 0.5f};
  constexpr int kDraws = 20000;
  for (double temperature : {0.5, 1.0, 2.0}) {
    std::map<int32_t, double> expected;
    double total = 0;
    for (float logit : logits) total += std::exp(logit / temperature);
    for (size_t i = 0; i < logits.size(); ++i) {
      expected[static_cast<int32_t>(i)] = std::exp(logits[i] / temperature) / total;
    }
    // 4 degrees of freedom: above 18.5 once in a thousand.
    for (int64_t top_k : {0, 5}) {
      EXPECT_LT(chi_square(shares(params_with(temperature, top_k, 1), logits, kDraws), expected, kDraws),
                18.5);
    }
  }
}

TEST(Sampler, TopKAndTopPAndMinPCut) {
  // Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625.
  std::vector<float> logits;
  for (double p : {0.0625, 0.25, 0.5, 0.125, 0.0625}) logits.push_back(static_cast<float>(std::log(p)));
  constexpr int kDraws = 8000;
  const std::map<int32_t, double> two = {{2, 2.0 / 3}, {1, 1.0 / 3}};
  const std::map<int32_t, double> three = {{2, 4.0 / 7}, {1, 2.0 / 7}, {3, 1.0 / 7}};
  EXPECT_LT(chi_square(shares(params_with(1, 2, 1), logits, kDraws), two, kDraws), 10.8);
  // 0.5 + 0.25 does not reach 0.85, with 0.125 it does; with and without top_k before.
  EXPECT_LT(chi_square(shares(params_with(1, 0, 0.85), logits, kDraws), three, kDraws), 13.8);
  EXPECT_LT(chi_square(shares(params_with(1, 4, 0.85), logits, kDraws), three, kDraws), 13.8);
  SamplingParams min_p = params_with(1, 0, 1);
  min_p.min_p = 0.3;
  EXPECT_LT(chi_square(shares(min_p, logits, kDraws), two, kDraws), 10.8);
  // Surprises 0.69, 1.39, 2.08, 2.77, 2.77 around an entropy of 1.30: nearest are the second and the first.
  SamplingParams typical = params_with(1, 0, 1);
  typical.typical_p = 0.6;
  EXPECT_LT(chi_square(shares(typical, logits, kDraws), two, kDraws), 10.8);
  // top_p 0 keeps the best one.
  EXPECT_EQ(shares(params_with(1, 0, 0), logits, 50).size(), 1u);
}

TEST(Sampler, TopPOverAWholeVocabularyEqualsTheSortedPrefix) {
  const std::vector<float> logits = random_logits(20000, 3);
  const auto sorted = largest(logits, logits.size());
  double total = 0, sum = 0;
  for (const Candidate& c : sorted) total += std::exp(c.value);
  std::set<int32_t> kept;
  for (const Candidate& c : sorted) {
    kept.insert(c.id);
    sum += std::exp(c.value);
    if (sum >= 0.9 * total) break;
  }
  ASSERT_GT(kept.size(), 640u) << "the test should reach the second block";
  std::set<int32_t> drawn;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    drawn.insert(Sampler(params_with(1, 0, 0.9, seed), {}).sample(logits).id);
  }
  for (int32_t id : drawn) EXPECT_TRUE(kept.contains(id)) << id;
  EXPECT_GT(drawn.size(), 100u);
}

TEST(Sampler, DependsOnSeedAndIndexAlone) {
  const std::vector<float> a = random_logits(1000, 1), b = random_logits(1000, 2);
  const SamplingParams params = params_with(1, 0, 1, 99);
  Sampler first(params, {}), second(params, {});
  const int32_t first_id = first.sample(a).id;
  second.sample(b);  // another history
  EXPECT_EQ(Sampler(params, {}).sample(a).id, first_id);
  EXPECT_EQ(first.sample(b).id, second.sample(b).id);
}

TEST(Sampler, PenaltiesAndBias) {
  const std::vector<float> logits = {2, 1.5f, -1, 0};
  const std::vector<int32_t> prompt = {0};
  SamplingParams params = params_with(0, 0, 1);
  params.repeat_penalty =
      2;  // 2 -> 1 for the token of the prompt, then 1.5 -> 0.75 for the first of the answer
  Sampler repeat(params, prompt);
  EXPECT_EQ(repeat.sample(logits).id, 1);
  EXPECT_EQ(repeat.sample(logits).id, 0);
  params.repeat_last_n = 0;
  EXPECT_EQ(Sampler(params, prompt).sample(logits).id, 0);

  params = params_with(0, 0, 1);
  params.presence_penalty = 0.6;  // counts the answer only
  Sampler presence(params, prompt);
  EXPECT_EQ(presence.sample(logits).id, 0);
  EXPECT_EQ(presence.sample(logits).id, 1);
  EXPECT_EQ(presence.sample(logits).id, 0);  // 1.4 against 0.9

  params = params_with(0, 0, 1);
  params.frequency_penalty = 0.6;
  Sampler frequency(params, {});
  const std::vector<int32_t> expected = {0, 1, 0, 1};  // 2, 1.5; 1.4, 1.5; 1.4, 0.9; 0.8, 0.9
  for (int32_t id : expected) EXPECT_EQ(frequency.sample(logits).id, id);

  params = params_with(0, 0, 1);
  params.logit_bias = {{2, 100.0f}};
  const SampledToken biased = Sampler(params, {}).sample(logits);
  EXPECT_EQ(biased.id, 2);
  EXPECT_LT(biased.logprob, -3) << "of the model's own distribution";
}

class OnlyThese : public TokenConstraint {
 public:
  explicit OnlyThese(std::set<int32_t> ids) : ids_(std::move(ids)) {}
  bool allows(int32_t id) const override { return ids_.contains(id); }
  void accept(int32_t id) override { EXPECT_TRUE(allows(id)); }
  bool finished() const override { return false; }

 private:
  std::set<int32_t> ids_;
};

TEST(Sampler, ConstraintGivesTheMaskedDistribution) {
  const std::vector<float> logits = {3, 0, 1, 2, 2};
  OnlyThese constraint({1, 2, 3});
  constexpr int kDraws = 8000;
  std::map<int32_t, double> seen, expected;
  const double total = std::exp(0.0) + std::exp(1.0) + std::exp(2.0);
  for (int i = 1; i <= 3; ++i) expected[i] = std::exp(i - 1.0) / total;
  for (int i = 0; i < kDraws; ++i) {
    Sampler sampler(params_with(1, 0, 1, static_cast<uint64_t>(i)), {});
    seen[sampler.sample(logits, 0, &constraint).id] += 1.0 / kDraws;
  }
  EXPECT_LT(chi_square(seen, expected, kDraws), 13.8);
  // top_k leaves none that is allowed: the likeliest allowed one.
  EXPECT_EQ(Sampler(params_with(1, 1, 1), {}).sample(logits, 0, &constraint).id, 3);
  EXPECT_EQ(Sampler(params_with(0, 0, 1), {}).sample(logits, 0, &constraint).id, 3);
  // More rejected ones than are tried one by one.
  const std::vector<float> wide = random_logits(1000, 5);
  OnlyThese last({999});
  EXPECT_EQ(Sampler(params_with(1, 0, 1), {}).sample(wide, 0, &last).id, 999);
  OnlyThese none({});
  Sampler stuck(params_with(1, 0, 1), {});
  EXPECT_THROW(stuck.sample(wide, 0, &none), WorkError);
}

TEST(Sampler, RefusesWhatIsNoNumber) {
  std::vector<float> logits(100, 1.0f);
  logits[50] = std::nanf("");
  Sampler sampler(params_with(0, 0, 1), {});
  EXPECT_THROW(sampler.sample(logits), WorkError);
  logits[50] = std::numeric_limits<float>::infinity();
  EXPECT_THROW(sampler.sample(logits), WorkError);
}

TEST(Sampler, ChecksRanges) {
  const auto refused = [](auto change) {
    SamplingParams params;
    change(params);
    EXPECT_THROW(check(params, 10), InputError);
  };
  check(SamplingParams{}, 10);
  refused([](SamplingParams& p) { p.temperature = -1; });
  refused([](SamplingParams& p) { p.temperature = std::nan(""); });
  refused([](SamplingParams& p) { p.top_k = -1; });
  refused([](SamplingParams& p) { p.top_p = 1.5; });
  refused([](SamplingParams& p) { p.min_p = -0.1; });
  refused([](SamplingParams& p) { p.repeat_penalty = 0; });
  refused([](SamplingParams& p) { p.repeat_last_n = -2; });
  refused([](SamplingParams& p) { p.logit_bias = {{10, 1.0f}}; });
  refused([](SamplingParams& p) { p.logit_bias = {{-1, 1.0f}}; });
}

}  // namespace
}  // namespace onggi
