#include "eval/metrics.h"

#include <gtest/gtest.h>

#include <vector>

namespace onggi {
namespace {

TEST(Metrics, CharacterMatchCountsCodePoints) {
  EXPECT_DOUBLE_EQ(character_match("", ""), 1.0);
  EXPECT_DOUBLE_EQ(character_match("kitten", "sitting"), 1.0 - 3.0 / 7.0);  // Levenshtein's classic pair
  EXPECT_DOUBLE_EQ(character_match("안녕하세요", "안녕하세오"), 0.8);       // one of five syllables
  EXPECT_DOUBLE_EQ(character_match("abc", ""), 0.0);
}

TEST(Metrics, TokenMatch) {
  const std::vector<int32_t> a{1, 2, 3, 4}, b{1, 2, 4};
  EXPECT_DOUBLE_EQ(token_match(a, b), 0.75);
  EXPECT_DOUBLE_EQ(token_match(a, a), 1.0);
}

TEST(Metrics, RougeL) {
  // LCS "police the gunman" of four and four words: F1 = 2 * 3 / 8.
  EXPECT_DOUBLE_EQ(rouge_l("police kill the gunman", "police ended the gunman"), 0.75);
  EXPECT_DOUBLE_EQ(rouge_l("", "word"), 0.0);
}

TEST(Metrics, Chrf) {
  EXPECT_DOUBLE_EQ(chrf("같은 문장입니다", "같은 문장입니다"), 1.0);
  EXPECT_DOUBLE_EQ(chrf("abc", "xyz"), 0.0);
  // "ab" against "abc": order 1: P 2/2, R 2/3; order 2: P 1/1, R 1/2; means P 1, R 7/12; F2 = 5 P R / (4 P +
  // R).
  EXPECT_NEAR(chrf("ab", "abc"), 5.0 * (7.0 / 12.0) / (4.0 + 7.0 / 12.0), 1e-12);
}

TEST(Metrics, HangulShareLeavesDigitsAndPunctuationOut) {
  EXPECT_DOUBLE_EQ(hangul_share("가나 12, !"), 1.0);
  EXPECT_DOUBLE_EQ(hangul_share("가나ab"), 0.5);
  EXPECT_DOUBLE_EQ(hangul_share("123"), 0.0);
}

TEST(Metrics, Repetition) {
  EXPECT_DOUBLE_EQ(repetition("a b c d e f"), 0.0);
  EXPECT_DOUBLE_EQ(repetition("a a a a a a a a"), 0.8);  // five equal 4-grams: one distinct
}

}  // namespace
}  // namespace onggi
