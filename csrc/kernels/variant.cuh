// The launchers of kind `variant`: cells beyond the plain one, one direction of one layer. As in `step` every time step
// is a launch, and one more with norms, and with a projection. docs/kernels.md has the essay.
#pragma once

#include "kernels/launchers.h"
#include "kernels/variant_backward.cuh"
#include "kernels/variant_forward.cuh"

namespace lstm_fused {

// A grid over the batch in tiles of kBatchRows, and over tiles of a matrix.
template <class A>
Grid product_grid(const LayerShape& s, int64_t tiles) {
  const int64_t row_tiles = ceil_div(s.batch, kBatchRows<A>);
  return {{static_cast<int>(row_tiles), static_cast<int>(tiles), 1}, kStepThreads, StepShared<A>::kBytes};
}

template <DType kType>
using VariantArithmetic = std::conditional_t<kType == DType::kFloat64, Float64, Float32>;

template <DType kType>
int variant_forward(const Launch&, const LayerShape& s, const void* params, void* stream) {
  using A = VariantArithmetic<kType>;
  using T = Element<A>;
  VariantForwardStep<T> arguments{s, *static_cast<const VariantForwardParams<T>*>(params), -1};
  const bool norms = arguments.params.cell.has_norms();
  const Grid rows = row_grid<T>(s.batch, s.hidden_size), all_rows = row_grid<T>(s.seq_len * s.batch, s.hidden_size),
             units = product_grid<A>(s, ceil_div(s.hidden_size, kTileUnits)),
             columns = product_grid<A>(s, ceil_div(s.proj_width, kMatrixRows));
  int error = 0;
  const auto launch = [&](bool wanted, auto kernel, const Grid& grid) {
    if (wanted && error == 0) error = launch_kernel(kernel, grid, stream, arguments);
  };
  launch(true, lstm_variant_forward_states_kernel<T>, rows);
  launch(norms, lstm_variant_forward_input_kernel<T>, all_rows);
  for (arguments.step = 0; error == 0 && arguments.step < s.seq_len; ++arguments.step) {
    launch(true, lstm_variant_forward_kernel<A>, units);
    launch(norms, lstm_variant_forward_norm_kernel<T>, rows);
    launch(s.has_projection, lstm_variant_forward_projection_kernel<A>, columns);
  }
  launch(true, lstm_variant_forward_states_kernel<T>, rows);
  return error;
}

template <DType kType>
int variant_backward(const Launch&, const LayerShape& s, const void* params, void* stream) {
  using A = VariantArithmetic<kType>;
  using T = Element<A>;
  VariantBackwardStep<T> arguments{s, *static_cast<const VariantBackwardParams<T>*>(params), 0};
  const bool norms = arguments.params.cell.has_norms();
  const Grid rows = row_grid<T>(s.batch, s.hidden_size),
             units = product_grid<A>(s, ceil_div(s.hidden_size, kMatrixRows)),
             columns = product_grid<A>(s, ceil_div(s.proj_width, kMatrixRows));
  int error = 0;
  const auto launch = [&](bool wanted, auto kernel, const Grid& grid) {
    if (wanted && error == 0) error = launch_kernel(kernel, grid, stream, arguments);
  };
  for (; error == 0 && arguments.step <= s.seq_len; ++arguments.step) {
    const bool goes_on = arguments.step < s.seq_len;
    launch(true, lstm_variant_backward_kernel<A>, columns);
    launch(goes_on && s.has_projection, lstm_variant_backward_projection_kernel<A>, units);
    launch(goes_on && norms, lstm_variant_backward_norm_kernel<T>, rows);
  }
  return error;
}

}  // namespace lstm_fused
