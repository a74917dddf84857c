// The engine over a stand-in for the model; real threads, real KV pages, the real tokenizer.
#include "infer/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <latch>
#include <mutex>
#include <thread>

#include "fake_runner.h"

namespace onggi {
namespace {

using std::chrono::milliseconds;

const Tokenizer& tokenizer() {
  static const Tokenizer loaded = Tokenizer::load("models/onggi-mini");
  return loaded;
}

// A number that depends on the whole history, below the ids of control tokens.
int32_t hash_of(const std::vector<int32_t>& history) {
  uint32_t hash = 1;
  for (int32_t id : history) hash = hash * 31 + static_cast<uint32_t>(id);
  return static_cast<int32_t>(hash % 8000);
}

// Always the same answer: `ids`, then eos.
FakeRunner::Next script(size_t prompt_length, std::vector<int32_t> ids) {
  return [=](const std::vector<int32_t>& history) {
    const size_t at = history.size() - prompt_length;
    return at < ids.size() ? ids[at] : 8102;
  };
}

struct Fixture {
  explicit Fixture(FakeRunner::Next next = hash_of, EngineOptions options = {}, int64_t context = 256)
      : config(tiny_config(context)) {
    options.kv_dtype = DType::kF32;
    auto made = std::make_unique<FakeRunner>(config, std::move(next));
    made->before_run = [this](std::span<const SequenceInput> inputs) {
      if (before_run) before_run(inputs);
    };
    engine.emplace(config, tokenizer(), std::move(made), options);
  }

  std::function<void(std::span<const SequenceInput>)> before_run;  // set before the first request
  ModelConfig config;
  std::optional<Engine> engine;
};

GenerationRequest request(std::vector<int32_t> prompt, int64_t max_new_tokens) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0;
  request.max_new_tokens = max_new_tokens;
  return request;
}

std::vector<int32_t> prompt_of(size_t length, int32_t first) {
  std::vector<int32_t> prompt;
  for (size_t i = 0; i < length; ++i) prompt.push_back((first + static_cast<int32_t>(i) * 7) % 8000);
  return prompt;
}

std::vector<int32_t> ids_of(const Generation& generation) {
  std::vector<int32_t> ids;
  for (const SampledToken& token : generation.tokens) ids.push_back(token.id);
  return ids;
}

// What hash_of continues a prompt with.
std::vector<int32_t> expected_ids(std::vector<int32_t> history, size_t n) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < n; ++i) {
    ids.push_back(hash_of(history));
    history.push_back(ids.back());
  }
  return ids;
}

// Waits until the engine has published that nothing runs.
EngineStats idle_stats(const Engine& engine) {
  for (int i = 0; i < 2000; ++i) {
    const EngineStats stats = engine.stats();
    if (stats.active == 0 && stats.queued == 0 && stats.kv_pages_used == 0) return stats;
    std::this_thread::sleep_for(milliseconds(1));
  }
  ADD_FAILURE() << "the engine does not come to rest";
  return engine.stats();
}

TEST(Engine, AnswersAndReports) {
  Fixture fixture;
  const auto prompt = prompt_of(70, 5);
  const Generation answer = wait_for(fixture.engine->submit(request(prompt, 40)));
  EXPECT_EQ(ids_of(answer), expected_ids(prompt, 40));
  EXPECT_EQ(answer.text, tokenizer().decode(ids_of(answer), SkipSpecial::kYes));
  EXPECT_EQ(answer.result.reason, FinishReason::kLength);
  EXPECT_EQ(answer.result.prompt_tokens, 70);
  EXPECT_EQ(answer.result.generated_tokens, 40);
  EXPECT_NEAR(answer.tokens[0].logprob, -std::log(1 + 8191 * std::exp(-20.0)), 1e-6);
  const GenerationTimings& times = answer.result.timings;
  EXPECT_LE(times.queue, times.first_token);
  EXPECT_LE(times.first_token, times.total);
  EXPECT_NEAR(times.first_token, times.queue + times.prompt_eval, 1e-9);
  EXPECT_GT(times.eval, 0);
  const EngineStats stats = idle_stats(*fixture.engine);
  EXPECT_EQ(stats.requests, 1u);
  EXPECT_EQ(stats.finished[static_cast<size_t>(FinishReason::kLength)], 1u);
  EXPECT_EQ(stats.prompt_tokens, 70u);
  EXPECT_EQ(stats.generated_tokens, 40u);
  EXPECT_EQ(stats.steps, 40u);
  EXPECT_EQ(stats.steps_by_batch[1], 40u);
}

