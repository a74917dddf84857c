#include "quantize/convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "blocks/block_format.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "quantize/adapter_gguf.h"
#include "quantize/modelfile.h"
#include "tests/quantize/golden_adapter.h"
#include "tests/scratch.h"
#include "tokenizer/tokenizer.h"

namespace onggi {
namespace {

constexpr const char* kModel = "models/onggi-mini";

class Convert : public testing::Test {
 protected:
  ConvertOptions options(QuantRecipe recipe, const std::string& name = "out.gguf") const {
    ConvertOptions options;
    options.source = kModel;
    options.output = folder_.path() / name;
    options.recipe = recipe;
    return options;
  }
  fs::path convert(QuantRecipe recipe, const std::string& name = "out.gguf") {
    convert_to_gguf(options(recipe, name), threads_);
    return folder_.path() / name;
  }

  TemporaryFolder folder_;
  ThreadPool threads_{2};
};

std::vector<float> values_of(const MappedTensors& file, const std::string& name) {
  const TensorView view = file.tensor(name);
  std::vector<float> values(static_cast<size_t>(view.elements()));
  block_format(view.dtype).decode(view.data, view.elements(), values.data());
  return values;
}

TEST_F(Convert, KeepsEveryValueInBf16AndF32) {
  const ShardedSafetensors model(kModel);
  const ModelConfig config = read_hf_config(kModel);
  for (const QuantRecipe recipe : {QuantRecipe::kF32, QuantRecipe::kBF16}) {
    const GgufReader file(convert(recipe));
    EXPECT_EQ(file.tensors().size(), 2 + 4 * 11u);
    for (const ModelTensor& tensor : model_tensors(config)) {
      ASSERT_EQ(file.info(tensor.gguf_name).shape, tensor.shape);
      ASSERT_TRUE(values_of(file, tensor.gguf_name) == values_of(model, tensor.hf_name)) << tensor.gguf_name;
    }
  }
}

TEST_F(Convert, EveryRecipeComesCloseToTheSource) {
  const std::map<QuantRecipe, double> bounds = {
      {QuantRecipe::kF32, 0},        {QuantRecipe::kF16, 0},        {QuantRecipe::kBF16, 0},
      {QuantRecipe::kQ8_0, 0.0075},  {QuantRecipe::kQ6_K, 0.020},   {QuantRecipe::kQ5_K_M, 0.036},
      {QuantRecipe::kQ5_K_S, 0.036}, {QuantRecipe::kQ4_K_M, 0.070}, {QuantRecipe::kQ4_K_S, 0.075},
      {QuantRecipe::kQ4_0, 0.090},   {QuantRecipe::kQ3_K_L, 0.130}, {QuantRecipe::kQ3_K_M, 0.135},
      {QuantRecipe::kQ3_K_S, 0.150}, {QuantRecipe::kQ2_K, 0.230},
  };
  double last_bits = 33;
  for (const RecipeInfo& info : recipes()) {
    const ConvertResult result = convert_to_gguf(options(info.recipe), threads_);
    EXPECT_LE(result.relative_error, bounds.at(info.recipe)) << info.name;
    EXPECT_GE(result.relative_error, bounds.at(info.recipe) / 2) << info.name;
    EXPECT_TRUE(result.warnings.empty());
    EXPECT_EQ(result.file_bytes, fs::file_size(folder_.path() / "out.gguf"));
    EXPECT_LE(result.bits_per_weight, last_bits) << info.name << " is larger than the recipe before it";
    last_bits = result.bits_per_weight;
    const GgufReader file(folder_.path() / "out.gguf");
    const std::vector<float> norm = values_of(file, "blk.2.attn_norm.weight");
    EXPECT_EQ(norm, values_of(ShardedSafetensors(kModel), "model.layers.2.input_layernorm.weight"));
  }
}

TEST_F(Convert, DescribesModelAndTokenizer) {
  ConvertOptions with = options(QuantRecipe::kQ4_K_M);
  with.name = "my model";
  with.provenance = {{"base_model", "onggi-mini"}, {"think_mode", "no_cot"}, {"dataset_sha256", "abc"}};
  convert_to_gguf(with, threads_);
  const GgufReader reader(with.output);
  const GgufFile& file = reader.header();
  EXPECT_EQ(file.version, 3u);
  EXPECT_EQ(file.metadata.front().first, "general.architecture");
  EXPECT_EQ(file.get_string("general.architecture"), "qwen3");
  EXPECT_EQ(file.get_string("general.type"), "model");
  EXPECT_EQ(file.get_string("general.name"), "my model");
  EXPECT_EQ(file.get_int("general.file_type"), 15);
  EXPECT_EQ(file.get_int("general.quantization_version"), 2);
  EXPECT_EQ(file.get_int("qwen3.block_count"), 4);
  EXPECT_EQ(file.get_int("qwen3.context_length"), 2048);
  EXPECT_EQ(file.get_int("qwen3.embedding_length"), 512);
  EXPECT_EQ(file.get_int("qwen3.feed_forward_length"), 1280);
  EXPECT_EQ(file.get_int("qwen3.attention.head_count"), 6);
  EXPECT_EQ(file.get_int("qwen3.attention.head_count_kv"), 2);
  EXPECT_EQ(file.get_int("qwen3.attention.key_length"), 128);
  EXPECT_EQ(file.get_int("qwen3.attention.value_length"), 128);
  EXPECT_EQ(file.get_number("qwen3.rope.freq_base"), 1e6);
  EXPECT_FLOAT_EQ(static_cast<float>(file.get_number("qwen3.attention.layer_norm_rms_epsilon")), 1e-6f);
  EXPECT_EQ(file.get_string("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(file.get_string("tokenizer.ggml.pre"), "qwen2");
  EXPECT_EQ(file.get_int("tokenizer.ggml.eos_token_id"), 8102);
  EXPECT_EQ(file.get_int("tokenizer.ggml.eot_token_id"), 8102);
  EXPECT_EQ(file.get_int("tokenizer.ggml.padding_token_id"), 8100);
  EXPECT_EQ(file.get_int("tokenizer.ggml.bos_token_id"), 8100);
  EXPECT_EQ(file.find_bool("tokenizer.ggml.add_bos_token"), false);
  const std::string chat_template = read_file(fs::path(kModel) / "chat_template.jinja");
  EXPECT_EQ(file.get_string("tokenizer.chat_template"), chat_template);
  const auto& tokens = file.get_strings("tokenizer.ggml.tokens");
  const auto& types = *file.find_ints("tokenizer.ggml.token_type");
  ASSERT_EQ(tokens.size(), 8192u);
  ASSERT_EQ(types.size(), 8192u);
  EXPECT_EQ(tokens[8102], "<|im_end|>");
  EXPECT_EQ(types[8102], 3);  // control
  EXPECT_EQ(tokens[8124], "<think>");
  EXPECT_EQ(types[8124], 4);  // user defined: visible
  EXPECT_EQ(tokens[8126], "[PAD8126]");
  EXPECT_EQ(types[8191], 5);  // unused
  EXPECT_EQ(types[100], 1);
  EXPECT_EQ(file.get_strings("tokenizer.ggml.merges").size(), 8100u - 256);
  EXPECT_EQ(file.get_string("onggi.base_model"), "onggi-mini");
  EXPECT_EQ(file.get_string("onggi.think_mode"), "no_cot");
  EXPECT_EQ(file.get_string("onggi.dataset_sha256"), "abc");
  EXPECT_EQ(file.get_string("onggi.recipe"), "Q4_K_M");
  EXPECT_EQ(file.get_string("onggi.chat_template_sha256"), sha256_hex(chat_template));
  const ModelConfig config = parse_gguf_config(file);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.vocab_size, 8192);
}

// golden/merged.safetensors holds the q_proj that PEFT merged in fp32.
TEST_F(Convert, AddsTheAdapterAsPeftDoes) {
  ConvertOptions with = options(QuantRecipe::kF32);
  with.adapter = test::golden_adapter(folder_.path() / "adapter");
  convert_to_gguf(with, threads_);
  const GgufReader file(with.output);
  const SafetensorsReader golden("tests/golden/merged.safetensors");
  const ShardedSafetensors base(kModel);
  std::string name;
  for (const std::string& candidate : golden.names()) {
    if (candidate.find("q_proj") != std::string::npos) name = candidate;
  }
  ASSERT_FALSE(name.empty());
  const std::vector<float> expected = values_of(golden, name);
  const std::vector<float> got = values_of(file, "blk.0.attn_q.weight");
  const std::vector<float> before = values_of(base, "model.layers.0.self_attn.q_proj.weight");
  ASSERT_EQ(got.size(), expected.size());
  double worst = 0, change = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    worst = std::max(worst, std::fabs(double{got[i]} - expected[i]));
    change = std::max(change, std::fabs(double{got[i]} - before[i]));
  }
  EXPECT_GT(change, 1e-4);
  EXPECT_LT(worst, 1e-7) << "beside a change of up to " << change;
  EXPECT_TRUE(values_of(file, "token_embd.weight") == values_of(base, "model.embed_tokens.weight"));
}

TEST_F(Convert, RequantisesAGgufAsTheFolderItself) {
  const fs::path wide = convert(QuantRecipe::kBF16, "wide.gguf");
  ConvertOptions again = options(QuantRecipe::kQ4_K_M, "again.gguf");
  again.source = wide;
  convert_to_gguf(again, threads_);
  const fs::path direct = convert(QuantRecipe::kQ4_K_M, "direct.gguf");
  EXPECT_TRUE(read_file(again.output) == read_file(direct));  // EXPECT_EQ would print both
  // And from a quantised one: more loss, the same structure.
  again.source = direct;
  again.recipe = QuantRecipe::kQ8_0;
  const ConvertResult result = convert_to_gguf(again, threads_);
  EXPECT_LT(result.relative_error, 0.0075);
  EXPECT_EQ(GgufReader(again.output).info("blk.0.attn_q.weight").dtype, DType::kQ8_0);
  EXPECT_EQ(GgufReader(again.output).header().get_int("general.file_type"), 7);
}

TEST_F(Convert, DoesNotDependOnTheThreads) {
  const std::string two = read_file(convert(QuantRecipe::kQ3_K_M));
  ThreadPool one(1);
  convert_to_gguf(options(QuantRecipe::kQ3_K_M, "one.gguf"), one);
  EXPECT_TRUE(read_file(folder_.path() / "one.gguf") == two);
}

TEST_F(Convert, ImportanceReachesItsTensorAlone) {
  const GgufReader plain(convert(QuantRecipe::kQ4_K_S, "plain.gguf"));
  ImportanceMatrix importance;
  std::vector<float>& columns = importance["blk.1.ffn_up.weight"];
  columns.assign(512, 1.0f);
  for (int i = 0; i < 512; i += 3) columns[i] = 50.0f;
  ConvertOptions with = options(QuantRecipe::kQ4_K_S);
  with.importance = &importance;
  convert_to_gguf(with, threads_);
  const GgufReader weighted(with.output);
  const std::vector<float> source =
      values_of(ShardedSafetensors(kModel), "model.layers.1.mlp.up_proj.weight");
  const auto error = [&](const std::vector<float>& values) {
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      sum += columns[i % 512] * std::pow(double{values[i]} - source[i], 2);
    }
    return sum;
  };
  EXPECT_LT(error(values_of(weighted, "blk.1.ffn_up.weight")),
            0.95 * error(values_of(plain, "blk.1.ffn_up.weight")));
  EXPECT_TRUE(values_of(weighted, "blk.1.ffn_gate.weight") == values_of(plain, "blk.1.ffn_gate.weight"));
  columns.pop_back();
  EXPECT_THROW(convert_to_gguf(with, threads_), InputError);
}

TEST_F(Convert, ReadsAnImportanceMatrix) {
  const fs::path path = folder_.path() / "imatrix.gguf";
  const std::vector<float> sums = {2, 4, 6, 8};
  const float count = 2;
  GgufWriter writer(path, {{"general.type", std::string("imatrix")}},
                    {{"blk.0.attn_q.weight.in_sum2", DType::kF32, {1, 4}},
                     {"blk.0.attn_q.weight.counts", DType::kF32, {1, 1}}});
  writer.write("blk.0.attn_q.weight.in_sum2", sums.data(), 16);
  writer.write("blk.0.attn_q.weight.counts", &count, 4);
  writer.commit();
  const ImportanceMatrix matrix = read_importance_matrix(path);
  ASSERT_EQ(matrix.size(), 1u);
  EXPECT_EQ(matrix.at("blk.0.attn_q.weight"), (std::vector<float>{1, 2, 3, 4}));
  EXPECT_THROW(read_importance_matrix(convert(QuantRecipe::kQ2_K)), InputError);
}

TEST_F(Convert, ReportsProgressAndStopsWithoutATrace) {
  ConvertOptions with = options(QuantRecipe::kQ8_0);
  uint64_t last = 0;
  std::string last_tensor;
  with.progress = [&](const ConvertProgress& progress) {
    EXPECT_GT(progress.weights_done, last);
    EXPECT_EQ(progress.weights_total, 16258560u);
    last = progress.weights_done;
    last_tensor = progress.tensor;
  };
  const ConvertResult result = convert_to_gguf(with, threads_);
  EXPECT_EQ(last, result.weights);
  EXPECT_EQ(last_tensor, "output_norm.weight");
  with.output = folder_.path() / "stopped" / "out.gguf";
  with.progress = [](const ConvertProgress& progress) {
    if (progress.weights_done > 8'000'000) throw Interrupted("stopped");
  };
  EXPECT_THROW(convert_to_gguf(with, threads_), Interrupted);
  EXPECT_TRUE(fs::is_empty(folder_.path() / "stopped"));
}

TEST_F(Convert, RefusesWhatDoesNotBelongTogether) {
  ConvertOptions with = options(QuantRecipe::kQ8_0);
  with.source = folder_.path() / "absent";
  EXPECT_THROW(convert_to_gguf(with, threads_), InputError);
  write_file(folder_.path() / "noise", "this is no GGUF file");
  with.source = folder_.path() / "noise";
  EXPECT_THROW(convert_to_gguf(with, threads_), InputError);
  // An adapter of a model with more layers.
  with.source = kModel;
  with.adapter = folder_.path() / "adapter";
  std::vector<float> zeros(16 * 768);
  AdapterConfig config;
  config.target_modules = {"q_proj"};
  const std::string module = "model.layers.9.self_attn.q_proj";
  write_adapter(with.adapter, config,
                {{module, {zeros.data(), DType::kF32, {16, 512}}, {zeros.data(), DType::kF32, {768, 16}}}});
  try {
    convert_to_gguf(with, threads_);
    FAIL() << "the adapter does not fit";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find(module), std::string::npos) << error.what();
  }
  AdapterGgufOptions adapter{.adapter = with.adapter,
                             .base_folder = kModel,
                             .output = folder_.path() / "a.gguf",
                             .name = "",
                             .provenance = {}};
  EXPECT_THROW(write_adapter_gguf(adapter), InputError);
  EXPECT_FALSE(fs::exists(folder_.path() / "out.gguf"));
}

