#include "formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "base/error.h"
#include "formats/json_file.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A file of this header and so many zero bytes of data.
std::string file_of(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof length);
  return bytes + header + std::string(data_bytes, '\0');
}

SafetensorsFile parse(const std::string& bytes) {
  return parse_safetensors_header(std::as_bytes(std::span(bytes)), "x.safetensors");
}

std::string error_of(const std::string& bytes) {
  return message_of<InputError>([&] { parse(bytes); });
}

TEST(Safetensors, ReadsTensorsInTheOrderOfTheData) {
  const auto file =
      parse(file_of(R"({"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},)"
                    R"("__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                    R"("s":{"dtype":"I64","shape":[],"data_offsets":[20,28]}}  )",
                    28));
  ASSERT_EQ(file.tensors.size(), 3u);
  EXPECT_EQ(file.tensors[0].name, "a");
  EXPECT_EQ(file.tensors[1].name, "b");
  EXPECT_EQ(file.tensors[1].dtype, DType::kBF16);
  EXPECT_THAT(file.tensors[1].shape, ElementsAre(2, 3));
  EXPECT_EQ(file.tensors[1].bytes, 12u);
  EXPECT_EQ(file.tensors[1].offset, file.tensors[0].offset + 8);
  EXPECT_EQ(file.tensors[2].bytes, 8u);
  EXPECT_EQ(file.metadata.at("format"), "pt");
}

struct Hostile {
  const char* what;
  std::string bytes;
  const char* message;  // part of the error
};

std::vector<Hostile> hostile_files() {
  const auto one = [](const std::string& entry, size_t data = 8) {
    return file_of("{\"a\":{" + entry + "}}", data);
  };
  std::string long_header(8, '\0');
  const uint64_t huge = uint64_t{1} << 62, above = 50;
  std::memcpy(long_header.data(), &huge, 8);
  std::string cut = file_of("{}", 0);
  std::memcpy(cut.data(), &above, 8);
  std::string dimensions = "1";
  for (int i = 0; i < 40; ++i) dimensions += ",1";
  return {
      {"empty", "", "too short"},
      {"seven bytes", "1234567", "too short"},
      {"header length of 2^62", long_header + "{}", "claims a header"},
      {"header longer than the file", cut, "cut short inside its header"},
      {"no JSON", file_of("hello", 0), "no JSON header"},
      {"half JSON", file_of("{\"a\":", 0), "not valid JSON"},
      {"invalid UTF-8", file_of("{\"\xFF\":1}", 0), "not valid JSON"},
      {"an array at the top", file_of("[1]", 0), "no JSON header"},
      {"deep nesting", file_of("{\"a\":" + std::string(100000, '['), 0), "an array"},
      {"nested tensor", one(R"("dtype":{"x":1})"), "an object"},
      {"unknown dtype", one(R"("dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8])"), "F8_E4M3"},
      {"dtype is a number", one(R"("dtype":3,"shape":[8],"data_offsets":[0,8])"), "a number"},
      {"no offsets", one(R"("dtype":"U8","shape":[8])"), "lacks one of"},
      {"three offsets", one(R"("dtype":"U8","shape":[8],"data_offsets":[0,4,8])"), "not of two"},
      {"negative offset", one(R"("dtype":"U8","shape":[8],"data_offsets":[-8,0])"), "a negative number"},
      {"fraction in the shape", one(R"("dtype":"U8","shape":[8.0],"data_offsets":[0,8])"), "a fraction"},
      {"reversed offsets", one(R"("dtype":"U8","shape":[8],"data_offsets":[8,0])"), "ends before it begins"},
      {"truncated data", one(R"("dtype":"U8","shape":[9],"data_offsets":[0,9])"), "cut short"},
      {"offset of 2^63",
       one(R"("dtype":"U8","shape":[8],"data_offsets":[9223372036854775808,9223372036854775816])"),
       "cut short"},
      {"wrong size", one(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), "need 12"},
      {"elements overflow 64 bits",
       one(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8])"), "impossible shape"},
      {"elements overflow to 8", one(R"("dtype":"U8","shape":[4611686018427387906,4],"data_offsets":[0,8])"),
       "impossible shape"},
      {"a zero beside an overflow",
       one(R"("dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0])"), "impossible shape"},
      {"dimension of 2^64-1", one(R"("dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,8])"),
       "impossible shape"},
      {"41 dimensions", one("\"dtype\":\"U8\",\"shape\":[" + dimensions + "],\"data_offsets\":[0,1]", 1),
       "more than 16 dimensions"},
      {"bytes after the last tensor", one(R"("dtype":"U8","shape":[8],"data_offsets":[0,8])", 9),
       "1 bytes after"},
      {"twice the same name",
       file_of(
           R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
           8),
       "twice"},
      {"overlap",
       file_of(
           R"({"a":{"dtype":"U8","shape":[6],"data_offsets":[0,6]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
           8),
       "tensor b of x.safetensors overlaps"},
      {"gap",
       file_of(
           R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
           8),
       "2 unused bytes before tensor b"},
  };
}