TEST(Engine, ManyRequestsAtOnceGetTheirOwnAnswers) {
  EngineOptions options;
  options.max_batch = 5;
  options.prefill_chunk = 64;
  Fixture fixture(hash_of, options);
  // The first step waits until all are queued, so that they do share steps.
  std::latch queued(1);
  fixture.before_run = [&](std::span<const SequenceInput>) { queued.wait(); };
  std::vector<Ticket> tickets;
  for (int i = 0; i < 12; ++i) {
    tickets.push_back(
        fixture.engine->submit(request(prompt_of(20 + 13 * static_cast<size_t>(i), i * 100), 30)));
  }
  queued.count_down();
  for (int i = 0; i < 12; ++i) {
    const auto prompt = prompt_of(20 + 13 * static_cast<size_t>(i), i * 100);
    const Generation answer = wait_for(std::move(tickets[static_cast<size_t>(i)]));
    EXPECT_EQ(ids_of(answer), expected_ids(prompt, 30)) << "request " << i;
  }
  EXPECT_GT(idle_stats(*fixture.engine).steps_by_batch[5], 10u);
}

TEST(Engine, TooFewPagesPreemptAndRecompute) {
  EngineOptions options;
  options.max_batch = 6;
  options.kv_bytes = KvCache::page_bytes(tiny_config(), DType::kF32) * 9;  // one context of 256 takes 8
  Fixture fixture(hash_of, options);
  std::vector<Ticket> tickets;
  for (int i = 0; i < 6; ++i) tickets.push_back(fixture.engine->submit(request(prompt_of(30, i * 50), 150)));
  for (int i = 0; i < 6; ++i) {
    const Generation answer = wait_for(std::move(tickets[static_cast<size_t>(i)]));
    EXPECT_EQ(ids_of(answer), expected_ids(prompt_of(30, i * 50), 150)) << "request " << i;
    EXPECT_EQ(answer.result.reason, FinishReason::kLength);
  }
  const EngineStats stats = idle_stats(*fixture.engine);
  EXPECT_GT(stats.preemptions, 0u) << "the test should not fit";
  EXPECT_EQ(stats.kv_pages_total, 9);
}

TEST(Engine, StopStringsAcrossTokens) {
  const std::string said = "첫째 줄입니다.\n둘째 줄 끝<stop>나머지";
  const auto ids = tokenizer().encode(said);
  ASSERT_GT(ids.size(), 6u);
  Fixture fixture(script(3, ids));
  GenerationRequest stopping = request({1, 2, 3}, 100);
  stopping.stop = {"없음", "끝<stop>"};
  const Generation answer = wait_for(fixture.engine->submit(std::move(stopping)));
  EXPECT_EQ(answer.text, "첫째 줄입니다.\n둘째 줄 ");
  EXPECT_EQ(answer.result.reason, FinishReason::kStop);
  EXPECT_EQ(answer.result.stop_string, "끝<stop>");
  EXPECT_LT(answer.tokens.size(), ids.size()) << "it goes on after the stop string";

  const Generation whole = wait_for(fixture.engine->submit(request({1, 2, 3}, 100)));
  EXPECT_EQ(whole.text, said);
  EXPECT_EQ(whole.result.reason, FinishReason::kStop);
  EXPECT_EQ(whole.tokens.back().id, 8102);
  EXPECT_EQ(whole.result.generated_tokens, static_cast<int64_t>(ids.size()) + 1);
}

