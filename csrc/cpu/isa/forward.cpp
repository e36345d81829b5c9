// Forward recurrence: gates = h_prev W_hh^T + x W_ih^T + b, cell, h = o tanh(c), and h = W_hr (o tanh(c)) with a
// projection. x W_ih^T is given, or with x formed here. A block is one vector of units: two panels hold its rows of
// W_hh (and of W_ih), i and f in one, g and o in the other.
#include "cpu/isa/recurrence.h"

namespace lstm_fused::LSTM_FUSED_ISA {
namespace {

constexpr int kPanelsPerBlock = kNumGates / kTileVectors;

// Per direction: a row of zeros (the state at a reset), b_ih + b_hh (block, gate, lane), packed W_hh and, with x, W_ih,
// panel by panel, and with a projection packed W_hr and o tanh(c).
template <class T>
struct Workspace {
  int64_t bias, gates_panel, gates, w_hr, hidden, size;

  Workspace(const LayerShape& s, int64_t input_size) {
    const int64_t line = 64 / sizeof(T);
    bias = num_tiles(s.hidden_size, line) * line;
    gates_panel = panel_size<T>(s.proj_width + input_size);
    gates = bias + num_tiles(s.hidden_size, kLanes<T>) * kNumGates * kLanes<T>;
    w_hr = gates + num_tiles(s.hidden_size, kLanes<T>) * kPanelsPerBlock * gates_panel;
    hidden = w_hr + (s.has_projection ? num_tiles(s.proj_width, kPanelWidth<T>) * panel_size<T>(s.hidden_size) : 0);
    size = hidden + (s.has_projection ? num_tiles(s.batch * s.hidden_size, line) * line : 0);
  }
};

template <class T>
class Forward {
 public:
  // Each block has panels of its own, or, one after the other, those of the block `shared`.
  static constexpr int64_t kOwn = -1;
  Forward(const LayerShape& shape, const CpuForwardParams<T>& params, T* workspace, int64_t shared = kOwn)
      : s(shape),
        p(params),
        layer{shape, params, workspace},
        layout(shape, params.input_size),
        workspace(workspace),
        shared(shared) {}

  int64_t num_unit_blocks() const { return num_tiles(s.hidden_size, kLanes<T>); }
  int64_t num_projection_blocks() const { return s.has_projection ? num_tiles(s.proj_width, kPanelWidth<T>) : 0; }

  void prepare() const { layer.prepare(); }
  void finish(int64_t b) const { layer.finish(b); }

  void pack(int64_t block) const {
    if (block < num_unit_blocks()) {
      const int64_t unit = block * kLanes<T>;
      const int valid = valid_lanes<T>(unit, s.hidden_size);
      for (int gate = 0; gate < kNumGates; ++gate) {
        const int64_t row = gate * s.hidden_size + unit;
        T* const panel = gates_panel(block, gate / kTileVectors);
        pack_rows(p.w_hh, row, s.proj_width, valid, gate % kTileVectors, panel);
        if (layer.projects_input())
          pack_rows(p.w_ih, row, p.input_size, valid, gate % kTileVectors, input_panel(panel));
        for (int lane = 0; lane < kLanes<T>; ++lane)
          bias(block)[gate * kLanes<T> + lane] =
              p.b_ih != nullptr && lane < valid ? p.b_ih[row + lane] + p.b_hh[row + lane] : 0;
      }
      return;
    }
    block -= num_unit_blocks();
    for (int v = 0; v < kTileVectors; ++v) {
      const int64_t begin = block * kPanelWidth<T> + v * kLanes<T>;
      pack_rows(p.w_hr, begin, s.hidden_size, valid_lanes<T>(begin, s.proj_width), v, projection_panel(block));
    }
  }

  // One step of rows [b_begin, b_end), hidden units of blocks [u_begin, u_end).
  void gates(int64_t step, int64_t b_begin, int64_t b_end, int64_t u_begin, int64_t u_end) const {
    layer.template for_rows<kChunk>(step, b_begin, b_end, [&](const Chunk& chunk) {
      for (int64_t block = u_begin; block < u_end; ++block)
        for_row_tiles(chunk.count, [&](int64_t first, auto rows) { gates_tile<rows.value>(chunk, first, block); });
    });
  }

