// tokenizer.json files that are broken, hostile, or use what we do not run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/tokenizer/golden.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/split_regex.h"
#include "tokenizer/tokenizer.h"

namespace onggi {
namespace {

using Json = nlohmann::json;

// The smallest tokenizer: one token per byte, "ab" and "abc" merged.
Json tiny() {
  Json vocabulary = Json::object();
  for (int byte = 0; byte < 256; ++byte)
    vocabulary[to_byte_alphabet(std::string(1, static_cast<char>(byte)))] = byte;
  vocabulary["ab"] = 256;
  vocabulary["abc"] = 257;
  return {
      {"added_tokens",
       Json::array({{{"id", 258}, {"content", "<s>"}, {"special", true}, {"normalized", false}}})},
      {"normalizer", {{"type", "NFC"}}},
      {"pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers",
         Json::array({{{"type", "Split"}, {"pattern", {{"Regex", "\\s+|\\S+"}}}, {"behavior", "Isolated"}},
                      {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}})}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array({"a b", Json::array({"ab", "c"})})}}}};
}

Tokenizer load(const Json& json) { return Tokenizer::from_json(json.dump()); }

std::string error_of(const std::string& json, const std::string& config = "") {
  try {
    Tokenizer::from_json(json, config);
    return "no error";
  } catch (const InputError& error) {
    return error.what();
  }
}
std::string error_of_json(const Json& json) { return error_of(json.dump()); }

TEST(TokenizerJson, ReadsBothFormsOfMerges) {
  EXPECT_THAT(load(tiny()).encode("abcab"), testing::ElementsAre(257, 256));
  EXPECT_THAT(load(tiny()).encode("<s>abc<s>"), testing::ElementsAre(258, 257, 258));
}

TEST(TokenizerJson, IgnoreMergesTakesWholeWords) {
  Json json = tiny();
  json["model"]["vocab"]["xyz"] = 259;
  EXPECT_EQ(load(json).encode("xyz").size(), 3u) << "no merge leads there";
  json["model"]["ignore_merges"] = true;
  EXPECT_THAT(load(json).encode("xyz"), testing::ElementsAre(259));
}

TEST(TokenizerJson, AddedTokensFollowTheirFlags) {
  Json json = tiny();
  const auto with = [&](const char* flag) {
    json["added_tokens"][0][flag] = true;
    return load(json);
  };
  EXPECT_EQ(load(json).encode("a <s> b").size(), 5u);
  EXPECT_THAT(with("lstrip").encode("a <s> b"), testing::ElementsAre('a', 258, testing::_, testing::_));
  EXPECT_THAT(with("rstrip").encode("a <s> b"), testing::ElementsAre(testing::_, 258, testing::_));
  EXPECT_THAT(with("single_word").encode("a<s>"), testing::Not(testing::Contains(258)));
  EXPECT_THAT(load(json).encode("a <s>"), testing::Contains(258));

  // A normalised token is found in the normalised text: é in two code points is é in one.
  Json normalized = tiny();
  normalized["added_tokens"][0]["content"] = "caf\u00e9";
  EXPECT_THAT(load(normalized).encode("cafe\u0301"), testing::Not(testing::Contains(258)));
  normalized["added_tokens"][0]["normalized"] = true;
  EXPECT_THAT(load(normalized).encode("cafe\u0301"), testing::ElementsAre(258));

  // Of two that begin at one place, the longer one.
  Json longer = tiny();
  longer["added_tokens"].push_back({{"id", 259}, {"content", "<s><s>"}, {"special", true}});
  EXPECT_THAT(load(longer).encode("<s><s><s>"), testing::ElementsAre(259, 258));
}

