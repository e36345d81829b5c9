// Which rows of the batch take part in a step, and what came before it: lengths and resets, in either direction of
// time.
#pragma once

#include "cell.h"
#include "params.h"

namespace lstm_fused {

// Where a step's incoming state comes from: h_0 and c_0, zero (a segment starts here), or the step before it.
enum class Before { kInitial, kNothing, kStep };

struct Clock {
  const LayerShape& shape;
  bool reverse;

  LSTM_FUSED_INLINE int64_t length(int64_t b) const {
    if (shape.segments.lengths == nullptr) return shape.seq_len;
    const int64_t length = shape.segments.lengths[b];
    return length < 0 ? 0 : length > shape.seq_len ? shape.seq_len : length;
  }
  LSTM_FUSED_INLINE int64_t time(int64_t step) const { return reverse ? shape.seq_len - 1 - step : step; }
  LSTM_FUSED_INLINE int64_t previous(int64_t t) const { return reverse ? t + 1 : t - 1; }
  LSTM_FUSED_INLINE int64_t next(int64_t t) const { return reverse ? t - 1 : t + 1; }
  LSTM_FUSED_INLINE int64_t first(int64_t b) const { return reverse ? length(b) - 1 : 0; }
  LSTM_FUSED_INLINE int64_t last(int64_t b) const { return reverse ? 0 : length(b) - 1; }

  // A boundary at t lies between t - 1 and t, so going backwards the one that cuts step t from its past is at t + 1.
  LSTM_FUSED_INLINE Before before(int64_t t, int64_t b) const {
    const bool* reset = shape.segments.reset;
    if (reverse) {
      if (t == length(b) - 1) return Before::kInitial;
      return reset && reset[(t + 1) * shape.batch + b] ? Before::kNothing : Before::kStep;
    }
    if (reset && reset[t * shape.batch + b]) return Before::kNothing;
    return t == 0 ? Before::kInitial : Before::kStep;
  }
};

}  // namespace lstm_fused