TEST_F(Convert, RefusesWeightsThatAreNoNumbers) {
  std::vector<float> a(16 * 512), b(768 * 16);
  b[3 * 16] = 1;
  a[77] = std::numeric_limits<float>::quiet_NaN();
  AdapterConfig config;
  config.target_modules = {"q_proj"};
  const fs::path adapter = folder_.path() / "broken";
  write_adapter(adapter, config,
                {{"model.layers.1.self_attn.q_proj",
                  {a.data(), DType::kF32, {16, 512}},
                  {b.data(), DType::kF32, {768, 16}}}});
  for (const QuantRecipe recipe : {QuantRecipe::kF16, QuantRecipe::kQ4_K_M}) {
    ConvertOptions with = options(recipe);
    with.adapter = adapter;
    try {
      convert_to_gguf(with, threads_);
      FAIL() << "the adapter holds a NaN";
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find("blk.1.attn_q.weight"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("77"), std::string::npos) << error.what();
    }
    EXPECT_FALSE(fs::exists(with.output));
  }
}

TEST_F(Convert, WritesTheAdapterAlone) {
  AdapterGgufOptions options{.adapter = test::golden_adapter(folder_.path() / "adapter"),
                             .base_folder = kModel,
                             .output = folder_.path() / "lora.gguf",
                             .name = "mini-lora",
                             .provenance = {{"dataset_sha256", "abc"}}};
  const uint64_t bytes = write_adapter_gguf(options);
  EXPECT_EQ(bytes, fs::file_size(options.output));
  const GgufReader file(options.output);
  EXPECT_EQ(file.header().get_string("general.type"), "adapter");
  EXPECT_EQ(file.header().get_string("general.architecture"), "qwen3");
  EXPECT_EQ(file.header().get_string("adapter.type"), "lora");
  EXPECT_EQ(file.header().get_number("adapter.lora.alpha"), 16.0);
  EXPECT_EQ(file.header().get_string("onggi.dataset_sha256"), "abc");
  EXPECT_EQ(file.tensors().size(), 2 * 7 * 4u);
  const AdapterReader adapter(options.adapter);
  EXPECT_EQ(file.info("blk.3.ffn_down.weight.lora_a").shape, (Shape{16, 1280}));
  EXPECT_EQ(file.info("blk.3.ffn_down.weight.lora_b").shape, (Shape{512, 16}));
  const TensorView a = adapter.a("model.layers.3.mlp.down_proj");
  EXPECT_EQ(
      std::memcmp(file.tensor("blk.3.ffn_down.weight.lora_a").data, a.data, static_cast<size_t>(a.bytes())),
      0);
}