  // After gates() of all units: h = W_hr hidden, blocks [n_begin, n_end) of the projection's columns.
  void project(int64_t step, int64_t b_begin, int64_t b_end, int64_t n_begin, int64_t n_end) const {
    layer.template for_rows<kChunk>(step, b_begin, b_end, [&](const Chunk& chunk) {
      for (int64_t block = n_begin; block < n_end; ++block)
        for_row_tiles(chunk.count, [&](int64_t first, auto rows) { projection_tile<rows.value>(chunk, first, block); });
    });
  }

 private:
  using Chunk = StepRows<T, kChunk>;

  void pack_rows(const void* w, int64_t row, int64_t k_size, int valid, int v, T* panel) const {
    with_weight<T>(w, p.weight_type,
                   [&](const auto* w) { pack_transposed(w + row * k_size, k_size, valid, v, panel); });
  }

  bool uses_gates() const { return !layer.projects_input() || p.keep_gates; }

  T* hidden(int64_t b) const { return workspace + layout.hidden + b * s.hidden_size; }
  T* bias(int64_t block) const { return workspace + layout.bias + block * kNumGates * kLanes<T>; }
  T* gates_panel(int64_t block, int part) const {
    const int64_t place = shared == kOwn ? block : shared;
    return workspace + layout.gates + (place * kPanelsPerBlock + part) * layout.gates_panel;
  }
  T* input_panel(T* gates_panel) const { return gates_panel + panel_size<T>(s.proj_width); }
  T* projection_panel(int64_t block) const { return workspace + layout.w_hr + block * panel_size<T>(s.hidden_size); }

  template <int R>
  __attribute__((noinline)) void gates_tile(const Chunk& chunk, int64_t first, int64_t block) const {
    const int64_t unit = block * kLanes<T>;
    for (int r = 0; r < R && uses_gates(); ++r)  // they come from afar: fetch them while the product runs
      for (int gate = 0; gate < kNumGates; ++gate)
        __builtin_prefetch(layer.gates(chunk.t, chunk.row[first + r]) + gate * s.hidden_size + unit);
    Accumulators<T, R> acc[kPanelsPerBlock];
    for (int part = 0; part < kPanelsPerBlock; ++part) {
      T* const panel = gates_panel(block, part);
      acc[part] = multiply<T, R>(chunk.h_prev + first, s.proj_width, panel);
      if (!layer.projects_input()) continue;
      // A sum of its own: in one of all I + P terms, each would be rounded to the size of both.
      const Accumulators<T, R> input = multiply<T, R>(chunk.x + first, p.input_size, input_panel(panel));
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < kTileVectors; ++v) acc[part].at[r][v] += input.at[r][v];
    }
    with_lanes<T>(valid_lanes<T>(unit, s.hidden_size), [&](auto lanes) {
      int r = 0;
      for (; r + kCellRows <= R; r += kCellRows)
        cells<kCellRows>(chunk, first + r, block, lanes.value, acc[0].at + r, acc[1].at + r);
      for (; r < R; ++r) cells<1>(chunk, first + r, block, lanes.value, acc[0].at + r, acc[1].at + r);
    });
  }

  // One block of rows n ... n + N - 1 of the chunk; i_f and g_o are h_prev W_hh^T, plus x W_ih^T if formed here.
  template <int N>
  LSTM_FUSED_INLINE void cells(const Chunk& chunk, int64_t n, int64_t block, int lanes,
                               const Vec<T> (*i_f)[kTileVectors], const Vec<T> (*g_o)[kTileVectors]) const {
    using V = Vectors<T, N>;
    using Math = VectorMath<T, N>;
    const int64_t unit = block * kLanes<T>, width = s.hidden_size;
    T *gates[N], *c_out[N], *h_out[N];
    for (int r = 0; r < N; ++r) {
      const int64_t b = chunk.row[n + r];
      gates[r] = uses_gates() ? layer.gates(chunk.t, b) + unit : nullptr;
      c_out[r] = layer.cells(chunk.t, b) + unit;
      h_out[r] = (s.has_projection ? hidden(b) : layer.output(chunk.t, b)) + unit;
    }
    // The bias last: it may be large, and the sum of products should not be rounded to its size at every term.
    const auto pre = [&](int gate, const Vec<T>(*product)[kTileVectors]) {
      const Vec<T> bias_of_gate = load(bias(block) + gate * kLanes<T>);
      return V::each([&](int r) {
        const Vec<T> sum = product[r][gate % kTileVectors];
        return (layer.projects_input() ? sum : load(gates[r] + gate * width, lanes) + sum) + bias_of_gate;
      });
    };
    const Gates<V> active = activate<Math>(Gates<V>{pre(0, i_f), pre(1, i_f), pre(2, g_o), pre(3, g_o)});
    const V c = next_cell(active, V::each([&](int r) { return load(chunk.c_prev[n + r] + unit, lanes); }));
    const V h = next_hidden<Math>(active, c);
    for (int r = 0; r < N; ++r) {
      store(c_out[r], c.at[r], lanes);
      store(h_out[r], h.at[r], lanes);
      if (!p.keep_gates) continue;
      store(gates[r], active.i.at[r], lanes);
      store(gates[r] + width, active.f.at[r], lanes);
      store(gates[r] + 2 * width, active.g.at[r], lanes);
      store(gates[r] + 3 * width, active.o.at[r], lanes);
    }
  }

