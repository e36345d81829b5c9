// Element by element: what lies between a stack of a half type and the float that it is computed in, what is made anew,
// and sums over rows.
#include "cpu/isa/kernels.h"
#include "cpu/isa/rows.h"
#include "cpu/isa/vector_math.h"

namespace lstm_fused::LSTM_FUSED_ISA {

template <class T>
void widen(const WidenParams<T>& p, const Parallel& parallel) {
  const Team team{parallel, 1};
  team.each(num_tiles(p.count, kLanes<T>), INT64_MAX, [&](int64_t, int64_t first, int64_t last) {
    with_type<T>(p.from, p.type, [&](const auto* from) {
      const auto* const factor = static_cast<decltype(from)>(p.factor);
      for (int64_t n = first * kLanes<T>; n < min(p.count, last * kLanes<T>); n += kLanes<T>)
        with_lanes<T>(valid_lanes<T>(n, p.count), [&](auto lanes) {
          const Vec<T> value = load(from + n, lanes.value);
          store(p.to + n, factor != nullptr ? value * load(factor + n, lanes.value) : value, lanes.value);
        });
    });
  });
}

template <class T>
void hidden(const HiddenParams<T>& p, const Parallel& parallel) {
  using V = Vectors<T, 1>;
  const Team team{parallel, 1};
  const int64_t width = p.hidden_size;
  team.each(p.end - p.begin, INT64_MAX, [&](int64_t, int64_t first, int64_t last) {
    with_type<T>(p.gates, p.type, [&](const auto* gates) {
      const auto* const cells = static_cast<decltype(gates)>(p.cells);
      const auto* const factor = static_cast<decltype(gates)>(p.factor);
      for (int64_t n = first; n < last; ++n)
        for (int64_t unit = 0; unit < width; unit += kLanes<T>)
          with_lanes<T>(valid_lanes<T>(unit, width), [&](auto lanes) {
            const int64_t row = p.begin + n;
            Gates<V> active{};
            active.o = load(gates + (row * kNumGates + kNumGates - 1) * width + unit, lanes.value);
            const V c = load(cells + row * width + unit, lanes.value);
            const int64_t place = n * p.output_stride + unit;
            const Vec<T> h = next_hidden<VectorMath<T, 1>>(active, c).at[0];
            store(p.output + place, factor != nullptr ? h * load(factor + place, lanes.value) : h, lanes.value);
          });
    });
  });
}

template <class T>
void activate_gates(const ActivateParams<T>& p, const Parallel& parallel) {
  using V = Vectors<T, 1>;
  const int64_t width = p.hidden_size;
  Team{parallel, 1}.each(p.num_rows, INT64_MAX, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      for (int64_t unit = 0; unit < width; unit += kLanes<T>)
        with_lanes<T>(valid_lanes<T>(unit, width), [&](auto lanes) {
          T* const gates = p.gates + row * kNumGates * width + unit;
          const auto pre = [&](int gate) { return V(load(gates + gate * width, lanes.value)); };
          const Gates<V> active = activate<VectorMath<T, 1>>(Gates<V>{pre(0), pre(1), pre(2), pre(3)});
          store(gates, active.i.at[0], lanes.value);
          store(gates + width, active.f.at[0], lanes.value);
          store(gates + 2 * width, active.g.at[0], lanes.value);
          store(gates + 3 * width, active.o.at[0], lanes.value);
        });
  });
}

// Some lines of a row together, then of the next one.
template <class T>
void sum_rows(const RowSumParams<T>& p, const Parallel& parallel) {
  constexpr int kTogether = 8;
  constexpr int64_t kWidth = kTogether * kLanes<T>;
  Team{parallel, 1}.each(num_tiles(p.width, kLanes<T>), INT64_MAX, [&](int64_t, int64_t begin, int64_t end) {
    with_type<T>(p.x, p.x_type, [&](const auto* x) {
      const auto sum_columns = [&](int64_t n, auto vectors, auto lanes) {
        constexpr int V = vectors.value;
        Vec<T> totals[V] = {};
        for (int v = 0; v < V && p.adds; ++v) totals[v] = load(p.y + n + v * kLanes<T>, lanes.value);
        for (int64_t row = 0; row < p.num_rows;) {
          Vec<T> sums[V] = {};
          for (const int64_t last = min(p.num_rows, row + kChain); row < last; ++row)
            for (int v = 0; v < V; ++v) sums[v] += load(x + row * p.width + n + v * kLanes<T>, lanes.value);
          for (int v = 0; v < V; ++v) totals[v] += sums[v];
        }
        for (int v = 0; v < V; ++v) store(p.y + n + v * kLanes<T>, totals[v], lanes.value);
      };
      const int64_t last = min(p.width, end * kLanes<T>);
      int64_t n = begin * kLanes<T>;
      for (; n + kWidth <= last; n += kWidth) sum_columns(n, Constant<kTogether>{}, Constant<kLanes<T>>{});
      for (; n < last; n += kLanes<T>)
        with_lanes<T>(valid_lanes<T>(n, last), [&](auto lanes) { sum_columns(n, Constant<1>{}, lanes); });
    });
  });
}

#if !LSTM_FUSED_PAIRS
template void widen(const WidenParams<float>&, const Parallel&);
template void widen(const WidenParams<double>&, const Parallel&);
template void hidden(const HiddenParams<float>&, const Parallel&);
template void hidden(const HiddenParams<double>&, const Parallel&);
template void activate_gates(const ActivateParams<float>&, const Parallel&);
template void activate_gates(const ActivateParams<double>&, const Parallel&);
template void sum_rows(const RowSumParams<float>&, const Parallel&);
template void sum_rows(const RowSumParams<double>&, const Parallel&);
#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
