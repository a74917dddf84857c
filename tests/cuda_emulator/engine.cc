#include "tests/cuda_emulator/engine.h"

#include <cuda_runtime.h>

#include <array>
#include <bit>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/cuda_emulator/fiber.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace onggi::emulator {

namespace {

constexpr size_t kMaxThreads = 1024;
constexpr size_t kSharedGuardBytes = 1024;
constexpr int kUnreadable = 0xFF;
constexpr int kBarriers = 16;

struct AsyncCopy {
  void* to;
  const void* from;
  int bytes, source_bytes;
};

enum class State { kReady, kWaiting, kEnded };

struct Thread {
  Fiber fiber;
  LaneData data;
  uint3 index;
  int id = 0;
  State state = State::kReady;
  const char* waits_at = "";  // for messages, while it waits
  unsigned mask = 0;          // of the operation that it waits for; 0 at a barrier
  WarpOperation operation = nullptr;
  const void* address = nullptr;               // of wait_at()
  std::vector<std::vector<AsyncCopy>> groups;  // the oldest first; the last is not committed
};

struct Warp {
  std::array<LaneData*, kLanes> lanes;
  unsigned arrived = 0;  // lanes that wait for an operation
};

struct Barrier {
  std::vector<int> waiting;
  int threads = 0;
  int sum = 0;
  int result = 0;
};

std::string place(const uint3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) +
         ")";
}

// One for the process: threadIdx and its like are global names, so one grid runs at a time.
class Engine {
 public:
  // "" or what went wrong.
  std::string run(const cudaLaunchConfig_t& config, const std::function<void()>& thread);

  Thread& current() { return *current_; }
  Thread& thread(int id) { return *threads_[static_cast<size_t>(id)]; }
  Warp& warp() { return warps_[static_cast<size_t>(current_->id / kLanes)]; }
  int count() const { return count_; }
  std::byte* shared() { return shared_; }
  Barrier& barrier(int id) { return barriers_[static_cast<size_t>(id)]; }

  void make_ready(int id);
  // Gives way until something makes the current thread ready.
  void wait(const char* waits_at);
  [[noreturn]] void stop(const std::string& error);

 private:
  void run_block();
  void begin_block();
  void prepare_shared(size_t bytes);
  bool shared_guard_is_intact() const;
  static void thread_main();
  void end_thread();
  void leave_for_next();
  int position(int id) const { return descending_ ? count_ - 1 - id : id; }
  Thread* next_ready();
  std::string describe_waiting() const;

  std::array<std::unique_ptr<Thread>, kMaxThreads> threads_;
  std::array<uint64_t, kMaxThreads / 64> ready_{};  // bits by position in the order of the block
  std::vector<Warp> warps_;
  std::array<Barrier, kBarriers> barriers_;
  Fiber main_;
  Thread* current_ = nullptr;
  const std::function<void()>* thread_ = nullptr;
  int count_ = 0;
  int ended_ = 0;
  bool descending_ = false;
  std::string error_;
  std::vector<std::byte> shared_storage_;
  std::byte* shared_ = nullptr;
  size_t shared_bytes_ = 0;
};

Engine& engine() {
  static Engine engine;
  return engine;
}

void Engine::prepare_shared(size_t bytes) {
  constexpr size_t kAlign = 1024;
  shared_storage_.resize(kAlign + bytes + kSharedGuardBytes);
  const auto address = reinterpret_cast<uintptr_t>(shared_storage_.data());
  shared_ = shared_storage_.data() + (kAlign - address % kAlign) % kAlign;
  shared_bytes_ = bytes;
}

bool Engine::shared_guard_is_intact() const {
  for (size_t i = 0; i < kSharedGuardBytes; ++i)
    if (shared_[shared_bytes_ + i] != std::byte{kUnreadable}) return false;
  return true;
}

void Engine::make_ready(int id) {
  threads_[static_cast<size_t>(id)]->state = State::kReady;
  const int bit = position(id);
  ready_[static_cast<size_t>(bit / 64)] |= uint64_t{1} << (bit % 64);
}

// The first ready thread after the current one in the block's order, going around.
Thread* Engine::next_ready() {
  const size_t words = (static_cast<size_t>(count_) + 63) / 64;
  const auto start = static_cast<size_t>(position(current_->id));
  for (size_t step = 0; step <= words; ++step) {
    const size_t word = (start / 64 + step) % words;
    uint64_t bits = ready_[word];
    if (step == 0) bits &= ~uint64_t{0} << (start % 64);
    if (bits == 0) continue;
    const int bit = static_cast<int>(word) * 64 + std::countr_zero(bits);
    return threads_[static_cast<size_t>(descending_ ? count_ - 1 - bit : bit)].get();
  }
  return nullptr;
}

void Engine::leave_for_next() {
  Thread* next = next_ready();
  if (next == nullptr) stop(describe_waiting());
  Thread* previous = current_;
  current_ = next;
  threadIdx = next->index;
  next->fiber.switch_from(previous->fiber);
}

