// Which rows of the batch take part in a step, and what came before it: lengths and resets, in either direction of
// time.
#pragma once

#include "cpu/isa/product.h"
#include "cpu/parallel.h"
#include "params.h"

namespace lstm_fused::LSTM_FUSED_ISA {

constexpr int kChunk = 64;  // rows that share one pass over the weights; bounds the arrays on the stack

// Where a step's incoming state comes from: h_0 and c_0, zero (a segment starts here), or the step before it.
enum class Before { kInitial, kNothing, kStep };

struct Clock {
  const LayerShape& shape;
  bool reverse;

  int64_t length(int64_t b) const { return shape.segments.lengths ? shape.segments.lengths[b] : shape.seq_len; }
  int64_t time(int64_t step) const { return reverse ? shape.seq_len - 1 - step : step; }
  int64_t previous(int64_t t) const { return reverse ? t + 1 : t - 1; }
  int64_t next(int64_t t) const { return reverse ? t - 1 : t + 1; }
  int64_t first(int64_t b) const { return reverse ? length(b) - 1 : 0; }
  int64_t last(int64_t b) const { return reverse ? 0 : length(b) - 1; }

  // A boundary at t lies between t - 1 and t, so going backwards the one that cuts step t from its past is at t + 1.
  Before before(int64_t t, int64_t b) const {
    const bool* reset = shape.segments.reset;
    if (reverse) {
      if (t == length(b) - 1) return Before::kInitial;
      return reset && reset[(t + 1) * shape.batch + b] ? Before::kNothing : Before::kStep;
    }
    if (reset && reset[t * shape.batch + b]) return Before::kNothing;
    return t == 0 ? Before::kInitial : Before::kStep;
  }
};

// Shares a layer between the threads: every direction's `total` (rows or blocks of columns) is cut into as many even
// parts as there are threads for it, none above `limit`, and task(direction, begin, end) runs once for each.
struct Team {
  const Parallel& parallel;
  int64_t num_directions;

  template <class Task>
  void each(int64_t total, int64_t limit, Task&& task) const {
    if (total == 0) return;
    const int64_t threads = num_tiles(parallel.num_threads, num_directions), least = num_tiles(total, limit);
    const int64_t size = num_tiles(total, threads > least ? threads : least);
    const int64_t parts = num_tiles(total, size);
    parallel(num_directions * parts, [&](int64_t index) {
      const int64_t begin = index % parts * size;
      task(index / parts, begin, min(total, begin + size));
    });
  }
};

template <class T>
inline void fill(T* p, T value, int64_t count) {
  for (int64_t n = 0; n < count; ++n) p[n] = value;
}

template <class T>
inline void copy(T* to, const T* from, int64_t count) {
  for (int64_t n = 0; n < count; ++n) to[n] = from[n];
}

}  // namespace lstm_fused::LSTM_FUSED_ISA
