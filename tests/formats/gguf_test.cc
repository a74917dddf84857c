#include "formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <type_traits>

#include "base/error.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Puts a GGUF together by hand, independently of the writer.
class Bytes {
 public:
  template <typename T>
  Bytes& number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Bytes& u32(uint32_t value) { return number(value); }
  Bytes& u64(uint64_t value) { return number(value); }
  Bytes& raw(const std::string& value) {
    bytes_ += value;
    return *this;
  }
  Bytes& string(const std::string& value) { return u64(value.size()).raw(value); }
  Bytes& head(uint64_t tensors, uint64_t metadata, uint32_t version = 3) {
    return raw("GGUF").u32(version).u64(tensors).u64(metadata);
  }
  Bytes& tensor(const std::string& name, const std::vector<uint64_t>& inner_first, uint32_t type,
                uint64_t offset) {
    string(name).u32(static_cast<uint32_t>(inner_first.size()));
    for (const uint64_t size : inner_first) u64(size);
    return u32(type).u64(offset);
  }
  Bytes& pad(size_t alignment) {
    while (bytes_.size() % alignment != 0) bytes_ += '\0';
    return *this;
  }
  Bytes& data(size_t bytes) { return raw(std::string(bytes, '\1')); }
  const std::string& str() const { return bytes_; }

 private:
  std::string bytes_;
};

GgufFile parse(const std::string& bytes) { return parse_gguf(std::as_bytes(std::span(bytes)), "x.gguf"); }

std::string error_of(const std::string& bytes) {
  return message_of<InputError>([&] { parse(bytes); });
}

std::string small_file(uint32_t version) {
  return Bytes()
      .head(2, 3, version)
      .string("general.architecture")
      .u32(8)
      .string("qwen3")
      .string("n")
      .u32(4)
      .u32(7)
      .string("list")
      .u32(9)
      .u32(8)
      .u64(2)
      .string("a")
      .string("\xFF\xFE")
      .tensor("m", {4, 3}, 0, 0)
      .tensor("q", {32}, 8, 64)
      .pad(32)
      .data(64 + 34)
      .str();
}

TEST(Gguf, ReadsVersionsTwoAndThree) {
  for (const uint32_t version : {2u, 3u}) {
    const GgufFile file = parse(small_file(version));
    EXPECT_EQ(file.version, version);
    EXPECT_EQ(file.get_string("general.architecture"), "qwen3");
    EXPECT_EQ(file.get_int("n"), 7);
    EXPECT_THAT(file.get_strings("list"), ElementsAre("a", "\xFF\xFE"));
    ASSERT_EQ(file.tensors.size(), 2u);
    EXPECT_THAT(file.tensors[0].shape, ElementsAre(3, 4)) << "outermost first";
    EXPECT_EQ(file.tensors[0].bytes, 48u);
    EXPECT_EQ(file.tensors[1].dtype, DType::kQ8_0);
    EXPECT_EQ(file.tensors[1].bytes, 34u);
    EXPECT_EQ(file.tensors[1].offset, file.tensors[0].offset + 64);
    EXPECT_EQ(file.tensors[0].offset % 32, 0u);
  }
}

TEST(Gguf, EveryTruncationIsAnError) {
  const std::string whole = small_file(3);
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_THROW(parse(whole.substr(0, size)), InputError) << size;
}

// As a model owns it. Without a virtual destructor the head would stay behind, which AddressSanitizer sees.
TEST(Gguf, AReaderIsFreedThroughItsBase) {
  static_assert(std::has_virtual_destructor_v<MappedTensors>);
  TemporaryFolder scratch;
  GgufWriter(scratch / "a.gguf", {{"general.name", std::string(1000, 'a')}}, {}).commit();
  const std::unique_ptr<MappedTensors> reader = std::make_unique<GgufReader>(scratch / "a.gguf");
  EXPECT_TRUE(reader->tensors().empty());
}

TEST(Gguf, GettersNameTheKey) {
  const GgufFile file = parse(small_file(3));
  const auto error = [&](auto body) { return message_of<InputError>(body); };
  EXPECT_THAT(error([&] { file.get_int("general.architecture"); }),
              HasSubstr("general.architecture of x.gguf"));
  EXPECT_THAT(error([&] { file.get_string("n"); }), HasSubstr("must be a string"));
  EXPECT_THAT(error([&] { file.get_number("absent"); }), HasSubstr("lacks the key absent"));
  EXPECT_THAT(error([&] { file.get_strings("n"); }), HasSubstr("an array of strings"));
  EXPECT_EQ(file.get_number("n"), 7.0);
  EXPECT_EQ(file.find_int("absent"), std::nullopt);
  EXPECT_EQ(file.find_ints("list"), nullptr);
}

