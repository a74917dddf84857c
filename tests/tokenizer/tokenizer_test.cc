#include "tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <thread>

#include "base/error.h"
#include "tests/tokenizer/golden.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace onggi {
namespace {

using Ids = std::vector<int32_t>;

const Tokenizer& mini() {
  static const Tokenizer tokenizer = Tokenizer::load("models/onggi-mini");
  return tokenizer;
}

void expect_golden(const Tokenizer& tokenizer, const nlohmann::ordered_json& golden) {
  ASSERT_GE(golden["tokenizer"].size(), 20u);
  for (const auto& entry : golden["tokenizer"]) {
    const auto text = entry["text"].get<std::string>();
    const auto ids = entry["ids"].get<Ids>();
    EXPECT_EQ(tokenizer.encode(text), ids) << text;
    // NFC is all that a round trip changes.
    EXPECT_EQ(tokenizer.decode(ids), to_nfc(text));
  }
  for (const auto& entry : golden["chat"]) {
    const auto text = entry["text"].get<std::string>();
    EXPECT_EQ(tokenizer.encode(text), entry["ids"].get<Ids>()) << text;
  }
}

TEST(Tokenizer, MatchesTransformersOnOnggiMini) {
  expect_golden(mini(), test::read_json("tests/golden/tokenizer.json"));
  EXPECT_EQ(mini().vocabulary_size(), 8126);
  EXPECT_EQ(mini().eos_id(), 8102);
  EXPECT_EQ(mini().pad_id(), 8100);
  EXPECT_EQ(mini().bos_id(), std::nullopt);
  EXPECT_EQ(mini().id_of("<|im_start|>"), 8101);
  EXPECT_EQ(mini().id_of("<think>"), 8124);
  EXPECT_EQ(mini().id_of("no such token"), std::nullopt);
  EXPECT_TRUE(mini().is_special(8101));
  EXPECT_FALSE(mini().is_special(8124));
  EXPECT_FALSE(mini().is_special(8190));
  EXPECT_EQ(mini().parts().pre_tokenizer, "qwen2");
}

TEST(Tokenizer, MatchesTransformersOnQwen3) {
  if (test::qwen3_folder().empty()) GTEST_SKIP() << test::kNoQwen3;
  const Tokenizer qwen3 = Tokenizer::load(test::qwen3_folder());
  expect_golden(qwen3, test::read_json("tests/golden/qwen3_tokenizer.json"));
  EXPECT_EQ(qwen3.vocabulary_size(), 151669);
  EXPECT_EQ(qwen3.eos_id(), 151645);
  EXPECT_EQ(qwen3.parts().pre_tokenizer, "qwen2");
}

TEST(Tokenizer, TreatsSpecialTokensAsTextWhenAsked) {
  const std::string text = "<|im_start|>user<|im_end|>";
  EXPECT_THAT(mini().encode(text), testing::ElementsAre(8101, testing::_, 8102));
  const Ids plain = mini().encode(text, ParseSpecial::kNo);
  for (const int32_t id : plain) EXPECT_FALSE(mini().is_special(id)) << id;
  EXPECT_EQ(mini().decode(plain), text);
  // <think> is an added token but not a special one.
  EXPECT_THAT(mini().encode("<think>", ParseSpecial::kNo), testing::ElementsAre(8124));
}

TEST(Tokenizer, SkipsSpecialTokensWhenAsked) {
  const Ids ids = mini().encode("<|im_start|>안녕<think><|im_end|>");
  EXPECT_EQ(mini().decode(ids, SkipSpecial::kYes), "안녕<think>");
  EXPECT_EQ(mini().decode(ids), "<|im_start|>안녕<think><|im_end|>");
  EXPECT_EQ(mini().decode(Ids{8191, -1, 1 << 30}), "") << "padding ids have no text";
}

TEST(Tokenizer, RefusesInvalidUtf8) {
  EXPECT_THROW(mini().encode("abc\xFF"), InputError);
  EXPECT_THROW(mini().encode("\xED\xA0\x80"), InputError) << "a surrogate";
  EXPECT_THROW(mini().encode("\xEC\x95"), InputError) << "an unfinished character";
}

// CPU seconds, so that a busy machine does not matter; quadratic time would take hours.
TEST(Tokenizer, LongWordsTakeLinearTime) {
  const auto seconds_for = [&](const std::string& text) {
    const std::clock_t start = std::clock();
    const Ids ids = mini().encode(text);
    EXPECT_EQ(mini().decode(ids), text);
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  };
  std::string word, spaces(1 << 20, ' '), marks, combining = "a";
  while (word.size() < (1 << 20)) word += "internationalisation";
  while (marks.size() < (1 << 20)) marks += "!?";
  EXPECT_LT(seconds_for(word), 10.0);
  EXPECT_LT(seconds_for(spaces), 10.0);
  EXPECT_LT(seconds_for(marks), 10.0);
  // Combining marks in falling order of class: the worst case of sorting them by exchange.
  for (int i = 0; i < 100000; ++i) combining += i % 2 == 0 ? "\u0301" : "\u0323";
  const std::clock_t start = std::clock();
  mini().encode(combining);
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 10.0);
}

