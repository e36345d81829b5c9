#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace sim {
namespace {

constexpr size_t kStackReserve = kStackBytes / 4;  // a report, thrown as an exception, takes some
// Not a power of two: the tops of the stacks, all that most fibers ever touch, would share a few lines of the caches.
constexpr size_t kStackStride = kStackBytes + 17 * 64;
constexpr size_t kStacksPerChunk = 256;

Fiber* previous = nullptr;  // the fiber that was left last

}  // namespace

Stack stack_of_fiber(size_t number) {
  static std::vector<char*> chunks;
  while (chunks.size() <= number / kStacksPerChunk) {
    void* chunk = mmap(nullptr, kStacksPerChunk * kStackStride, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (chunk == MAP_FAILED) throw std::bad_alloc();
    chunks.push_back(static_cast<char*>(chunk));
  }
  return {chunks[number / kStacksPerChunk] + number % kStacksPerChunk * kStackStride, kStackBytes};
}

bool Fiber::nearly_overflown() const {
  const char* here = static_cast<const char*>(__builtin_frame_address(0));
  return low_ && here < static_cast<const char*>(low_) + kStackReserve;
}

#ifdef SIM_FIBER_UCONTEXT

void Fiber::start(const Stack& stack, void (*entry)()) {
  low_ = stack.low;
  size_ = stack.size;
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack.low;
  context_.uc_stack.ss_size = stack.size;
  context_.uc_link = nullptr;
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stack.low, stack.size);
#endif
  makecontext(&context_, entry, 0);
}

#else

// Pushes the registers that a call keeps, changes stacks, pops them.
asm(R"(
.text
.type sim_switch_stack, @function
sim_switch_stack:
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
.size sim_switch_stack, .-sim_switch_stack
)");
extern "C" __attribute__((visibility("hidden"))) void sim_switch_stack(void** save, void* load);

void Fiber::start(const Stack& stack, void (*entry)()) {
  low_ = stack.low;
  size_ = stack.size;
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stack.low, stack.size);  // what an abandoned fiber left behind
#endif
  const uintptr_t top = (reinterpret_cast<uintptr_t>(stack.low) + stack.size) / 16 * 16;
  void** frame = reinterpret_cast<void**>(top) - 8;
  for (int i = 0; i < 6; ++i) frame[i] = nullptr;
  frame[6] = reinterpret_cast<void*>(entry);
  frame[7] = nullptr;  // entry's return address; entry starts with the stack 8 bytes past a multiple of 16
  stack_pointer_ = frame;
}

#endif

void Fiber::switch_to(Fiber& from, Fiber& to) {
  previous = &from;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&from.fake_stack_, to.low_, to.size_);
#endif
#ifdef SIM_FIBER_UCONTEXT
  swapcontext(&from.context_, &to.context_);
#else
  sim_switch_stack(&from.stack_pointer_, to.stack_pointer_);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(from.fake_stack_, nullptr, nullptr);
#endif
}

void Fiber::entered() {
#ifdef __SANITIZE_ADDRESS__
  // The only way to learn the bounds of a stack that the host made: asking on the way out of it.
  __sanitizer_finish_switch_fiber(nullptr, &previous->low_, &previous->size_);
#endif
}

}  // namespace sim
