// The kernels of kind `step`: any size, any type, projections too. Every time step is a launch (two with a projection),
// and the end of a launch is the barrier between steps. docs/kernels.md has the essay.
#pragma once

#include "kernels/arguments.h"
#include "kernels/cell_math.cuh"
#include "kernels/launchers.h"
#include "kernels/step_product.cuh"

namespace lstm_fused {

template <class T>
struct StepForward {
  ForwardArguments<T> layer;
  int64_t step;
};
template <class T>
struct StepBackward {
  BackwardArguments<T> layer;
  int64_t step;  // T: one further, to h_0
};

// ---- forward

// grid: row tiles of the batch, tiles of 8 hidden units, directions. h = o tanh(c) goes to `output`, or to `hidden`
// where a projection follows.
template <class A, bool kTraining>
LSTM_FUSED_KERNEL(kStepThreads, 1)
lstm_step_forward_kernel(LSTM_FUSED_PARAMS StepForward<Element<A>> arguments) {
  using T = Element<A>;
  using Acc = Accumulator<T>;
  const LayerShape& s = arguments.layer.shape;
  const auto& p = arguments.layer.direction[block_index().z];
  const Clock clock{s, p.reverse};
  const int64_t t = clock.time(arguments.step), width = s.hidden_size, k_size = s.proj_width;
  const int64_t first_row = int64_t{block_index().x} * kBatchRows<A>,
                first_unit = int64_t{block_index().y} * kTileUnits;
  const int64_t lane_unit = first_unit + lane_group();
  const bool aligned = rows_are_aligned<A>(p.w_hh, k_size) && rows_are_aligned<A>(p.h_0, k_size) &&
                       rows_are_aligned<A>(p.output, s.output_stride);

  step_product<A>([&](int gate) { return lane_unit < width ? p.w_hh + (gate * width + lane_unit) * k_size : nullptr; },
                  [&](int n) -> const T* {
                    const int64_t b = first_row + n;
                    if (b >= s.batch || t >= clock.length(b)) return nullptr;
                    const Before before = clock.before(t, b);
                    return before == Before::kInitial ? p.h_0 + b * k_size
                           : before == Before::kStep  ? output_at(s, p, clock.previous(t), b)
                                                      : nullptr;
                  },
                  k_size, aligned,
                  [&](int n, int group, const Acc(&sums)[kLaneRows]) {
                    const int64_t b = first_row + n, unit = first_unit + group;
                    if (b >= s.batch || unit >= width || t >= clock.length(b)) return;
                    const Before before = clock.before(t, b);
                    Acc c = before == Before::kInitial ? to_accumulator(p.c_0[b * width + unit])
                            : before == Before::kStep  ? cells_at(s, p, clock.previous(t), b)[unit]
                                                       : 0;
                    const Gates<Acc> input = widen(load_gates(gates_at(s, p, t, b) + unit, width));
                    const Gates<Acc> pre =
                        add(add(input, {sums[0], sums[1], sums[2], sums[3]}), bias_of(p.b_ih, p.b_hh, unit, width));
                    const T hidden = round_to<T>(forward_at<kTraining>(s, p, t, b, unit, pre, c));
                    cells_at(s, p, t, b)[unit] = c;
                    (s.has_projection ? p.hidden + b * width : output_at(s, p, t, b))[unit] = hidden;
                  });
}

// h = W_hr hidden. grid: row tiles of the batch, tiles of columns of h, directions.
template <class A>
LSTM_FUSED_KERNEL(kStepThreads, 1)
lstm_step_forward_projection_kernel(LSTM_FUSED_PARAMS StepForward<Element<A>> arguments) {
  using T = Element<A>;
  using Acc = Accumulator<T>;
  const LayerShape& s = arguments.layer.shape;
  const auto& p = arguments.layer.direction[block_index().z];
  const Clock clock{s, p.reverse};
  const int64_t t = clock.time(arguments.step), k_size = s.hidden_size;
  const int64_t first_row = int64_t{block_index().x} * kBatchRows<A>, first = int64_t{block_index().y} * kMatrixRows;
  const bool aligned = rows_are_aligned<A>(p.w_hr, k_size) && rows_are_aligned<A>(p.hidden, k_size);

  step_product<A>(
      [&](int r) {
        const int64_t column = first + r * kGroups + lane_group();
        return column < s.proj_width ? p.w_hr + column * k_size : nullptr;
      },
      [&](int n) -> const T* {
        const int64_t b = first_row + n;
        return b < s.batch && t < clock.length(b) ? p.hidden + b * k_size : nullptr;
      },
      k_size, aligned,
      [&](int n, int group, const Acc(&sums)[kLaneRows]) {
        const int64_t b = first_row + n;
        if (b >= s.batch || t >= clock.length(b)) return;
#pragma unroll
        for (int r = 0; r < kLaneRows; ++r) {
          const int64_t column = first + r * kGroups + group;
          if (column < s.proj_width) output_at(s, p, t, b)[column] = round_to<T>(sums[r]);
        }
      });
}

// A thread's row of the batch and its column, in kernels without a product.
struct Place {
  int64_t b, column;
};
LSTM_FUSED_DEVICE Place place(int64_t width) {
  const int64_t at = int64_t{block_index().x} * kStepThreads + thread_index();
  return {at / width, at % width};
}

// After the last step: h_n and c_n, and zeros past each row's end. grid: B * H elements, 1, directions.
template <class T>
LSTM_FUSED_KERNEL(kStepThreads, 1)
lstm_step_forward_finish_kernel(LSTM_FUSED_PARAMS ForwardArguments<T> arguments) {
  using Acc = Accumulator<T>;
  const LayerShape& s = arguments.shape;
  const auto& p = arguments.direction[block_index().z];
  const Clock clock{s, p.reverse};
  const auto [b, column] = place(s.hidden_size);
  if (b >= s.batch) return;
  const int64_t length = clock.length(b), c_at = b * s.hidden_size + column, h_at = b * s.proj_width + column;
  p.c_n[c_at] = length == 0 ? p.c_0[c_at] : round_to<T>(cells_at(s, p, clock.last(b), b)[column]);
  if (column < s.proj_width) p.h_n[h_at] = length == 0 ? p.h_0[h_at] : output_at(s, p, clock.last(b), b)[column];
  for (int64_t t = length; t < s.seq_len; ++t) {
    if (column < s.proj_width) output_at(s, p, t, b)[column] = T{};
    if (s.cells_time != 0) cells_at(s, p, t, b)[column] = Acc{};
  }
}

// ---- backward

// The gradient of the gates of the step after t, if row b goes on to it.
template <class T, class Acc>
LSTM_FUSED_DEVICE const T* next_grad_gates(const LayerShape& s, const BackwardParams<T, Acc>& p, const Clock& clock,
                                           int64_t t, int64_t b) {
  const int64_t next = clock.next(t);
  if (t == clock.last(b) || clock.before(next, b) != Before::kStep) return nullptr;
  return p.grad_gates + (next * s.batch + b) * kNumGates * s.hidden_size;
}

template <class T, class Acc>
LSTM_FUSED_DEVICE void step_backward_cell(const LayerShape& s, const BackwardParams<T, Acc>& p, const Clock& clock,
                                          int64_t t, int64_t b, int64_t unit, Acc grad_hidden) {
  using Math = typename MathOf<T>::type;
  const int64_t width = s.hidden_size, row = t * s.batch + b;
  const SavedCell<T> cell = load_saved(s, p, clock, t, b, unit, clock.before(t, b));
  const Acc carried = next_grad_gates(s, p, clock, t, b) != nullptr ? p.grad_c[b * width + unit] : 0;
  const Gates<Acc> gates = widen(cell.gates);
  const CellGradient<Acc> grad = cell_backward(gates, cell.c_prev, Math::tanh(cell.c), grad_hidden,
                                               carried + outer_grad_c(s, p, clock, t, b, unit));
  store_gates(p.grad_gates + row * kNumGates * width + unit, width, round_gates<T>(grad.pre));
  p.grad_c[b * width + unit] = grad.c_prev;
  if (s.has_projection) p.hidden[row * width + unit] = round_to<T>(next_hidden<Math>(gates, cell.c));
}

// grad h = grad_output + W_hh^T grad_gates(next); without a projection, the cell's backward too. At step T: grad h_0.
// grid: row tiles of the batch, tiles of columns of h, directions.
template <class A>
LSTM_FUSED_KERNEL(kStepThreads, 1)
lstm_step_backward_kernel(LSTM_FUSED_PARAMS StepBackward<Element<A>> arguments) {
  using T = Element<A>;
  using Acc = Accumulator<T>;
  const LayerShape& s = arguments.layer.shape;
  const auto& p = arguments.layer.direction[block_index().z];
  const Clock clock{s, p.reverse};
  const bool initial = arguments.step == s.seq_len;
  const int64_t t = clock.time(s.seq_len - 1 - arguments.step), k_size = kNumGates * s.hidden_size;
  const int64_t first_row = int64_t{block_index().x} * kBatchRows<A>, first = int64_t{block_index().y} * kMatrixRows;
  const bool aligned = rows_are_aligned<A>(p.w_hh_t, k_size) && rows_are_aligned<A>(p.grad_gates, k_size);

  step_product<A>(
      [&](int r) {
        const int64_t column = first + r * kGroups + lane_group();
        return column < s.proj_width ? p.w_hh_t + column * k_size : nullptr;
      },
      [&](int n) -> const T* {
        const int64_t b = first_row + n;
        if (b >= s.batch) return nullptr;
        if (!initial) return t < clock.length(b) ? next_grad_gates(s, p, clock, t, b) : nullptr;
        if (clock.length(b) == 0 || clock.before(clock.first(b), b) != Before::kInitial) return nullptr;
        return p.grad_gates + (clock.first(b) * s.batch + b) * k_size;
      },
      k_size, aligned,
      [&](int n, int group, const Acc(&sums)[kLaneRows]) {
        const int64_t b = first_row + n;
        if (b >= s.batch) return;
#pragma unroll
        for (int r = 0; r < kLaneRows; ++r) {
          const int64_t column = first + r * kGroups + group, state = b * s.proj_width + column;
          if (column >= s.proj_width) continue;
          if (initial) {
            const bool passes = clock.length(b) == 0 && p.grad_h_n != nullptr;
            p.grad_h_0[state] = passes ? p.grad_h_n[state] : round_to<T>(sums[r]);
          } else if (t < clock.length(b)) {
            Acc grad_h = sums[r] + last_grad_h(s, p, clock, t, b, column);
            if (p.grad_output != nullptr)
              grad_h += to_accumulator(p.grad_output[(t * s.batch + b) * s.output_stride + column]);
            if (s.has_projection)
              p.grad_h[(t * s.batch + b) * s.proj_width + column] = round_to<T>(grad_h);
            else
              step_backward_cell(s, p, clock, t, b, column, grad_h);
          }
        }
      });
}

// grad (o tanh c) = W_hr^T grad h, then the cell's backward. grid: row tiles of the batch, tiles of units, directions.
template <class A>
LSTM_FUSED_KERNEL(kStepThreads, 1)
lstm_step_backward_projection_kernel(LSTM_FUSED_PARAMS StepBackward<Element<A>> arguments) {
  using T = Element<A>;
  using Acc = Accumulator<T>;
  const LayerShape& s = arguments.layer.shape;
  const auto& p = arguments.layer.direction[block_index().z];
  const Clock clock{s, p.reverse};
  const int64_t t = clock.time(s.seq_len - 1 - arguments.step), k_size = s.proj_width;
  const int64_t first_row = int64_t{block_index().x} * kBatchRows<A>, first = int64_t{block_index().y} * kMatrixRows;
  const bool aligned = rows_are_aligned<A>(p.w_hr_t, k_size) && rows_are_aligned<A>(p.grad_h, k_size);

  step_product<A>(
      [&](int r) {
        const int64_t unit = first + r * kGroups + lane_group();
        return unit < s.hidden_size ? p.w_hr_t + unit * k_size : nullptr;
      },
      [&](int n) -> const T* {
        const int64_t b = first_row + n;
        return b < s.batch && t < clock.length(b) ? p.grad_h + (t * s.batch + b) * k_size : nullptr;
      },
      k_size, aligned,
      [&](int n, int group, const Acc(&sums)[kLaneRows]) {
        const int64_t b = first_row + n;
        if (b >= s.batch || t >= clock.length(b)) return;
#pragma unroll
        for (int r = 0; r < kLaneRows; ++r) {
          const int64_t unit = first + r * kGroups + group;
          if (unit < s.hidden_size) step_backward_cell(s, p, clock, t, b, unit, sums[r]);
        }
      });
}

// After the last step: grad c_0, and zeros past each row's end. grid: B * H elements, 1, directions.
template <class T>
LSTM_FUSED_KERNEL(kStepThreads, 1)
lstm_step_backward_finish_kernel(LSTM_FUSED_PARAMS BackwardArguments<T> arguments) {
  const LayerShape& s = arguments.shape;
  const auto& p = arguments.direction[block_index().z];
  const Clock clock{s, p.reverse};
  const auto [b, column] = place(s.hidden_size);
  if (b >= s.batch) return;
  const int64_t length = clock.length(b), state = b * s.hidden_size + column;
  const bool in_h = column < s.proj_width;
  T grad_c_0{};
  if (length == 0 && p.grad_c_n != nullptr) grad_c_0 = p.grad_c_n[state];
  if (length > 0 && clock.before(clock.first(b), b) == Before::kInitial) grad_c_0 = round_to<T>(p.grad_c[state]);
  p.grad_c_0[state] = grad_c_0;
  for (int64_t t = length; t < s.seq_len; ++t) {
    const int64_t row = t * s.batch + b;
    store_gates(p.grad_gates + row * kNumGates * s.hidden_size + column, s.hidden_size, Gates<T>{});
    if (!s.has_projection) continue;
    p.hidden[row * s.hidden_size + column] = T{};
    if (in_h) p.grad_h[row * s.proj_width + column] = T{};
  }
}

// ---- launchers

// A grid over the batch in tiles of kBatchRows, `tiles` of the matrix, and the directions.
template <class A>
Grid step_grid(const LayerShape& s, int64_t tiles, const Launch& launch) {
  static_assert(kBatchRows<A> == step_rows(dtype_of<A>, std::is_same_v<A, TF32>));
  return {{static_cast<int>(ceil_div(s.batch, kBatchRows<A>)), static_cast<int>(tiles),
           static_cast<int>(launch.num_directions)},
          kStepThreads,
          StepShared<A>::kBytes};
}
inline Grid finish_grid(const LayerShape& s, const Launch& launch) {
  return {
      {static_cast<int>(ceil_div(s.batch * s.hidden_size, kStepThreads)), 1, static_cast<int>(launch.num_directions)},
      kStepThreads};
}

template <class A>
int run_step_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  using T = Element<A>;
  StepForward<T> arguments{make_arguments<ForwardArguments<T>>(launch, shape, params), 0};
  const auto cell = launch.training ? lstm_step_forward_kernel<A, true> : lstm_step_forward_kernel<A, false>;
  const Grid units = step_grid<A>(shape, ceil_div(shape.hidden_size, kTileUnits), launch);
  const Grid columns = step_grid<A>(shape, ceil_div(shape.proj_width, kMatrixRows), launch);
  int error = 0;
  for (; error == 0 && arguments.step < shape.seq_len; ++arguments.step) {
    error = launch_kernel(cell, units, stream, arguments);
    if (error == 0 && shape.has_projection)
      error = launch_kernel(lstm_step_forward_projection_kernel<A>, columns, stream, arguments);
  }
  if (error != 0) return error;
  return launch_kernel(lstm_step_forward_finish_kernel<T>, finish_grid(shape, launch), stream, arguments.layer);
}