TEST(TokenizerJson, NamesWhatItDoesNotRun) {
  const auto without = [](const std::function<void(Json&)>& change) {
    Json json = tiny();
    change(json);
    return error_of_json(json);
  };
  using testing::HasSubstr;
  EXPECT_THAT(without([](Json& j) { j["model"]["type"] = "Unigram"; }), HasSubstr("Unigram"));
  EXPECT_THAT(without([](Json& j) { j["normalizer"]["type"] = "NFKC"; }), HasSubstr("NFKC"));
  EXPECT_THAT(without([](Json& j) {
                j["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "Strip"}}}}};
              }),
              HasSubstr("Strip"));
  EXPECT_THAT(without([](Json& j) { j["pre_tokenizer"] = {{"type", "Metaspace"}}; }), HasSubstr("Metaspace"));
  EXPECT_THAT(without([](Json& j) { j["pre_tokenizer"] = nullptr; }), HasSubstr("pre-tokenizer"));
  EXPECT_THAT(without([](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; }),
              HasSubstr("Isolated"));
  EXPECT_THAT(without([](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["invert"] = true; }),
              HasSubstr("invert"));
  EXPECT_THAT(without([](Json& j) { j["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; }),
              HasSubstr("add_prefix_space"));
  EXPECT_THAT(without([](Json& j) {
                j["post_processor"] = {{"type", "BertProcessing"}};
              }),
              HasSubstr("BertProcessing"));
  EXPECT_THAT(without([](Json& j) {
                j["post_processor"] = {{"type", "TemplateProcessing"},
                                       {"single", {{{"SpecialToken", {{"id", "<s>"}}}}}}};
              }),
              HasSubstr("adds tokens"));
  EXPECT_THAT(without([](Json& j) { j["decoder"]["type"] = "WordPiece"; }), HasSubstr("WordPiece"));
  EXPECT_THAT(without([](Json& j) { j["model"]["byte_fallback"] = true; }), HasSubstr("byte_fallback"));
  EXPECT_THAT(without([](Json& j) { j["model"]["dropout"] = 0.1; }), HasSubstr("dropout"));
  EXPECT_THAT(without([](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }),
              HasSubstr("end_of_word_suffix"));
}

TEST(TokenizerJson, RefusesDamage) {
  const auto with = [](const std::function<void(Json&)>& change) {
    Json json = tiny();
    change(json);
    return error_of_json(json);
  };
  using testing::HasSubstr;
  const std::string whole = tiny().dump();
  EXPECT_THAT(error_of(whole), "no error");
  for (size_t length = 0; length < whole.size(); length += 97) {
    EXPECT_THAT(error_of(whole.substr(0, length)), HasSubstr("JSON")) << length;
  }
  EXPECT_THAT(error_of(std::string(100000, '[')), HasSubstr("JSON"));
  EXPECT_THAT(error_of("[]"), HasSubstr("not an object"));
  EXPECT_THAT(with([](Json& j) { j.erase("model"); }), HasSubstr("model"));
  EXPECT_THAT(with([](Json& j) { j["model"]["vocab"] = 3; }), HasSubstr("vocab"));
  EXPECT_THAT(with([](Json& j) { j["model"]["vocab"]["ab"] = 4000000000u; }), HasSubstr("id of the token"));
  EXPECT_THAT(with([](Json& j) { j["model"]["vocab"]["ab"] = -1; }), HasSubstr("id of the token"));
  EXPECT_THAT(with([](Json& j) { j["model"]["vocab"]["ab"] = "x"; }), HasSubstr("id of the token"));
  EXPECT_THAT(with([](Json& j) { j["model"]["vocab"]["ab"] = 257; }), HasSubstr("two tokens"));
  EXPECT_THAT(with([](Json& j) { j["model"]["vocab"][""] = 300; }), HasSubstr("empty"));
  EXPECT_THAT(with([](Json& j) { j["model"]["vocab"].erase("!"); }), HasSubstr("byte 33"));
  EXPECT_THAT(with([](Json& j) { j["model"]["merges"][0] = "ab"; }), HasSubstr("merge 0"));
  EXPECT_THAT(with([](Json& j) { j["model"]["merges"][0] = "a b c"; }), HasSubstr("merge 0"));
  EXPECT_THAT(with([](Json& j) { j["model"]["merges"][0] = 7; }), HasSubstr("merge 0"));
  EXPECT_THAT(with([](Json& j) { j["model"]["merges"][1] = {"a", "b", "c"}; }), HasSubstr("merge 1"));
  EXPECT_THAT(with([](Json& j) { j["model"]["merges"][1] = {"a"}; }), HasSubstr("merge 1"));
  EXPECT_THAT(with([](Json& j) { j["model"]["merges"][1] = {"a b", "c"}; }), HasSubstr("merge 1"));
  EXPECT_THAT(with([](Json& j) { j["model"]["merges"][0] = "b c"; }), HasSubstr("\"bc\""));
  EXPECT_THAT(with([](Json& j) { j["added_tokens"][0]["id"] = 1 << 30; }), HasSubstr("id of the token"));
  EXPECT_THAT(with([](Json& j) { j["added_tokens"][0]["content"] = std::string(5000, 'x'); }),
              HasSubstr("4096"));
  EXPECT_THAT(with([](Json& j) { j["added_tokens"][0]["special"] = "yes"; }), HasSubstr("special"));
  EXPECT_THAT(with([](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a"; }),
              HasSubstr("cannot be read"));
}

TEST(TokenizerJson, ReadsTheConfiguration) {
  const std::string json = tiny().dump();
  EXPECT_EQ(Tokenizer::from_json(json, R"({"eos_token": "<s>"})").eos_id(), 258);
  EXPECT_EQ(Tokenizer::from_json(json, R"({"eos_token": {"content": "<s>"}, "bos_token": null})").eos_id(),
            258);
  EXPECT_EQ(Tokenizer::from_json(json, R"({"chat_template": "T"})").chat_template(), "T");
  EXPECT_EQ(Tokenizer::from_json(json, R"({"chat_template": "T"})", "file").chat_template(), "file");
  EXPECT_EQ(
      Tokenizer::from_json(
          json,
          R"({"chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]})")
          .chat_template(),
      "D");
  using testing::HasSubstr;
  EXPECT_THAT(error_of(json, R"({"eos_token": "<nowhere>"})"), HasSubstr("<nowhere>"));
  EXPECT_THAT(error_of(json, R"({"eos_token": 3})"), HasSubstr("eos_token"));
  EXPECT_THAT(error_of(json, R"({"chat_template": [3]})"), HasSubstr("chat_template"));
  EXPECT_THAT(error_of(json, "{"), HasSubstr("tokenizer_config.json"));
  EXPECT_THROW(Tokenizer::load("no/such/folder"), InputError);
}

std::vector<std::string> pieces_of(const char* pattern, std::string_view text) {
  std::vector<std::string> pieces;
  SplitRegex(pattern).split(text, [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}

TEST(SplitRegex, IsolatesMatchesAndWhatLiesBetween) {
  EXPECT_THAT(pieces_of("\\d+", "ab12c3"), testing::ElementsAre("ab", "12", "c", "3"));
  EXPECT_THAT(pieces_of("x*", "axxb"), testing::ElementsAre("a", "xx", "b"));
  EXPECT_THAT(pieces_of("z*", "한글"), testing::ElementsAre("한글"));
  EXPECT_THAT(pieces_of("\\s", ""), testing::IsEmpty());
}

TEST(SplitRegex, MeansWhatOnigurumaMeans) {
  // U+180E is no white space since Unicode 6.3, but PCRE2's \s takes it.
  EXPECT_THAT(pieces_of("\\s+", "a\u180Eb"), testing::ElementsAre("a\u180Eb"));
  EXPECT_THAT(pieces_of("\\s+", "a\u3000\u0085 b"), testing::ElementsAre("a", "\u3000\u0085 ", "b"));
  EXPECT_THAT(pieces_of("[^\\s\\p{L}]+", "a1\u180E b"), testing::ElementsAre("a", "1\u180E", " b"));
  EXPECT_THAT(pieces_of("\\v", "a\vb\nc"), testing::ElementsAre("a", "\v", "b\nc"));
  EXPECT_THAT(pieces_of("\\u0061", "xay"), testing::ElementsAre("x", "a", "y"));
  EXPECT_THAT(pieces_of("(?i:'s)", "it'S"), testing::ElementsAre("it", "'S"));
  for (const char* pattern :
       {"\\w+", "\\b", "^a", "a$", "[[:alpha:]]", "[a&&b]", "a{1,2}+", "\\h", "\\R", "(?<n>a)", "(?P<n>a)",
        "\\1", "[\\S]", "(*ACCEPT)", "(?m:a)", "\\pL", "[]", "a\\"}) {
    EXPECT_THROW(SplitRegex{pattern}, InputError) << pattern;
  }
}

TEST(SplitRegex, StopsOnCatastrophicExpressions) {
  const SplitRegex catastrophic("(?:a+)+b");
  EXPECT_THROW(catastrophic.split(std::string(40, 'a') + "cb", [](std::string_view) {}), InputError);
}

}  // namespace
}  // namespace onggi
