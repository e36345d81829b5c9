// The cells of a tile, from gates to h.
#pragma once

#include "cpu/isa/product.h"
#include "cpu/isa/vector_math.h"

namespace lstm_fused::LSTM_FUSED_ISA {

// Cells on their way from c to h.
template <class T, int N>
struct OpenCells {
  static constexpr int kCount = N;
  Vectors<T, N> o, c;

  LSTM_FUSED_INLINE Vectors<T, N> hidden() const {
    using V = Vectors<T, N>;
    return next_hidden<CellMath<T, N>>(Gates<V>{V(), V(), V(), o}, c);
  }
};

// `count` vectors of cells: open(n, Constant<N>) takes N of them from the n-th on as far as OpenCells<T, N>, and
// close(n, those) to the end. Without registers for several at once, that is done for some of them one after the other:
// the tanh of c at the end of one is a chain of 80 cycles, which a core does not look beyond.
template <class T, class Open, class Close>
LSTM_FUSED_INLINE void for_cells(int count, Open&& open, Close&& close) {
  if constexpr (kCellRows > 1) {
    int n = 0;
    for (; n + kCellRows <= count; n += kCellRows) close(n, open(n, Constant<kCellRows>{}));
    for (; n < count; ++n) close(n, open(n, Constant<1>{}));
  } else {
    constexpr int kTogether = 8;
    OpenCells<T, 1> cells[kTogether];
    for (int first = 0; first < count; first += kTogether) {
      const int end = first + kTogether < count ? first + kTogether : count;
      for (int n = first; n < end; ++n) cells[n - first] = open(n, Constant<1>{});
      for (int n = first; n < end; ++n) close(n, cells[n - first]);
    }
  }
}

}  // namespace lstm_fused::LSTM_FUSED_ISA