// The heap for long words and the scan for short ones are two implementations of one rule.
TEST(Tokenizer, ShortAndLongWordsMergeAlike) {
  std::string words;
  const nlohmann::ordered_json golden = test::read_json("tests/golden/tokenizer.json");
  for (const auto& entry : golden["tokenizer"]) {
    for (const char c : entry["text"].get<std::string>()) {
      if (std::isalpha(static_cast<unsigned char>(c)) != 0) words += c;
    }
  }
  ASSERT_GT(words.size(), 200u);
  // A separator that merges with no letter makes a long word of short ones; \p{L} keeps it one word.
  for (size_t start = 0; start + 24 < words.size(); start += 7) {
    const std::string part = words.substr(start, 24);
    const std::string separator = "中";
    Ids expected;
    std::string joined;
    for (int i = 0; i < 4; ++i) {
      joined += part + separator;
    }
    for (int i = 0; i < 4; ++i) {
      for (const int32_t id : mini().encode(part)) expected.push_back(id);
      for (const int32_t id : mini().encode(separator)) expected.push_back(id);
    }
    EXPECT_EQ(mini().encode(joined), expected) << joined;
  }
}

TEST(Tokenizer, TheWordCacheChangesNothing) {
  std::string text;
  Ids expected;
  for (int i = 0; i < 600; ++i) {
    const std::string line = "줄 " + std::to_string(i % 37) + ": the same words come again, 같은 낱말\n";
    text += line;
    for (const int32_t id : mini().encode(line)) expected.push_back(id);
  }
  EXPECT_EQ(mini().encode(text), expected);
}

TEST(Tokenizer, EncodesFromManyThreads) {
  const std::string text = "여러 스레드에서 same text, 1234\n";
  const Ids expected = mini().encode(text);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) wrong[t] += mini().encode(text) != expected;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(0));
}

TEST(StreamDecoder, EndsAtCharacterBoundaries) {
  const std::string text = "안녕 👨‍👩‍👧 naïve 中文";
  StreamDecoder decoder(mini());
  std::string streamed;
  bool waited = false;
  for (const int32_t id : mini().encode(text)) {
    const std::string piece = decoder.push(id);
    waited = waited || piece.empty();
    EXPECT_TRUE(is_valid_utf8(piece));
    streamed += piece;
  }
  EXPECT_TRUE(waited) << "the text has characters of several tokens";
  EXPECT_EQ(streamed, text);
  EXPECT_EQ(decoder.flush(), "");
}

