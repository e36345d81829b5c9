// What forward and backward of a cell's variant must agree on: its sizes, its weights, and where the reserve has what.
#pragma once

#include "cell.h"
#include "torch/stack.h"
#include "torch/variant.h"
#include "variant_params.h"

namespace lstm_fused {

// Row-major and of the call's type.
struct VariantWeights {
  Tensor w_ih, w_hh;
  OptionalTensor b_ih, b_hh, w_hr, peepholes;
  std::vector<Tensor> norms;  // weight and bias of the norms of W_ih x, W_hh h and c~
};

// Raises where a size or dtype is not what others ask for.
struct VariantLayer {
  int64_t seq_len, batch, input_size, hidden_size, proj_width;
  bool reverse, has_projection, allow_tf32;
  ScalarType dtype;
  torch::stable::Device device;
  VariantWeights weights;
  OptionalTensor lengths, reset, zoneout_h_mask, zoneout_c_mask, recurrent_mask;  // row-major
  double zoneout_h, zoneout_c, cell_clip;

  explicit VariantLayer(const VariantCall& call);

  int64_t num_rows() const { return seq_len * batch; }
  int64_t gates_width() const { return kNumGates * hidden_size; }
  bool has_norms() const { return !weights.norms.empty(); }
  // Elements for each of the N rows: gates, c_prev, the raw cell, the factor of W_hh; with norms both sums and four
  // statistics. lstm_fused/variant_ops.py knows that, too.
  int64_t reserve_size() const {
    return num_rows() * (gates_width() + 2 * hidden_size + proj_width + has_norms() * (2 * gates_width() + 4));
  }
  LayerShape shape() const;
  Problem problem(bool training) const;  // as a planner is asked
  void check_gradients(const VariantOutputGrads& grads, const Tensor& reserve) const;

  template <class T>
  VariantCell<T> cell() const {
    VariantCell<T> cell{};
    cell.cell_clip = static_cast<T>(cell_clip);
    cell.peepholes = const_data<T>(weights.peepholes);
    if (has_norms()) {
      const auto norm = [&](int n) -> Norm<T> {
        return {const_data<T>(weights.norms[2 * n]), const_data<T>(weights.norms[2 * n + 1])};
      };
      cell.norm_ih = norm(0);
      cell.norm_hh = norm(1);
      cell.norm_c = norm(2);
    }
    cell.zoneout_h = const_data<T>(zoneout_h_mask);
    cell.zoneout_c = const_data<T>(zoneout_c_mask);
    cell.keeps_h = static_cast<T>(zoneout_h);
    cell.keeps_c = static_cast<T>(zoneout_c);
    cell.recurrent_mask = const_data<T>(recurrent_mask);
    return cell;
  }

  // Of all steps.
  template <class T>
  VariantKept<T> kept(const Tensor& reserve) const {
    T* free = data<T>(reserve);
    const auto take = [&](int64_t width) { return std::exchange(free, free + num_rows() * width); };
    VariantKept<T> kept{};
    kept.all_states = true;
    kept.gates = kept.input_sums = take(gates_width());
    kept.c_prev = take(hidden_size);
    kept.raw = take(hidden_size);
    kept.factor = take(proj_width);
    if (!has_norms()) return kept;
    kept.input_sums = take(gates_width());
    kept.recurrent_sums = take(gates_width());
    kept.statistics = take(kNumStatistics);
    return kept;
  }
};

}  // namespace lstm_fused
