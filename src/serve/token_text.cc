#include "serve/token_text.h"

#include <array>
#include <nlohmann/json.hpp>

namespace onggi {

Json token_json(const Tokenizer& tokenizer, int32_t id, float logprob) {
  Json bytes = Json::array();
  for (const char byte : tokenizer.token_bytes(id)) bytes.push_back(static_cast<unsigned char>(byte));
  const std::array<int32_t, 1> ids{id};
  return {{"token", tokenizer.decode(ids)}, {"logprob", logprob}, {"bytes", std::move(bytes)}};
}

Json tokens_json(const Tokenizer& tokenizer, std::span<const SampledToken> tokens) {
  Json result = Json::array();
  for (const SampledToken& token : tokens) {
    if (tokenizer.is_special(token.id)) continue;
    Json entry = token_json(tokenizer, token.id, token.logprob);
    entry["top_logprobs"] = Json::array();
    for (const TokenLogprob& other : token.top)
      entry["top_logprobs"].push_back(token_json(tokenizer, other.id, other.logprob));
    result.push_back(std::move(entry));
  }
  return result;
}

}  // namespace onggi
