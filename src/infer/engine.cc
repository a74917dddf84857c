#include "infer/engine.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <new>
#include <random>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "infer/engine_limits.h"
#include "infer/prefix_cache.h"
#include "infer/sequence.h"

namespace onggi {
namespace {

uint64_t fresh_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

// What an exception tells the client. Call from a catch block.
Ending ending_of_current_exception() {
  try {
    throw;
  } catch (const Error& error) {
    return {FinishReason::kError, error.what(), error.exit_code()};
  } catch (const std::bad_alloc&) {
    return {FinishReason::kError, text("the machine has no memory left for this request; make it shorter"),
            ExitCode::kMachine};
  } catch (const std::exception& error) {
    return {FinishReason::kError, text("the engine failed on this request: {}", error.what()),
            ExitCode::kWorkFailed};
  }
}

}  // namespace

struct Engine::Impl {
  Impl(const ModelConfig& model_config, Tokenizer model_tokenizer, std::unique_ptr<StepRunner> model_runner,
       const EngineOptions& engine_options);

  Ticket submit(GenerationRequest request);
  void stop(StopMode mode);

  // The engine's thread.
  void run();
  bool wait_for_work();
  bool warm_up();
  void step();
  void drop_ended();
  void admit();
  void preempt(size_t count);
  void run_pass(const std::vector<Sequence*>& sequences, const std::vector<int64_t>& tokens);
  int64_t top_logits_for_all(const std::vector<Sequence*>& sequences) const;
  void give_logits(const std::vector<Sequence*>& sequences, const float* logits);
  void give_top_logits(const std::vector<Sequence*>& sequences, const TopLogits& top);
  void give_hidden(const std::vector<Sequence*>& sequences, const float* hidden);
  void extend(Sequence* sequence, const std::function<std::optional<Ending>()>& next_token);
  void finish(Sequence* sequence, const Ending& ending);
  std::vector<SequenceLoad> loads() const;
  void publish(double step_seconds, size_t batch);

  const ModelConfig config;
  const Tokenizer tokenizer;
  const EngineOptions options;
  const std::unique_ptr<StepRunner> runner;

  // Of the engine's thread alone (after the constructor).
  KvCache cache;
  PrefixCache prefixes;
  std::vector<std::unique_ptr<Sequence>> active;  // in the order of admission
  uint64_t preemptions = 0;
  int64_t warm_up_rounds = 0;
  bool is_warm = false;

  mutable std::mutex mutex;  // guards what follows
  std::condition_variable wake;
  std::deque<std::unique_ptr<Sequence>> waiting;
  std::optional<StopMode> stopping;
  EngineStats stats;

