// Stage 3: does the tuned model say what it was taught, and what did that cost it elsewhere?
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/samples.h"
#include "eval/greedy.h"
#include "infer/chat_model.h"

namespace onggi {

// One question asked of base and tuned model.
struct AnswerReport {
  std::string question, reference, domain;
  std::string base_answer, tuned_answer;
  bool exact = false;      // tuned answer equals the reference
  double token_match = 0;  // tuned against reference, 0 to 1
  double character_match = 0;
  double rouge_l = 0, chrf = 0;  // tuned against reference
  double base_rouge_l = 0, base_chrf = 0;
  double hangul = 0;      // share of Hangul among the letters of the tuned answer
  double repetition = 0;  // of the tuned answer
  bool stopped = false;   // the tuned answer ended by itself
};

enum class FitVerdict {
  kUnderfitted,  // the training questions are not answered as taught
  kGeneralises,  // and the held-out loss did not rise
  kMemorised,    // the held-out loss rose by at most a fifth
  kOverfitted,   // it rose by more
};
std::string_view name_of(FitVerdict verdict);
// The same word in the language of messages.
std::string short_text(FitVerdict verdict);
// A sentence for people.
std::string describe(FitVerdict verdict);

struct ValidationReport {
  std::vector<AnswerReport> training;
  std::vector<AnswerReport> held_out;
  double exact_rate = 0, token_match = 0, character_match = 0;  // means over the training questions
  double train_loss_base = 0, train_loss_tuned = 0;
  double held_out_loss_base = 0, held_out_loss_tuned = 0;
  FitVerdict verdict = FitVerdict::kUnderfitted;
  double prompt_tokens_per_second = 0, answer_tokens_per_second = 0;  // of the tuned model, one user
  uint64_t peak_memory_bytes = 0;                                     // of the process
  double goal = 0.99;                                                 // of token_match
  bool passed = false;

  nlohmann::ordered_json to_json() const;
};

struct ValidationInput {
  const Dataset& training;
  const std::vector<Sample>& training_samples;
  const Dataset* held_out = nullptr;  // null: none
  const std::vector<Sample>* held_out_samples = nullptr;
  int64_t max_new_tokens = 512;
  double goal = 0.99;
  enum class Base { kCompare, kSkip } base = Base::kCompare;
};

// tuned: the model with its adapter. The base is the same object without it. progress(done, all) counts
// answers.
ValidationReport validate(const LoadedModel& tuned, const Compute& compute, const ValidationInput& input,
                          const std::function<void(int64_t, int64_t)>& progress);

// The conversation of a row without its last answer, for prompts.
std::string prompt_messages(const DataRow& row);
// An answer without its <think> block and the white space around it.
std::string without_thinking(const std::string& answer);
// Mean loss over the labels of samples, one pass each. The model's adapter, if any, takes part.
double mean_loss(const Model& model, const Compute& compute, std::span<const Sample> samples);

}  // namespace onggi
