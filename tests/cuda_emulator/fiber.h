// Stacks to switch between: the threads of a block.
#pragma once

#include <cstddef>
#include <memory>

namespace onggi::emulator {

// A stack with a program on it, or the place from which fibers were entered.
class Fiber {
 public:
  Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  // Makes the next switch to this fiber call entry(), which must not return.
  void prepare(void (*entry)());
  // Leaves the current fiber (`from`) for this one; returns when something switches back.
  void switch_from(Fiber& from);
  // Whether the program stayed within its stack.
  bool stack_is_intact() const;

 private:
  struct Context;  // of the machine
  std::unique_ptr<std::byte[]> stack_;
  std::unique_ptr<Context> context_;
};

}  // namespace onggi::emulator
