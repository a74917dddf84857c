// The parity gate on onggi-mini: the same model passes, a model that is another one in any respect is named.
#include "eval/parity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "formats/json_file.h"
#include "formats/safetensors.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;

constexpr const char* kMini = "models/onggi-mini";

class Parity : public testing::Test {
 protected:
  Parity() {
    for (const auto& entry : fs::directory_iterator(kMini))
      fs::copy_file(entry.path(), copy_ / entry.path().filename().string());
  }

  // Zeros over the rows [first, last) of a tensor of the copied model.
  void blank(const std::string& tensor, int64_t first, int64_t last) {
    const std::string shard =
        read_json_file(copy_ / "model.safetensors.index.json").at("weight_map").at(tensor).get<std::string>();
    std::string bytes = read_file(copy_ / shard);
    const SafetensorsReader file(copy_ / shard);
    const TensorView view = file.tensor(tensor);
    const std::string contents(static_cast<const char*>(view.data), static_cast<size_t>(view.elements()) * 2);
    const size_t at = bytes.find(contents), row = static_cast<size_t>(view.shape[1]) * 2;
    ASSERT_NE(at, std::string::npos);
    std::fill_n(bytes.begin() + static_cast<ptrdiff_t>(at + static_cast<size_t>(first) * row),
                static_cast<size_t>(last - first) * row, '\0');
    write_file(copy_ / shard, bytes);
  }
  void replace_in(const std::string& name, const std::string& old, const std::string& by) {
    std::string text = read_file(copy_ / name);
    const size_t at = text.find(old);
    ASSERT_NE(at, std::string::npos) << name << " has no " << old;
    write_file(copy_ / name, text.replace(at, old.size(), by));
  }

  ParityResult compare(const ParityBound& bound = {1e-3, 0.99}) {
    const LoadedModel base = load_chat_model(kMini, {}, threads_);
    const ParityReference reference(base, compute_, prompts_, 16, "the base");
    return reference.compare(load_chat_model(copy_.path(), {}, threads_), compute_, "the copy", bound);
  }

  TemporaryFolder copy_;
  ThreadPool threads_{2};
  Scratch scratch_{2};
  Compute compute_{cpu_ops(), {threads_, scratch_}, Precision::kF32};
  std::vector<std::string> prompts_ = {
      R"([{"role": "user", "content": "파이썬이란?"}])",
      R"([{"role": "system", "content": "짧게."}, {"role": "user", "content": "Docker?"}])"};
};

TEST_F(Parity, TheSameModelPasses) {
  const ParityResult result = compare({0, 1});
  EXPECT_TRUE(result.passed) << result.reason;
  EXPECT_EQ(result.mean_kl, 0);
  EXPECT_EQ(result.agreement, 1);
  EXPECT_GT(result.positions, 16);
  EXPECT_EQ(result.artefact, "the copy");
}

TEST_F(Parity, DamagedWeightsAreNamedWithAPrompt) {
  blank("model.layers.1.mlp.down_proj.weight", 0, 256);
  const ParityResult result = compare();
  EXPECT_FALSE(result.passed);
  EXPECT_GT(result.mean_kl, 1e-3);
  EXPECT_THAT(result.reason, HasSubstr("KL divergence"));
  EXPECT_THAT(result.reason, ContainsRegex("most at prompt [12]"));
  EXPECT_TRUE(result.worst_prompt == 1 || result.worst_prompt == 2);
}

TEST_F(Parity, AnotherTemplateIsNoticedByItsIds) {
  // The second prompt alone has a system turn.
  replace_in("chat_template.jinja", R"(message.role + '\n')",
             R"(message.role + (' \n' if message.role == 'system' else '\n'))");
  const ParityResult result = compare({100, 0});
  EXPECT_FALSE(result.prompts_equal);
  EXPECT_EQ(result.reason, "the token ids of prompt 2 differ");
}

TEST_F(Parity, OtherPromptsHaveAnotherHash) {
  const LoadedModel base = load_chat_model(kMini, {}, threads_);
  const ParityReference both(base, compute_, prompts_, 1, "base"), same(base, compute_, prompts_, 1, "base");
  prompts_.pop_back();
  const ParityReference one(base, compute_, prompts_, 1, "base");
  EXPECT_EQ(both.prompts_sha256(), same.prompts_sha256());
  EXPECT_NE(both.prompts_sha256(), one.prompts_sha256());
}

TEST(Judge, EachBoundFailsByItself) {
  const auto judged = [](double kl, double agreement) {
    ParityResult result;
    result.bound = {0.1, 0.9};
    result.positions = 10;
    result.agreement = agreement;
    note_divergence(result, kl / 2, 1);
    note_divergence(result, kl, 2);
    result.mean_kl = kl;
    result.first_divergence = "prompt 3, token 1";
    judge(result);
    return result;
  };
  EXPECT_TRUE(judged(0.1, 0.9).passed);
  EXPECT_THAT(judged(0.11, 1).reason, HasSubstr("most at prompt 2"));
  EXPECT_THAT(judged(0, 0.89).reason, HasSubstr("89.00 % of the most likely tokens agree"));
  EXPECT_THAT(judged(0, 0.89).reason, HasSubstr("prompt 3, token 1"));
  // What is not a number is no small divergence.
  EXPECT_FALSE(judged(std::numeric_limits<double>::quiet_NaN(), 1).passed);
}

}  // namespace
}  // namespace onggi
