// What the kernels of the cell's variants share: a block has a row of the batch, and a thread every so many of its
// units.
#pragma once

#include "kernels/cell_math.cuh"
#include "tiles.h"
#include "variant_cell.h"
#include "variant_rows.h"

namespace lstm_fused {

constexpr int kMostRowWarps = static_cast<int>(kThreads) / kWarpSize;
constexpr int kSumSlots = 6;       // of a launch
constexpr double kEpsilon = 1e-5;  // of a norm; as lstm_fused/reference.py

template <class T>
Grid row_grid(int64_t num_rows, int64_t width) {
  const int threads = static_cast<int>(round_up(width < kThreads ? width : kThreads, kWarpSize));
  return {{static_cast<int>(num_rows), 1, 1}, threads, kSumSlots * kMostRowWarps * static_cast<int>(sizeof(T))};
}

// f(n) of the thread's share of a row. Elements of a share are written and read by this thread alone.
template <class F>
LSTM_FUSED_DEVICE void for_units(int64_t width, F&& f) {
  for (int64_t n = thread_index(); n < width; n += num_threads()) f(n);
}

// Each value becomes its sum over the threads of the block, in an order that depends on their number alone. A launch
// has kSumSlots of them, from 0 on, each for once: so nobody waits for those who still read the sums before.
template <int kSlot, int kCount, class T>
LSTM_FUSED_DEVICE void block_sums(T (&values)[kCount]) {
  static_assert(kSlot + kCount <= kSumSlots);
  T* const shared = reinterpret_cast<T*>(shared_memory()) + kSlot * kMostRowWarps;
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
#pragma unroll
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) values[k] += shuffle_xor(values[k], mask);
    if (lane_index() == 0) store_shared(shared + k * kMostRowWarps + warp_index(), values[k]);
  }
  block_barrier();
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    values[k] = 0;
    for (int warp = 0; warp < num_threads() / kWarpSize; ++warp)
      values[k] += load_shared(shared + k * kMostRowWarps + warp);
  }
}

template <class T>
struct Moments {
  T mean, scale;  // of a normalised row: (x - mean) * scale
};

// Of a row of `count` elements, where each(n, f) calls f with those of unit n; three slots. The mean is found twice, so
// that a large one does not spoil the differences from it.
template <int kSlot, class T, class Each>
LSTM_FUSED_DEVICE Moments<T> moments(int64_t width, int64_t count, Each&& each) {
  T sum[1] = {}, of_differences[2] = {};
  for_units(width, [&](int64_t n) { each(n, [&](T x) { sum[0] += x; }); });
  block_sums<kSlot>(sum);
  const T size = static_cast<T>(count), mean = sum[0] / size;
  for_units(width, [&](int64_t n) {
    each(n, [&](T x) {
      of_differences[0] += x - mean;
      of_differences[1] += (x - mean) * (x - mean);
    });
  });
  block_sums<kSlot + 1>(of_differences);
  const T rest = of_differences[0] / size, variance = of_differences[1] / size - rest * rest;
  return {mean + rest, 1 / sqrt(variance + static_cast<T>(kEpsilon))};
}

// Of the sums of all four gates.
template <int kSlot, class T>
LSTM_FUSED_DEVICE Moments<T> gate_moments(int64_t width, const T* gates) {
  return moments<kSlot, T>(width, kNumGates * width, [&](int64_t n, auto&& f) {
#pragma unroll
    for (int gate = 0; gate < kNumGates; ++gate) f(gates[gate * width + n]);
  });
}

// f of each gate, of one or more values.
template <class F, class T, class... Others>
LSTM_FUSED_DEVICE Gates<T> gate_by_gate(F&& f, const Gates<T>& first, const Others&... others) {
  return {f(first.i, others.i...), f(first.f, others.f...), f(first.g, others.g...), f(first.o, others.o...)};
}
template <class T>
LSTM_FUSED_DEVICE T sum_of(const Gates<T>& x) {
  return (x.i + x.f) + (x.g + x.o);
}

template <class T>
struct VariantMath : FullMath {
  static LSTM_FUSED_DEVICE T clamped(T x, T limit) {  // NaN stays NaN
    return x > limit ? limit : x < -limit ? -limit : x;
  }
  // The value where x is within the limits, else zero.
  static LSTM_FUSED_DEVICE T where_within(T x, T limit, T value) { return x >= -limit && x <= limit ? value : T(0); }
};

// A cell's options of one unit.
template <class T>
LSTM_FUSED_DEVICE CellExtras<T> extras_at(const VariantCell<T>& cell, int64_t width, int64_t n) {
  const T* const p = cell.peepholes;
  CellExtras<T> extras{p != nullptr, cell.cell_clip > 0, {}, cell.cell_clip};
  if (extras.has_peepholes) extras.peepholes = {p[n], p[width + n], p[2 * width + n]};
  return extras;
}

// Zoneout with what was loaded of its masks, if there are any: by value, so that it stays in a register.
template <class T>
LSTM_FUSED_DEVICE T zoned_out_by(bool has_masks, T mask, T share, T before, T after) {
  return has_masks ? zoned_out(&mask, share, before, after) : zoned_out<T>(nullptr, share, before, after);
}
template <class T>
LSTM_FUSED_DEVICE ZoneoutGradient<T> zoneout_backward_by(bool has_masks, T mask, T share, T grad) {
  return has_masks ? zoneout_backward(&mask, share, grad) : zoneout_backward<T>(nullptr, share, grad);
}

// Elements (t, b) of a mask with rows of `width`; null without one.
template <class T>
LSTM_FUSED_DEVICE const T* mask_at(const T* mask, const LayerShape& s, int64_t t, int64_t b, int64_t width, int64_t n) {
  return mask == nullptr ? nullptr : mask + (t * s.batch + b) * width + n;
}

}  // namespace lstm_fused