TEST(StreamDecoder, ReplacesAnUnfinishedCharacter) {
  const Ids ids = mini().encode("👨");
  ASSERT_GT(ids.size(), 1u);
  StreamDecoder decoder(mini());
  EXPECT_EQ(decoder.push(ids[0]), "");
  EXPECT_EQ(decoder.flush(), "\uFFFD");
  EXPECT_EQ(decoder.flush(), "");
  // A broken character is released at once, as it can no longer become whole.
  StreamDecoder broken(mini());
  EXPECT_EQ(broken.push(ids[0]), "");
  EXPECT_EQ(broken.push(mini().encode("a")[0]),
            "\uFFFD"
            "a");
}

TEST(GgufVocabulary, RoundTrips) {
  const GgufVocabulary vocabulary = gguf_vocabulary(mini(), 8192);
  ASSERT_EQ(vocabulary.tokens.size(), 8192u);
  EXPECT_EQ(vocabulary.tokens[8191], "[PAD8191]");
  EXPECT_EQ(vocabulary.token_types[8191], 5);
  EXPECT_EQ(vocabulary.token_types[8101], 3);
  EXPECT_EQ(vocabulary.token_types[8124], 4);
  EXPECT_EQ(vocabulary.token_types[100], 1);
  EXPECT_EQ(vocabulary.pre, "qwen2");
  const Tokenizer again = Tokenizer::from_parts(parts_of(vocabulary));
  EXPECT_EQ(again.vocabulary_size(), mini().vocabulary_size());
  EXPECT_EQ(again.chat_template(), mini().chat_template());
  expect_golden(again, test::read_json("tests/golden/tokenizer.json"));
}

TEST(GgufVocabulary, NamesWhatItCannotRead) {
  GgufVocabulary vocabulary = gguf_vocabulary(mini(), 8126);
  EXPECT_THROW(gguf_vocabulary(mini(), 8000), InputError);
  auto unknown = vocabulary;
  unknown.pre = "tekken";
  EXPECT_THROW(parts_of(unknown), InputError);
  auto short_types = vocabulary;
  short_types.token_types.pop_back();
  EXPECT_THROW(parts_of(short_types), InputError);
  for (const char* damaged : {"nospace", "two spaces here"}) {
    auto merge = vocabulary;
    merge.merges.push_back(damaged);
    EXPECT_THROW(parts_of(merge), InputError);
  }
}

TEST(Unicode, ComposesAsTheStandardSays) {
  EXPECT_EQ(to_nfc("e\u0301"), "é");
  EXPECT_EQ(to_nfc("\u1100\u1161\u11A8"), "각");
  EXPECT_EQ(to_nfc("가\u11A8"), "각");
  EXPECT_EQ(to_nfc("\u212B"), "Å");                             // a singleton
  EXPECT_EQ(to_nfc("\u0958"), "\u0915\u093C");                  // excluded from composition
  EXPECT_EQ(to_nfc("a\u0323\u0307"), to_nfc("a\u0307\u0323"));  // marks in canonical order
  EXPECT_EQ(to_nfc("e\u0301\u0300"), "é\u0300");
  EXPECT_EQ(to_nfc(""), "");
}

TEST(Utf8, ReplacesMaximalParts) {
  EXPECT_EQ(replace_invalid_utf8("a\xF0\x9F\x91z"), "a\uFFFDz");
  EXPECT_EQ(replace_invalid_utf8("\xC0\x80"), "\uFFFD\uFFFD");
  EXPECT_EQ(replace_invalid_utf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(replace_invalid_utf8("\xE2\x82"), "\uFFFD");
  EXPECT_EQ(unfinished_utf8_tail("ab\xE2\x82"), 2u);
  EXPECT_EQ(unfinished_utf8_tail("ab\xF0\x9F\x91"), 3u);
  EXPECT_EQ(unfinished_utf8_tail("ab\xFF"), 0u);
  EXPECT_EQ(unfinished_utf8_tail("é"), 0u);
}

}  // namespace
}  // namespace onggi
