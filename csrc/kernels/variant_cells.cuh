// Variants of the plain cell in the persistent kernels: in place of PlainCells of cells.cuh.
#pragma once

#include "kernels/cells.cuh"
#include "kernels/variant_backward_cells.cuh"
#include "kernels/variant_forward_cells.cuh"

namespace lstm_fused {

struct VariantCells {
  static constexpr bool kPrefetch = false;
  template <class T>
  using ForwardParams = VariantForwardParams<T>;
  template <class T>
  using BackwardParams = VariantBackwardParams<T>;
  template <class A, int kRows, bool kTraining, Input>
  using Forward = VariantForwardCells<A, kRows, kTraining>;
  template <class A, int kUnits, int kRows, bool>
  using Backward = VariantBackwardCells<A, kUnits, kRows>;
};

}  // namespace lstm_fused