TEST(Engine, TextEndsAtCharacters) {
  // Characters that the vocabulary spells with several tokens.
  const std::string said = "𓀀𓀁 뷁 🦜🏽";
  const auto ids = tokenizer().encode(said);
  ASSERT_GT(ids.size(), 12u);
  Fixture fixture(script(3, ids));
  Ticket ticket = fixture.engine->submit(request({1, 2, 3}, 100));
  std::string text;
  for (bool last = false; !last;) {
    const auto event = ticket.next(milliseconds(5000));
    ASSERT_TRUE(event);
    EXPECT_TRUE(event->text.empty() || (event->text[0] & 0xC0) != 0x80) << "begins within a character";
    text += event->text;
    last = event->result.has_value();
  }
  EXPECT_EQ(text, said);
  EXPECT_FALSE(ticket.next(milliseconds(1))) << "nothing follows the last event";
  // Cut within a character: the rest is U+FFFD, not broken UTF-8.
  const Generation cut = wait_for(fixture.engine->submit(request({1, 2, 3}, 2)));
  EXPECT_EQ(cut.text, "\xEF\xBF\xBD");
}

TEST(Engine, CancelFreesTheSlotAndItsPages) {
  EngineOptions options;
  options.max_batch = 1;
  Fixture fixture([](const auto&) { return 5; }, options);
  fixture.before_run = [](std::span<const SequenceInput>) { std::this_thread::sleep_for(milliseconds(1)); };
  Ticket running = fixture.engine->submit(request(prompt_of(10, 0), 240));
  ASSERT_TRUE(running.next(milliseconds(5000)));
  Ticket waiting = fixture.engine->submit(request(prompt_of(10, 0), 4));
  running.cancel();
  const Generation cancelled = wait_for(std::move(running));
  EXPECT_EQ(cancelled.result.reason, FinishReason::kCancelled);
  EXPECT_LT(cancelled.result.generated_tokens, 240);
  EXPECT_EQ(wait_for(std::move(waiting)).result.reason, FinishReason::kLength);
  // A client that goes away.
  { const Ticket dropped = fixture.engine->submit(request(prompt_of(10, 0), 240)); }
  const EngineStats stats = idle_stats(*fixture.engine);
  EXPECT_EQ(stats.finished[static_cast<size_t>(FinishReason::kCancelled)], 2u);
  EXPECT_EQ(stats.kv_pages_used, 0);
}

TEST(Engine, RefusesWhatCannotBeServed) {
  Fixture fixture;
  Engine& engine = *fixture.engine;
  EXPECT_THROW(engine.submit(request({}, 1)), InputError);
  EXPECT_THROW(engine.submit(request({8192}, 1)), InputError);
  EXPECT_THROW(engine.submit(request({-1}, 1)), InputError);
  EXPECT_THROW(engine.submit(request({1}, 0)), InputError);
  EXPECT_THROW(engine.submit(request(prompt_of(256, 0), 1)), ContextError);
  GenerationRequest bad = request({1}, 1);
  bad.stop = {""};
  EXPECT_THROW(engine.submit(std::move(bad)), InputError);
  bad = request({1}, 1);
  bad.sampling.top_p = 2;
  EXPECT_THROW(engine.submit(std::move(bad)), InputError);
  bad = request({1}, 1);
  bad.top_logprobs = 101;
  EXPECT_THROW(engine.submit(std::move(bad)), InputError);
  // The longest prompt has room for one token.
  const Generation answer = wait_for(engine.submit(request(prompt_of(255, 0), 10)));
  EXPECT_EQ(answer.result.reason, FinishReason::kLength);
  EXPECT_EQ(answer.tokens.size(), 1u);
}

TEST(Engine, WithoutALimitTheContextEndsTheAnswer) {
  Fixture fixture([](const auto&) { return 5; });
  GenerationRequest endless = request(prompt_of(100, 0), 1);
  endless.max_new_tokens.reset();
  const Generation answer = wait_for(fixture.engine->submit(std::move(endless)));
  EXPECT_EQ(answer.result.reason, FinishReason::kLength);
  EXPECT_EQ(answer.tokens.size(), 156u);
}

