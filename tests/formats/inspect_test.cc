#include "formats/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/adapter.h"
#include "formats/gguf.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

using nlohmann::json;
using testing::HasSubstr;

TEST(Inspect, DescribesAHuggingFaceFolder) {
  const json described = describe("models/onggi-mini");
  EXPECT_EQ(described["kind"], "hf");
  EXPECT_EQ(described["files"].size(), 3u);
  EXPECT_EQ(described["totals"]["tensors"], 46);
  EXPECT_EQ(described["totals"]["elements"], 16258560);
  EXPECT_EQ(described["totals"]["by_dtype"]["bf16"]["bytes"], 32517120);
  EXPECT_EQ(described["config"]["hidden_size"], 512);
  EXPECT_EQ(described["tensors"][0], json({{"name", "model.embed_tokens.weight"},
                                           {"dtype", "bf16"},
                                           {"shape", {8192, 512}},
                                           {"bytes", 8388608}}));
}

TEST(Inspect, DescribesASafetensorsFileAndAnAdapter) {
  const json file = describe("tests/golden/adapter_final.safetensors");
  EXPECT_EQ(file["kind"], "safetensors");
  EXPECT_EQ(file["totals"]["tensors"], 56);
  TemporaryFolder scratch;
  fs::copy_file("tests/golden/adapter_final.safetensors", scratch / "adapter_model.safetensors");
  write_file(scratch / "adapter_config.json", adapter_config_json({}));
  const json adapter = describe(scratch.path());
  EXPECT_EQ(adapter["kind"], "adapter");
  EXPECT_EQ(adapter["config"]["r"], 16);
  EXPECT_EQ(adapter["totals"], file["totals"]);
}

TEST(Inspect, ShortensLongArraysOfAGguf) {
  TemporaryFolder scratch;
  {
    StringList tokens;
    while (tokens.size() < 100) tokens.push_back("\xFF");
    GgufWriter writer(scratch / "a.gguf",
                      {{"tokens", tokens}, {"ids", std::vector<int32_t>{1, 2}}, {"b", true}},
                      {{"t", DType::kF32, {1, 2}}});
    writer.write("t", "12345678", 8);
    writer.commit();
  }
  const json described = describe(scratch / "a.gguf");
  EXPECT_EQ(described["kind"], "gguf");
  EXPECT_EQ(described["metadata"]["tokens"]["length"], 100);
  EXPECT_EQ(described["metadata"]["tokens"]["first"].size(), 8u);
  EXPECT_EQ(described["metadata"]["ids"], json({1, 2}));
  EXPECT_EQ(described["tensors"][0]["shape"], json({1, 2}));
}

TEST(Inspect, SaysWhatAPathIsNot) {
  TemporaryFolder scratch;
  EXPECT_THAT(message_of<InputError>([&] { describe(scratch / "absent"); }), HasSubstr("there is no"));
  EXPECT_THAT(message_of<InputError>([&] { describe(scratch.path()); }),
              HasSubstr("neither a model nor an adapter"));
  write_file(scratch / "x", "");
  EXPECT_THAT(message_of<InputError>([&] { describe(scratch / "x"); }), HasSubstr("too short"));
}

}  // namespace
}  // namespace onggi
