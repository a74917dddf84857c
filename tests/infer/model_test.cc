// The engine over onggi-mini, compared with transformers (tests/golden/reference.json).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "formats/safetensors.h"
#include "infer/chat_model.h"
#include "infer/engine.h"
#include "infer/json_constraint.h"
#include "infer/score.h"

namespace onggi {
namespace {

using Json = nlohmann::json;

class OnggiMini : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    threads_ = new ThreadPool(2);
    loaded_ = new LoadedModel(load_chat_model("models/onggi-mini", {}, *threads_));
    reference_ = new Json(Json::parse(read_file("tests/golden/reference.json")));
  }
  static void TearDownTestSuite() {
    delete reference_;
    delete loaded_;
    delete threads_;
  }

  static std::unique_ptr<Engine> engine(EngineOptions options = {}) {
    options.kv_dtype = DType::kF32;
    options.precision = Precision::kF32;
    options.context_length = 512;
    return std::make_unique<Engine>(loaded_->model->config, loaded_->tokenizer,
                                    make_runner(loaded_->model, device_, *threads_, options.precision),
                                    options);
  }
  static GenerationRequest greedy(const std::vector<int32_t>& prompt, int64_t tokens) {
    GenerationRequest request;
    request.prompt = prompt;
    request.sampling.temperature = 0;
    request.max_new_tokens = tokens;
    return request;
  }
  static std::vector<int32_t> ids_of(const Generation& answer) {
    std::vector<int32_t> ids;
    for (const SampledToken& token : answer.tokens) ids.push_back(token.id);
    return ids;
  }
  static const Json& generations() { return reference_->at("generate"); }

  static inline ComputeDevice device_{Device{}};
  static ThreadPool* threads_;
  static LoadedModel* loaded_;
  static Json* reference_;
};
ThreadPool* OnggiMini::threads_ = nullptr;
LoadedModel* OnggiMini::loaded_ = nullptr;
Json* OnggiMini::reference_ = nullptr;

TEST_F(OnggiMini, ContinuesAsTransformersDoes) {
  const auto running = engine();
  for (const Json& one : generations()) {
    const auto expected = one.at("greedy_ids").get<std::vector<int32_t>>();
    const Generation answer = wait_for(running->submit(
        greedy(one.at("prompt_ids").get<std::vector<int32_t>>(), static_cast<int64_t>(expected.size()))));
    EXPECT_EQ(ids_of(answer), expected) << one.at("prompt");
    // The reference's text has no control tokens either.
    EXPECT_EQ(answer.text, one.at("text").get<std::string>());
  }
}

// What the output matrix makes of an embedding are the logits of the text's last token.
TEST_F(OnggiMini, AnEmbeddingIsWhatTheOutputMatrixReads) {
  const auto running = engine();
  const Model& model = *loaded_->model;
  const auto width = static_cast<size_t>(model.config.hidden_size);
  ComputeSession session(device_, *threads_, Precision::kF32);
  for (const Json& one : generations()) {
    const auto ids = one.at("prompt_ids").get<std::vector<int32_t>>();
    GenerationRequest request = greedy(ids, 1);
    request.want = GenerationRequest::Want::kEmbedding;
    const Generation embedded = wait_for(running->submit(std::move(request)));
    const std::vector<float>& hidden = embedded.result.embedding;
    ASSERT_EQ(hidden.size(), width) << embedded.result.error;
    const std::vector<float> logits =
        logit_rows_of(model, session.compute(), ids, static_cast<int64_t>(ids.size()) - 1, ScoreOptions{});
    ASSERT_EQ(model.lm_head.dtype, DType::kBF16);
    const auto* matrix = static_cast<const uint16_t*>(model.lm_head.data);
    double worst = 0;
    for (size_t v = 0; v < logits.size(); ++v) {
      double product = 0;
      for (size_t k = 0; k < width; ++k) product += double{hidden[k]} * bf16_to_f32(matrix[v * width + k]);
      worst = std::max(worst, std::abs(product - logits[v]));
    }
    EXPECT_LT(worst, 1e-3) << one.at("prompt");
  }
}

TEST_F(OnggiMini, FiveAtOnceEqualEachAlone) {
  EngineOptions options;
  options.max_batch = 5;
  options.prefill_chunk = 7;  // prompts come in pieces, beside answers
  const auto alone = engine(), together = engine(options);
  const auto request = [](size_t i) {
    const Json& one = generations()[i % generations().size()];
    GenerationRequest made = greedy(one.at("prompt_ids").get<std::vector<int32_t>>(), 24);
    if (i == 4) {
      made.sampling.temperature = 1;
      made.sampling.seed = 7;
    }
    return made;
  };
  // The engines take turns: they share the threads.
  std::vector<std::vector<int32_t>> expected;
  for (size_t i = 0; i < 5; ++i) expected.push_back(ids_of(wait_for(alone->submit(request(i)))));
  std::vector<Ticket> tickets;
  for (size_t i = 0; i < 5; ++i) tickets.push_back(together->submit(request(i)));
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(ids_of(wait_for(std::move(tickets[i]))), expected[i]) << i;
  EXPECT_GT(together->stats().steps_by_batch[5], 10u);
}

