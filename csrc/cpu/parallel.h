// A parallel-for handed in from outside, so that the kernels use the caller's threads and know none of their own.
#pragma once

#include <cstdint>

namespace lstm_fused {

struct Parallel {
  int64_t num_threads;
  // Calls task(context, 0) ... task(context, num_tasks - 1), in any order and at the same time; returns when all are
  // done.
  void (*run)(int64_t num_tasks, void (*task)(void* context, int64_t index), void* context);

  template <class Task>
  void operator()(int64_t num_tasks, Task&& task) const {
    if (num_tasks == 1 || num_threads == 1) {
      for (int64_t index = 0; index < num_tasks; ++index) task(index);
      return;
    }
    run(num_tasks, [](void* context, int64_t index) { (*static_cast<Task*>(context))(index); }, &task);
  }
};

}  // namespace lstm_fused