TEST(Engine, IgnoringEosGoesOn) {
  Fixture fixture([](const auto&) { return 8102; });
  GenerationRequest ignoring = request({1, 2}, 7);
  ignoring.at_eos = GenerationRequest::AtEos::kIgnore;
  EXPECT_EQ(wait_for(fixture.engine->submit(std::move(ignoring))).tokens.size(), 7u);
  EXPECT_EQ(wait_for(fixture.engine->submit(request({1, 2}, 7))).tokens.size(), 1u);
}

TEST(Engine, AFullQueueIsBusy) {
  EngineOptions options;
  options.max_batch = 1;
  options.max_queue = 2;
  Fixture fixture(hash_of, options);
  std::latch entered(1), go(1);
  std::atomic<bool> first = true;
  fixture.before_run = [&](std::span<const SequenceInput>) {
    if (first.exchange(false)) {
      entered.count_down();
      go.wait();
    }
  };
  std::vector<Ticket> tickets;
  tickets.push_back(fixture.engine->submit(request({1}, 3)));
  entered.wait();
  for (int i = 0; i < 2; ++i) tickets.push_back(fixture.engine->submit(request({1}, 3)));
  EXPECT_THROW(fixture.engine->submit(request({1}, 3)), BusyError);
  EXPECT_EQ(fixture.engine->stats().refused_busy, 1u);
  EXPECT_EQ(fixture.engine->stats().queued, 2);
  go.count_down();
  for (Ticket& ticket : tickets) EXPECT_EQ(wait_for(std::move(ticket)).tokens.size(), 3u);
}

TEST(Engine, PrefixesAreReused) {
  Fixture fixture;
  Engine& engine = *fixture.engine;
  const auto prompt = prompt_of(100, 3);
  const Generation first = wait_for(engine.submit(request(prompt, 20)));
  EXPECT_EQ(first.result.cached_tokens, 0);
  // The next turn: prompt, answer, more.
  auto next = prompt;
  for (int32_t id : ids_of(first)) next.push_back(id);
  for (int32_t id : prompt_of(15, 9)) next.push_back(id);
  const Generation second = wait_for(engine.submit(request(next, 20)));
  EXPECT_EQ(second.result.cached_tokens, 119) << "all but the last token of the answer was computed";
  EXPECT_EQ(ids_of(second), expected_ids(next, 20));
  // Another conversation with the same beginning copies it, and the first one goes on unharmed.
  auto other = prompt;
  other.resize(50);
  for (int32_t id : prompt_of(30, 77)) other.push_back(id);
  const Generation third = wait_for(engine.submit(request(other, 20)));
  EXPECT_EQ(third.result.cached_tokens, 50);
  EXPECT_EQ(ids_of(third), expected_ids(other, 20));
  auto last = next;
  for (int32_t id : ids_of(second)) last.push_back(id);
  const Generation fourth = wait_for(engine.submit(request(last, 20)));
  EXPECT_EQ(fourth.result.cached_tokens, 154);
  EXPECT_EQ(ids_of(fourth), expected_ids(last, 20));
  // The same prompt once more: one token at least is computed.
  EXPECT_EQ(wait_for(engine.submit(request(prompt, 1))).result.cached_tokens, 99);
  EXPECT_EQ(idle_stats(engine).cached_tokens, 119u + 50 + 154 + 99);
}

