// Backward recurrence, against the direction's order of time: grad h = grad output + grad_gates(next) W_hh, then the
// cell's backward. It leaves grad_gates (and with a projection the total grad h) of all steps for the weight gradients.
#include "cell.h"
#include "cpu/isa/kernels.h"
#include "cpu/isa/panels.h"
#include "cpu/isa/vector_math.h"

namespace lstm_fused::LSTM_FUSED_ISA {
namespace {

// Where W_hh is read only once or twice, copying it first does not pay: columns that fill a panel are read where they
// lie. A training step on one AVX-512 core takes 19 ms, not 36, at (T, B, H) = (1, 1, 1024), and 31, not 47, at (2, 8,
// 1024).
bool reads_in_place(const LayerShape& s) { return s.seq_len * num_tiles(s.batch, kTileRows) <= 2; }

// Per direction: packed W_hh (4H, P), but for what is read in place, and, with a projection, packed W_hr (P, H), both
// in panels of columns; grad_gates once more, where a step multiplies another type, or rows that lie apart; the
// products of a step, (B, H) in whole panels; and tanh c of the step before, (B, H).
template <class T>
struct Workspace {
  int64_t first_packed;  // of W_hh: the first block of columns that is packed
  int64_t h_panel, w_hr, factors, products, width, tanh, size;
  SeparateRows<T> factor;

  explicit Workspace(const LayerShape& s) {
    const int64_t row_size = num_tiles(kNumGates * s.hidden_size, kTerms<Operand<T>>);
    first_packed = reads_in_place(s) ? s.proj_width / kPanelWidth<T> : 0;
    h_panel = panel_size<T>(row_size);
    w_hr = (num_tiles(s.proj_width, kPanelWidth<T>) - first_packed) * h_panel;
    factors = w_hr + (s.has_projection ? num_tiles(s.hidden_size, kPanelWidth<T>) * panel_size<T>(s.proj_width) : 0);
    if (copies(s, DType::kFloat32)) factor = SeparateRows<T>::of(s.batch, row_size);
    products = factors + factor.size();
    width = num_tiles(s.hidden_size, kPanelWidth<T>) * kPanelWidth<T>;
    tanh = products + s.batch * width;
    size = tanh + (s.has_projection ? 0 : s.batch * width);
  }
  static bool copies(const LayerShape& s, DType grad_gates_type) {
    return (kMultipliesPairs && grad_gates_type != DType::kBFloat16) ||
           SeparateRows<T>::pay(s.batch, num_tiles(kNumGates * s.hidden_size, kTerms<Operand<T>>));
  }
};

template <class T>
class Backward {
  using E = Operand<T>;

 public:
  Backward(const LayerShape& shape, const CpuBackwardParams<T>& params, T* workspace)
      : s(shape),
        p(params),
        clock{shape, params.reverse},
        layout(shape),
        has_factors(layout.copies(shape, params.grad_gates_type)),
        workspace(workspace) {}

  int64_t num_h_blocks() const { return num_tiles(s.proj_width, kPanelWidth<T>); }
  int64_t num_unit_blocks() const { return s.has_projection ? num_tiles(s.hidden_size, kPanelWidth<T>) : 0; }

  int64_t num_packed() const { return num_h_blocks() + num_unit_blocks(); }
  static constexpr int64_t kStepsPastEnd = 1;  // the gradient of h_0

  static constexpr auto stages() {
    return std::array{Stage<Backward>{&Backward::num_h_blocks, &Backward::hidden_state},
                      Stage<Backward>{&Backward::num_unit_blocks, &Backward::units}};
  }

  void prepare(Steps steps) const {
    if (s.segments.lengths == nullptr || s.row_begin != nullptr) return;  // no padding
    for (int64_t step = steps.begin; step < steps.end; ++step)
      for (int64_t b = 0; b < s.batch; ++b) {
        const int64_t t = time(step);
        if (t < clock.length(b)) continue;
        with_grad_gates(t, b, [&](auto* gates) { fill(gates, {}, kNumGates * s.hidden_size); });
        if (p.h_prev != nullptr) fill(h_prev(t, b), T(0), s.proj_width);
        if (!s.has_projection) continue;
        fill(hidden(t, b), T(0), s.hidden_size);
        fill(grad_h(t, b), T(0), s.proj_width);
      }
  }