TEST_F(Convert, ModelfileHasParametersAndNoTemplate) {
  ServedParameters parameters = served_parameters(convert(QuantRecipe::kQ2_K));
  EXPECT_NEAR(parameters.temperature, 0.6, 1e-6);
  EXPECT_EQ(parameters.top_k, 20);
  EXPECT_EQ(parameters.stop, (std::vector<std::string>{"<|im_end|>", "<|endoftext|>"}));
  parameters.temperature = 0.6;
  parameters.top_p = 0.95;
  parameters.context_length = 2048;
  parameters.system = "친절하게 \"한국어\"로 답하세요.";
  EXPECT_EQ(modelfile_text("./out.gguf", parameters),
            "FROM ./out.gguf\n\nPARAMETER temperature 0.6\nPARAMETER top_k 20\nPARAMETER top_p 0.95\n"
            "PARAMETER num_ctx 2048\nPARAMETER stop \"<|im_end|>\"\nPARAMETER stop \"<|endoftext|>\"\n\n"
            "SYSTEM \"\"\"친절하게 \"한국어\"로 답하세요.\"\"\"\n");
  parameters.system = "\"\"\" FROM elsewhere";
  EXPECT_THROW(modelfile_text("./out.gguf", parameters), InputError);
  EXPECT_THROW(modelfile_text("a\nFROM b", {}), InputError);
}

}  // namespace
}  // namespace onggi