template <class A>
int run_step_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  using T = Element<A>;
  StepBackward<T> arguments{make_arguments<BackwardArguments<T>>(launch, shape, params), 0};
  const Grid units = step_grid<A>(shape, ceil_div(shape.hidden_size, kMatrixRows), launch);
  const Grid columns = step_grid<A>(shape, ceil_div(shape.proj_width, kMatrixRows), launch);
  int error = 0;
  for (; error == 0 && arguments.step <= shape.seq_len; ++arguments.step) {
    error = launch_kernel(lstm_step_backward_kernel<A>, columns, stream, arguments);
    if (error == 0 && shape.has_projection && arguments.step < shape.seq_len)
      error = launch_kernel(lstm_step_backward_projection_kernel<A>, units, stream, arguments);
  }
  if (error != 0) return error;
  return launch_kernel(lstm_step_backward_finish_kernel<T>, finish_grid(shape, launch), stream, arguments.layer);
}

template <DType kType>
int step_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<kType>(
      launch, [&](auto arithmetic) { return run_step_forward<decltype(arithmetic)>(launch, shape, params, stream); });
}

template <DType kType>
int step_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<kType>(
      launch, [&](auto arithmetic) { return run_step_backward<decltype(arithmetic)>(launch, shape, params, stream); });
}

}  // namespace lstm_fused