// Embeddings share steps, pages and known prefixes with answers.
TEST(Engine, EmbeddingsBesideAnswers) {
  EngineOptions options;
  options.max_batch = 4;
  options.prefill_chunk = 16;
  Fixture fixture(hash_of, options);
  std::vector<Ticket> answers, embeddings;
  for (int32_t i = 0; i < 3; ++i) {
    answers.push_back(fixture.engine->submit(request(prompt_of(40, i), 20)));
    GenerationRequest wanted = request(prompt_of(static_cast<size_t>(50 + i), i), 1);
    wanted.want = GenerationRequest::Want::kEmbedding;
    embeddings.push_back(fixture.engine->submit(std::move(wanted)));
  }
  for (int32_t i = 0; i < 3; ++i) {
    const auto at = static_cast<size_t>(i);
    const Generation embedded = wait_for(std::move(embeddings[at]));
    EXPECT_EQ(embedded.result.reason, FinishReason::kStop) << embedded.result.error;
    EXPECT_EQ(embedded.result.generated_tokens, 0);
    EXPECT_EQ(embedded.result.prompt_tokens, 50 + i);
    EXPECT_TRUE(embedded.tokens.empty());
    const std::vector<float> expected = {static_cast<float>(50 + i),
                                         static_cast<float>(hash_of(prompt_of(50 + at, i))), 0, 0};
    EXPECT_EQ(embedded.result.embedding, expected);
    const Generation answer = wait_for(std::move(answers[at]));
    EXPECT_EQ(ids_of(answer), expected_ids(prompt_of(40, i), 20));
    EXPECT_TRUE(answer.result.embedding.empty());
  }
  // The same text again: all but its last token is known.
  GenerationRequest again = request(prompt_of(50, 0), 1);
  again.want = GenerationRequest::Want::kEmbedding;
  const Generation known = wait_for(fixture.engine->submit(std::move(again)));
  EXPECT_EQ(known.result.cached_tokens, 49);
  EXPECT_EQ(known.result.embedding[1], static_cast<float>(hash_of(prompt_of(50, 0))));
  EXPECT_EQ(idle_stats(*fixture.engine).kv_pages_used, 0);
}

TEST(Engine, AFailingRequestFailsAlone) {
  Fixture fixture;
  std::latch queued(1);
  fixture.before_run = [&](std::span<const SequenceInput> inputs) {
    queued.wait();
    for (const SequenceInput& input : inputs) {
      if (input.tokens.front() == 666) throw WorkError("this one");
      if (input.tokens.front() == 667) throw std::bad_alloc();
    }
  };
  std::vector<Ticket> tickets;
  for (int32_t first : {1, 666, 2, 667, 3}) {
    tickets.push_back(fixture.engine->submit(request({first, 10, 11}, 20)));
  }
  queued.count_down();
  std::vector<Generation> answers;
  for (Ticket& ticket : tickets) answers.push_back(wait_for(std::move(ticket)));
  EXPECT_EQ(answers[1].result.error, "this one");
  EXPECT_EQ(answers[1].result.error_code, ExitCode::kWorkFailed);
  EXPECT_EQ(answers[3].result.error_code, ExitCode::kMachine);
  for (size_t i : {0u, 2u, 4u}) {
    EXPECT_EQ(answers[i].result.reason, FinishReason::kLength);
    EXPECT_EQ(ids_of(answers[i]), expected_ids({static_cast<int32_t>(i / 2 + 1), 10, 11}, 20));
  }
  EXPECT_EQ(idle_stats(*fixture.engine).finished[static_cast<size_t>(FinishReason::kError)], 2u);
}

TEST(Engine, DeadlinesEndRequests) {
  Fixture fixture([](const auto&) { return 5; });
  fixture.before_run = [](std::span<const SequenceInput>) { std::this_thread::sleep_for(milliseconds(2)); };
  GenerationRequest late = request({1}, 250);
  late.deadline = std::chrono::steady_clock::now() + milliseconds(40);
  const Generation answer = wait_for(fixture.engine->submit(std::move(late)));
  EXPECT_EQ(answer.result.reason, FinishReason::kError);
  EXPECT_LT(answer.tokens.size(), 250u);
}

