// Measures of answers against references. Texts are UTF-8; "characters" are code points.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace onggi {

// 1 - edit distance / length of the longer one (Levenshtein 1966); 1 for two empty sequences.
double character_match(std::string_view answer, std::string_view reference);
double token_match(std::span<const int32_t> answer, std::span<const int32_t> reference);

// ROUGE-L's F1 over words separated by white space (Lin 2004): longest common subsequence.
double rouge_l(std::string_view answer, std::string_view reference);

// chrF (Popovic 2015): F-score with beta 2 over character n-grams of length 1 to 6, white space left out.
double chrf(std::string_view answer, std::string_view reference);

// Hangul syllables and letters among all letters (of any script); 0 where there are no letters.
double hangul_share(std::string_view text);

// 1 - distinct / all word 4-grams: 0 without repetition, near 1 in a loop. 0 for texts of fewer than four
// words.
double repetition(std::string_view text);

}  // namespace onggi
