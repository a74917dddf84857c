// What a Q8_0 file says, and why llama.cpp may say it otherwise: the weights of 8 bits alone continue every
// prompt as transformers do with 16; llama.cpp rounds each layer's input to 8 bits as well, and that decides
// between tokens that are nearly as likely.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "blocks/block_format.h"
#include "formats/gguf.h"
#include "formats/json_file.h"
#include "model/inference.h"
#include "quantize/convert.h"
#include "tests/quantize/golden_adapter.h"
#include "tests/quantize/llama_library.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

using nlohmann::json;
using test::LlamaLibrary;
using test::LlamaModel;

// out = Q8_0(x) W^T: the linear layer of a Q8_0 weight as ggml computes it, but in fp32. Each 32 values of x
// become 8 bits with an f16 scale.
void linear_of_rounded_input(const OpContext& context, const LinearArgs& args) {
  const int64_t count = args.tokens * args.weight.columns;
  const BlockFormat& format = block_format(DType::kQ8_0);
  std::vector<uint8_t> blocks(static_cast<size_t>(dtype_bytes(DType::kQ8_0, count)));
  std::vector<float> rounded(static_cast<size_t>(count));
  format.encode(args.x, count, nullptr, blocks.data());
  format.decode(blocks.data(), count, rounded.data());
  LinearArgs exact = args;
  exact.x = rounded.data();
  exact.precision = Precision::kF32;
  cpu_ops().linear[static_cast<size_t>(DType::kQ8_0)](context, exact);
}

OpTable rounding_ops() {
  OpTable table = cpu_ops();
  table.linear[static_cast<size_t>(DType::kQ8_0)] = linear_of_rounded_input;
  return table;
}