  void pack(int64_t block) const {
    if (block < layout.first_packed) return;
    const auto pack = [&](const void* matrix, int64_t k_size, int64_t width, int64_t column, auto* panel) {
      with_type<T>(matrix, p.weight_type, [&](const auto* w) { pack_columns(w, k_size, width, column, panel); });
    };
    if (block < num_h_blocks() && !multiplies()) return;
    if (block < num_h_blocks())
      return pack(p.w_hh, kNumGates * s.hidden_size, s.proj_width, block * kPanelWidth<T>, h_panel(block));
    block -= num_h_blocks();
    pack(p.w_hr, s.proj_width, s.hidden_size, block * kPanelWidth<T>, unit_panel(block));
  }

  // The gradient of h, columns of blocks; without a projection the columns are hidden units and the cell's backward
  // follows, a row at a time, as what it reads and writes lies. The step that comes to a row after its first is h_0's;
  // step == T is nothing else.
  void hidden_state(int64_t step, Range rows, Range blocks) const {
    for_chunks(step, rows, true, [&](const Chunk& chunk) {
      if (chunk.any_next) multiply_chunk(chunk, blocks);
      for_rows(chunk, blocks, s.proj_width,
               [&](const Row& row, int64_t column, int lanes, Vec<T> product)
                   __attribute__((always_inline)) { state(row, column, lanes, product); });
    });
  }

  // With a projection: grad (o tanh c) = grad h W_hr, then the cell's backward.
  void units(int64_t step, Range rows, Range blocks) const {
    if (step == s.seq_len) return;
    for_chunks(step, rows, false, [&](const Chunk& chunk) {
      for (int64_t block = blocks.begin; block < blocks.end; ++block)
        for_row_tiles(chunk.count, [&](int64_t first, auto rows) { unit_tile<rows.value>(chunk, first, block); });
      for_rows(chunk, blocks, s.hidden_size,
               [&](const Row& row, int64_t unit, int lanes, Vec<T> product)
                   __attribute__((always_inline)) { cell(row, unit, lanes, product); });
    });
  }

  // After the last step: the gradient of c_0, which so far holds what flows out of each row's first step.
  void finish(int64_t b) const {
    T* const grad_c_0 = p.grad_c_0 + b * s.hidden_size;
    if (clock.length(b) == 0) {
      for (int64_t unit = 0; unit < s.hidden_size; unit += kLanes<T>)
        with_lanes<T>(valid_lanes<T>(unit, s.hidden_size), [&](auto lanes) {
          store(grad_c_0 + unit, p.grad_c_n ? state_at(p.grad_c_n, b * s.hidden_size + unit, lanes.value) : Vec<T>{},
                lanes.value);
        });
    } else if (clock.before(clock.first(b), b) != Before::kInitial) {
      fill(grad_c_0, T(0), s.hidden_size);
    }
  }

 private:
  // The rows that take part in a step and, for each, the gradient of the gates of the step after it: null where there
  // is none, because the row ends or a segment starts there. `ends` tells the two apart.
  struct Chunk {
    int64_t t, count;
    int64_t row[kChunk];
    bool initial[kChunk];  // beyond the first step: h_0
    const E* next_gates[kChunk];
    bool any_next;
    bool ends[kChunk];
  };

  // What the vectors of a row of a chunk have in common.
  struct Row {
    int64_t t, b, at, previous;  // its row in (T, B, ...), and that of the step before it
    Before before;
    bool has_next, ends, initial;  // as the chunk says
  };
  Row row_of_chunk(const Chunk& chunk, int64_t n) const {
    const int64_t t = chunk.t, b = chunk.row[n];
    const Before before = chunk.initial[n] ? Before::kNothing : clock.before(t, b);
    return {t,
            b,
            row_of(s, t, b),
            before == Before::kStep ? row_of(s, clock.previous(t), b) : 0,
            before,
            chunk.next_gates[n] != nullptr,
            chunk.ends[n],
            chunk.initial[n]};
  }

