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

// Of a variant's forward, beside what the plain cell's has. `kept.input_sums` are the gates of that; there are no other
// `gates`, c_prev, raw, factor or statistics where nobody asks for them.
template <class T>
struct CpuVariant {
  VariantCell<T> cell;
  VariantKept<T> kept;
};

template <class T>
using VariantBackwardRun = CpuRun<T, VariantBackwardParams<T>>;

// Of one direction.
template <class T>
struct VariantKernels {
  int64_t (*backward_workspace)(const LayerShape&);  // elements
  void (*backward)(const VariantBackwardRun<T>&);
  void (*sum_products)(const ProductSumParams<T>&, const Parallel&);
};

}  // namespace lstm_fused
