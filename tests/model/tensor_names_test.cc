#include "model/tensor_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "formats/safetensors.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// A small model whose dimensions all differ, so that no two can be confused.
ModelConfig tiny() {
  ModelConfig config;
  config.hidden_size = 12;
  config.num_layers = 2;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 4;
  config.intermediate_size = 20;
  config.vocab_size = 30;
  config.tie_word_embeddings = true;
  return config;
}

TEST(TensorNames, EveryTensorOfTheEmbeddedModelIsInTheTable) {
  const ModelConfig config = read_hf_config("models/onggi-mini");
  const ShardedSafetensors weights("models/onggi-mini");
  EXPECT_EQ(model_tensors(config).size(), weights.tensors().size());
  EXPECT_NO_THROW(check_tensors(config, NameStyle::kHuggingFace, weights));
}

TEST(TensorNames, NamesAndShapesPerFormat) {
  const ModelTensor o = model_tensor(tiny(), TensorRole::kO, 1);
  EXPECT_EQ(o.hf_name, "model.layers.1.self_attn.o_proj.weight");
  EXPECT_EQ(o.gguf_name, "blk.1.attn_output.weight");
  EXPECT_EQ(o.peft_module, "model.layers.1.self_attn.o_proj");
  EXPECT_EQ(o.shape, (Shape{12, 24}));
  const ModelTensor norm = model_tensor(tiny(), TensorRole::kFinalNorm, 7);
  EXPECT_EQ(norm.hf_name, "model.norm.weight");
  EXPECT_EQ(norm.gguf_name, "output_norm.weight");
  EXPECT_EQ(norm.layer, -1);
  EXPECT_TRUE(norm.peft_module.empty());
  EXPECT_EQ(model_tensor(tiny(), TensorRole::kK, 0).shape, (Shape{8, 12}));
  EXPECT_EQ(model_tensor(tiny(), TensorRole::kKNorm, 0).shape, (Shape{4}));
  EXPECT_EQ(model_tensor(tiny(), TensorRole::kDown, 0).shape, (Shape{12, 20}));
}

TEST(TensorNames, TiedEmbeddingsHaveNoHead) {
  ModelConfig config = tiny();
  EXPECT_EQ(model_tensors(config).size(), 2u * 11 + 2);
  config.tie_word_embeddings = false;
  const auto tensors = model_tensors(config);
  EXPECT_EQ(tensors.size(), 2u * 11 + 3);
  EXPECT_EQ(tensors.back().hf_name, "lm_head.weight");
  EXPECT_EQ(tensors.back().gguf_name, "output.weight");
  std::set<std::string> names;
  for (const ModelTensor& tensor : tensors) names.insert({tensor.hf_name, tensor.gguf_name});
  EXPECT_EQ(names.size(), 2 * tensors.size()) << "all names differ";
}

TEST(TensorNames, SevenLoraTargets) {
  std::string names;
  for (const TensorRole role : lora_target_roles()) {
    names += std::string(lora_target_name(role)) + " ";
    EXPECT_EQ(lora_target_role(lora_target_name(role)), role);
  }
  EXPECT_EQ(names, "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj ");
  EXPECT_EQ(lora_target_role("lm_head"), std::nullopt);
  EXPECT_EQ(lora_target_role(""), std::nullopt);
}

class CheckTensors : public testing::Test {
 protected:
  CheckTensors() {
    for (const ModelTensor& tensor : model_tensors(tiny()))
      specs_.push_back({tensor.hf_name, DType::kBF16, tensor.shape});
  }
  TensorSpec& spec(const std::string& name) {
    return *std::find_if(specs_.begin(), specs_.end(),
                         [&](const TensorSpec& spec) { return spec.name == name; });
  }
  void check() {
    std::stable_sort(specs_.begin(), specs_.end(), [](const TensorSpec& left, const TensorSpec& right) {
      return dtype_info(left.dtype).block_bytes > dtype_info(right.dtype).block_bytes;
    });
    SafetensorsWriter writer(scratch_ / "m.safetensors", specs_);
    for (const TensorSpec& spec : specs_)
      writer.write(spec.name, std::string(spec.bytes(), '\0').data(), spec.bytes());
    writer.commit();
    check_tensors(tiny(), NameStyle::kHuggingFace, SafetensorsReader(scratch_ / "m.safetensors"));
  }
  std::string error() {
    return message_of<InputError>([&] { check(); });
  }
  const std::string up_ = "model.layers.1.mlp.up_proj.weight";
  TemporaryFolder scratch_;
  std::vector<TensorSpec> specs_;
};

TEST_F(CheckTensors, AcceptsTheModel) { EXPECT_NO_THROW(check()); }

TEST_F(CheckTensors, NamesAMissingTensor) {
  std::erase_if(specs_, [&](const TensorSpec& spec) { return spec.name == up_; });
  EXPECT_THAT(error(), AllOf(HasSubstr("lacks the tensor " + up_), HasSubstr("[20, 12]")));
}

TEST_F(CheckTensors, NamesAWrongShape) {
  spec(up_).shape = {12, 20};
  EXPECT_THAT(error(), AllOf(HasSubstr(up_), HasSubstr("[12, 20]"), HasSubstr("[20, 12]")));
}

TEST_F(CheckTensors, NamesAWrongDtype) {
  spec(up_).dtype = DType::kI32;
  EXPECT_THAT(error(), AllOf(HasSubstr(up_), HasSubstr("i32"), HasSubstr("f32, f16, bf16")));
}

TEST_F(CheckTensors, RecognisesAFourBitCheckpoint) {
  spec(up_) = {up_, DType::kU8, {120, 1}};
  specs_.push_back({up_ + ".absmax", DType::kU8, {4}});
  specs_.push_back({up_ + ".quant_map", DType::kF32, {16}});
  EXPECT_THAT(error(), AllOf(HasSubstr("4-bit checkpoint of bitsandbytes"), HasSubstr("16-bit original")));
}

TEST_F(CheckTensors, NamesATensorTooMany) {
  specs_.push_back({"model.layers.2.mlp.up_proj.weight", DType::kBF16, {20, 12}});
  EXPECT_THAT(error(), AllOf(HasSubstr("model.layers.2.mlp.up_proj.weight"), HasSubstr("2 layers")));
}

TEST_F(CheckTensors, ToleratesACopyOfTiedEmbeddings) {
  specs_.push_back({"lm_head.weight", DType::kBF16, {30, 12}});
  specs_.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", DType::kF32, {2}});
  EXPECT_NO_THROW(check());
}

}  // namespace
}  // namespace onggi
