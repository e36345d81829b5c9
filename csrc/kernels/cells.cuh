// Which cells a persistent kernel has: the parameters of a direction, and what a lane keeps from step to step. Variants
// of the plain cell are in variant_cells.cuh.
#pragma once

#include "kernels/arguments.h"
#include "kernels/backward_cells.cuh"
#include "kernels/forward_cells.cuh"

namespace lstm_fused {

struct PlainCells {
  // Whether backward sends for a step's values a whole step before it, where registers allow it.
  static constexpr bool kPrefetch = true;
  template <class T>
  using ForwardParams = lstm_fused::ForwardParams<T, Accumulator<T>>;
  template <class T>
  using BackwardParams = lstm_fused::BackwardParams<T, Accumulator<T>>;
  template <class A, int kRows, bool kTraining, Input kInput>
  using Forward = ForwardCells<A, kRows, kTraining, kInput>;
  template <class A, int kUnits, int kRows, bool kPrefetch>
  using Backward = BackwardCells<A, kUnits, kRows, kPrefetch>;
};

// The arguments of a kernel with such cells; kMost: of directions, or layers of a stack.
template <class Cells, class A, int kMost = 2>
using ForwardArgumentsOf = Arguments<typename Cells::template ForwardParams<Element<A>>, kMost>;
template <class Cells, class A, int kMost = 2>
using BackwardArgumentsOf = Arguments<typename Cells::template BackwardParams<Element<A>>, kMost>;

}  // namespace lstm_fused
