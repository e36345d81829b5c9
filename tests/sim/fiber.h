// Stacks that take turns on one thread of the host.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) || defined(SIM_UCONTEXT)
#define SIM_FIBER_UCONTEXT
#include <ucontext.h>
#endif

namespace sim {

#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 96 * 1024;
#endif

// Fiber number n has the same stack every time.
struct Stack {
  char* low;
  size_t size;
};
Stack stack_of_fiber(size_t number);

class Fiber {
 public:
  // A default-constructed fiber stands for the stack that is running. After start, the first switch to the fiber calls
  // entry, which must not return: it ends by switching away for good.
  void start(const Stack& stack, void (*entry)());

  // Leaves `from`, which is running, for `to`; comes back when somebody switches to `from`.
  static void switch_to(Fiber& from, Fiber& to);

  // Entry calls this first.
  static void entered();

  // Whether the running fiber has left too little of its stack.
  bool nearly_overflown() const;

 private:
#ifdef SIM_FIBER_UCONTEXT
  ucontext_t context_{};
#else
  void* stack_pointer_ = nullptr;
#endif
  const void* low_ = nullptr;
  size_t size_ = 0;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
};

}  // namespace sim
