// The engine: one thread owns a model and its KV cache and serves many requests at once. Each step is one
// pass over the model with one token of every answer that is being written and a chunk of the prompts that
// are being read (continuous batching with chunked prefill).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "infer/constraint.h"
#include "infer/sampler.h"
#include "model/compute_device.h"
#include "model/inference.h"
#include "tokenizer/tokenizer.h"

namespace onggi {

enum class FinishReason {
  kStop,       // an eos token, a stop string, or a constraint that is complete
  kLength,     // max_new_tokens, or the context is full
  kCancelled,  // cancel(), a ticket that was dropped, or an engine that is stopping
  kError,      // see GenerationResult::error
};
// "stop", "length", "cancelled", "error".
std::string_view name_of(FinishReason reason);

struct GenerationRequest {
  std::vector<int32_t> prompt;  // at least one token
  // kEmbedding: nothing is written; the result has what the model made of the prompt's last token.
  enum class Want { kAnswer, kEmbedding } want = Want::kAnswer;
  SamplingParams sampling;
  std::optional<int64_t> max_new_tokens;  // absent: until the context is full
  std::vector<std::string> stop;          // the text ends before the first of them; empty strings are refused
  enum class AtEos { kStop, kIgnore } at_eos = AtEos::kStop;  // kIgnore: benchmarks
  int64_t top_logprobs = 0;                                   // SampledToken::top; at most 100
  SkipSpecial skip_special = SkipSpecial::kYes;               // whether control tokens appear in the text
  std::unique_ptr<TokenConstraint> constraint;                // null: none
  // Ends the request as an error when it passes, in the queue or in work.
  std::optional<std::chrono::steady_clock::time_point> deadline;
};

struct GenerationTimings {  // seconds
  double queue = 0;         // from submit() to the first step
  double first_token = 0;   // from submit() to the first token
  double prompt_eval = 0;   // from the first step to the first token
  double eval = 0;          // from the first token to the last
  double total = 0;         // from submit() to the end
};

struct GenerationResult {
  FinishReason reason = FinishReason::kStop;
  std::string error;  // a sentence for people; kError only
  // What kind of error: kInput (the request), kWorkFailed (a deadline, numbers), kMachine (memory).
  ExitCode error_code = ExitCode::kDone;
  std::string stop_string;  // the one that ended it, if one did
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;     // of them, taken from the prefix cache
  int64_t generated_tokens = 0;  // with the eos token
  uint64_t seed = 0;             // that was drawn with
  // Of kEmbedding: f32 [C], the last token's hidden state after the final norm.
  std::vector<float> embedding;
  GenerationTimings timings;
};

// A piece of an answer. Texts, put together, are the whole answer: valid UTF-8, released at character
// boundaries, held back while it could be the beginning of a stop string. tokens holds every token, the eos
// too; a token's text may come in a later event.
struct GenerationEvent {
  std::string text;
  std::vector<SampledToken> tokens;
  std::optional<GenerationResult> result;  // set in the last event
};

class GenerationStream;  // the queue between engine and client (stream.h)

// The client's end of a request; movable. Dropping it cancels the request. All functions may be called from
// any one thread at a time; cancel() from any thread.
class Ticket {
 public:
  explicit Ticket(std::shared_ptr<GenerationStream> stream) : stream_(std::move(stream)) {}
  Ticket(Ticket&&) noexcept = default;
  Ticket& operator=(Ticket&&) noexcept;
  ~Ticket();

  // The next event, or nullopt when none came in this time, or when the last one was taken already.
  std::optional<GenerationEvent> next(std::chrono::milliseconds timeout);
  // Asks the engine to end this request; its slot and pages are free after the step that is running.
  void cancel();

