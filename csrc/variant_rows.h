// Where the elements of step t of row b lie, of the cell's variants.
#pragma once

#include "clock.h"
#include "variant_params.h"

namespace lstm_fused {

template <class T>
struct VariantForwardRows {
  const LayerShape& s;
  const VariantForwardParams<T>& p;
  const Clock clock;

  LSTM_FUSED_INLINE VariantForwardRows(const LayerShape& shape, const VariantForwardParams<T>& params)
      : s(shape), p(params), clock{shape, params.reverse} {}

  LSTM_FUSED_INLINE int64_t gates_width() const { return kNumGates * s.hidden_size; }
  LSTM_FUSED_INLINE T* output(int64_t t, int64_t b) const { return p.output + (t * s.batch + b) * s.proj_width; }
  LSTM_FUSED_INLINE T* cells(int64_t t, int64_t b) const { return p.cells + (t * s.batch + b) * s.hidden_size; }
  LSTM_FUSED_INLINE T* gates_row(T* gates, int64_t t, int64_t b) const {
    return gates + ((t - p.kept.gates_time) * s.batch + b) * gates_width();
  }
  LSTM_FUSED_INLINE T* recurrent_sums(int64_t t, int64_t b) const {
    return p.kept.recurrent_sums + ((p.kept.all_states && p.cell.has_norms() ? t : 0) * s.batch + b) * gates_width();
  }
  LSTM_FUSED_INLINE T* factor(int64_t t, int64_t b) const {
    return p.kept.factor + ((p.kept.all_states ? t : t % 2) * s.batch + b) * s.proj_width;
  }
  LSTM_FUSED_INLINE T* c_prev(int64_t t, int64_t b) const { return state_row(p.kept.c_prev, t, b, s.hidden_size); }
  LSTM_FUSED_INLINE T* raw(int64_t t, int64_t b) const { return state_row(p.kept.raw, t, b, s.hidden_size); }
  LSTM_FUSED_INLINE T* statistics(int64_t t, int64_t b) const {
    return state_row(p.kept.statistics, t, b, kNumStatistics);
  }

  // What a step starts from; null where that is zeros.
  LSTM_FUSED_INLINE const T* h_before(int64_t t, int64_t b) const {
    const Before before = clock.before(t, b);
    return before == Before::kInitial ? p.h_0 + b * s.proj_width
           : before == Before::kStep  ? output(clock.previous(t), b)
                                      : nullptr;
  }
  LSTM_FUSED_INLINE const T* c_before(int64_t t, int64_t b) const {
    const Before before = clock.before(t, b);
    return before == Before::kInitial ? p.c_0 + b * s.hidden_size
           : before == Before::kStep  ? cells(clock.previous(t), b)
                                      : nullptr;
  }

 private:
  LSTM_FUSED_INLINE T* state_row(T* states, int64_t t, int64_t b, int64_t width) const {
    return states + ((p.kept.all_states ? t : 0) * s.batch + b) * width;
  }
};

template <class T>
struct VariantBackwardRows {
  const LayerShape& s;
  const VariantBackwardParams<T>& p;
  const Clock clock;

  LSTM_FUSED_INLINE VariantBackwardRows(const LayerShape& shape, const VariantBackwardParams<T>& params)
      : s(shape), p(params), clock{shape, params.reverse} {}

  LSTM_FUSED_INLINE int64_t gates_width() const { return kNumGates * s.hidden_size; }
  LSTM_FUSED_INLINE int64_t time(int64_t step) const { return clock.time(s.seq_len - 1 - step); }
  LSTM_FUSED_INLINE T* carried_h(int64_t b) const { return p.grad_h_0 + b * s.proj_width; }
  LSTM_FUSED_INLINE T* carried_c(int64_t b) const { return p.grad_c_0 + b * s.hidden_size; }
  LSTM_FUSED_INLINE T* in_range(T* rows, int64_t t, int64_t b, int64_t width) const {
    return rows + ((t - p.first_time) * s.batch + b) * width;
  }
};

}  // namespace lstm_fused