  template <int R>
  __attribute__((noinline)) void projection_tile(const Chunk& chunk, int64_t first, int64_t block) const {
    const T* rows[R];
    for (int r = 0; r < R; ++r) rows[r] = hidden(chunk.row[first + r]);
    const Accumulators<T, R> acc = multiply<T, R>(rows, s.hidden_size, projection_panel(block));
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kTileVectors; ++v) {
        const int64_t begin = block * kPanelWidth<T> + v * kLanes<T>;
        with_lanes<T>(valid_lanes<T>(begin, s.proj_width), [&](auto lanes) {
          store(layer.output(chunk.t, chunk.row[first + r]) + begin, acc.at[r][v], lanes.value);
        });
      }
  }

  const LayerShape& s;
  const CpuForwardParams<T>& p;
  const Recurrence<T> layer;
  const Workspace<T> layout;
  T* const workspace;
  const int64_t shared;
};

}  // namespace

template <class T>
int64_t forward_workspace(const LayerShape& shape, int64_t input_size) {
  return Workspace<T>(shape, input_size).size;
}

template <class T>
void forward(const LayerShape& shape, const CpuForwardParams<T>* directions, int num_directions, T* workspace,
             Steps steps, CpuSplit split, const Parallel& parallel) {
  const auto direction = [&](int64_t d, int64_t shared = Forward<T>::kOwn) {
    T* const of_direction = workspace + d * forward_workspace<T>(shape, directions[d].input_size);
    return Forward<T>(shape, directions[d], of_direction, shared);
  };
  const int64_t unit_blocks = direction(0).num_unit_blocks(), projection_blocks = direction(0).num_projection_blocks();
  const Team team{parallel, num_directions};

  if (steps.begin == 0) team.each(1, 1, [&](int64_t d, int64_t, int64_t) { direction(d).prepare(); });
  if (steps.begin == 0 && shape.seq_len > 1) {
    team.each(unit_blocks + projection_blocks, INT64_MAX, [&](int64_t d, int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) direction(d).pack(block);
    });
  }
  if (shape.seq_len == 1) {
    // A panel is used once: at once, while it is in cache, and memory for all of them is not touched.
    team.each(unit_blocks, INT64_MAX, [&](int64_t d, int64_t begin, int64_t end) {
      const Forward<T> task = direction(d, begin);
      for (int64_t block = begin; block < end; ++block) {
        task.pack(block);
        task.gates(0, 0, shape.batch, block, block + 1);
      }
    });
    team.each(projection_blocks, INT64_MAX, [&](int64_t d, int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        direction(d).pack(unit_blocks + block);
        direction(d).project(0, 0, shape.batch, block, block + 1);
      }
    });
  } else {
    run_steps(team, shape.batch, steps, split, direction);
  }
  if (steps.end < shape.seq_len) return;
  team.each(shape.batch, INT64_MAX, [&](int64_t d, int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) direction(d).finish(b);
  });
}

template int64_t forward_workspace<float>(const LayerShape&, int64_t);
template int64_t forward_workspace<double>(const LayerShape&, int64_t);
template void forward(const LayerShape&, const CpuForwardParams<float>*, int, float*, Steps, CpuSplit, const Parallel&);
template void forward(const LayerShape&, const CpuForwardParams<double>*, int, double*, Steps, CpuSplit,
                      const Parallel&);

}  // namespace lstm_fused::LSTM_FUSED_ISA
