// Forward recurrence for few rows: W_hh, and at T = 1 W_ih, are read where they lie, once per step, and nothing is
// packed. gates = x W_ih^T + h_prev W_hh^T + b, cell, h = o tanh(c), and h = W_hr (o tanh(c)) with a projection.
#include "cpu/isa/dots.h"
#include "cpu/isa/recurrence.h"

namespace lstm_fused::LSTM_FUSED_ISA {
namespace {

constexpr int kStepRows = 16;  // rows that share one reading of a weight; bounds the arrays on the stack
constexpr int kUnitVectors = kCellRows > 1 ? kCellRows : 4;  // whose cells are computed together
template <class T>
constexpr int kUnits = kUnitVectors * kLanes<T>;

// Of several low tiles of rows, all multiply x before the first one multiplies h_prev: rows of W_ih and W_hh together,
// often a power of 2 apart, meet in too few sets of the first-level cache to stay there from one tile to the next (B =
// 8, H = 256, Zen 3: 126 us, then 100).
constexpr bool kTilesTakeTurns = kDotRows < 4;

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
  int64_t if_norms() const { return layer.has_norms(); }
  int64_t num_packed() const { return 0; }
  static constexpr int64_t kStepsPastEnd = 0;

  static constexpr auto stages() {
    return std::array{Stage<Direct>{&Direct::num_unit_blocks, &Direct::gates},
                      Stage<Direct>{&Direct::if_norms, &Direct::norm_cells, /*wants_rows=*/true},
                      Stage<Direct>{&Direct::num_projection_blocks, &Direct::project}};
  }

  void prepare(Steps steps) const { layer.prepare(steps); }
  void pack(int64_t) const {}
  void finish(int64_t b) const { layer.finish(b); }

  // Every other step goes through the units backwards: what was read last is still in a cache.
  void gates(int64_t step, Range rows, Range blocks) const {
    const int64_t u_begin = blocks.begin * kLanes<T>, u_end = min(s.hidden_size, blocks.end * kLanes<T>);
    layer.template for_rows<kStepRows>(step, rows, [&](const Chunk& chunk) {
      const int64_t tiles = num_tiles(u_end - u_begin, kUnits<T>);
      for (int64_t n = 0; n < tiles; ++n) {
        int64_t unit = u_begin + (step % 2 == 0 ? n : tiles - 1 - n) * kUnits<T>;
        if (unit + kUnits<T> <= u_end) {
          units<kUnitVectors>(chunk, unit, kLanes<T>);
        } else {
          for (; unit < u_end; unit += kLanes<T>) units<1>(chunk, unit, valid_lanes<T>(unit, u_end));
        }
      }
      layer.round_units(chunk, u_begin, u_end);
    });
  }

  void norm_cells(int64_t step, Range rows, Range) const { layer.norm_cells(step, rows, hidden); }

  // h = W_hr hidden.
  void project(int64_t step, Range rows, Range columns) const {
    layer.template for_rows<kStepRows>(step, rows, [&](const Chunk& chunk) {
      const auto hidden_row = [&](int64_t n) { return hidden + chunk.row[n] * s.hidden_size; };
      const auto output_row = [&](int64_t n) { return chunk.output[n]; };
      columns_of_product<T>(chunk.count, hidden_row, static_cast<const W*>(p.w_hr), s.hidden_size, columns.begin,
                            columns.end, output_row);
      layer.after_projection(chunk, columns.begin, columns.end);
    });
  }

 private:
  using Chunk = StepRows<T, kStepRows>;
  // Of N vectors of units: sums of products, and those of a tile's units whose lanes are still apart.
  template <int N>
  struct Sums {
    T at[kStepRows][kNumGates][N * kLanes<T>];
    Vec<T> apart[kStepRows * kNumGates * kDotUnits<1>];
  };

  static int64_t zeros_size(const LayerShape& s) { return s.segments.reset != nullptr ? s.hidden_size : 0; }

  // The products that a tile forms before the next one has its turn.
  struct Turn {
    bool of_x, of_h;
  };