void Engine::wait(const char* waits_at) {
  current_->state = State::kWaiting;
  current_->waits_at = waits_at;
  const int bit = position(current_->id);
  ready_[static_cast<size_t>(bit / 64)] &= ~(uint64_t{1} << (bit % 64));
  leave_for_next();
}

void Engine::stop(const std::string& error) {
  error_ = "block " + place(blockIdx) + ": " + error;
  main_.switch_from(current_->fiber);
  __builtin_unreachable();
}

void Engine::thread_main() {
  Engine& self = engine();
  (*self.thread_)();
  self.end_thread();
}

void Engine::end_thread() {
  if (!current_->fiber.stack_is_intact()) stop("thread " + place(current_->index) + " used too much stack");
  const int bit = position(current_->id);
  ready_[static_cast<size_t>(bit / 64)] &= ~(uint64_t{1} << (bit % 64));
  current_->state = State::kEnded;
  if (++ended_ == count_) main_.switch_from(current_->fiber);
  leave_for_next();
}

// "not all threads came: 31 wait at __syncwarp with mask ffffffff (first: thread (0, 0, 0)), 1 has ended ..."
std::string Engine::describe_waiting() const {
  struct Group {
    int threads = 0;
    std::string first;
  };
  std::map<std::string, Group> groups;
  for (int id = 0; id < count_; ++id) {
    const Thread& thread = *threads_[static_cast<size_t>(id)];
    std::string what = "ended";
    if (thread.state == State::kWaiting) {
      what = std::string("wait at ") + thread.waits_at;
      std::array<char, 32> mask{};
      std::snprintf(mask.data(), mask.size(), " with mask %08x", thread.mask);
      if (thread.mask != 0) what += mask.data();
    }
    Group& group = groups[what];
    if (group.threads++ == 0) group.first = place(thread.index);
  }
  std::string text = "threads wait for others that do not come:";
  for (const auto& [what, group] : groups)
    text += " " + std::to_string(group.threads) + " " + what + " (the first is thread " + group.first + ");";
  text.back() = '.';
  return text;
}

void Engine::begin_block() {
  for (auto& word : ready_) word = 0;
  for (Barrier& barrier : barriers_) barrier = {};
  ended_ = 0;
  warps_.assign(static_cast<size_t>(count_ + kLanes - 1) / kLanes, {});
  for (Warp& warp : warps_) warp.lanes.fill(nullptr);
  std::memset(shared_, kUnreadable, shared_bytes_ + kSharedGuardBytes);
  uint3 index{0, 0, 0};
  for (int id = 0; id < count_; ++id) {
    auto& slot = threads_[static_cast<size_t>(id)];
    if (slot == nullptr) slot = std::make_unique<Thread>();
    slot->index = index;
    slot->id = id;
    slot->mask = 0;
    slot->address = nullptr;
    slot->groups.assign(1, {});
    slot->fiber.prepare(&Engine::thread_main);
    warps_[static_cast<size_t>(id / kLanes)].lanes[static_cast<size_t>(id % kLanes)] = &slot->data;
    make_ready(id);
    if (++index.x == blockDim.x) {
      index.x = 0;
      if (++index.y == blockDim.y) {
        index.y = 0;
        ++index.z;
      }
    }
  }
}

void Engine::run_block() {
  begin_block();
  current_ = threads_[static_cast<size_t>(descending_ ? count_ - 1 : 0)].get();
  threadIdx = current_->index;
  current_->fiber.switch_from(main_);
  if (!error_.empty()) return;
  if (!shared_guard_is_intact())
    error_ = "block " + place(blockIdx) + ": wrote behind the dynamic shared memory of " +
             std::to_string(shared_bytes_) + " bytes";
  if (const std::string damage = damaged_memory(); !damage.empty() && error_.empty())
    error_ = "block " + place(blockIdx) + ": " + damage;
}

std::string Engine::run(const cudaLaunchConfig_t& config, const std::function<void()>& thread) {
  error_.clear();
  thread_ = &thread;
  blockDim = config.blockDim;
  gridDim = config.gridDim;
  count_ = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
  prepare_shared(config.dynamicSmemBytes);
  descending_ = false;
  for (unsigned z = 0; z < gridDim.z; ++z)
    for (unsigned y = 0; y < gridDim.y; ++y)
      for (unsigned x = 0; x < gridDim.x; ++x) {
        blockIdx = {x, y, z};
        run_block();
        if (!error_.empty()) {
          // Abandoned stacks hold what sanitizers took note of.
          for (auto& abandoned : threads_) abandoned.reset();
          return error_;
        }
        descending_ = !descending_;
      }
  return "";
}

}  // namespace

LaneData& lane_data() { return engine().current().data; }
int threads_of_block() { return engine().count(); }
int lane_of_thread() { return engine().current().id % kLanes; }
std::byte* dynamic_shared_memory() { return engine().shared(); }

void fail(const char* format, ...) {
  std::array<char, 512> text{};
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text.data(), text.size(), format, arguments);
  va_end(arguments);
  engine().stop("thread " + place(engine().current().index) + ": " + text.data());
}

