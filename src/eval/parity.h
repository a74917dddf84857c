// The parity gate: is the model in this artefact the model that was trained? The same prompts go through a
// reference and a candidate; token ids of the rendered prompts must be equal, the logits over the reference's
// own answers close, and answers must end where the reference's end.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "config/config.h"
#include "eval/greedy.h"
#include "infer/chat_model.h"

namespace onggi {

struct ParityResult {
  std::string artefact;
  std::string reference;
  int64_t positions = 0;  // answer tokens compared
  double mean_kl = 0;     // nats per token, KL(reference || candidate)
  double max_kl = 0;
  double agreement = 1;          // share of positions with the same most likely token
  size_t worst_prompt = 0;       // counted from 1: where the logits are farthest apart; 0: none compared
  std::string prompts_sha256;    // of the rendered prompts' ids: equal where gates asked the same
  std::string first_divergence;  // "prompt 2, token 17: ... where ... is expected"; empty: none
  bool prompts_equal = true;     // token ids of all rendered prompts
  bool stops = true;             // every answer that ends in the reference ends in the candidate
  ParityBound bound;
  bool passed = true;
  std::string reason;  // of a failure: what and which prompt

  nlohmann::ordered_json to_json() const;
};

// What a reference says to some prompts, kept so that many candidates can be held against it.
class ParityReference {
 public:
  // messages_json: one conversation per prompt, as ChatTemplate renders it. Keeps at most max_new_tokens rows
  // of V log-probabilities per prompt.
  ParityReference(const LoadedModel& model, const Compute& compute, std::vector<std::string> messages_json,
                  int64_t max_new_tokens, std::string name);

  ParityResult compare(const LoadedModel& candidate, const Compute& compute, const std::string& artefact,
                       const ParityBound& bound) const;

  struct Prompt {
    std::string messages_json;
    std::vector<int32_t> ids;  // rendered
    GreedyAnswer answer;
    std::vector<float> logits;  // f32 [answer tokens, V]
  };
  const std::vector<Prompt>& prompts() const { return prompts_; }
  std::string prompts_sha256() const;

 private:
  std::string name_;
  std::vector<Prompt> prompts_;
};

// Notes the divergence at one position (nats) of a prompt (counted from 1).
void note_divergence(ParityResult& result, double kl, size_t prompt);
// Sets passed and reason from the figures and the bound.
void judge(ParityResult& result);

}  // namespace onggi