  // N vectors of units; `lanes` of them are valid where N is 1.
  template <int N>
  void units(const Chunk& chunk, int64_t unit, int lanes) const {
    Sums<N> sums;
    constexpr int kMostUnits = kDotUnits<1> < N * kLanes<T> ? kDotUnits<1> : N * kLanes<T>;
    for_dot_units<kMostUnits>(N > 1 ? N * kLanes<T> : lanes, [&](int64_t first, auto units) {
      const auto take = [&](Turn turn) {
        for_dot_rows(chunk.count, [&](int64_t n, auto rows) {
          constexpr int U = units.value < kDotUnits<rows.value> ? units.value : kDotUnits<rows.value>;
          for_dot_units<U>(units.value, [&](int64_t u, auto columns) {
            tile<rows.value, columns.value>(turn, chunk, n, unit, first + u, sums);
          });
        });
      };
      if (kTilesTakeTurns && layer.projects_input() && chunk.count > kDotRows) {
        take({.of_x = true, .of_h = false});
        take({.of_x = false, .of_h = true});
      } else {
        take({.of_x = layer.projects_input(), .of_h = true});
      }
    });
    with_lanes<T>(lanes, [&](auto valid) { cells<N>(chunk, unit, valid.value, sums); });
  }

  // Rows n ... n + R - 1 of the chunk, units unit + first ... + U - 1.
  template <int R, int U, int N>
  __attribute__((noinline)) void tile(Turn turn, const Chunk& chunk, int64_t n, int64_t unit, int64_t first,
                                      Sums<N>& sums) const {
    const int64_t row = unit + first, gate = s.hidden_size;
    Vec<T>* const apart = sums.apart + (n * kDotUnits<1> + first % kDotUnits<1> * R) * kNumGates;
    DotSums<T, R, U> products;
    const auto add = [&](const void* w, int64_t k_size, const T* const* rows) __attribute__((always_inline)) {
      Factors<T, W, R> factors;
      for (int r = 0; r < R; ++r) factors.a[r] = rows[n + r];
      for (int g = 0; g < kNumGates; ++g) factors.w[g] = static_cast<const W*>(w) + (g * gate + row) * k_size;
      factors.k_size = k_size;
      products.add(factors);
    };
    const bool goes_on = !turn.of_x && layer.projects_input();
    goes_on ? products.load_from(apart) : products.clear();
    if (turn.of_x) add(p.w_ih, p.input_size, chunk.x);
    if (!turn.of_h) return products.store_to(apart);
    add(p.w_hh, s.proj_width, chunk.h_prev);
    products.sum([&](int r, int g, int u, T sum) { sums.at[n + r][g][first + u] = sum; });
  }

  // N vectors of units of all rows of the chunk.
  template <int N>
  LSTM_FUSED_INLINE void cells(const Chunk& chunk, int64_t unit, int lanes, const Sums<N>& sums) const {
    const int count = static_cast<int>(chunk.count) * N;
    const auto sum = [&](int gate, int n) { return load(sums.at[n / N][gate] + n % N * kLanes<T>, lanes); };
    Vec<T> biases[kNumGates][N];
    for (int gate = 0; gate < kNumGates; ++gate)
      for (int side = 0; side < N; ++side) biases[gate][side] = layer.bias(gate, unit + side * kLanes<T>, lanes);
    const auto bias = [&](int gate, int side) { return biases[gate][side]; };
    if constexpr (!kMultipliesPairs)
      if (p.variant != nullptr)
        return layer.template update_variant<N>(chunk, 0, count, unit, lanes, hidden, sum, bias);
    layer.template update<N>(chunk, 0, count, unit, lanes, hidden, sum, bias);
  }

  const LayerShape& s;
  const CpuForwardParams<T>& p;
  const Recurrence<T> layer;
  T* const hidden;
};

}  // namespace

template <class T>
int64_t direct_workspace(const LayerShape& shape, int64_t /*input_size*/) {
  return Direct<T, T>::workspace_size(shape);
}

template <class T>
void direct_forward(const CpuForwardRun<T>& run) {
  with_type<T>(run.directions->w_hh, run.directions->weight_type, [&](const auto* w) {
    using W = std::remove_cv_t<std::remove_pointer_t<decltype(w)>>;
    run_layer<Direct<T, W>>(run, Direct<T, W>::workspace_size(run.shape));
  });
}

#if !LSTM_FUSED_PAIRS
template int64_t direct_workspace<float>(const LayerShape&, int64_t);
template int64_t direct_workspace<double>(const LayerShape&, int64_t);
template void direct_forward(const CpuForwardRun<float>&);
template void direct_forward(const CpuForwardRun<double>&);
#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
