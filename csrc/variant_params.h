// The contract for cells that are variants of the plain one (variant_cell.h, lstm_fused/reference.py), as params.h is
// for that: one direction of one layer, in float or double. Sizes as there; N = T B rows, one for each step of each row
// of the batch.
#pragma once

#include <cstdint>

#include "cell.h"

namespace lstm_fused {

// Weight and bias of a layer norm.
template <class T>
struct Norm {
  const T *weight, *bias;
};

// Null, or zero, for what a cell does not have. The three norms are there together.
template <class T>
struct VariantCell {
  T cell_clip;
  const T* peepholes;  // (3, H), of i, f, o
  Norm<T> norm_ih, norm_hh, norm_c;
  const T *zoneout_h, *zoneout_c;  // (T, B, P), (T, B, H): not zero where a state stays as it is; null: all alike,
  T keeps_h, keeps_c;              // this share of it
  const T* recurrent_mask;         // (B, P)

  LSTM_FUSED_INLINE bool has_norms() const { return norm_c.weight != nullptr; }
};

// What a row's statistics are.
enum Statistic { kScaleIh, kScaleHh, kMeanC, kScaleC, kNumStatistics };

// What forward leaves for backward. Where it has not to, some are of one step alone.
template <class T>
struct VariantKept {
  T* input_sums;  // in x W_ih^T; its normalised form, with norms; else it becomes the gates
  T* gates;       // activated, (T', B, 4H), as input_sums, from gates_time on
  int64_t gates_time;
  T* recurrent_sums;  // W_hh (m h), (B, 4H); with norms normalised, (B, 4H) or (T, B, 4H)
  T* factor;          // (2, B, P), a step and the next one, or (T, B, P): m h, of the h that a step starts from
  T* c_prev;          // (B, H) or (T, B, H): the c that it starts from
  T* raw;             // the same: c~ before the clip
  T* statistics;      // the same, (.., kNumStatistics), with norms
  bool all_states;    // whether those that may be of one step are of all
};

template <class T>
struct VariantForwardParams {
  bool reverse;
  const T *w_hh, *w_hr, *b_ih, *b_hh;  // w_hr and the biases may be null
  const T *h_0, *c_0;
  VariantCell<T> cell;
  VariantKept<T> kept;
  T *output, *cells;  // (T, B, P), (T, B, H)
  T *h_n, *c_n;

  // CUDA only.
  T* hidden = nullptr;       // (B, H), scratch with a projection: o tanh(..)
  char* exchange = nullptr;  // of `group`, as ForwardParams
};

// Of a range of steps: results that are (T', B, ..) begin at first_time. The gradients of the states are carried from
// step to step, and from range to range, in grad_h_0 and grad_c_0.
template <class T>
struct VariantBackwardParams {
  bool reverse;
  const T *w_hh, *w_hr;
  VariantCell<T> cell;
  VariantKept<T> kept;                // of all steps
  const T *grad_output, *grad_cells;  // (T, B, P), (T, B, H), null for zero
  const T *grad_h_n, *grad_c_n;       // null for zero; CUDA: they are in grad_h_0 and grad_c_0
  int64_t first_time;
  T* grad_sums;           // (T', B, 4H): of the sums of i, f, g, o
  T *grad_ih, *grad_hh;   // the same, before the norms; without them, grad_sums itself
  T *grad_h, *hidden;     // (T', B, P), (T', B, H), with a projection: the two factors of grad W_hr
  T *grad_norm, *norm_c;  // (T', B, H), with norms: of LN(c~), and c~ normalised
  T *grad_h_0, *grad_c_0;

  // CUDA only.
  const T *w_hh_t = nullptr, *w_hr_t = nullptr;  // (P, 4H), (H, P): transposed
  T* grad_hidden = nullptr;                      // (B, H), scratch with norms: of o tanh(..)
  char* exchange = nullptr;                      // of `group`, as BackwardParams
};

}  // namespace lstm_fused