TEST(Safetensors, RefusesHostileHeaders) {
  for (const Hostile& hostile : hostile_files()) {
    SCOPED_TRACE(hostile.what);
    EXPECT_THAT(error_of(hostile.bytes), HasSubstr(hostile.message));
  }
}

TEST(Safetensors, EveryTruncationOfARealFileIsAnError) {
  TemporaryFolder scratch;
  SafetensorsWriter writer(scratch / "a.safetensors", {{"a", DType::kF32, {2, 2}}, {"b", DType::kBF16, {3}}});
  const std::vector<float> data(4, 1.5f);
  writer.write("a", data.data(), 16);
  writer.write("b", data.data(), 6);
  writer.commit();
  const std::string whole = read_file(scratch / "a.safetensors");
  EXPECT_NO_THROW(parse(whole));
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_THROW(parse(whole.substr(0, size)), InputError) << size;
}

TEST(Safetensors, WritesWhatItReads) {
  TemporaryFolder scratch;
  const std::vector<TensorSpec> specs = {{"wide", DType::kF32, {2, 3}},
                                         {"empty", DType::kF32, {0, 3}},
                                         {"name \"quoted\"", DType::kBF16, {5}},
                                         {"u", DType::kU8, {}}};
  std::vector<float> wide(6);
  std::iota(wide.begin(), wide.end(), 0.25f);
  const std::vector<uint16_t> narrow = {1, 2, 3, 4, 5};
  const uint8_t byte = 7;
  {
    SafetensorsWriter writer(scratch / "a.safetensors", specs);
    writer.write("wide", wide.data(), 8);
    writer.write("wide", wide.data() + 2, 16);
    writer.write("name \"quoted\"", narrow.data(), 10);
    writer.write("u", &byte, 1);
    writer.commit();
  }
  const SafetensorsReader reader(scratch / "a.safetensors");
  EXPECT_EQ(reader.metadata().at("format"), "pt");
  EXPECT_EQ(reader.tensors().size(), 4u);
  EXPECT_EQ(reader.total_bytes(), 35u);
  const TensorView view = reader.tensor("wide");
  EXPECT_THAT(view.shape, ElementsAre(2, 3));
  EXPECT_EQ(std::memcmp(view.data, wide.data(), 24), 0);
  EXPECT_EQ(std::memcmp(reader.tensor("name \"quoted\"").data, narrow.data(), 10), 0);
  EXPECT_EQ(*static_cast<const uint8_t*>(reader.tensor("u").data), 7);
  reader.release("wide");
  EXPECT_EQ(std::memcmp(reader.tensor("wide").data, wide.data(), 24), 0) << "released pages must come back";
  EXPECT_EQ(reader.tensor("wide").bytes(), 24);
  EXPECT_EQ(read_file(scratch / "a.safetensors").find('{'), 8u);
  EXPECT_EQ(reader.info("wide").offset % 8, 0u);
  EXPECT_THAT(message_of<InputError>([&] { reader.tensor("absent"); }), HasSubstr("has no tensor absent"));
}

TEST(Safetensors, AnUnfinishedWriterLeavesNothing) {
  TemporaryFolder scratch;
  {
    SafetensorsWriter writer(scratch / "a.safetensors", {{"a", DType::kU8, {4}}, {"b", DType::kU8, {4}}});
    writer.write("a", "abcd", 4);
    EXPECT_THROW(writer.write("a", "e", 1), InternalError);
    EXPECT_THROW(writer.write("b", "abcde", 5), InternalError);
    EXPECT_THROW(writer.commit(), InternalError);
  }
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

TEST(Safetensors, RefusesMisalignedData) {
  TemporaryFolder scratch;
  write_file(scratch / "a.safetensors",
             file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8));
  const SafetensorsReader reader(scratch / "a.safetensors");
  EXPECT_NE(reader.info("a").offset % 4, 0u);
  EXPECT_THAT(message_of<InputError>([&] { reader.tensor("a"); }), HasSubstr("odd byte"));
}

