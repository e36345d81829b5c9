// How the rows of a batch and the blocks of a matrix are shared between threads.
#pragma once

#include "clock.h"
#include "cpu/isa/product.h"
#include "cpu/parallel.h"

namespace lstm_fused::LSTM_FUSED_ISA {

struct Range {
  int64_t begin, end;
};

constexpr int kChunk = 64;  // rows that share one pass over the weights; bounds the arrays on the stack

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

// The row of step t and batch row b in a (T, B, ...) tensor.
inline int64_t row_of(const LayerShape& s, int64_t t, int64_t b) {
  return (s.row_begin != nullptr ? s.row_begin[t] : t * s.batch) + b;
}

// Rows of the batch as the next step multiplies them, of two steps, (2, B, size), an odd number of lines apart. Rows
// that lie one behind the other and are whole multiples of 64 lines meet in one set of the first-level cache, which has
// place for eight.
template <class T>
struct SeparateRows {
  static constexpr int64_t kLine = 64 / sizeof(T);
  int64_t batch = 0, distance = 0;  // no rows

  static SeparateRows of(int64_t batch, int64_t size) { return {batch, (num_tiles(size, kLine) | 1) * kLine}; }
  static bool pay(int64_t batch, int64_t distance_without) {
    return distance_without % (64 * kLine) == 0 && num_tiles(batch, num_tiles(batch, kTileRows)) > 8;
  }

  int64_t size() const { return 2 * batch * distance; }
  int64_t at(int64_t t, int64_t b) const { return (t % 2 * batch + b) * distance; }
};

// f with a pointer to the elements at w, which for T = float may be of a half type: a weight, or const-less, a result.
template <class T, class Void, class F>
LSTM_FUSED_INLINE void with_type(Void* w, DType type, F&& f) {
  const auto call = [&](auto element) __attribute__((always_inline)) {
    using Element = decltype(element);
    f(static_cast<std::conditional_t<std::is_const_v<Void>, const Element, Element>*>(w));
  };
  if constexpr (std::is_same_v<T, float>) {
    if (type == DType::kBFloat16) return call(BFloat16{});
    if constexpr (!kMultipliesPairs)  // of bfloat16 stacks alone
      if (type == DType::kFloat16) return call(Float16{});
  }
  call(T{});
}

// As above, of what products multiply weights with.
template <class T, class Void, class F>
LSTM_FUSED_INLINE void with_factor_type(Void* a, DType type, F&& f) {
  if constexpr (kMultipliesPairs)
    with_type<T>(a, type, f);
  else
    f(static_cast<std::conditional_t<std::is_const_v<Void>, const T, T>*>(a));
}

template <class T>
inline void fill(T* p, std::common_type_t<T> value, int64_t count) {
  for (int64_t n = 0; n < count; ++n) p[n] = value;
}

template <class T, class From>
inline void copy(T* to, const From* from, int64_t count) {
  if constexpr (std::is_same_v<T, From>) {
    for (int64_t n = 0; n < count; ++n) to[n] = from[n];
  } else {
    for (int64_t n = 0; n < count; n += kLanes<T>) {
      const int lanes = valid_lanes<T>(n, count);
      store(to + n, load(from + n, lanes), lanes);
    }
  }
}

}  // namespace lstm_fused::LSTM_FUSED_ISA
