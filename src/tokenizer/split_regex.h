// The splitting expressions of pre-tokenizers, run by PCRE2.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace onggi {

// Rewrites an expression of Oniguruma (which `tokenizers` uses) for PCRE2, where the same spelling would mean
// another thing. Throws InputError naming the construct where the two differ and we do not translate.
std::string oniguruma_to_pcre(std::string_view pattern);

class SplitRegex {
 public:
  // Throws InputError for a broken expression or a construct that we do not run.
  explicit SplitRegex(std::string_view oniguruma_pattern);

  // Calls piece for each part of text in order: matches, and what lies between them ("Isolated"). text must
  // be valid UTF-8. Throws InputError where the expression takes too many steps on this text.
  void split(std::string_view text, const std::function<void(std::string_view)>& piece) const;

 private:
  std::shared_ptr<void> code_;  // pcre2_code
};

}  // namespace onggi