TEST(Safetensors, PlansShardsByBytes) {
  const std::vector<TensorSpec> specs = {
      {"a", DType::kU8, {6}}, {"b", DType::kU8, {4}}, {"c", DType::kU8, {20}}, {"d", DType::kU8, {1}}};
  const auto shards = plan_shards(specs, 10);
  ASSERT_EQ(shards.size(), 3u);
  EXPECT_EQ(shards[0].file_name, "model-00001-of-00003.safetensors");
  EXPECT_EQ(shards[0].tensors.size(), 2u);
  EXPECT_EQ(shards[1].bytes, 20u);
  EXPECT_EQ(shards[2].file_name, "model-00003-of-00003.safetensors");
  EXPECT_EQ(plan_shards(specs, 31).size(), 1u);
}

class Sharded : public testing::Test {
 protected:
  void SetUp() override {
    shards_ = plan_shards({{"a", DType::kU8, {4}}, {"b", DType::kU8, {4}}}, 4);
    for (const ShardPlan& shard : shards_) {
      SafetensorsWriter writer(scratch_ / shard.file_name, shard.tensors);
      writer.write(shard.tensors[0].name, shard.tensors[0].name == "a" ? "aaaa" : "bbbb", 4);
      writer.commit();
    }
    write_shard_index(scratch_.path(), shards_);
  }
  std::string error() {
    return message_of<InputError>([&] { ShardedSafetensors folder(scratch_.path()); });
  }

  TemporaryFolder scratch_;
  std::vector<ShardPlan> shards_;
};

TEST_F(Sharded, FindsTensorsAcrossShards) {
  const ShardedSafetensors folder(scratch_.path());
  EXPECT_THAT(folder.names(), ElementsAre("a", "b"));
  EXPECT_THAT(folder.shards(), ElementsAre(shards_[0].file_name, shards_[1].file_name));
  EXPECT_EQ(static_cast<const char*>(folder.tensor("b").data)[3], 'b');
  EXPECT_EQ(folder.total_bytes(), 8u);
  EXPECT_THAT(read_file(scratch_ / "model.safetensors.index.json"), HasSubstr("\"total_size\": 8"));
}

TEST_F(Sharded, NamesAMissingShard) {
  fs::remove(scratch_ / shards_[1].file_name);
  EXPECT_THAT(error(), HasSubstr("model-00002-of-00002.safetensors"));
}

TEST_F(Sharded, NamesATensorThatIsNotWhereTheIndexSays) {
  fs::copy_file(scratch_ / shards_[0].file_name, scratch_ / "other.safetensors");
  write_file(scratch_ / "model.safetensors.index.json",
             R"({"weight_map":{"a":"other.safetensors","z":"other.safetensors"}})");
  EXPECT_THAT(error(), HasSubstr("tensor z is in other.safetensors"));
}

TEST_F(Sharded, NamesATensorThatIsInTwoShards) {
  fs::copy_file(scratch_ / shards_[0].file_name, scratch_ / "other.safetensors");
  write_file(scratch_ / "model.safetensors.index.json",
             "{\"weight_map\":{\"a\":\"other.safetensors\",\"x\":\"" + shards_[0].file_name + "\"}}");
  EXPECT_THAT(error(), HasSubstr("tensor a is in"));
}

TEST_F(Sharded, AnIndexCannotReachOutsideItsFolder) {
  for (const char* shard : {"../x.safetensors", "/etc/passwd", "..", ""}) {
    write_file(scratch_ / "model.safetensors.index.json",
               std::string(R"({"weight_map":{"a":")") + shard + "\"}}");
    EXPECT_THAT(error(), HasSubstr("not a file name"));
  }
}

TEST_F(Sharded, SaysWhatIsMissingFromAnEmptyFolder) {
  fs::remove(scratch_ / "model.safetensors.index.json");
  EXPECT_THAT(error(), HasSubstr("neither model.safetensors nor"));
}

TEST(Safetensors, ReadsTheEmbeddedModel) {
  const ShardedSafetensors folder("models/onggi-mini");
  EXPECT_EQ(folder.shards().size(), 3u);
  EXPECT_EQ(folder.tensors().size(), 46u);
  EXPECT_EQ(folder.total_bytes(), 32517120u);  // total_size of its index
  EXPECT_THAT(folder.info("model.layers.0.self_attn.q_proj.weight").shape, ElementsAre(768, 512));
}

}  // namespace
}  // namespace onggi
