#include "serve/formatter.h"

namespace onggi {

TokenUsage usage_of(const GenerationResults& results) {
  TokenUsage usage;
  for (const GenerationResult& result : results) usage.completion += result.generated_tokens;
  if (!results.empty()) {
    usage.prompt = results.front().prompt_tokens;
    usage.cached = results.front().cached_tokens;
  }
  return usage;
}

}  // namespace onggi