 private:
  std::shared_ptr<GenerationStream> stream_;
};

// A whole answer.
struct Generation {
  std::string text;
  std::vector<SampledToken> tokens;
  GenerationResult result;
};
// Takes all events of a ticket.
Generation wait_for(Ticket ticket);

// The queue is full: HTTP 503 or 429.
class BusyError : public MachineError {
 public:
  using MachineError::MachineError;
};
// The prompt does not fit the context: HTTP 400.
class ContextError : public InputError {
 public:
  using InputError::InputError;
};
// The engine is shutting down: HTTP 503.
class StoppedError : public MachineError {
 public:
  using MachineError::MachineError;
};

// Prompt tokens of a step that suit a device. The more, the less often the weights are gone through, and the
// longer those wait who already read their answers: on a GPU as many as make the products' time, not the
// weights', what a step takes.
constexpr int64_t usual_prefill_chunk(DeviceKind device) { return device == DeviceKind::kCuda ? 2048 : 256; }

struct EngineOptions {
  int64_t context_length = 0;  // tokens of prompt and answer; 0: the model's max_position_embeddings
  int64_t max_batch = 8;       // sequences in work at once
  DType kv_dtype = DType::kBF16;
  uint64_t kv_bytes = 0;  // memory of the KV cache; 0: max_batch whole contexts. At least one context is
                          // needed (MachineError otherwise)
  // Prompt tokens per step, all sequences together.
  int64_t prefill_chunk = usual_prefill_chunk(DeviceKind::kCpu);
  int64_t max_queue = 64;  // requests that wait
  Precision precision = Precision::kFast;
};

struct EngineStats {
  int64_t active = 0;  // sequences in work
  int64_t queued = 0;
  int64_t kv_pages_total = 0;
  int64_t kv_pages_used = 0;    // by sequences in work
  int64_t kv_pages_cached = 0;  // by the prefix cache; given up when they are needed
  uint64_t kv_bytes = 0;        // of the whole cache
  // Since the start:
  uint64_t requests = 0;
  uint64_t finished[4] = {};  // by FinishReason
  uint64_t refused_busy = 0;
  uint64_t prompt_tokens = 0;  // with cached ones
  uint64_t cached_tokens = 0;
  uint64_t generated_tokens = 0;
  uint64_t preemptions = 0;  // sequences that gave their pages back and began again
  uint64_t steps = 0;
  double step_seconds = 0;               // spent in steps
  std::vector<uint64_t> steps_by_batch;  // [max_batch + 1]: steps with so many sequences
};

// What runs the model in an engine: infer() over a Model, or a test's stand-in.
class StepRunner {
 public:
  virtual ~StepRunner() = default;
  // As infer() of model/inference.h: logits f32 [rows, V].
  virtual const float* run(KvCache& cache, std::span<const SequenceInput> inputs,
                           const Meanwhile& meanwhile) = 0;
  // As infer_top(), where the runner's device can: the `count` largest logits of each row; 0: it cannot.
  virtual int64_t most_top_logits() const { return 0; }
  virtual TopLogits run_top(KvCache&, std::span<const SequenceInput>, int64_t /*count*/, const Meanwhile&) {
    return {};
  }
  // A whole row f32 [V] of the last run_top(), in host memory until the next call.
  virtual const float* row_of_last_top(int64_t /*row*/) { return nullptr; }
  // As run(), but the final hidden states, f32 [rows, C], in place of the logits. null: it cannot.
  virtual const float* run_hidden(KvCache&, std::span<const SequenceInput>) { return nullptr; }
  // A pass over made-up tokens, up to those of a step, so that requests find memory grown, kernels loaded and
  // products of that size chosen. Called in idle time with round = 0, 1, ...; false: there was nothing left
  // to do. Borrows pages of the cache.
  virtual bool warm_up(KvCache&, int64_t /*round*/, int64_t /*prompt_tokens*/, int64_t /*sequences*/) {
    return false;
  }
  // Where the KV cache goes.
  virtual Stream& stream() { return cpu_stream(); }
};
// The runner over a model that lies on `device`. Device and threads: used by the engine's thread alone from
// now on.
std::unique_ptr<StepRunner> make_runner(std::shared_ptr<const Model> model, ComputeDevice& device,
                                        ThreadPool& threads, Precision precision);

class Engine {
 public:
  // Allocates the KV cache and starts the thread. Throws UsageError or MachineError for options that cannot
  // work.
  Engine(const ModelConfig& config, Tokenizer tokenizer, std::unique_ptr<StepRunner> runner,
         const EngineOptions& options);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  // Cancels what is in work.
  ~Engine();

  // Queues a request; from any thread. Throws InputError for values out of range or an empty prompt,
  // ContextError, BusyError, StoppedError. Whatever fails later comes as the ticket's last event.
  Ticket submit(GenerationRequest request);

  enum class StopMode { kDrain, kCancel };
  // No more requests from now on; returns when those in work and in the queue are finished or cancelled. From
  // any thread, more than once.
  void stop(StopMode mode);

  EngineStats stats() const;
  int64_t context_length() const;
  const EngineOptions& options() const;  // with the values that were chosen for 0

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace onggi