  std::mutex join_mutex;
  std::thread thread;
};

Engine::Impl::Impl(const ModelConfig& model_config, Tokenizer model_tokenizer,
                   std::unique_ptr<StepRunner> model_runner, const EngineOptions& engine_options)
    : config(model_config),
      tokenizer(std::move(model_tokenizer)),
      options(chosen_options(model_config, engine_options)),
      runner(std::move(model_runner)),
      cache(config, static_cast<int64_t>(options.kv_bytes / KvCache::page_bytes(config, options.kv_dtype)),
            options.kv_dtype, runner->stream()),
      prefixes(cache) {
  stats.kv_pages_total = cache.pages();
  stats.kv_bytes = cache.bytes();
  stats.steps_by_batch.resize(static_cast<size_t>(options.max_batch) + 1);
  thread = std::thread([this] { run(); });
}

Ticket Engine::Impl::submit(GenerationRequest request) {
  check_request(request, config, options);
  if (!request.sampling.seed) request.sampling.seed = fresh_seed();
  auto stream = std::make_shared<GenerationStream>();
  auto sequence = std::make_unique<Sequence>(std::move(request), tokenizer, options.context_length, stream);
  {
    const std::lock_guard lock(mutex);
    if (stopping) throw StoppedError(text("the engine is shutting down; ask again when it is back"));
    if (static_cast<int64_t>(waiting.size()) >= options.max_queue) {
      ++stats.refused_busy;
      throw BusyError(text("the queue is full with {} waiting requests; try again later", waiting.size()));
    }
    ++stats.requests;
    waiting.push_back(std::move(sequence));
    stats.queued = static_cast<int64_t>(waiting.size());
  }
  wake.notify_one();
  return Ticket(std::move(stream));
}

void Engine::Impl::stop(StopMode mode) {
  {
    const std::lock_guard lock(mutex);
    if (!stopping || mode == StopMode::kCancel) stopping = mode;
  }
  wake.notify_one();
  const std::lock_guard lock(join_mutex);
  if (thread.joinable()) thread.join();
}

void Engine::Impl::run() {
  while (wait_for_work()) {
    try {
      step();
    } catch (...) {
      // Errors of requests were handled where they arose; this one has no owner, so it ends all that run.
      const Ending ending = ending_of_current_exception();
      spdlog::error("{}", ending.error);
      while (!active.empty()) finish(active.back().get(), ending);
    }
  }
  const Ending cancelled{FinishReason::kCancelled, {}};
  while (!active.empty()) finish(active.back().get(), cancelled);
  const std::lock_guard lock(mutex);
  for (const auto& sequence : waiting) {
    sequence->send(sequence->result(cancelled));
    ++stats.finished[static_cast<size_t>(FinishReason::kCancelled)];
  }
  waiting.clear();
  stats.queued = 0;
  stats.kv_pages_used = 0;
}

// False: it is time to end. Warms up while there is nothing else to do.
bool Engine::Impl::wait_for_work() {
  // Who has just opened the engine is about to ask.
  constexpr std::chrono::milliseconds kIdle{1000};
  std::unique_lock lock(mutex);
  const auto has_work = [&] { return stopping || !waiting.empty() || !active.empty(); };
  for (auto patience = kIdle; !is_warm && !wake.wait_for(lock, patience, has_work); patience = {}) {
    lock.unlock();
    is_warm = !warm_up();
    lock.lock();
  }
  wake.wait(lock, has_work);
  return stopping != StopMode::kCancel && (!stopping || !waiting.empty() || !active.empty());
}

// Whether there is more of it. What goes wrong here will go wrong again in the requests that need it, and is
// theirs then.
bool Engine::Impl::warm_up() {
  try {
    return runner->warm_up(cache, warm_up_rounds++, options.prefill_chunk, options.max_batch);
  } catch (const std::exception& error) {
    spdlog::warn("warming up: {}", error.what());
    return false;
  }
}

void Engine::Impl::step() {
  const Stopwatch watch;
  drop_ended();
  admit();
  const StepPlan plan = plan_step(loads(), cache.free_pages() + prefixes.pages(), options.prefill_chunk);
  // Answers and embeddings read different rows of the model, so each has a pass of its own.
  std::vector<Sequence*> sequences[2];
  std::vector<int64_t> tokens[2];
  for (size_t i = 0; i < active.size() - plan.preempted; ++i) {
    if (plan.tokens[i] == 0) continue;
    const size_t kind = active[i]->wants_embedding() ? 1 : 0;
    sequences[kind].push_back(active[i].get());
    tokens[kind].push_back(plan.tokens[i]);
  }
  const size_t batch = sequences[0].size() + sequences[1].size();
  preempt(plan.preempted);
  while (cache.free_pages() < plan.new_pages && prefixes.evict()) {
  }
  for (const size_t kind : {0, 1})
    if (!sequences[kind].empty()) run_pass(sequences[kind], tokens[kind]);
  publish(watch.seconds(), batch);
}

// Ends what was cancelled or is too late, in work and in the queue.
void Engine::Impl::drop_ended() {
  const auto now = std::chrono::steady_clock::now();
  const auto ending_of = [&](const Sequence& sequence) -> std::optional<Ending> {
    if (sequence.stream()->cancelled()) return Ending{FinishReason::kCancelled, {}};
    if (!sequence.past_deadline(now)) return std::nullopt;
    return Ending{FinishReason::kError, text("the request took longer than its time limit"),
                  ExitCode::kWorkFailed};
  };
  for (size_t i = active.size(); i-- > 0;) {
    if (const auto ending = ending_of(*active[i])) finish(active[i].get(), *ending);
  }
  const std::lock_guard lock(mutex);
  std::erase_if(waiting, [&](const std::unique_ptr<Sequence>& sequence) {
    const auto ending = ending_of(*sequence);
    if (!ending) return false;
    sequence->send(sequence->result(*ending));
    ++stats.finished[static_cast<size_t>(ending->reason)];
    return true;
  });
}

void Engine::Impl::admit() {
  std::vector<std::unique_ptr<Sequence>> admitted;
  {
    const std::lock_guard lock(mutex);
    std::vector<int64_t> lengths;
    for (const auto& sequence : waiting) {
      if (static_cast<int64_t>(lengths.size()) == options.max_batch) break;
      lengths.push_back(sequence->load().tokens);
    }
    const size_t count =
        count_admissible(loads(), lengths, cache.free_pages() + prefixes.pages(), options.max_batch);
    for (size_t i = 0; i < count; ++i) {
      admitted.push_back(std::move(waiting.front()));
      waiting.pop_front();
    }
  }
  for (auto& sequence : admitted) {
    std::optional<KvSequence> kv = prefixes.take(sequence->tokens());
    sequence->begin(kv ? std::move(*kv) : KvSequence(cache));
    active.push_back(std::move(sequence));
  }
}

// Sends the youngest `count` sequences back to the head of the queue. Their pages go to the prefix cache:
// whatever is not needed there until they return is not computed twice.
void Engine::Impl::preempt(size_t count) {
  for (size_t i = 0; i < count; ++i) {
    std::unique_ptr<Sequence> sequence = std::move(active.back());
    active.pop_back();
    prefixes.insert(sequence->tokens(), std::move(sequence->kv()));
    sequence->preempt();
    ++preemptions;
    const std::lock_guard lock(mutex);
    waiting.push_front(std::move(sequence));
  }
}

// One pass, of answers or of embeddings alone. Where it throws with several sequences each is tried alone, so
// that only the one at fault fails.
void Engine::Impl::run_pass(const std::vector<Sequence*>& sequences, const std::vector<int64_t>& tokens) {
  std::vector<SequenceInput> inputs;
  std::vector<int64_t> before;
  std::vector<Sequence*> with_logits;
  for (size_t i = 0; i < sequences.size(); ++i) {
    Sequence& sequence = *sequences[i];
    KvSequence& kv = sequence.kv();
    const std::span<const int32_t> all(sequence.tokens());
    const bool last = kv.length() + tokens[i] == static_cast<int64_t>(all.size());
    ONGGI_CHECK(kv.reserve(kv.length() + tokens[i]), "the plan left pages for this step");
    before.push_back(kv.length());
    inputs.push_back({&kv, all.subspan(static_cast<size_t>(kv.length()), static_cast<size_t>(tokens[i])),
                      last ? SequenceInput::Logits::kLast : SequenceInput::Logits::kNone});
    if (last) with_logits.push_back(&sequence);
  }
  // Clients are woken while the device is at work on their next tokens, not before.
  const auto deliver = [this] {
    for (const auto& sequence : active) sequence->deliver();
  };
  try {
    if (sequences.front()->wants_embedding()) {
      deliver();
      give_hidden(with_logits, runner->run_hidden(cache, inputs));
    } else if (const int64_t count = top_logits_for_all(with_logits); count > 0) {
      give_top_logits(with_logits, runner->run_top(cache, inputs, count, deliver));
    } else {
      give_logits(with_logits, runner->run(cache, inputs, deliver));
    }
  } catch (...) {
    const Ending ending = ending_of_current_exception();
    if (sequences.size() == 1) return finish(sequences[0], ending);
    for (size_t i = 0; i < sequences.size(); ++i) {
      sequences[i]->kv().truncate(before[i]);
      run_pass({sequences[i]}, {tokens[i]});
    }
  }
}

// How many of the likeliest logits do for all of these sequences; 0: some need whole rows.
int64_t Engine::Impl::top_logits_for_all(const std::vector<Sequence*>& sequences) const {
  int64_t count = 0;
  for (const Sequence* sequence : sequences) {
    const int64_t wanted = sequence->top_logits_wanted(runner->most_top_logits(), config.vocab_size);
    if (wanted == 0) return 0;
    count = std::max(count, wanted);
  }
  return count;
}

// logits [sequences, V].
void Engine::Impl::give_logits(const std::vector<Sequence*>& sequences, const float* logits) {
  const auto vocabulary = static_cast<size_t>(config.vocab_size);
  for (size_t i = 0; i < sequences.size(); ++i)
    extend(sequences[i], [&] {
      return sequences[i]->extend({logits + i * vocabulary, vocabulary}, config.eos_token_ids);
    });
}

void Engine::Impl::give_top_logits(const std::vector<Sequence*>& sequences, const TopLogits& top) {
  const auto count = static_cast<size_t>(top.count);
  for (size_t i = 0; i < sequences.size(); ++i) {
    const TopRow row{
        {top.values + i * count, count}, {top.ids + i * count, count}, top.log_sum_exp[i], config.vocab_size};
    const auto whole_row = [&]() -> std::span<const float> {
      return {runner->row_of_last_top(static_cast<int64_t>(i)), static_cast<size_t>(config.vocab_size)};
    };
    extend(sequences[i], [&] { return sequences[i]->extend(row, whole_row, config.eos_token_ids); });
  }
}

// hidden [sequences, C].
void Engine::Impl::give_hidden(const std::vector<Sequence*>& sequences, const float* hidden) {
  const auto width = static_cast<size_t>(config.hidden_size);
  for (size_t i = 0; i < sequences.size(); ++i)
    finish(sequences[i], sequences[i]->take_embedding({hidden + i * width, width}));
}

// Throws nothing: what goes wrong ends its own sequence.
void Engine::Impl::extend(Sequence* sequence, const std::function<std::optional<Ending>()>& next_token) {
  std::optional<Ending> ending;
  try {
    ending = next_token();
    // At each token, not at the end of the answer: rates are read while answers are written.
    const std::lock_guard lock(mutex);
    ++stats.generated_tokens;
  } catch (...) {
    ending = ending_of_current_exception();
  }
  if (ending) finish(sequence, *ending);
}

void Engine::Impl::finish(Sequence* sequence, const Ending& ending) {
  const GenerationResult result = sequence->result(ending);
  {
    // The numbers first: a client that has its last event finds them.
    const std::lock_guard lock(mutex);
    ++stats.finished[static_cast<size_t>(ending.reason)];
    stats.prompt_tokens += static_cast<uint64_t>(result.prompt_tokens);
    stats.cached_tokens += static_cast<uint64_t>(result.cached_tokens);
    stats.active = static_cast<int64_t>(active.size()) - 1;
  }
  const auto place =
      std::find_if(active.begin(), active.end(), [&](const auto& s) { return s.get() == sequence; });
  if (ending.reason != FinishReason::kError) prefixes.insert(sequence->tokens(), std::move(sequence->kv()));
  sequence->send(result);
  active.erase(place);
}

std::vector<SequenceLoad> Engine::Impl::loads() const {
  std::vector<SequenceLoad> loads;
  for (const auto& sequence : active) loads.push_back(sequence->load());
  return loads;
}

void Engine::Impl::publish(double step_seconds, size_t batch) {
  const std::lock_guard lock(mutex);
  stats.active = static_cast<int64_t>(active.size());
  stats.queued = static_cast<int64_t>(waiting.size());
  stats.kv_pages_cached = prefixes.pages();
  stats.kv_pages_used = cache.pages() - cache.free_pages() - stats.kv_pages_cached;
  stats.preemptions = preemptions;
  if (batch == 0) return;
  ++stats.steps;
  ++stats.steps_by_batch[batch];
  stats.step_seconds += step_seconds;
}

Engine::Engine(const ModelConfig& config, Tokenizer tokenizer, std::unique_ptr<StepRunner> runner,
               const EngineOptions& options)
    : impl_(std::make_unique<Impl>(config, std::move(tokenizer), std::move(runner), options)) {}

Engine::~Engine() { stop(StopMode::kCancel); }

Ticket Engine::submit(GenerationRequest request) { return impl_->submit(std::move(request)); }

void Engine::stop(StopMode mode) { impl_->stop(mode); }

EngineStats Engine::stats() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->stats;
}

int64_t Engine::context_length() const { return impl_->options.context_length; }

const EngineOptions& Engine::options() const { return impl_->options; }

}  // namespace onggi