void warp_operation(const char* name, unsigned mask, WarpOperation operation) {
  Engine& self = engine();
  Thread& thread = self.current();
  Warp& warp = self.warp();
  const unsigned own = 1U << (thread.id % kLanes);
  if ((mask & own) == 0) fail("%s with mask %08x, which lacks the calling lane", name, mask);
  thread.mask = mask;
  thread.operation = operation;
  warp.arrived |= own;
  bool complete = (warp.arrived & mask) == mask;
  const int first = thread.id / kLanes * kLanes;
  const auto same = [&](int lane) {
    const Thread& other = self.thread(first + lane);
    return other.mask == mask && other.operation == operation;
  };
  for (int lane = 0; complete && lane < kLanes; ++lane)
    if ((mask >> lane & 1) != 0) complete = same(lane);
  if (!complete) {
    self.wait(name);
    return;
  }
  operation(warp.lanes.data(), mask);
  warp.arrived &= ~mask;
  for (int lane = 0; lane < kLanes; ++lane)
    if ((mask >> lane & 1) != 0 && (1U << lane) != own) self.make_ready(first + lane);
}

int block_barrier(const char* name, int id, int threads, int predicate) {
  Engine& self = engine();
  if (id < 0 || id >= kBarriers) fail("%s: there is no barrier %d", name, id);
  Barrier& barrier = self.barrier(id);
  if (!barrier.waiting.empty() && barrier.threads != threads)
    fail("%s: barrier %d of %d threads, where others wait for %d", name, id, threads, barrier.threads);
  barrier.threads = threads;
  barrier.sum += predicate;
  if (static_cast<int>(barrier.waiting.size()) + 1 < threads) {
    barrier.waiting.push_back(self.current().id);
    self.current().mask = 0;
    self.wait(name);
    return barrier.result;
  }
  barrier.result = std::exchange(barrier.sum, 0);
  for (const int waiting : barrier.waiting) self.make_ready(waiting);
  barrier.waiting.clear();
  return barrier.result;
}

bool emulated_hopper() {
  const char* value = std::getenv("ONGGI_EMULATED_HOPPER");
  return value != nullptr && std::strcmp(value, "1") == 0;
}

size_t most_shared_memory() { return (emulated_hopper() ? 227 : 163) * size_t{1024}; }

void wait_at(const char* name, const void* address) {
  Engine& self = engine();
  self.current().mask = 0;
  self.current().address = address;
  self.wait(name);
}

void wake_waiting(const void* address) {
  Engine& self = engine();
  for (int id = 0; id < self.count(); ++id) {
    Thread& thread = self.thread(id);
    if (thread.state != State::kWaiting || thread.address != address) continue;
    thread.address = nullptr;
    self.make_ready(id);
  }
}

void queue_copy(void* to, const void* from, int bytes, int source_bytes) {
  if (source_bytes < 0 || source_bytes > bytes) fail("cp.async of %d bytes of %d", source_bytes, bytes);
  expect_aligned(to, static_cast<size_t>(bytes), "cp.async");
  expect_aligned(from, static_cast<size_t>(bytes), "cp.async");
  std::memset(to, kUnreadable, static_cast<size_t>(bytes));
  engine().current().groups.back().push_back({to, from, bytes, source_bytes});
}

void commit_copies() { engine().current().groups.emplace_back(); }

void wait_for_copies(int pending_groups) {
  auto& groups = engine().current().groups;
  while (static_cast<int>(groups.size()) - 1 > pending_groups) {
    for (const AsyncCopy& copy : groups.front()) {
      std::memset(copy.to, 0, static_cast<size_t>(copy.bytes));
      std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.source_bytes));
    }
    groups.erase(groups.begin());
  }
}

namespace {
cudaError_t run_now(const cudaLaunchConfig_t& config, const std::function<void()>& thread) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  const std::string error = engine().run(config, thread);
  if (error.empty()) return cudaSuccess;
  set_failure(error.c_str());
  return cudaErrorLaunchFailure;
}
}  // namespace

cudaError_t run_grid(const cudaLaunchConfig_t& config, const void* kernel,
                     const std::function<void()>& thread) {
  const size_t threads = size_t{config.blockDim.x} * config.blockDim.y * config.blockDim.z;
  if (threads == 0 || threads > kMaxThreads || config.blockDim.z > 64) return cudaErrorInvalidConfiguration;
  if (size_t{config.gridDim.x} * config.gridDim.y * config.gridDim.z == 0 || config.gridDim.y > 65535 ||
      config.gridDim.z > 65535 || config.gridDim.x > 2147483647U)
    return cudaErrorInvalidConfiguration;
  if (config.dynamicSmemBytes > most_shared_memory() ||
      config.dynamicSmemBytes > allowed_shared_memory(kernel))
    return cudaErrorInvalidValue;
  return enqueue(config.stream, [config, thread] { return run_now(config, thread); });
}

}  // namespace onggi::emulator