TEST(Engine, DrainsOrCancelsWhenItStops) {
  for (const auto mode : {Engine::StopMode::kDrain, Engine::StopMode::kCancel}) {
    EngineOptions options;
    options.max_batch = 1;
    Fixture fixture(hash_of, options);
    fixture.before_run = [](std::span<const SequenceInput>) { std::this_thread::sleep_for(milliseconds(1)); };
    Ticket running = fixture.engine->submit(request({1}, 100));
    Ticket waiting = fixture.engine->submit(request({2}, 100));
    ASSERT_TRUE(running.next(milliseconds(5000)));
    fixture.engine->stop(mode);
    EXPECT_THROW(fixture.engine->submit(request({1}, 1)), StoppedError);
    const auto expected = mode == Engine::StopMode::kDrain ? FinishReason::kLength : FinishReason::kCancelled;
    EXPECT_EQ(wait_for(std::move(running)).result.reason, expected);
    EXPECT_EQ(wait_for(std::move(waiting)).result.reason, expected);
  }
}

TEST(Engine, ManyThreadsSubmitAndCancel) {
  EngineOptions options;
  options.max_batch = 4;
  options.kv_bytes = KvCache::page_bytes(tiny_config(), DType::kF32) * 12;
  Fixture fixture(hash_of, options);
  std::vector<std::thread> clients;
  std::atomic<int> wrong = 0;
  for (int client = 0; client < 6; ++client) {
    clients.emplace_back([&, client] {
      for (int i = 0; i < 12; ++i) {
        const auto prompt = prompt_of(20 + static_cast<size_t>(i), client * 10);
        Ticket ticket = fixture.engine->submit(request(prompt, 40));
        if (i % 3 == 0) {
          ticket.next(milliseconds(2));
          continue;  // dropped
        }
        (void)fixture.engine->stats();
        if (ids_of(wait_for(std::move(ticket))) != expected_ids(prompt, 40)) ++wrong;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(wrong, 0);
  const EngineStats stats = idle_stats(*fixture.engine);
  EXPECT_EQ(stats.requests, 72u);
  EXPECT_EQ(stats.finished[0] + stats.finished[1] + stats.finished[2] + stats.finished[3], 72u);
  EXPECT_EQ(stats.finished[static_cast<size_t>(FinishReason::kError)], 0u);
}

// Round by round, while nobody asks; and never again once all is done or something went wrong.
TEST(Engine, WarmsUpInIdleTime) {
  for (const bool fails : {false, true}) {
    std::atomic<int64_t> rounds{0};
    std::latch in_second_round(1), asked(1);
    auto runner = std::make_unique<FakeRunner>(tiny_config(), hash_of);
    runner->on_warm_up = [&](int64_t round) {
      EXPECT_EQ(round, rounds++);
      if (round == 1) {
        in_second_round.count_down();
        asked.wait();
      }
      if (round == 3 && fails) throw MachineError("out of memory");
      return round < 3;
    };
    EngineOptions options;
    options.kv_dtype = DType::kF32;
    Engine engine(tiny_config(), tokenizer(), std::move(runner), options);
    in_second_round.wait();
    Ticket ticket = engine.submit(request(prompt_of(70, 5), 40));
    asked.count_down();
    EXPECT_EQ(ids_of(wait_for(std::move(ticket))), expected_ids(prompt_of(70, 5), 40));
    EXPECT_EQ(rounds, 2) << "work comes first";
    while (rounds < 4) std::this_thread::sleep_for(milliseconds(1));
    EXPECT_EQ(ids_of(wait_for(engine.submit(request(prompt_of(7, 5), 4)))), expected_ids(prompt_of(7, 5), 4));
    EXPECT_EQ(idle_stats(engine).steps, 44U) << "rounds are no steps";
  }
}

TEST(Engine, RefusesOptionsThatCannotWork) {
  const ModelConfig config = tiny_config();
  const auto build = [&](EngineOptions options) {
    options.kv_dtype = DType::kF32;
    Engine engine(config, tokenizer(), std::make_unique<FakeRunner>(config, hash_of), options);
  };
  EngineOptions options;
  options.context_length = 257;
  EXPECT_THROW(build(options), UsageError);
  options = {};
  options.max_batch = 0;
  EXPECT_THROW(build(options), UsageError);
  options = {};
  options.kv_bytes = KvCache::page_bytes(config, DType::kF32) * 7;
  EXPECT_THROW(build(options), MachineError);
  build({});
}

}  // namespace
}  // namespace onggi
