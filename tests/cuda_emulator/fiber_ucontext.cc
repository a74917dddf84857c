// Any POSIX machine; slower, since each switch is a system call.
#include <ucontext.h>

#include <cstdint>
#include <cstring>

#include "tests/cuda_emulator/fiber.h"

namespace onggi::emulator {

namespace {
constexpr size_t kStackBytes = 256 * 1024;
constexpr uint64_t kCanary = 0x6f6e6767695f6f6b;
}  // namespace

struct Fiber::Context {
  ucontext_t context;
};

Fiber::Fiber() : context_(std::make_unique<Context>()) {}
Fiber::~Fiber() = default;

void Fiber::prepare(void (*entry)()) {
  if (stack_ == nullptr) stack_.reset(new std::byte[kStackBytes]);
  std::memcpy(stack_.get(), &kCanary, sizeof kCanary);
  getcontext(&context_->context);
  context_->context.uc_stack.ss_sp = stack_.get();
  context_->context.uc_stack.ss_size = kStackBytes;
  context_->context.uc_link = nullptr;
  makecontext(&context_->context, entry, 0);
}

void Fiber::switch_from(Fiber& from) { swapcontext(&from.context_->context, &context_->context); }

bool Fiber::stack_is_intact() const { return std::memcmp(stack_.get(), &kCanary, sizeof kCanary) == 0; }

}  // namespace onggi::emulator
