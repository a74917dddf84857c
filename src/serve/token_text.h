// Tokens with their probabilities, as OpenAI's and Ollama's answers list them.
#pragma once

#include <span>

#include "infer/sampler.h"
#include "serve/fields.h"
#include "tokenizer/tokenizer.h"

namespace onggi {

// {"token", "logprob", "bytes"} of one token.
Json token_json(const Tokenizer& tokenizer, int32_t id, float logprob);
// The same with "top_logprobs", for each token that is text (the token that ended the answer is not).
Json tokens_json(const Tokenizer& tokenizer, std::span<const SampledToken> tokens);

}  // namespace onggi