int32_t likeliest(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Logits [T, V] that predict the tokens of a continuation.
using Rows = std::vector<std::vector<float>>;

double root_mean_square_difference(const Rows& a, const Rows& b) {
  double sum = 0;
  size_t count = 0;
  for (size_t t = 0; t < a.size(); ++t)
    for (size_t v = 0; v < a[t].size(); ++v, ++count)
      sum += (double{a[t][v]} - b[t][v]) * (double{a[t][v]} - b[t][v]);
  return std::sqrt(sum / static_cast<double>(count));
}

// transformers' greedy continuation of a prompt, with the model in bf16 and fp32 arithmetic.
struct Example {
  std::vector<int32_t> prompt, continuation;
};

std::vector<Example> examples() {
  const json golden = read_json_file("tests/golden/reference.json");
  std::vector<Example> all;
  for (const json& item : golden.at("generate"))
    all.push_back({item.at("prompt_ids").get<std::vector<int32_t>>(),
                   item.at("greedy_ids").get<std::vector<int32_t>>()});
  return all;
}

class Q8_0File : public testing::Test {
 protected:
  fs::path convert(QuantRecipe recipe, const fs::path& adapter = {}) {
    ConvertOptions options;
    options.source = "models/onggi-mini";
    options.adapter = adapter;
    options.output = folder_ / (std::string(recipe_info(recipe).name) + ".gguf");
    options.recipe = recipe;
    convert_to_gguf(options, threads_);
    return options.output;
  }
  Compute compute(const OpTable& ops, Precision precision) { return {ops, {threads_, scratch_}, precision}; }
  // The likeliest token again and again, as many as transformers gave.
  std::vector<int32_t> greedy(const Model& model, const Compute& compute, const Example& example) {
    KvCache cache(model.config, 16, DType::kF32);
    KvSequence sequence(cache);
    InferenceBuffers buffers;
    std::vector<int32_t> out, next = example.prompt;
    while (out.size() < example.continuation.size()) {
      ONGGI_CHECK(sequence.reserve(sequence.length() + std::ssize(next)), "the cache is large enough");
      const SequenceInput input{&sequence, next};
      const float* logits = infer(model, compute, cache, std::span(&input, 1), buffers);
      out.push_back(likeliest({logits, static_cast<size_t>(model.config.vocab_size)}));
      next = {out.back()};
    }
    return out;
  }
  // The predictions along transformers' continuation.
  Rows score(const Model& model, const Compute& compute, const Example& example) {
    std::vector<int32_t> ids = example.prompt;
    ids.insert(ids.end(), example.continuation.begin(), example.continuation.end() - 1);
    KvCache cache(model.config, 16, DType::kF32);
    KvSequence sequence(cache);
    InferenceBuffers buffers;
    ONGGI_CHECK(sequence.reserve(std::ssize(ids)), "the cache is large enough");
    const SequenceInput input{&sequence, ids, SequenceInput::Logits::kAll};
    const float* logits = infer(model, compute, cache, std::span(&input, 1), buffers);
    const auto width = static_cast<size_t>(model.config.vocab_size);
    Rows rows;
    for (size_t t = example.prompt.size() - 1; t < ids.size(); ++t)
      rows.emplace_back(logits + t * width, logits + (t + 1) * width);
    return rows;
  }

  TemporaryFolder folder_;
  ThreadPool threads_{2};
  Scratch scratch_{2};
};

TEST_F(Q8_0File, ContinuesAsTransformersDo) {
  const auto model = load_model(convert(QuantRecipe::kQ8_0), {}, threads_);
  size_t tokens = 0;
  for (const Example& example : examples()) {
    EXPECT_EQ(greedy(*model, compute(cpu_ops(), Precision::kF32), example), example.continuation);
    tokens += example.continuation.size();
  }
  EXPECT_GT(tokens, 200u);
}

// The five answers that the golden run trained on: the tokens up to the answer, and its own with the end of
// the turn.
std::vector<Example> trained_examples(int32_t end) {
  const json golden = read_json_file("tests/golden/reference.json");
  std::vector<Example> all;
  for (const json& item : golden.at("train").at("samples")) {
    const auto ids = item.at("input_ids").get<std::vector<int32_t>>();
    const auto labels = item.at("labels").get<std::vector<int32_t>>();
    const auto answer = std::find_if(labels.begin(), labels.end(), [](int32_t label) { return label >= 0; });
    const auto last = std::find(answer, labels.end(), end);
    EXPECT_NE(last, labels.end());
    all.push_back({{ids.begin(), ids.begin() + (answer - labels.begin())}, {answer, last + 1}});
  }
  return all;
}

// What training made certain no rounding changes: a file of 8 bits answers as trained, here and in llama.cpp.
TEST_F(Q8_0File, AnswersAsTrained) {
  const fs::path path = convert(QuantRecipe::kQ8_0, test::golden_adapter(folder_ / "adapter"));
  const auto model = load_model(path, {}, threads_);
  const std::vector<Example> examples = trained_examples(8102);
  EXPECT_EQ(examples.size(), 5u);
  for (const Precision precision : {Precision::kF32, Precision::kFast})
    for (const Example& example : examples)
      EXPECT_EQ(greedy(*model, compute(cpu_ops(), precision), example), example.continuation);
  if (!LlamaLibrary::get().available()) GTEST_SKIP() << LlamaLibrary::skip_reason();
  const LlamaModel llama(path);
  ASSERT_TRUE(llama.loaded());
  for (const Example& example : examples)
    EXPECT_EQ(llama.greedy(example.prompt, static_cast<int>(example.continuation.size())),
              example.continuation);
}

// How far another arithmetic may move the logits: as far as rounding the inputs of layers to 8 bits does,
// measured for the same tokens. That is chaotic (a value that falls on the other side of a half changes all
// layers after it), so that two who round alike differ from each other as much as from the exact logits; but
// they agree in the size of the error, and on every token that leads by three deviations of the difference of
// two logits.
class RoundedInputs : public Q8_0File {
 protected:
  void SetUp() override { model_ = load_model(convert(QuantRecipe::kQ8_0), {}, threads_); }

  Rows exact(const Example& example) { return score(*model_, compute(cpu_ops(), Precision::kF32), example); }
  // The error that rounding causes.
  double deviation(const Example& example, const Rows& exact_rows) {
    const OpTable rounding = rounding_ops();
    return root_mean_square_difference(score(*model_, compute(rounding, Precision::kF32), example),
                                       exact_rows);
  }
  // Returns for each example the error of these logits, in units of that error.
  template <typename Score>
  std::vector<double> expect_rounding_alone(const Score& score_of) {
    std::vector<double> sizes;
    int compared = 0, agreed = 0;
    for (const Example& example : examples()) {
      const Rows expected_rows = exact(example), rows = score_of(example);
      const double unit = deviation(example, expected_rows);
      EXPECT_EQ(rows.size(), expected_rows.size());
      sizes.push_back(root_mean_square_difference(rows, expected_rows) / unit);
      EXPECT_LT(sizes.back(), 1.15);
      for (size_t t = 0; t < rows.size(); ++t) {
        const int32_t expected = example.continuation[t], got = likeliest(rows[t]);
        EXPECT_EQ(likeliest(expected_rows[t]), expected) << "token " << t;
        EXPECT_LT(
            expected_rows[t][static_cast<size_t>(expected)] - expected_rows[t][static_cast<size_t>(got)],
            3 * std::sqrt(2.0) * unit)
            << "token " << t << " is " << got;
        ++compared;
        agreed += got == expected;
      }
    }
    EXPECT_GT(compared, 200);
    EXPECT_GE(agreed, 0.95 * compared);
    return sizes;
  }

  std::shared_ptr<Model> model_;
};

TEST_F(RoundedInputs, AreWhatLlamaCppAdds) {
  if (!LlamaLibrary::get().available()) GTEST_SKIP() << LlamaLibrary::skip_reason();
  const LlamaModel llama(folder_ / "Q8_0.gguf");
  ASSERT_TRUE(llama.loaded());
  const auto sizes = expect_rounding_alone(
      [&](const Example& example) { return llama.score(example.prompt, example.continuation); });
  for (const double size : sizes) EXPECT_GT(size, 0.85) << "llama.cpp no longer rounds its inputs";
}

// Where the CPU has no fast product of 8 bits, long prompts are computed exactly.
TEST_F(RoundedInputs, AreTheMostThatOurFastArithmeticAdds) {
  expect_rounding_alone(
      [&](const Example& example) { return score(*model_, compute(cpu_ops(), Precision::kFast), example); });
}

// Where no weight has 8 bits llama.cpp rounds no input, and gives our logits: nothing else stands between the
// two but its attention in f16, whose 11 bits are hundredths of that error.
TEST_F(RoundedInputs, AreAbsentFromAWideFile) {
  if (!LlamaLibrary::get().available()) GTEST_SKIP() << LlamaLibrary::skip_reason();
  const fs::path path = convert(QuantRecipe::kF32);
  const LlamaModel llama(path);
  ASSERT_TRUE(llama.loaded());
  const auto wide = load_model(path, {}, threads_);
  for (const Example& example : examples()) {
    const Rows ours = score(*wide, compute(cpu_ops(), Precision::kF32), example);
    EXPECT_LT(root_mean_square_difference(llama.score(example.prompt, example.continuation), ours),
              deviation(example, exact(example)) / 10);
  }
}

// So what a Q8_0 file of ours says is what one of theirs says.
TEST_F(Q8_0File, HasTheBytesOfTheirQuantiser) {
  if (!LlamaLibrary::get().available()) GTEST_SKIP() << LlamaLibrary::skip_reason();
  const fs::path theirs_path = folder_ / "theirs.gguf";
  LlamaLibrary::Parameters parameters = LlamaLibrary::get().quantize_default_params();
  parameters.words[0] = 1;  // nthread
  parameters.words[1] = recipe_info(QuantRecipe::kQ8_0).gguf_file_type;
  ASSERT_EQ(
      LlamaLibrary::get().quantize(convert(QuantRecipe::kF32).c_str(), theirs_path.c_str(), &parameters), 0u);
  const GgufReader theirs(theirs_path), ours(convert(QuantRecipe::kQ8_0));
  for (const TensorInfo& tensor : theirs.tensors()) {
    const TensorView expected = theirs.tensor(tensor.name), got = ours.tensor(tensor.name);
    ASSERT_EQ(got.bytes(), expected.bytes()) << tensor.name;
    EXPECT_EQ(std::memcmp(got.data, expected.data, tensor.bytes), 0) << tensor.name;
  }
}

}  // namespace
}  // namespace onggi