TEST(Gguf, RefusesHostileHeads) {
  struct Hostile {
    const char* what;
    std::string bytes;
    const char* message;
  };
  const uint64_t huge = ~uint64_t{0};
  const auto tensors = [](const std::vector<uint64_t>& shape, uint32_t type, uint64_t offset) {
    return Bytes().head(1, 0).tensor("t", shape, type, offset).pad(32).data(128).str();
  };
  const auto alignment = [](uint32_t value) {
    return Bytes().head(0, 1).string("general.alignment").u32(4).u32(value).str();
  };
  const Hostile files[] = {
      {"another magic", "GGML" + std::string(40, '\0'), "no GGUF file"},
      {"version 1", Bytes().head(0, 0, 1).str(), "version 1"},
      {"big-endian", Bytes().head(0, 0, 0x03000000).str(), "version 50331648"},
      {"2^64-1 tensors", Bytes().head(huge, 0).data(64).str(), "more than fit"},
      {"2^64-1 keys", Bytes().head(0, huge).data(64).str(), "more than fit"},
      {"key of 2^64-1 bytes", Bytes().head(0, 1).u64(huge).data(64).str(), "cut short"},
      {"string of 2^63 bytes", Bytes().head(0, 1).string("k").u32(8).u64(uint64_t{1} << 63).data(64).str(),
       "cut short"},
      {"array of 2^62 u32",
       Bytes().head(0, 1).string("k").u32(9).u32(4).u64(uint64_t{1} << 62).data(64).str(), "more than fit"},
      {"array of 2^61 strings",
       Bytes().head(0, 1).string("k").u32(9).u32(8).u64(uint64_t{1} << 61).data(64).str(), "more than fit"},
      {"nested array", Bytes().head(0, 1).string("k").u32(9).u32(9).u64(1).data(64).str(), "array of arrays"},
      {"value type 13", Bytes().head(0, 1).string("k").u32(13).data(64).str(), "unknown value type 13"},
      {"array type 77", Bytes().head(0, 1).string("k").u32(9).u32(77).u64(1).data(64).str(),
       "unknown type 77"},
      {"truth value 2", Bytes().head(0, 1).string("k").u32(7).number<uint8_t>(2).data(64).str(),
       "truth value 2"},
      {"a key twice", Bytes().head(0, 2).string("k").u32(4).u32(1).string("k").u32(4).u32(1).str(),
       "key k is in"},
      {"alignment 0", alignment(0), "not a power of two"},
      {"alignment 33", alignment(33), "not a power of two"},
      {"alignment 2^31", alignment(1u << 31), "not a power of two"},
      {"five dimensions", tensors({1, 1, 1, 1, 1}, 0, 0), "5 dimensions"},
      {"2^32-1 dimensions", Bytes().head(1, 0).string("t").u32(~0u).data(64).str(), "dimensions"},
      {"elements overflow", tensors({uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0), "impossible shape"},
      {"a zero beside an overflow", tensors({0, uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0),
       "impossible shape"},
      {"bytes overflow", tensors({uint64_t{1} << 62}, 28, 0), "impossible shape"},
      {"type 19", tensors({32}, 19, 0), "iq1_s"},
      {"type 99", tensors({32}, 99, 0), "type 99"},
      {"half a block", tensors({33}, 8, 0), "not whole blocks"},
      {"offset 8", tensors({4}, 0, 8), "multiple of 32"},
      {"offset behind the end", tensors({4}, 0, 1 << 20), "behind the end"},
      {"offset of 2^64-32", tensors({4}, 0, huge - 31), "behind the end"},
      {"data cut", tensors({33}, 0, 0), "behind the end"},
      {"overlap", Bytes().head(2, 0).tensor("a", {16}, 0, 0).tensor("b", {8}, 0, 32).pad(32).data(128).str(),
       "tensor b of x.gguf overlaps"},
      {"twice the same name",
       Bytes().head(2, 0).tensor("a", {8}, 0, 0).tensor("a", {8}, 0, 32).pad(32).data(128).str(),
       "tensor a is in"},
  };
  for (const Hostile& hostile : files) {
    SCOPED_TRACE(hostile.what);
    EXPECT_THAT(error_of(hostile.bytes), HasSubstr(hostile.message));
  }
}

TEST(Gguf, AnEmptyTensorLiesInsideTheFile) {
  const std::string bytes = Bytes().head(1, 0).tensor("none", {0}, 0, 0).str();
  EXPECT_NE(bytes.size() % 32, 0u) << "no padding at the end";
  EXPECT_EQ(parse(bytes).tensors[0].offset, bytes.size());
}

TEST(Gguf, WritesWhatItReads) {
  TemporaryFolder scratch;
  const std::vector<GgufEntry> metadata = {
      {"u8", uint8_t{200}},
      {"i8", int8_t{-3}},
      {"u16", uint16_t{60000}},
      {"i16", int16_t{-30000}},
      {"u32", uint32_t{4000000000}},
      {"i32", int32_t{-5}},
      {"f32", 1.5f},
      {"yes", true},
      {"bytes", std::string("a\0\xFF", 3)},
      {"u64", uint64_t{1} << 63},
      {"i64", int64_t{-1}},
      {"f64", 0.1},
      {"list.bool", std::vector<bool>{true, false, true}},
      {"list.string", StringList{"", "x"}},
      {"list.i32", std::vector<int32_t>{1, -1}},
      {"list.f32", std::vector<float>{}},
      {"list.u64", std::vector<uint64_t>{1}},
      {"list.f64", std::vector<double>{2.5}},
  };
  const std::vector<TensorSpec> specs = {{"odd", DType::kF16, {3}},
                                         {"none", DType::kF32, {0, 4}},
                                         {"q", DType::kQ4_K, {2, 256}},
                                         {"last", DType::kF32, {1}}};
  const std::string bytes(2 * 144, 'q');
  const float last = 3.25f;
  {
    GgufWriter writer(scratch / "a.gguf", metadata, specs);
    writer.write("odd", "abcdef", 6);
    writer.write("q", bytes.data(), 100);
    writer.write("q", bytes.data() + 100, bytes.size() - 100);
    writer.write("last", &last, 4);
    writer.commit();
  }
  const GgufReader reader(scratch / "a.gguf");
  EXPECT_EQ(reader.header().metadata, metadata);
  ASSERT_EQ(reader.tensors().size(), 4u);
  EXPECT_THAT(reader.tensor("q").shape, ElementsAre(2, 256));
  EXPECT_EQ(std::memcmp(reader.tensor("q").data, bytes.data(), bytes.size()), 0);
  EXPECT_EQ(std::memcmp(reader.tensor("odd").data, "abcdef", 6), 0);
  EXPECT_EQ(*static_cast<const float*>(reader.tensor("last").data), 3.25f);
  EXPECT_EQ(fs::file_size(scratch / "a.gguf") % 32, 0u);
  for (const TensorInfo& info : reader.tensors()) EXPECT_EQ(info.offset % 32, 0u) << info.name;
}

TEST(Gguf, WriterSpellsTheHeadAsTheFormatSays) {
  TemporaryFolder scratch;
  {
    GgufWriter writer(scratch / "a.gguf", {{"n", uint32_t{7}}, {"l", StringList{"ab"}}},
                      {{"m", DType::kBF16, {3, 4}}});
    writer.write("m", std::string(24, 'x').data(), 24);
    writer.commit();
  }
  const std::string expected = Bytes()
                                   .head(1, 2)
                                   .string("n")
                                   .u32(4)
                                   .u32(7)
                                   .string("l")
                                   .u32(9)
                                   .u32(8)
                                   .u64(1)
                                   .string("ab")
                                   .tensor("m", {4, 3}, 30, 0)
                                   .pad(32)
                                   .raw(std::string(24, 'x'))
                                   .pad(32)
                                   .str();
  EXPECT_EQ(read_file(scratch / "a.gguf"), expected);
}

TEST(Gguf, TypeNumbersRoundTrip) {
  int known = 0;
  for (int i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    if (const auto type = ggml_type(dtype)) {
      ++known;
      EXPECT_EQ(dtype_of_ggml_type(*type), dtype);
    }
  }
  EXPECT_EQ(known, 15);
  EXPECT_EQ(ggml_type(DType::kQ6_K), 14u);
  EXPECT_EQ(ggml_type(DType::kNF4), std::nullopt);
}

}  // namespace
}  // namespace onggi