  // Whether any step or state before another wants grad_gates W_hh.
  bool multiplies() const { return s.seq_len > 1 || p.grad_h_0 != nullptr; }

  int64_t time(int64_t step) const { return clock.time(s.seq_len - 1 - step); }
  int64_t row_in_range(int64_t t, int64_t b) const { return row_of(s, t, b) - row_of(s, p.first_time, 0); }
  template <class F>
  LSTM_FUSED_INLINE void with_grad_gates(int64_t t, int64_t b, F&& f) const {
    with_factor_type<T>(p.grad_gates, p.grad_gates_type, [&](auto* gates) __attribute__((always_inline)) {
      f(gates + row_in_range(t, b) * kNumGates * s.hidden_size);
    });
  }
  T* h_prev(int64_t t, int64_t b) const { return p.h_prev + row_in_range(t, b) * s.proj_width; }
  T* hidden(int64_t t, int64_t b) const { return p.hidden + row_in_range(t, b) * s.hidden_size; }
  T* grad_h(int64_t t, int64_t b) const { return p.grad_h + row_in_range(t, b) * s.proj_width; }
  LSTM_FUSED_INLINE Vec<T> cells(int64_t row, int64_t unit, int lanes) const {
    return load_as(p.cells, p.kept_type, row * s.cells_stride + unit, lanes);
  }
  // What forward kept, in T or a half type.
  static LSTM_FUSED_INLINE Vec<T> load_as(const void* p, DType type, int64_t n, int lanes) {
    Vec<T> result;
    with_type<T>(p, type,
                 [&](const auto* elements) __attribute__((always_inline)) { result = load(elements + n, lanes); });
    return result;
  }
  LSTM_FUSED_INLINE Vec<T> state_at(const void* states, int64_t n, int lanes) const {
    return load_as(states, p.kept_type, n, lanes);
  }
  E* h_panel(int64_t block) const {
    return reinterpret_cast<E*>(workspace + (block - layout.first_packed) * layout.h_panel);
  }
  // A row of grad_gates as the next step multiplies it.
  E* factor(int64_t t, int64_t b) const {
    if (has_factors) return reinterpret_cast<E*>(workspace + layout.factors + layout.factor.at(t, b));
    E* row = nullptr;
    with_grad_gates(t, b, [&](auto* gates) { row = reinterpret_cast<E*>(gates); });
    return row;
  }
  T* product(int64_t b) const { return workspace + layout.products + b * layout.width; }
  T* unit_panel(int64_t block) const { return workspace + layout.w_hr + block * panel_size<T>(s.proj_width); }

  template <class F>
  void for_chunks(int64_t step, Range rows, bool with_initial, F&& f) const {
    Chunk chunk;
    chunk.t = time(step);
    for (int64_t b = rows.begin; b < rows.end;) {
      for (chunk.count = 0; b < rows.end && chunk.count < kChunk; ++b) {
        const bool initial = chunk.t == clock.previous(clock.first(b));
        if (initial ? with_initial && p.grad_h_0 != nullptr : chunk.t >= 0 && chunk.t < clock.length(b))
          add(chunk, b, initial);
      }
      chunk.any_next = false;
      for (int64_t n = 0; n < chunk.count; ++n) chunk.any_next |= chunk.next_gates[n] != nullptr;
      if (chunk.count > 0) f(chunk);
    }
  }

  void add(Chunk& chunk, int64_t b, bool initial) const {
    const int64_t n = chunk.count++;
    chunk.row[n] = b;
    chunk.initial[n] = initial;
    chunk.next_gates[n] = nullptr;
    if (initial) {
      chunk.ends[n] = clock.length(b) == 0;
      if (!chunk.ends[n] && clock.before(clock.first(b), b) == Before::kInitial)
        chunk.next_gates[n] = factor(clock.first(b), b);
      return;
    }
    chunk.ends[n] = chunk.t == clock.last(b);
    const int64_t next = clock.next(chunk.t);
    if (!chunk.ends[n] && clock.before(next, b) == Before::kStep) chunk.next_gates[n] = factor(next, b);
  }

