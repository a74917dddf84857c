// Python's operations on strings.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace onggi::jinja {

std::string format_float(double number);                    // repr(float)
std::string quote(std::string_view text);                   // repr(str)
std::string quote_json(std::string_view text, bool ascii);  // json.dumps of a string

enum class Side { kBoth, kLeft, kRight };
// str.strip(chars); white space where chars is null.
std::string_view strip(std::string_view text, Side side, const std::string* chars = nullptr);
// str.split and str.rsplit; by runs of white space where separator is null; limit < 0: no limit.
std::vector<std::string> split(std::string_view text, const std::string* separator, int64_t limit);
std::vector<std::string> rsplit(std::string_view text, const std::string* separator, int64_t limit);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends);
// str.replace; count < 0: all. Throws Fault where the result would be too large.
std::string replace(std::string_view text, std::string_view from, std::string_view to, int64_t count);

// Letter case. Throws Fault for the few characters whose case depends on the context or is several characters
// long.
std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);        // str.capitalize
std::string title_by_letters(std::string_view text);  // str.title: every letter after a non-letter
std::string title_by_words(
    std::string_view text);  // Jinja's filter: words after spaces, hyphens and brackets

// text[start:stop:step] over code points, bounds as already resolved by Python's rules.
std::vector<char32_t> code_points(std::string_view text);
std::string from_code_points(const std::vector<char32_t>& points);

}  // namespace onggi::jinja
