// The CPU kernels of cells that are variants of the plain one.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "params.h"
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

struct Steps;
enum class CpuSplit;

template <class T>
struct VariantKernels {
  // Elements, of a workspace that stays as it is from range to range of the steps.
  int64_t (*forward_workspace)(const LayerShape&);
  void (*forward)(const LayerShape&, const VariantForwardParams<T>&, T* workspace, Steps, CpuSplit, const Parallel&);
  int64_t (*backward_workspace)(const LayerShape&);
  // Steps are counted from the direction's last one.
  void (*backward)(const LayerShape&, const VariantBackwardParams<T>&, T* workspace, Steps, CpuSplit, const Parallel&);
  void (*sum_products)(const ProductSumParams<T>&, const Parallel&);
};

}  // namespace lstm_fused
