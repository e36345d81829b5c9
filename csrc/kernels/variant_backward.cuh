// Backward of the cell's variants, but for the products. Blocks are rows of the batch. A step takes the gradients of
// its h and c, which grad_h_0 and grad_c_0 carry, to those of the h and c it started from.
#pragma once

#include "kernels/variant_rows.cuh"

namespace lstm_fused {

template <class T>
struct VariantBackwardStep {
  LayerShape shape;
  VariantBackwardParams<T> params;
  int64_t step;  // from the direction's last one
};

// The whole gradient of h of unit n, split by zoneout: one part is carried on, the other is that of h~, the result.
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

// With a projection, before the product with it. grid: B
template <class T>
LSTM_FUSED_KERNEL(kThreads, 1)
lstm_variant_backward_states_kernel(LSTM_FUSED_PARAMS VariantBackwardStep<T> arguments) {
  const VariantBackwardRows<T> rows(arguments.shape, arguments.params);
  const int64_t b = block_index().x, t = rows.time(arguments.step), width = rows.s.proj_width;
  const bool exists = t < rows.clock.length(b);
  for_units(width,
            [&](int64_t n) { rows.in_range(rows.p.grad_h, t, b, width)[n] = exists ? split_h(rows, t, b, n) : 0; });
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

template <class T>
LSTM_FUSED_DEVICE void backward_cell(const VariantBackwardRows<T>& rows, int64_t t, int64_t b) {
  using Math = VariantMath<T>;
  const LayerShape& s = rows.s;
  const auto& p = rows.p;
  const int64_t width = s.hidden_size, gates_width = rows.gates_width(), place = t * s.batch + b;
  const T *const gates = p.kept.gates + place * gates_width, *const raw = p.kept.raw + place * width;
  T* const sums = rows.in_range(p.grad_sums, t, b, gates_width);
  const bool norms = p.cell.has_norms(), starts_anew = rows.clock.before(t, b) == Before::kNothing;

  // `of_inner`: the gradient of c~ that comes through h~.
  const auto through_cell = [&](int64_t n, T pre_o, T of_inner) {
    T* const carried = rows.carried_c(b) + n;
    T of_c = *carried;
    if (p.grad_cells != nullptr) of_c += p.grad_cells[place * width + n];
    const ZoneoutGradient<T> split =
        zoneout_backward(mask_at(p.cell.zoneout_c, s, t, b, width, n), p.cell.keeps_c, of_c);
    const CellGradient<T> grad =
        variant_cell_backward<Math>(load_gates(gates + n, width), p.kept.c_prev[place * width + n], raw[n], pre_o,
                                    split.after + of_inner, extras_at(p.cell, width, n));
    store_gates(sums + n, width, grad.pre);
    *carried = starts_anew ? T(0) : split.before + grad.c_prev;
    return grad.pre;
  };

  const T* const kept = norms ? p.kept.statistics + place * kNumStatistics : nullptr;
  T* const grad_norm = norms ? rows.in_range(p.grad_norm, t, b, width) : nullptr;
  T* const norm_c = norms ? rows.in_range(p.norm_c, t, b, width) : nullptr;
  T of_c[2] = {};  // sums of the weighted gradient of LN(c~), and of its products with c~ normalised
  for_units(width, [&](int64_t n) {
    T inner = extras_at(p.cell, width, n).template clipped<Math>(raw[n]);
    if (norms) {
      norm_c[n] = (inner - kept[kMeanC]) * kept[kScaleC];
      inner = norm_c[n] * p.cell.norm_c.weight[n] + p.cell.norm_c.bias[n];
    }
    const T o = gates[3 * width + n], tanh_n = Math::tanh(inner);
    if (s.has_projection) rows.in_range(p.hidden, t, b, width)[n] = o * tanh_n;
    const HiddenGradient<T> grad =
        hidden_backward(o, tanh_n, s.has_projection ? p.grad_hidden[b * width + n] : split_h(rows, t, b, n));
    if (!norms) {
      through_cell(n, grad.pre_o, grad.inner);
      return;
    }
    sums[3 * width + n] = grad.pre_o;
    grad_norm[n] = grad.inner;
    const T weighted = grad.inner * p.cell.norm_c.weight[n];
    of_c[0] += weighted;
    of_c[1] += weighted * norm_c[n];
  });
  if (!norms) return;

  block_sums<0>(of_c);
  const T *const input = p.kept.input_sums + place * gates_width, *const recurrent =
                                                                      p.kept.recurrent_sums + place * gates_width;
  const auto multiplied = [](T x, T y) { return x * y; };
  T of_gates[4] = {};  // the same of LN(W_ih x), then of LN(W_hh h)
  for_units(width, [&](int64_t n) {
    const T count = static_cast<T>(width), weighted = grad_norm[n] * p.cell.norm_c.weight[n];
    const Gates<T> pre = through_cell(n, sums[3 * width + n],
                                      kept[kScaleC] * (weighted - of_c[0] / count - of_c[1] / count * norm_c[n]));
    const auto add_up = [&](T* to, const T* weight, const T* normalised) {
      const Gates<T> of_norm = gate_by_gate(multiplied, pre, load_gates(weight + n, width));
      to[0] += sum_of(of_norm);
      to[1] += sum_of(gate_by_gate(multiplied, of_norm, load_gates(normalised + n, width)));
    };
    add_up(of_gates, p.cell.norm_ih.weight, input);
    add_up(of_gates + 2, p.cell.norm_hh.weight, recurrent);
  });
  block_sums<2>(of_gates);
  for_units(width, [&](int64_t n) {
    const T count = static_cast<T>(gates_width);
    const Gates<T> pre = load_gates(sums + n, width);
    const auto before_norm = [&](T* to, const T* weight, const T* normalised, T scale, T sum, T slope) {
      const auto formula = [&](T grad, T w, T x) { return scale * (grad * w - sum / count - slope / count * x); };
      store_gates(rows.in_range(to, t, b, gates_width) + n, width,
                  gate_by_gate(formula, pre, load_gates(weight + n, width), load_gates(normalised + n, width)));
    };
    before_norm(p.grad_ih, p.cell.norm_ih.weight, input, kept[kScaleIh], of_gates[0], of_gates[1]);
    before_norm(p.grad_hh, p.cell.norm_hh.weight, recurrent, kept[kScaleHh], of_gates[2], of_gates[3]);
  });
}

// Before the product with W_hh. grid: B
template <class T>
LSTM_FUSED_KERNEL(kThreads, 1)
lstm_variant_backward_cell_kernel(LSTM_FUSED_PARAMS VariantBackwardStep<T> arguments) {
  const VariantBackwardRows<T> rows(arguments.shape, arguments.params);
  const int64_t b = block_index().x, t = rows.time(arguments.step);
  if (t < rows.clock.length(b))
    backward_cell(rows, t, b);
  else
    for_units(rows.s.hidden_size, [&](int64_t n) { clear(rows, t, b, n); });
}

}  // namespace lstm_fused
