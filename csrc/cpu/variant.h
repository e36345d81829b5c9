// The CPU kernels of cells that are variants of the plain one (lstm_fused/reference.py): one direction of one layer, in
// float or double. Sizes as in params.h; N = T B rows, one for each step of each row of the batch.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "params.h"

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

  bool has_norms() const { return norm_c.weight != nullptr; }
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
  T* factor;          // (B, P) or (T, B, P): m h, of the h that a step starts from
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
  const T *grad_h_n, *grad_c_n;       // null for zero
  int64_t first_time;
  T* grad_sums;           // (T', B, 4H): of the sums of i, f, g, o
  T *grad_ih, *grad_hh;   // the same, before the norms; without them, grad_sums itself
  T *grad_h, *hidden;     // (T', B, P), (T', B, H), with a projection: the two factors of grad W_hr
  T *grad_norm, *norm_c;  // (T', B, H), with norms: of LN(c~), and c~ normalised
  T *grad_h_0, *grad_c_0;
};

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
