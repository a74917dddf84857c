// One request in work, from its prompt to its last event. Belongs to the engine's thread.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "infer/scheduler.h"
#include "infer/stop_matcher.h"
#include "infer/stream.h"

namespace onggi {

// Why and how a sequence ended.
struct Ending {
  FinishReason reason;
  std::string error;
  ExitCode error_code = ExitCode::kDone;
};

class Sequence {
 public:
  // request was checked and has a seed. limit: tokens of prompt and answer together.
  Sequence(GenerationRequest request, const Tokenizer& tokenizer, int64_t limit,
           std::shared_ptr<GenerationStream> stream);
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;
  // A client waits for its last event, whatever happened.
  ~Sequence();

  // Prompt and answer so far.
  const std::vector<int32_t>& tokens() const { return tokens_; }
  SequenceLoad load() const;
  const std::shared_ptr<GenerationStream>& stream() const { return stream_; }
  int64_t generated() const { return static_cast<int64_t>(tokens_.size()) - prompt_tokens_; }
  bool past_deadline(std::chrono::steady_clock::time_point now) const {
    return request_.deadline.has_value() && now >= *request_.deadline;
  }

  // Takes a place in the cache; cached: tokens of it that are there already.
  void begin(KvSequence kv);
  // Gives the place in the cache back, to begin again later.
  void preempt() {
    deliver();
    kv_.reset();
  }
  bool wants_embedding() const { return request_.want == GenerationRequest::Want::kEmbedding; }
  bool holds_kv() const { return kv_.has_value(); }
  KvSequence& kv() { return *kv_; }

  // Samples the next token of the answer from logits [V] and has what became sure of the text delivered.
  // Returns the ending that the token brings, if one.
  std::optional<Ending> extend(std::span<const float> logits, const std::vector<int64_t>& eos_ids);
  // The same from the likeliest logits alone; whole_row is called where they do not tell. `top` has at least
  // top_logits_wanted() of them.
  std::optional<Ending> extend(const TopRow& top, const std::function<std::span<const float>()>& whole_row,
                               const std::vector<int64_t>& eos_ids);
  // Sends the event of the last token, which waits for it so that the next pass begins sooner.
  void deliver();
  // How many of the likeliest logits extend() can do with, at most `limit`; 0: it needs the whole row.
  int64_t top_logits_wanted(int64_t limit, int64_t vocabulary) const;

  // Takes the hidden state [C] of the last token, which is all that was wanted.
  Ending take_embedding(std::span<const float> hidden);

  // What the client is told at the end.
  GenerationResult result(const Ending& ending) const;
  // Sends the last event, once.
  void send(const GenerationResult& result);

 private:
  std::optional<Ending> take(SampledToken token, const std::vector<int64_t>& eos_ids);

  GenerationRequest request_;
  std::shared_ptr<GenerationStream> stream_;
  std::vector<int32_t> tokens_;
  int64_t prompt_tokens_;
  int64_t limit_;
  Sampler sampler_;
  StreamDecoder decoder_;
  StopMatcher stops_;
  std::optional<KvSequence> kv_;
  int64_t cached_tokens_ = 0;
  std::optional<GenerationEvent> undelivered_;
  std::string last_text_;                 // for the last event
  std::vector<SampledToken> last_token_;  // likewise
  std::vector<float> embedding_;
  Stopwatch clock_;  // since submit()
  bool sent_ = false;
  std::optional<double> begun_, first_token_, last_token_time_;
};

}  // namespace onggi
