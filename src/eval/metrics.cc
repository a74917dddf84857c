#include "eval/metrics.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace onggi {
namespace {

// Code points; a byte that is not valid UTF-8 counts as one.
std::u32string code_points(std::string_view text) {
  std::u32string out;
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    size_t length = lead < 0x80         ? 1
                    : (lead >> 5) == 6  ? 2
                    : (lead >> 4) == 14 ? 3
                    : (lead >> 3) == 30 ? 4
                                        : 1;
    if (i + length > text.size()) length = 1;
    char32_t point = length == 1 ? lead : lead & (0x7F >> length);
    for (size_t k = 1; k < length; ++k)
      point = (point << 6) | (static_cast<unsigned char>(text[i + k]) & 0x3F);
    out.push_back(point);
    i += length;
  }
  return out;
}

bool is_space(char32_t c) { return c == ' ' || (c >= '\t' && c <= '\r') || c == 0x3000 || c == 0xA0; }

std::vector<std::u32string> words(std::string_view text) {
  std::vector<std::u32string> out(1);
  for (char32_t c : code_points(text)) {
    if (!is_space(c)) {
      out.back().push_back(c);
    } else if (!out.back().empty()) {
      out.emplace_back();
    }
  }
  if (out.back().empty()) out.pop_back();
  return out;
}

template <typename Sequence>
double match(const Sequence& a, const Sequence& b) {
  const size_t longer = std::max(a.size(), b.size());
  if (longer == 0) return 1.0;
  std::vector<size_t> previous(b.size() + 1), current(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) previous[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (size_t j = 1; j <= b.size(); ++j)
      current[j] =
          std::min({previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
    std::swap(previous, current);
  }
  return 1.0 - static_cast<double>(previous[b.size()]) / static_cast<double>(longer);
}

size_t common_subsequence(const std::vector<std::u32string>& a, const std::vector<std::u32string>& b) {
  std::vector<size_t> previous(b.size() + 1), current(b.size() + 1);
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j)
      current[j] = a[i - 1] == b[j - 1] ? previous[j - 1] + 1 : std::max(previous[j], current[j - 1]);
    std::swap(previous, current);
  }
  return previous[b.size()];
}

std::map<std::u32string, int> character_grams(const std::u32string& text, size_t n) {
  std::map<std::u32string, int> counts;
  for (size_t i = 0; i + n <= text.size(); ++i) ++counts[text.substr(i, n)];
  return counts;
}

bool is_hangul(char32_t c) {
  return (c >= 0xAC00 && c <= 0xD7A3) || (c >= 0x1100 && c <= 0x11FF) || (c >= 0x3130 && c <= 0x318F);
}

// Letters of the scripts that answers are written in; digits and punctuation say nothing about the language.
bool is_letter(char32_t c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= 0xC0 && c <= 0x24F) ||
         (c >= 0x370 && c <= 0x5FF) || (c >= 0x3040 && c <= 0x30FF) || (c >= 0x4E00 && c <= 0x9FFF) ||
         is_hangul(c);
}

}  // namespace

double character_match(std::string_view answer, std::string_view reference) {
  return match(code_points(answer), code_points(reference));
}

double token_match(std::span<const int32_t> answer, std::span<const int32_t> reference) {
  return match(answer, reference);
}

double rouge_l(std::string_view answer, std::string_view reference) {
  const auto a = words(answer), b = words(reference);
  if (a.empty() || b.empty()) return a.empty() && b.empty() ? 1.0 : 0.0;
  // F1 of LCS / |answer| and LCS / |reference|.
  return 2.0 * static_cast<double>(common_subsequence(a, b)) / static_cast<double>(a.size() + b.size());
}

double chrf(std::string_view answer, std::string_view reference) {
  std::u32string a = code_points(answer), b = code_points(reference);
  std::erase_if(a, is_space);
  std::erase_if(b, is_space);
  double precision = 0, recall = 0;
  int orders = 0;
  for (size_t n = 1; n <= 6; ++n) {
    if (a.size() < n || b.size() < n) break;
    const auto of_a = character_grams(a, n), of_b = character_grams(b, n);
    int common = 0;
    for (const auto& [gram, count] : of_a) {
      const auto found = of_b.find(gram);
      if (found != of_b.end()) common += std::min(count, found->second);
    }
    precision += static_cast<double>(common) / static_cast<double>(a.size() - n + 1);
    recall += static_cast<double>(common) / static_cast<double>(b.size() - n + 1);
    ++orders;
  }
  if (orders == 0) return a == b ? 1.0 : 0.0;
  precision /= orders;
  recall /= orders;
  constexpr double kBetaSquared = 4.0;
  const double below = kBetaSquared * precision + recall;
  return below == 0 ? 0.0 : (1 + kBetaSquared) * precision * recall / below;
}

double hangul_share(std::string_view text) {
  int64_t hangul = 0, letters = 0;
  for (char32_t c : code_points(text)) {
    hangul += is_hangul(c);
    letters += is_letter(c);
  }
  return letters == 0 ? 0.0 : static_cast<double>(hangul) / static_cast<double>(letters);
}

double repetition(std::string_view text) {
  constexpr size_t kGram = 4;
  const auto all = words(text);
  if (all.size() < kGram) return 0.0;
  std::set<std::vector<std::u32string>> distinct;
  const size_t grams = all.size() - kGram + 1;
  for (size_t i = 0; i < grams; ++i)
    distinct.emplace(all.begin() + static_cast<ptrdiff_t>(i),
                     all.begin() + static_cast<ptrdiff_t>(i + kGram));
  return 1.0 - static_cast<double>(distinct.size()) / static_cast<double>(grams);
}

}  // namespace onggi
