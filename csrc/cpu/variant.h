// The CPU kernels of cells that are variants of the plain one.
#pragma once

#include <cstdint>

#include "cpu/run.h"
#include "variant_params.h"

namespace lstm_fused {

// y (width,) = the sum over rows of a b, elements of b kept in [-limit, limit] if there is one; or added to it.
template <class T>
struct ProductSumParams {
  int64_t num_rows, width;
  const T* a;
  int64_t a_stride;
  const T* b;
  int64_t b_stride;
  T limit;
  T* y;
  bool adds;
};

template <class T>
using VariantForwardRun = CpuRun<T, VariantForwardParams<T>>;
template <class T>
using VariantBackwardRun = CpuRun<T, VariantBackwardParams<T>>;

// Of one direction.
template <class T>
struct VariantKernels {
  int64_t (*forward_workspace)(const LayerShape&);  // elements
  void (*forward)(const VariantForwardRun<T>&);
  int64_t (*backward_workspace)(const LayerShape&);
  void (*backward)(const VariantBackwardRun<T>&);
  void (*sum_products)(const ProductSumParams<T>&, const Parallel&);
};

}  // namespace lstm_fused
