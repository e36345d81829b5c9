// Forward recurrence for few rows: W_hh, and at T = 1 W_ih, are read where they lie, once per step, and nothing is
// packed. gates = x W_ih^T + h_prev W_hh^T + b, cell, h = o tanh(c), and h = W_hr (o tanh(c)) with a projection.
#include "cpu/isa/dots.h"
#include "cpu/isa/recurrence.h"

namespace lstm_fused::LSTM_FUSED_ISA {
namespace {

constexpr int kStepRows = 16;  // rows that share one reading of a weight; bounds the arrays on the stack
template <class T>
constexpr int kUnits = kCellRows * kLanes<T>;  // whose cells are computed together

// T is the type that is computed in, W the weights'.
template <class T, class W>
class Direct {
 public:
  Direct(const LayerShape& shape, const CpuForwardParams<T>& params, T* workspace)
      : s(shape), p(params), layer{shape, params, workspace}, hidden(workspace + zeros_size(shape)) {}

  // A row of zeros (the state at a reset), and with a projection o tanh(c) (B, H).
  static int64_t workspace_size(const LayerShape& s) {
    return zeros_size(s) + (s.has_projection ? s.batch * s.hidden_size : 0);
  }

  int64_t num_unit_blocks() const { return num_tiles(s.hidden_size, kLanes<T>); }
  int64_t num_projection_blocks() const { return s.has_projection ? s.proj_width : 0; }  // of one column each

  void prepare() const { layer.prepare(); }
  void finish(int64_t b) const { layer.finish(b); }

  // One step of rows [b_begin, b_end), hidden units of blocks [begin, end). Every other step goes through the units
  // backwards: what was read last is still in a cache.
  void gates(int64_t step, int64_t b_begin, int64_t b_end, int64_t begin, int64_t end) const {
    const int64_t u_begin = begin * kLanes<T>, u_end = min(s.hidden_size, end * kLanes<T>);
    layer.template for_rows<kStepRows>(step, b_begin, b_end, [&](const Chunk& chunk) {
      const int64_t tiles = num_tiles(u_end - u_begin, kUnits<T>);
      for (int64_t n = 0; n < tiles; ++n) {
        int64_t unit = u_begin + (step % 2 == 0 ? n : tiles - 1 - n) * kUnits<T>;
        if (unit + kUnits<T> <= u_end) {
          units<kCellRows>(chunk, unit, kLanes<T>);
        } else {
          for (; unit < u_end; unit += kLanes<T>) units<1>(chunk, unit, valid_lanes<T>(unit, u_end));
        }
      }
      layer.round_units(chunk, u_begin, u_end);
    });
  }

  // After gates() of all units: h = W_hr hidden, columns [n_begin, n_end).
  void project(int64_t step, int64_t b_begin, int64_t b_end, int64_t n_begin, int64_t n_end) const {
    layer.template for_rows<kStepRows>(step, b_begin, b_end, [&](const Chunk& chunk) {
      const auto hidden_row = [&](int64_t n) { return hidden + chunk.row[n] * s.hidden_size; };
      const auto output_row = [&](int64_t n) { return layer.output(chunk.t, chunk.row[n]); };
      columns_of_product<T>(chunk.count, hidden_row, static_cast<const W*>(p.w_hr), s.hidden_size, n_begin, n_end,
                            output_row);
      layer.round_columns(chunk, n_begin, n_end);
    });
  }

 private:
  using Chunk = StepRows<T, kStepRows>;
  // Of N vectors of units: sums of products.
  template <int N>
  using Sums = T[kStepRows][kNumGates][N * kLanes<T>];

  static int64_t zeros_size(const LayerShape& s) { return s.segments.reset != nullptr ? s.hidden_size : 0; }

  // N vectors of units; `lanes` of them are valid where N is 1.
  template <int N>
  void units(const Chunk& chunk, int64_t unit, int lanes) const {
    Sums<N> sums;
    constexpr int kMostUnits = kDotUnits<1> < N * kLanes<T> ? kDotUnits<1> : N * kLanes<T>;
    for_dot_units<kMostUnits>(N > 1 ? N * kLanes<T> : lanes, [&](int64_t first, auto units) {
      for_dot_rows(chunk.count, [&](int64_t n, auto rows) {
        constexpr int U = units.value < kDotUnits<rows.value> ? units.value : kDotUnits<rows.value>;
        for_dot_units<U>(units.value, [&](int64_t u, auto columns) {
          tile<rows.value, columns.value>(chunk, n, unit, first + u, sums);
        });
      });
    });
    with_lanes<T>(lanes, [&](auto valid) {
      for (int64_t n = 0; n < chunk.count; ++n) cells<N>(chunk, n, unit, valid.value, sums[n]);
    });
  }

