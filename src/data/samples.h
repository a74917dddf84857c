// Rows -> token ids and labels, as the model will see them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/report.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace onggi {

inline constexpr int32_t kNoLabel = -100;

struct Sample {
  size_t line = 0;           // of the row in its file
  std::vector<int32_t> ids;  // [T]
  std::vector<int32_t>
      labels;              // [T], labels[t] is ids[t] where it is trained on, else kNoLabel (not shifted)
  size_t full_length = 0;  // T before truncation
};

enum class TrainOn {
  kAnswers,     // what the assistant says, with its end of turn
  kEverything,  // all tokens (train_on_prompt = true)
};

struct SampleOptions {
  size_t cutoff_len = 2048;  // tokens; longer samples are cut at the end, and reported
  TrainOn train_on = TrainOn::kAnswers;
};

struct SampleSet {
  std::vector<Sample> samples;
  DatasetReport report;
};

// Renders each row with the model's template in the data set's think mode, tokenises, masks. The prompt and
// each answer are tokenised apart, so that the prompt's ids are exactly those of serving. Rows that fail or
// keep no label are dropped in the report. Throws InputError where no sample is left.
SampleSet build_samples(const Dataset& dataset, const Tokenizer& tokenizer, const ChatTemplate& chat,
                        const SampleOptions& options = {});

// The ids and labels of one rendering.
Sample encode_chat(const RenderedChat& chat, const Tokenizer& tokenizer,
                   TrainOn train_on = TrainOn::kAnswers);

}  // namespace onggi
