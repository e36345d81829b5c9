// The kernels of the cell's variants, backward. A step takes the gradients of its h and c, which grad_h_0 and grad_c_0
// carry, to those of the h and c it started from.
#pragma once

#include "kernels/variant_product.cuh"
#include "kernels/variant_rows.cuh"

namespace lstm_fused {

template <class T>
struct VariantBackwardStep {
  LayerShape shape;
  VariantBackwardParams<T> params;
  int64_t step;  // from the direction's last one; T: one further, to h_0
};

// The gradient of column n of h as the step before, at time t, leaves it: `sum` is what came through W_hh.
template <class T>
LSTM_FUSED_DEVICE void carry_on(const VariantBackwardRows<T>& rows, int64_t t, int64_t b, int64_t n, T sum) {
  const T* const mask = rows.p.cell.recurrent_mask;
  T* const carried = rows.carried_h(b) + n;
  const T from_h = mask == nullptr ? sum : mask[b * rows.s.proj_width + n] * sum;
  *carried = rows.clock.before(t, b) == Before::kNothing ? T(0) : *carried + from_h;
}

// The whole gradient of column n of h, split by zoneout: one part is carried on, the other is that of h~, the result.
template <class T>
LSTM_FUSED_DEVICE T split_h(const VariantBackwardRows<T>& rows, int64_t t, int64_t b, int64_t n) {
  const auto& p = rows.p;
  const int64_t width = rows.s.proj_width;
  T* const carried = rows.carried_h(b) + n;
  T grad = *carried;
  if (p.grad_output != nullptr) grad += p.grad_output[(t * rows.s.batch + b) * width + n];
  const ZoneoutGradient<T> split =
      zoneout_backward(mask_at(p.cell.zoneout_h, rows.s, t, b, width, n), p.cell.keeps_h, grad);
  *carried = split.before;
  return split.after;
}

// Through o tanh(inner) of unit n.
template <class T>
LSTM_FUSED_DEVICE HiddenGradient<T> through_hidden(const VariantBackwardRows<T>& rows, int64_t t, int64_t b, int64_t n,
                                                   T inner, T grad) {
  const LayerShape& s = rows.s;
  const T o = rows.p.kept.gates[(t * s.batch + b) * rows.gates_width() + 3 * s.hidden_size + n],
          tanh_n = VariantMath<T>::tanh(inner);
  if (s.has_projection) rows.in_range(rows.p.hidden, t, b, s.hidden_size)[n] = o * tanh_n;
  return hidden_backward(o, tanh_n, grad);
}

// Through the cell of unit n: the gradients of the sums of the gates. `of_inner` is that of c~ that came through h~.
template <class T>
LSTM_FUSED_DEVICE Gates<T> through_cell(const VariantBackwardRows<T>& rows, int64_t t, int64_t b, int64_t n, T pre_o,
                                        T of_inner) {
  const auto& p = rows.p;
  const int64_t width = rows.s.hidden_size, place = t * rows.s.batch + b;
  T* const carried = rows.carried_c(b) + n;
  T of_c = *carried;
  if (p.grad_cells != nullptr) of_c += p.grad_cells[place * width + n];
  const ZoneoutGradient<T> split =
      zoneout_backward(mask_at(p.cell.zoneout_c, rows.s, t, b, width, n), p.cell.keeps_c, of_c);
  const CellGradient<T> grad = variant_cell_backward<VariantMath<T>>(
      load_gates(p.kept.gates + place * rows.gates_width() + n, width), p.kept.c_prev[place * width + n],
      p.kept.raw[place * width + n], pre_o, split.after + of_inner, extras_at(p.cell, width, n));
  store_gates(rows.in_range(p.grad_sums, t, b, rows.gates_width()) + n, width, grad.pre);
  *carried = rows.clock.before(t, b) == Before::kNothing ? T(0) : split.before + grad.c_prev;
  return grad.pre;
}

template <class T>
LSTM_FUSED_DEVICE T clipped_at(const VariantBackwardRows<T>& rows, int64_t t, int64_t b, int64_t n) {
  const int64_t width = rows.s.hidden_size;
  const T raw = rows.p.kept.raw[(t * rows.s.batch + b) * width + n];
  return extras_at(rows.p.cell, width, n).template clipped<VariantMath<T>>(raw);
}

// Past a row's length, of unit n.
template <class T>
LSTM_FUSED_DEVICE void clear(const VariantBackwardRows<T>& rows, int64_t t, int64_t b, int64_t n) {
  const auto& p = rows.p;
  const int64_t width = rows.s.hidden_size;
  const auto gates = [&](T* grads) {
    store_gates(rows.in_range(grads, t, b, rows.gates_width()) + n, width, Gates<T>{});
  };
  gates(p.grad_sums);
  if (rows.s.has_projection) rows.in_range(p.hidden, t, b, width)[n] = 0;
  if (!p.cell.has_norms()) return;
  gates(p.grad_ih);
  gates(p.grad_hh);
  rows.in_range(p.grad_norm, t, b, width)[n] = 0;
  rows.in_range(p.norm_c, t, b, width)[n] = 0;
}

// Of unit n, once the gradient of o tanh(..) is known: the cell, which a norm does later, when all of a row is there.
template <class T>
LSTM_FUSED_DEVICE void backward_unit(const VariantBackwardRows<T>& rows, int64_t t, int64_t b, int64_t n, T grad) {
  if (rows.p.cell.has_norms()) {
    rows.p.grad_hidden[b * rows.s.hidden_size + n] = grad;
  } else if (t < rows.clock.length(b)) {
    const HiddenGradient<T> of_hidden = through_hidden(rows, t, b, n, clipped_at(rows, t, b, n), grad);
    through_cell(rows, t, b, n, of_hidden.pre_o, of_hidden.inner);
  } else {
    clear(rows, t, b, n);
  }
}

// The gradient of h: with W_hh, from the step before; then, without a projection, that of the units. grid: row tiles of
// the batch, tiles of columns of h.
template <class A>
LSTM_FUSED_KERNEL(kStepThreads, 1)
lstm_variant_backward_kernel(LSTM_FUSED_PARAMS VariantBackwardStep<Element<A>> arguments) {
  using T = Element<A>;
  const VariantBackwardRows<T> rows(arguments.shape, arguments.params);
  const LayerShape& s = rows.s;
  const auto& p = rows.p;
  const int64_t step = arguments.step, t = rows.time(step), t_before = rows.time(step - 1);
  const auto comes_from = [&](int64_t b) { return step > 0 && t_before < rows.clock.length(b); };
  column_product<A>(
      p.w_hh_t, s.proj_width, rows.gates_width(), p.grad_hh, s.batch,
      [&](int64_t b) -> const T* {
        if (!comes_from(b) || rows.clock.before(t_before, b) == Before::kNothing) return nullptr;
        return rows.in_range(p.grad_hh, t_before, b, rows.gates_width());
      },
      [&](int64_t b, int64_t n, T sum) {
        if (comes_from(b)) carry_on(rows, t_before, b, n, sum);
        if (step == s.seq_len) return;
        const T grad = t < rows.clock.length(b) ? split_h(rows, t, b, n) : T(0);
        if (s.has_projection)
          rows.in_range(p.grad_h, t, b, s.proj_width)[n] = grad;
        else
          backward_unit(rows, t, b, n, grad);
      });
}

// With a projection: W_hr, then the units. grid: row tiles of the batch, tiles of hidden units.
template <class A>
LSTM_FUSED_KERNEL(kStepThreads, 1)
lstm_variant_backward_projection_kernel(LSTM_FUSED_PARAMS VariantBackwardStep<Element<A>> arguments) {
  using T = Element<A>;
  const VariantBackwardRows<T> rows(arguments.shape, arguments.params);
  const LayerShape& s = rows.s;
  const auto& p = rows.p;
  const int64_t t = rows.time(arguments.step);
  column_product<A>(
      p.w_hr_t, s.hidden_size, s.proj_width, p.grad_h, s.batch,
      [&](int64_t b) -> const T* {
        return t < rows.clock.length(b) ? rows.in_range(p.grad_h, t, b, s.proj_width) : nullptr;
      },
      [&](int64_t b, int64_t n, T sum) { backward_unit(rows, t, b, n, sum); });
}

// The gradient of a normalised row, times the norm's weight, is rounded, by lying in memory, before its mean is taken
// from it: of a row of one number nothing is left then, where a multiply-add would leave the rounding, times the norm's
// scale.
template <class T>
LSTM_FUSED_DEVICE void backward_normalised(const VariantBackwardRows<T>& rows, int64_t t, int64_t b) {
  const auto& p = rows.p;
  const int64_t width = rows.s.hidden_size, gates_width = rows.gates_width(), place = t * rows.s.batch + b;
  const T* const kept = p.kept.statistics + place * kNumStatistics;
  T *const grad_norm = rows.in_range(p.grad_norm, t, b, width), *const norm_c = rows.in_range(p.norm_c, t, b, width),
           *const sums = rows.in_range(p.grad_sums, t, b, gates_width);
  T* const hidden = p.grad_hidden + b * width;
  T of_c[2] = {};  // sums of the weighted gradient of LN(c~), and of its products with c~ normalised
  for_units(width, [&](int64_t n) {
    const T weight = p.cell.norm_c.weight[n], normalised = (clipped_at(rows, t, b, n) - kept[kMeanC]) * kept[kScaleC];
    const HiddenGradient<T> grad =
        through_hidden(rows, t, b, n, normalised * weight + p.cell.norm_c.bias[n], hidden[n]);
    norm_c[n] = normalised;
    sums[3 * width + n] = grad.pre_o;
    grad_norm[n] = grad.inner;
    hidden[n] = grad.inner * weight;
    of_c[0] += grad.inner * weight;
    of_c[1] += grad.inner * weight * normalised;
  });
  block_sums<0>(of_c);
  const T *const input = p.kept.input_sums + place * gates_width, *const recurrent =
                                                                      p.kept.recurrent_sums + place * gates_width;
  const auto multiplied = [](T x, T y) { return x * y; };
  T of_gates[4] = {};  // the same of LN(W_ih x), then of LN(W_hh h)
  for_units(width, [&](int64_t n) {
    const T count = static_cast<T>(width);
    const T of_inner = kept[kScaleC] * (hidden[n] - of_c[0] / count - of_c[1] / count * norm_c[n]);
    const Gates<T> pre = through_cell(rows, t, b, n, sums[3 * width + n], of_inner);
    const auto add_up = [&](T* to, T* weighted, const T* weight, const T* normalised) {
      const Gates<T> of_norm = gate_by_gate(multiplied, pre, load_gates(weight + n, width));
      store_gates(rows.in_range(weighted, t, b, gates_width) + n, width, of_norm);
      to[0] += sum_of(of_norm);
      to[1] += sum_of(gate_by_gate(multiplied, of_norm, load_gates(normalised + n, width)));
    };
    add_up(of_gates, p.grad_ih, p.cell.norm_ih.weight, input);
    add_up(of_gates + 2, p.grad_hh, p.cell.norm_hh.weight, recurrent);
  });
  block_sums<2>(of_gates);
  for_units(width, [&](int64_t n) {
    const T count = static_cast<T>(gates_width);
    const auto before_norm = [&](T* grads, const T* normalised, T scale, T sum, T slope) {
      T* const grad = rows.in_range(grads, t, b, gates_width) + n;
      const auto formula = [&](T weighted, T x) { return scale * (weighted - sum / count - slope / count * x); };
      store_gates(grad, width, gate_by_gate(formula, load_gates(grad, width), load_gates(normalised + n, width)));
    };
    before_norm(p.grad_ih, input, kept[kScaleIh], of_gates[0], of_gates[1]);
    before_norm(p.grad_hh, recurrent, kept[kScaleHh], of_gates[2], of_gates[3]);
  });
}

// With norms, the units. grid: B
template <class T>
LSTM_FUSED_KERNEL(kThreads, 1)
lstm_variant_backward_norm_kernel(LSTM_FUSED_PARAMS VariantBackwardStep<T> arguments) {
  const VariantBackwardRows<T> rows(arguments.shape, arguments.params);
  const int64_t b = block_index().x, t = rows.time(arguments.step);
  if (t < rows.clock.length(b))
    backward_normalised(rows, t, b);
  else
    for_units(rows.s.hidden_size, [&](int64_t n) { clear(rows, t, b, n); });
}

}  // namespace lstm_fused
