// The kernels of kind `variant`: cells beyond the plain one, one direction of one layer. As in `step` every time step
// is two launches, four with a projection: a product, and the rest of the cell. docs/kernels.md has the essay.
#pragma once

#include "kernels/launchers.h"
#include "kernels/step_product.cuh"
#include "kernels/variant_backward.cuh"
#include "kernels/variant_forward.cuh"

namespace lstm_fused {

// Of a step's rows: y = rows matrix^T.
template <class T>
struct VariantProduct {
  LayerShape shape;
  bool reverse;
  int64_t t;
  const T* matrix;  // (columns, terms)
  int64_t columns, terms;
  const T* rows;  // (B, terms)
  T* y;           // (B, columns)
  // Backward, to the h that a step started from: the product, times a mask (B, columns) if there is one, is added to y,
  // which is zero where the step started anew.
  bool carries = false;
  const T* mask = nullptr;
};

// grid: row tiles of the batch, tiles of columns.
template <class A>
LSTM_FUSED_KERNEL(kStepThreads, 1)
lstm_variant_product_kernel(LSTM_FUSED_PARAMS VariantProduct<Element<A>> p) {
  using T = Element<A>;
  const Clock clock{p.shape, p.reverse};
  const int64_t first_row = int64_t{block_index().x} * kBatchRows<A>, first = int64_t{block_index().y} * kMatrixRows;
  const bool aligned = rows_are_aligned<A>(p.matrix, p.terms) && rows_are_aligned<A>(p.rows, p.terms);
  const auto exists = [&](int64_t b) { return b < p.shape.batch && p.t < clock.length(b); };
  const auto starts_anew = [&](int64_t b) { return p.carries && clock.before(p.t, b) == Before::kNothing; };
  step_product<A>(
      [&](int r) {
        const int64_t column = first + r * kGroups + lane_group();
        return column < p.columns ? p.matrix + column * p.terms : nullptr;
      },
      [&](int n) -> const T* {
        const int64_t b = first_row + n;
        return exists(b) && !starts_anew(b) ? p.rows + b * p.terms : nullptr;
      },
      p.terms, aligned,
      [&](int n, int group, const T(&sums)[kLaneRows]) {
        const int64_t b = first_row + n;
        if (!exists(b)) return;
#pragma unroll
        for (int r = 0; r < kLaneRows; ++r) {
          const int64_t column = first + r * kGroups + group, at = b * p.columns + column;
          if (column >= p.columns) continue;
          const T sum = p.mask == nullptr ? sums[r] : p.mask[at] * sums[r];
          p.y[at] = !p.carries ? sum : starts_anew(b) ? T(0) : p.y[at] + sum;
        }
      });
}

template <class A>
int multiply(const VariantProduct<Element<A>>& product, void* stream) {
  const Grid grid = {{static_cast<int>(ceil_div(product.shape.batch, kBatchRows<A>)),
                      static_cast<int>(ceil_div(product.columns, kMatrixRows)), 1},
                     kStepThreads,
                     StepShared<A>::kBytes};
  return launch_kernel(lstm_variant_product_kernel<A>, grid, stream, product);
}

// Calls one after the other, until one returns an error.
template <class... Calls>
int in_turn(Calls&&... calls) {
  int error = 0;
  static_cast<void>((((error = calls()) == 0) && ...));
  return error;
}

template <class A>
int run_variant_forward(const LayerShape& s, const VariantForwardParams<Element<A>>& p, void* stream) {
  using T = Element<A>;
  VariantForwardStep<T> arguments{s, p, -1};
  const VariantForwardRows<T> rows(s, p);
  const Grid grid = row_grid<T>(s.batch, s.hidden_size);
  const auto states = [&] { return launch_kernel(lstm_variant_forward_states_kernel<T>, grid, stream, arguments); };
  const auto cell = [&] { return launch_kernel(lstm_variant_forward_cell_kernel<T>, grid, stream, arguments); };
  int error = states();
  if (error == 0 && p.cell.has_norms())
    error = launch_kernel(lstm_variant_forward_input_kernel<T>, row_grid<T>(s.seq_len * s.batch, s.hidden_size), stream,
                          arguments);
  for (int64_t step = 0; error == 0 && step < s.seq_len; ++step) {
    arguments.step = step;
    const int64_t t = rows.clock.time(step);
    const auto recurrent = [&] {
      return multiply<A>(
          {s, p.reverse, t, p.w_hh, rows.gates_width(), s.proj_width, rows.factor(t, 0), rows.recurrent_sums(t, 0)},
          stream);
    };
    const auto project = [&] {
      return multiply<A>({s, p.reverse, t, p.w_hr, s.proj_width, s.hidden_size, p.hidden, rows.output(t, 0)}, stream);
    };
    error = s.has_projection ? in_turn(recurrent, cell, project, states) : in_turn(recurrent, cell);
  }
  return error == 0 && !s.has_projection ? states() : error;
}

template <class A>
int run_variant_backward(const LayerShape& s, const VariantBackwardParams<Element<A>>& p, void* stream) {
  using T = Element<A>;
  VariantBackwardStep<T> arguments{s, p, 0};
  const VariantBackwardRows<T> rows(s, p);
  const Grid grid = row_grid<T>(s.batch, s.hidden_size);
  const auto states = [&] { return launch_kernel(lstm_variant_backward_states_kernel<T>, grid, stream, arguments); };
  const auto cell = [&] { return launch_kernel(lstm_variant_backward_cell_kernel<T>, grid, stream, arguments); };
  int error = 0;
  for (; error == 0 && arguments.step < s.seq_len; ++arguments.step) {
    const int64_t t = rows.time(arguments.step);
    const auto project = [&] {
      return multiply<A>({s, p.reverse, t, p.w_hr_t, s.hidden_size, s.proj_width,
                          rows.in_range(p.grad_h, t, 0, s.proj_width), p.grad_hidden},
                         stream);
    };
    const auto recurrent = [&] {
      return multiply<A>(
          {s, p.reverse, t, p.w_hh_t, s.proj_width, rows.gates_width(),
           rows.in_range(p.grad_hh, t, 0, rows.gates_width()), rows.carried_h(0), true, p.cell.recurrent_mask},
          stream);
    };
    error = s.has_projection ? in_turn(states, project, cell, recurrent) : in_turn(cell, recurrent);
  }
  return error;
}

template <DType kType>
using VariantArithmetic = std::conditional_t<kType == DType::kFloat64, Float64, Float32>;

template <DType kType>
int variant_forward(const Launch&, const LayerShape& shape, const void* params, void* stream) {
  using A = VariantArithmetic<kType>;
  return run_variant_forward<A>(shape, *static_cast<const VariantForwardParams<Element<A>>*>(params), stream);
}

template <DType kType>
int variant_backward(const Launch&, const LayerShape& shape, const void* params, void* stream) {
  using A = VariantArithmetic<kType>;
  return run_variant_backward<A>(shape, *static_cast<const VariantBackwardParams<Element<A>>*>(params), stream);
}

}  // namespace lstm_fused