  // Rows n ... n + R - 1 of the chunk, units unit + first ... + U - 1.
  template <int R, int U, int N>
  __attribute__((noinline)) void tile(const Chunk& chunk, int64_t n, int64_t unit, int64_t first,
                                      T (*sums)[kNumGates][N]) const {
    const int64_t row = unit + first, gate = s.hidden_size;
    Factors<T, W, R> factors[2];
    int count = 0;
    const auto add = [&](const void* w, int64_t k_size) -> Factors<T, W, R>& {
      Factors<T, W, R>& f = factors[count++];
      for (int g = 0; g < kNumGates; ++g) f.w[g] = static_cast<const W*>(w) + (g * gate + row) * k_size;
      f.k_size = k_size;
      return f;
    };
    if (layer.projects_input()) {
      Factors<T, W, R>& f = add(p.w_ih, p.input_size);
      for (int r = 0; r < R; ++r) f.a[r] = chunk.x[n + r];
    }
    Factors<T, W, R>& f = add(p.w_hh, s.proj_width);
    for (int r = 0; r < R; ++r) f.a[r] = chunk.h_prev[n + r];
    T tile_sums[R * kNumGates * U];
    dots<R, U>(factors, count, tile_sums);
    for (int r = 0; r < R; ++r)
      for (int g = 0; g < kNumGates; ++g)
        for (int u = 0; u < U; ++u) sums[n + r][g][first + u] = tile_sums[(r * kNumGates + g) * U + u];
  }

  // N vectors of units of row n of the chunk.
  template <int N>
  LSTM_FUSED_INLINE void cells(const Chunk& chunk, int64_t n, int64_t unit, int lanes,
                               const T (&sums)[kNumGates][N * kLanes<T>]) const {
    using V = Vectors<T, N>;
    using Math = VectorMath<T, N>;
    const int64_t b = chunk.row[n], width = s.hidden_size;
    const auto load_all = [&](const T* p) { return V::each([&](int v) { return load(p + v * kLanes<T>, lanes); }); };
    const auto store_all = [&](T* p, const V& value) {
      for (int v = 0; v < N; ++v) store(p + v * kLanes<T>, value.at[v], lanes);
    };
    T* const gates = p.gates != nullptr ? layer.gates(chunk.t, b) + unit : nullptr;
    // The bias last: it may be large, and the sum of products should not be rounded to its size at every term.
    const auto pre = [&](int gate) {
      V sum = load_all(sums[gate]);
      if (!layer.projects_input()) sum = load_all(gates + gate * width) + sum;
      if (p.b_ih == nullptr) return sum;
      return sum + (load_all(p.b_ih + gate * width + unit) + load_all(p.b_hh + gate * width + unit));
    };
    const Gates<V> active = activate<Math>(Gates<V>{pre(0), pre(1), pre(2), pre(3)});
    const V c = next_cell(active, load_all(chunk.c_prev[n] + unit));
    store_all(layer.cells(chunk.t, b) + unit, c);
    store_all((s.has_projection ? hidden + b * width : layer.output(chunk.t, b)) + unit, next_hidden<Math>(active, c));
    if (!p.keep_gates) return;
    store_all(gates, active.i);
    store_all(gates + width, active.f);
    store_all(gates + 2 * width, active.g);
    store_all(gates + 3 * width, active.o);
  }

  const LayerShape& s;
  const CpuForwardParams<T>& p;
  const Recurrence<T> layer;
  T* const hidden;
};

template <class T, class W>
void run(const LayerShape& shape, const CpuForwardParams<T>* directions, int num_directions, T* workspace, Steps steps,
         CpuSplit split, const Parallel& parallel) {
  const auto direction = [&](int64_t d) {
    return Direct<T, W>(shape, directions[d], workspace + d * Direct<T, W>::workspace_size(shape));
  };
  const Team team{parallel, num_directions};
  if (steps.begin == 0) team.each(1, 1, [&](int64_t d, int64_t, int64_t) { direction(d).prepare(); });
  run_steps(team, shape.batch, steps, split, direction);
  if (steps.end < shape.seq_len) return;
  team.each(shape.batch, INT64_MAX, [&](int64_t d, int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) direction(d).finish(b);
  });
}

}  // namespace

template <class T>
int64_t direct_workspace(const LayerShape& shape, int64_t /*input_size*/) {
  return Direct<T, T>::workspace_size(shape);
}

template <class T>
void direct_forward(const LayerShape& shape, const CpuForwardParams<T>* directions, int num_directions, T* workspace,
                    Steps steps, CpuSplit split, const Parallel& parallel) {
  with_type<T>(directions[0].w_hh, directions[0].weight_type, [&](const auto* w) {
    using W = std::remove_cv_t<std::remove_pointer_t<decltype(w)>>;
    run<T, W>(shape, directions, num_directions, workspace, steps, split, parallel);
  });
}

#if !LSTM_FUSED_PAIRS
template int64_t direct_workspace<float>(const LayerShape&, int64_t);
template int64_t direct_workspace<double>(const LayerShape&, int64_t);
template void direct_forward(const LayerShape&, const CpuForwardParams<float>*, int, float*, Steps, CpuSplit,
                             const Parallel&);
template void direct_forward(const LayerShape&, const CpuForwardParams<double>*, int, double*, Steps, CpuSplit,
                             const Parallel&);
#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
