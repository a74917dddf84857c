// x86-64, System V calling convention: what a function must keep is pushed, the stack pointer exchanged.
#include <cstdint>
#include <cstring>

#include "tests/cuda_emulator/fiber.h"

extern "C" void onggi_switch_stack(void** save, void* load);
asm(R"(
  .text
  .globl onggi_switch_stack
  .type onggi_switch_stack, @function
onggi_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size onggi_switch_stack, .-onggi_switch_stack
)");

namespace onggi::emulator {

namespace {
constexpr size_t kStackBytes = 256 * 1024;  // touched by the page
constexpr uint64_t kCanary = 0x6f6e6767695f6f6b;
constexpr size_t kSavedRegisters = 6;
}  // namespace

struct Fiber::Context {
  void* stack_pointer = nullptr;
};

Fiber::Fiber() : context_(std::make_unique<Context>()) {}
Fiber::~Fiber() = default;

void Fiber::prepare(void (*entry)()) {
  if (stack_ == nullptr) stack_.reset(new std::byte[kStackBytes]);
  std::memcpy(stack_.get(), &kCanary, sizeof kCanary);
  // As if entry() had been called: its return address (none) at an address that is 8 modulo 16.
  const auto end = reinterpret_cast<uintptr_t>(stack_.get() + kStackBytes) & ~uintptr_t{15};
  auto* top = reinterpret_cast<void**>(end);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (size_t i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  context_->stack_pointer = top;
}

void Fiber::switch_from(Fiber& from) {
  onggi_switch_stack(&from.context_->stack_pointer, context_->stack_pointer);
}

bool Fiber::stack_is_intact() const { return std::memcmp(stack_.get(), &kCanary, sizeof kCanary) == 0; }

}  // namespace onggi::emulator