TEST_F(OnggiMini, AReusedPrefixChangesNothing) {
  const auto running = engine(), fresh = engine();
  const Json& one = generations()[2];
  auto prompt = one.at("prompt_ids").get<std::vector<int32_t>>();
  const Generation first = wait_for(running->submit(greedy(prompt, 16)));
  for (int32_t id : ids_of(first)) prompt.push_back(id);
  for (int32_t id : loaded_->tokenizer.encode(" 그리고 ")) prompt.push_back(id);
  const Generation reused = wait_for(running->submit(greedy(prompt, 24)));
  EXPECT_GT(reused.result.cached_tokens, 40);
  const Generation computed = wait_for(fresh->submit(greedy(prompt, 24)));
  EXPECT_EQ(computed.result.cached_tokens, 0);
  EXPECT_EQ(ids_of(reused), ids_of(computed));
  for (size_t i = 0; i < reused.tokens.size(); ++i) {
    EXPECT_NEAR(reused.tokens[i].logprob, computed.tokens[i].logprob, 1e-4) << i;
  }
}

TEST_F(OnggiMini, ScoresAsTheReferenceLogitsSay) {
  const SafetensorsReader golden("tests/golden/logits.safetensors");
  const TensorView ids_view = golden.tensor("ids.0"), logits_view = golden.tensor("logits.0");
  const auto length = static_cast<size_t>(logits_view.shape[0]),
             vocabulary = static_cast<size_t>(logits_view.shape[1]);
  ASSERT_EQ(ids_view.dtype, DType::kI32);
  ASSERT_EQ(logits_view.dtype, DType::kF32);
  std::vector<int32_t> ids(length);
  std::memcpy(ids.data(), ids_view.data, length * sizeof(int32_t));
  const auto* logits = static_cast<const float*>(logits_view.data);

  const ComputeSession session(device_, *threads_, Precision::kF32);
  ScoreOptions options;
  options.chunk = 3;
  const Score result = score(*loaded_->model, session.compute(), ids, options);
  ASSERT_EQ(result.logprobs.size(), length - 1);
  double sum = 0;
  for (size_t i = 0; i + 1 < length; ++i) {
    double total = 0;
    for (size_t v = 0; v < vocabulary; ++v)
      total += std::exp(static_cast<double>(logits[i * vocabulary + v]));
    const double expected = logits[i * vocabulary + static_cast<size_t>(ids[i + 1])] - std::log(total);
    sum -= expected;
    EXPECT_NEAR(result.logprobs[i], expected, 4e-3) << "token " << i + 1;
  }
  EXPECT_NEAR(result.mean_nll, sum / static_cast<double>(length - 1), 4e-3);

  const std::vector<float> rows = logit_rows_of(*loaded_->model, session.compute(), ids, 2, options);
  ASSERT_EQ(rows.size(), (length - 2) * vocabulary);
  for (size_t i = 0; i < length - 2; ++i) {
    const std::span<const float> ours(rows.data() + i * vocabulary, vocabulary);
    const std::span<const float> theirs(logits + (i + 2) * vocabulary, vocabulary);
    EXPECT_EQ(argmax(ours), argmax(theirs)) << i;
    EXPECT_LT(kl_divergence(ours, theirs), 1e-5) << i;
  }
  const std::vector<int32_t> too_long(loaded_->model->config.max_position_embeddings + 1, 5);
  EXPECT_THROW(score(*loaded_->model, session.compute(), too_long), InputError);
  EXPECT_THROW(score(*loaded_->model, session.compute(), std::vector<int32_t>{8192}), InputError);
}

TEST(Score, DivergenceOfKnownRows) {
  const std::vector<float> even = {0, 0}, skewed = {std::log(3.0f), 0};  // (1/2, 1/2), (3/4, 1/4)
  EXPECT_NEAR(kl_divergence(even, skewed), 0.5 * std::log(0.5 / 0.75) + 0.5 * std::log(0.5 / 0.25), 1e-7);
  EXPECT_NEAR(kl_divergence(skewed, even), 0.75 * std::log(1.5) + 0.25 * std::log(0.5), 1e-7);
  EXPECT_EQ(kl_divergence(even, even), 0);
  std::vector<float> row = skewed;
  log_softmax(row);
  EXPECT_NEAR(row[0], std::log(0.75), 1e-6);
}

TEST_F(OnggiMini, AnswersJsonWhenItMust) {
  const auto running = engine();
  for (uint64_t seed = 0; seed < 3; ++seed) {
    GenerationRequest request = greedy(loaded_->tokenizer.encode("JSON: "), 250);
    request.sampling.temperature = 1;
    request.sampling.seed = seed;
    request.constraint = make_schema_constraint(
        loaded_->tokenizer, nlohmann::ordered_json::parse(
                                R"({"type":"object","properties":{"name":{"type":"string","maxLength":20},
            "kind":{"enum":["git","docker"]},"count":{"type":"integer"}},"required":["name","kind"]})"));
    const Generation answer = wait_for(running->submit(std::move(request)));
    ASSERT_EQ(answer.result.reason, FinishReason::kStop) << answer.text;
    const Json parsed = Json::parse(answer.text);
    EXPECT_TRUE(parsed.at("name").is_string());
    EXPECT_TRUE(parsed.at("kind") == "git" || parsed.at("kind") == "docker");
  }
}

TEST_F(OnggiMini, KnowsItsNameTemplateAndThinking) {
  EXPECT_EQ(loaded_->name, "onggi-mini");
  EXPECT_EQ(loaded_->think, ThinkMode::kMixed);
  ASSERT_TRUE(loaded_->chat_template);
  const auto messages =
      nlohmann::ordered_json::parse(R"([{"role":"user","content":"파이썬에 대해 설명해 주세요."}])");
  RenderOptions render;
  render.enable_thinking = false;
  const auto ids = render_prompt(*loaded_, messages, render);
  EXPECT_EQ(ids, generations()[2].at("prompt_ids").get<std::vector<int32_t>>());
  EXPECT_THROW(load_chat_model("models/none", {}, *threads_), InputError);
}

}  // namespace
}  // namespace onggi