  // grad_gates(next) W_hh.
  void multiply_chunk(const Chunk& chunk, Range blocks) const {
    for_tiles<kTileVectors>(chunk.count, blocks, layout.first_packed, /*backwards=*/chunk.t % 2 != 0,
                            [&](int64_t first, auto rows, int64_t block, auto width) {
                              h_tile<rows.value, width.value * kTileVectors>(chunk, first, block * kPanelWidth<T>);
                            });
  }

  // V vectors of columns from `column`; more than kTileVectors only where they are read in place.
  template <int R, int V>
  __attribute__((noinline)) void h_tile(const Chunk& chunk, int64_t first, int64_t column) const {
    const E* rows[R];
    for (int r = 0; r < R; ++r) rows[r] = chunk.next_gates[first + r];
    const E* stand_in = nullptr;  // a row without a next step multiplies a neighbour's gradient and drops the result
    for (int r = 0; r < R; ++r) stand_in = rows[r] != nullptr ? rows[r] : stand_in;
    for (int r = 0; r < R; ++r) rows[r] = rows[r] != nullptr ? rows[r] : stand_in;
    const int64_t block = column / kPanelWidth<T>, k_size = stand_in != nullptr ? kNumGates * s.hidden_size : 0;
    Accumulators<T, R, V> acc;
    if (block >= layout.first_packed)
      acc = multiply<E, R, V, kNearRows<E>>(rows, k_size, h_panel(block));
    else
      with_type<T>(p.w_hh, p.weight_type,
                   [&](const auto* w) { acc = multiply<E, R, V>(rows, k_size, w + column, kTerms<E> * s.proj_width); });

    keep_products(chunk, first, column, acc);
  }

  template <int R>
  __attribute__((noinline)) void unit_tile(const Chunk& chunk, int64_t first, int64_t block) const {
    const T* rows[R];
    for (int r = 0; r < R; ++r) rows[r] = grad_h(chunk.t, chunk.row[first + r]);
    keep_products(chunk, first, block * kPanelWidth<T>,
                  multiply<T, R, kTileVectors, kNearRows<T>>(rows, s.proj_width, unit_panel(block)));
  }

  template <int R, int V>
  LSTM_FUSED_INLINE void keep_products(const Chunk& chunk, int64_t first, int64_t column,
                                       const Accumulators<T, R, V>& acc) const {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) store(product(chunk.row[first + r]) + column + v * kLanes<T>, acc.at[r][v]);
  }

  // f(row, column, lanes, product) for the vectors of a chunk's rows in blocks of columns.
  template <class F>
  LSTM_FUSED_INLINE void for_rows(const Chunk& chunk, Range blocks, int64_t width, F&& f) const {
    const int64_t end = min(blocks.end * kPanelWidth<T>, width);
    for (int64_t n = 0; n < chunk.count; ++n) {
      const Row row = row_of_chunk(chunk, n);
      const T* const products = product(row.b);
      for (int64_t column = blocks.begin * kPanelWidth<T>; column < end; column += kLanes<T>)
        with_lanes<T>(valid_lanes<T>(column, end),
                      [&](auto lanes) { f(row, column, lanes.value, load(products + column)); });
    }
  }

  // One vector of h of a row: its whole gradient, and then the cell's or the projection's turn.
  LSTM_FUSED_INLINE void state(const Row& row, int64_t column, int lanes, Vec<T> recurrent) const {
    const int64_t state = row.b * s.proj_width + column;
    Vec<T> grad = row.has_next ? recurrent : Vec<T>{};
    if (row.ends && p.grad_h_n != nullptr) grad = state_at(p.grad_h_n, state, lanes);
    if (row.initial) return store(p.grad_h_0 + state, grad, lanes);
    if (p.grad_output != nullptr)
      grad += load_as(p.grad_output, p.grad_output_type, row.at * s.output_stride + column, lanes);
    if (p.output != nullptr)
      keep_h_prev(row, column, lanes,
                  [&] { return load_as(p.output, p.kept_type, row.previous * s.output_stride + column, lanes); });
    if (s.has_projection)
      store(grad_h(row.t, row.b) + column, grad, lanes);
    else
      cell(row, column, lanes, grad);
  }

