// Moves lanes: squares of vectors transposed, and sums across lanes.
#pragma once

#include <utility>

#include "cpu/isa/vector.h"

namespace lstm_fused::LSTM_FUSED_ISA {

// Lane J of the result is lane Place::at(J) of a and b, one behind the other; clang and GCC spell that differently.
template <class Place, class T, int... J>
LSTM_FUSED_INLINE Vec<T> shuffle(Vec<T> a, Vec<T> b, std::integer_sequence<int, J...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, Place::at(J)...);
#else
  return __builtin_shuffle(a, b, Ints<T>{Place::at(J)...});
#endif
}
template <class Place, class T>
LSTM_FUSED_INLINE Vec<T> shuffle(Vec<T> a, Vec<T> b) {
  return shuffle<Place, T>(a, b, std::make_integer_sequence<int, kLanes<T>>{});
}

// Lanes among which one instruction moves what it likes of two vectors: AVX2 has halves that do not mix, but for those
// that move a half as a whole.
template <class T>
constexpr int kNearLanes = kVectorBytes == 32 ? 16 / sizeof(T) : kLanes<T>;

// Of each kNearLanes, of the lower or the upper half: a lane of a, the same of b, the next of a, ...
template <class T, bool upper>
struct Interleaved {
  static constexpr int at(int lane) {
    const int near = lane % kNearLanes<T>;
    return lane - near + (upper ? kNearLanes<T> / 2 : 0) + near / 2 + near % 2 * kLanes<T>;
  }
};

// Of each kNear lanes, the lower or the upper half of every segment of kSegment of a, then of b.
template <class T, int kNear, int kSegment, bool upper>
struct HalfSegments {
  static constexpr int at(int lane) {
    const int half = kSegment / 2, segments = kNear / kSegment, near = lane % kNear, segment = near / half;
    return lane - near + segment / segments * kLanes<T> + segment % segments * kSegment + near % half +
           (upper ? half : 0);
  }
};

// Halves of whole vectors.
template <class T, bool upper>
using Halves = HalfSegments<T, kLanes<T>, kLanes<T>, upper>;

// Rows and columns of a square of kLanes vectors change places. A step interleaves the upper half of the rows with the
// lower one, which moves the top bit of an element's row to the bottom of its column and that of its column to the
// bottom of its row; after log2(kLanes) steps the two are exchanged. Where halves do not mix, that is done to squares
// of them, and then those of two rows are exchanged.
template <class T>
LSTM_FUSED_INLINE void transpose(Vec<T> (&rows)[kLanes<T>]) {
  constexpr int kNear = kNearLanes<T>, kHalf = kNear / 2;
  Vec<T> next[kLanes<T>];
  const auto take_next = [&] {
    for (int n = 0; n < kLanes<T>; ++n) rows[n] = next[n];
  };
  for (int step = 1; step < kNear; step *= 2) {
    for (int first = 0; first < kLanes<T>; first += kNear)
      for (int n = first; n < first + kHalf; ++n) {
        next[2 * n - first] = shuffle<Interleaved<T, false>, T>(rows[n], rows[n + kHalf]);
        next[2 * n - first + 1] = shuffle<Interleaved<T, true>, T>(rows[n], rows[n + kHalf]);
      }
    take_next();
  }
  if constexpr (kNear < kLanes<T>) {
    for (int n = 0; n < kNear; ++n) {
      next[n] = shuffle<Halves<T, false>, T>(rows[n], rows[n + kNear]);
      next[n + kNear] = shuffle<Halves<T, true>, T>(rows[n], rows[n + kNear]);
    }
    take_next();
  }
}

// Segments of a vector folded to half their length, those of a and those of b behind them; or its halves, if segments
// have one lane.
template <class T, int kSegment>
LSTM_FUSED_INLINE Vec<T> folded(Vec<T> a, Vec<T> b) {
#if LSTM_FUSED_NEON  // in one instruction, neighbours rather than halves
  if constexpr (sizeof(T) == sizeof(float))
    return (Vec<T>)vpaddq_f32((float32x4_t)a, (float32x4_t)b);
  else
    return (Vec<T>)vpaddq_f64((float64x2_t)a, (float64x2_t)b);
#else
  if constexpr (kSegment == 1)
    return shuffle<Halves<T, false>, T>(a, b) + shuffle<Halves<T, true>, T>(a, b);
  else
    return shuffle<HalfSegments<T, kNearLanes<T>, kSegment, false>, T>(a, b) +
           shuffle<HalfSegments<T, kNearLanes<T>, kSegment, true>, T>(a, b);
#endif
}

// Lane j of the result is the sum of the lanes of v[j].
template <class T, int kCount = kLanes<T>>
LSTM_FUSED_INLINE Vec<T> sum_lanes(const Vec<T>* v) {
  constexpr int kHalf = kCount / 2, kSegment = kNearLanes<T> * kCount / kLanes<T>;
  if constexpr (kCount == 1) {
    return v[0];
  } else {
    Vec<T> sums[kHalf];
#pragma GCC unroll 8
    for (int n = 0; n < kHalf; ++n) sums[n] = folded<T, kSegment>(v[2 * n], v[2 * n + 1]);
    return sum_lanes<T, kHalf>(sums);
  }
}

}  // namespace lstm_fused::LSTM_FUSED_ISA
