#include "infer/sequence.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/text.h"

namespace onggi {

Sequence::Sequence(GenerationRequest request, const Tokenizer& tokenizer, int64_t limit,
                   std::shared_ptr<GenerationStream> stream)
    : request_(std::move(request)),
      stream_(std::move(stream)),
      tokens_(request_.prompt),
      prompt_tokens_(static_cast<int64_t>(tokens_.size())),
      limit_(limit),
      sampler_(request_.sampling, tokens_),
      decoder_(tokenizer, request_.skip_special),
      stops_(request_.stop) {}

SequenceLoad Sequence::load() const {
  SequenceLoad load;
  load.tokens = static_cast<int64_t>(tokens_.size());
  if (kv_) {
    load.computed = kv_->length();
    load.pages = pages_for(kv_->length());
  }
  return load;
}

void Sequence::begin(KvSequence kv) {
  if (!begun_) {
    begun_ = clock_.seconds();
    cached_tokens_ = std::min(kv.length(), prompt_tokens_);
  }
  kv_.emplace(std::move(kv));
}

std::optional<Ending> Sequence::extend(std::span<const float> logits, const std::vector<int64_t>& eos_ids) {
  return take(sampler_.sample(logits, request_.top_logprobs, request_.constraint.get()), eos_ids);
}

int64_t Sequence::top_logits_wanted(int64_t limit, int64_t vocabulary) const {
  return top_logits_for(request_.sampling, request_.top_logprobs, request_.constraint.get(), limit,
                        vocabulary);
}

std::optional<Ending> Sequence::extend(const TopRow& top,
                                       const std::function<std::span<const float>()>& whole_row,
                                       const std::vector<int64_t>& eos_ids) {
  auto token = sampler_.sample_top(top, request_.top_logprobs, request_.constraint.get());
  if (!token) return extend(whole_row(), eos_ids);
  return take(std::move(*token), eos_ids);
}

Ending Sequence::take_embedding(std::span<const float> hidden) {
  for (const float value : hidden)
    if (!std::isfinite(value))
      return {FinishReason::kError, text("the model's numbers are not finite; its file may be damaged"),
              ExitCode::kWorkFailed};
  embedding_.assign(hidden.begin(), hidden.end());
  last_token_time_ = first_token_ = clock_.seconds();
  return {FinishReason::kStop, {}};
}

void Sequence::deliver() {
  if (!undelivered_) return;
  stream_->push(std::move(*undelivered_));
  undelivered_.reset();
}

std::optional<Ending> Sequence::take(SampledToken token, const std::vector<int64_t>& eos_ids) {
  deliver();
  last_token_time_ = clock_.seconds();
  if (!first_token_) first_token_ = last_token_time_;
  tokens_.push_back(token.id);

  const bool eos = request_.at_eos == GenerationRequest::AtEos::kStop &&
                   std::find(eos_ids.begin(), eos_ids.end(), token.id) != eos_ids.end();
  std::string text;
  if (!eos) text = stops_.push(decoder_.push(token.id));
  std::optional<Ending> ending;
  if (eos || !stops_.found().empty() || (request_.constraint && request_.constraint->finished())) {
    ending = Ending{FinishReason::kStop, {}};
  } else if (generated() >= request_.max_new_tokens.value_or(limit_) ||
             static_cast<int64_t>(tokens_.size()) >= limit_) {
    ending = Ending{FinishReason::kLength, {}};
  }
  if (ending) {
    last_text_ = std::move(text);
    last_token_.push_back(std::move(token));
  } else {
    GenerationEvent event;
    event.text = std::move(text);
    event.tokens.push_back(std::move(token));
    undelivered_ = std::move(event);
  }
  return ending;
}

GenerationResult Sequence::result(const Ending& ending) const {
  GenerationResult result;
  result.reason = ending.reason;
  result.error = ending.error;
  result.error_code = ending.error_code;
  result.stop_string = stops_.found();
  result.prompt_tokens = prompt_tokens_;
  result.cached_tokens = cached_tokens_;
  result.generated_tokens = generated();
  result.seed = sampler_.seed();
  result.embedding = embedding_;
  GenerationTimings& times = result.timings;
  times.total = clock_.seconds();
  times.queue = begun_.value_or(times.total);
  if (first_token_) {
    times.first_token = *first_token_;
    times.prompt_eval = *first_token_ - times.queue;
    times.eval = *last_token_time_ - *first_token_;
  }
  return result;
}

void Sequence::send(const GenerationResult& result) {
  deliver();
  GenerationEvent event;
  event.text = std::move(last_text_);
  event.tokens = std::move(last_token_);
  if (stops_.found().empty()) {
    event.text += stops_.push(decoder_.flush());
    event.text += stops_.flush();
  }
  event.result = result;
  stream_->push(std::move(event));
  sent_ = true;
}

Sequence::~Sequence() {
  if (sent_) return;
  try {
    send(result(
        {FinishReason::kError, text("the engine could not go on with this request"), ExitCode::kWorkFailed}));
  } catch (...) {  // no memory even for that; a destructor must not throw
  }
}

}  // namespace onggi