  // previous(): h of the step before.
  template <class H>
  LSTM_FUSED_INLINE void keep_h_prev(const Row& row, int64_t column, int lanes, H&& previous) const {
    if (p.h_prev == nullptr) return;
    Vec<T> h = {};
    if (row.before == Before::kInitial) h = state_at(p.h_0, row.b * s.proj_width + column, lanes);
    if (row.before == Before::kStep) h = previous();
    store(h_prev(row.t, row.b) + column, h, lanes);
  }

  // The cell's backward for one vector of units of a row; grad_c_0 carries grad c from step to step.
  LSTM_FUSED_INLINE void cell(const Row& row, int64_t unit, int lanes, Vec<T> grad_hidden) const {
    using V = Vectors<T, 1>;
    const int64_t width = s.hidden_size, state = row.b * width + unit;
    const auto gate = [&](int64_t row, int which) {
      return load_as(p.gates, p.gates_type, (row * kNumGates + which) * width + unit, lanes);
    };
    const Gates<V> active = {gate(row.at, 0), gate(row.at, 1), gate(row.at, 2), gate(row.at, 3)};
    T* const carried = p.grad_c_0 + state;
    V c_prev = T(0), grad_c = T(0);
    if (row.before == Before::kInitial) c_prev = state_at(p.c_0, state, lanes);
    if (row.before == Before::kStep) c_prev = cells(row.previous, unit, lanes);
    if (row.has_next) grad_c = load(carried, lanes);
    if (row.ends && p.grad_c_n != nullptr) grad_c = state_at(p.grad_c_n, state, lanes);
    if (p.grad_cells != nullptr)
      grad_c = grad_c + load_as(p.grad_cells, p.kept_type, row.at * p.grad_cells_stride + unit, lanes);
    // Of the step before, h_prev takes the tanh that its own turn will want.
    const bool keeps_tanh = p.output == nullptr && p.h_prev != nullptr;
    T* const kept_tanh = workspace + layout.tanh + row.b * layout.width + unit;
    const V tanh_c = keeps_tanh && row.has_next ? V(load(kept_tanh)) : CellMath<T, 1>::tanh(cells(row.at, unit, lanes));
    if (keeps_tanh)
      keep_h_prev(row, unit, lanes, [&] {
        const V tanh_c_prev = CellMath<T, 1>::tanh(c_prev);
        store(kept_tanh, tanh_c_prev.at[0]);
        return (gate(row.previous, 3) * tanh_c_prev).at[0];
      });

    const CellGradient<V> grad = cell_backward(active, c_prev, tanh_c, V(grad_hidden), grad_c);
    const auto keep = [&](auto* out) {
      store(out + unit, grad.pre.i.at[0], lanes);
      store(out + unit + width, grad.pre.f.at[0], lanes);
      store(out + unit + 2 * width, grad.pre.g.at[0], lanes);
      store(out + unit + 3 * width, grad.pre.o.at[0], lanes);
    };
    with_grad_gates(row.t, row.b, keep);
    if (has_factors && multiplies()) keep(reinterpret_cast<Kept<T>*>(factor(row.t, row.b)));
    store(carried, grad.c_prev.at[0], lanes);
    if (s.has_projection) store(hidden(row.t, row.b) + unit, (active.o * tanh_c).at[0], lanes);
  }

  const LayerShape& s;
  const CpuBackwardParams<T>& p;
  const Clock clock;
  const Workspace<T> layout;
  const bool has_factors;
  T* const workspace;
};

}  // namespace

template <class T>
int64_t backward_workspace(const LayerShape& shape) {
  return Workspace<T>(shape).size;
}

template <class T>
void backward(const CpuBackwardRun<T>& run) {
  run_layer<Backward<T>>(run, backward_workspace<T>(run.shape));
}

template int64_t backward_workspace<float>(const LayerShape&);
template void backward(const CpuBackwardRun<float>&);
#if !LSTM_FUSED_PAIRS
template int64_t backward_workspace<double>(const LayerShape&);
template void backward(const CpuBackwardRun<double>&);
#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
