// Forward recurrence for many steps and rows: gates = h_prev W_hh^T + x W_ih^T + b, cell, h = o tanh(c), and with a
// projection h = W_hr (o tanh(c)). x W_ih^T is given, or with x formed here. A block is one vector of units: two panels
// hold its rows of W_hh (and of W_ih), i and f in one, g and o in the other.
#include "cpu/isa/panels.h"
#include "cpu/isa/recurrence.h"

namespace lstm_fused::LSTM_FUSED_ISA {
namespace {

// Pairs, in an instruction set that has them, are multiplied with W_hh and W_ih, but not with W_hr.
//
// Per direction: a row of zeros (the state at a reset), b_ih + b_hh (block, gate, lane), packed W_hh and, with x, W_ih,
// panel by panel, with a projection packed W_hr and o tanh(c), and h once more, if a step multiplies rows that lie
// apart.
template <class T>
struct Workspace {
  using E = Operand<T>;
  int64_t bias, input_panel, gates_panel, gates, w_hr, hidden, states, size;
  SeparateRows<T> state;

  Workspace(const LayerShape& s, int64_t input_size) {
    const int64_t line = 64 / sizeof(T);
    bias = num_tiles(s.hidden_size, line) * line;
    input_panel = panel_size<E>(num_tiles(s.proj_width, kTerms<E>));
    gates_panel = input_panel + panel_size<E>(num_tiles(input_size, kTerms<E>));
    gates = bias + num_tiles(s.hidden_size, kLanes<T>) * kNumGates * kLanes<T>;
    w_hr = gates + num_tiles(s.hidden_size, kLanes<T>) * kPanelsPerBlock * gates_panel;
    hidden = w_hr + (s.has_projection ? num_tiles(s.proj_width, kPanelWidth<T>) * panel_size<T>(s.hidden_size) : 0);
    states = hidden + (s.has_projection ? num_tiles(s.batch * s.hidden_size, line) * line : 0);
    if (SeparateRows<T>::pay(s.batch, num_tiles(s.output_stride, kTerms<E>)))
      state = SeparateRows<T>::of(s.batch, num_tiles(s.proj_width, kTerms<E>));
    size = states + state.size();
  }
};

template <class T>
class Forward {
  using E = Operand<T>;

 public:
  Forward(const LayerShape& shape, const CpuForwardParams<T>& params, T* workspace)
      : s(shape),
        p(params),
        layout(shape, params.input_size),
        layer{shape, params, workspace, layout.state, workspace + layout.states},
        workspace(workspace) {}

  int64_t num_unit_blocks() const { return num_tiles(s.hidden_size, kLanes<T>); }
  int64_t num_projection_blocks() const { return s.has_projection ? num_tiles(s.proj_width, kPanelWidth<T>) : 0; }

  int64_t if_norms() const { return layer.has_norms(); }
  int64_t num_packed() const { return num_unit_blocks() + num_projection_blocks(); }
  static constexpr int64_t kStepsPastEnd = 0;

  static constexpr auto stages() {
    return std::array{Stage<Forward>{&Forward::num_unit_blocks, &Forward::gates},
                      Stage<Forward>{&Forward::if_norms, &Forward::norm_cells, /*wants_rows=*/true},
                      Stage<Forward>{&Forward::num_projection_blocks, &Forward::project}};
  }

  void prepare(Steps steps) const { layer.prepare(steps); }
  void finish(int64_t b) const { layer.finish(b); }

  void pack(int64_t block) const {
    if (block < num_unit_blocks()) {
      const int64_t unit = block * kLanes<T>;
      const int valid = valid_lanes<T>(unit, s.hidden_size);
      for (int gate = 0; gate < kNumGates; ++gate) {
        const int64_t row = gate * s.hidden_size + unit;
        E* const panel = gates_panel(block, gate / kTileVectors);
        pack_rows(p.w_hh, row, s.proj_width, valid, gate % kTileVectors, panel);
        if (layer.projects_input())
          pack_rows(p.w_ih, row, p.input_size, valid, gate % kTileVectors, panel + layout.input_panel);
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

  void gates(int64_t step, Range rows, Range blocks) const {
    layer.template for_rows<kChunk>(step, rows, [&](const Chunk& chunk) {
      gates_of(step, chunk, blocks);
      layer.round_units(chunk, blocks.begin * kLanes<T>, min(s.hidden_size, blocks.end * kLanes<T>));
    });
  }

  void norm_cells(int64_t step, Range rows, Range) const { layer.norm_cells(step, rows, hidden(0)); }

  // h = W_hr hidden.
  void project(int64_t step, Range rows, Range blocks) const {
    layer.template for_rows<kChunk>(step, rows, [&](const Chunk& chunk) {
      for (int64_t block = blocks.begin; block < blocks.end; ++block)
        for_row_tiles(chunk.count, [&](int64_t first, auto rows) { projection_tile<rows.value>(chunk, first, block); });
      layer.after_projection(chunk, blocks.begin * kPanelWidth<T>, min(s.proj_width, blocks.end * kPanelWidth<T>));
    });
  }

 private:
  using Chunk = StepRows<T, kChunk>;

  // Every other step goes backwards: what was read last is still in a cache.
  void gates_of(int64_t step, const Chunk& chunk, Range blocks) const {
    const bool backwards = step % 2 != 0;
    for_tiles<kNumGates>(chunk.count, blocks, s.hidden_size / kLanes<T>, backwards,
                         [&](int64_t first, auto rows, int64_t block, auto width) {
                           const int64_t next = backwards ? block - 1 : block + 1;
                           const bool is_last = next < blocks.begin || next >= blocks.end;
                           gates_tile<rows.value, width.value>(
                               chunk, first, block,
                               spread_over_tiles<rows.value>(gates_panel(is_last ? block : next, 0),
                                                             kPanelsPerBlock * layout.gates_panel, first, chunk.count));
                         });
  }

  template <class P>
  void pack_rows(const void* w, int64_t row, int64_t terms, int valid, int v, P* panel) const {
    with_type<T>(w, p.weight_type, [&](const auto* w) {
      pack_transposed<P, 1>([&](int lane) { return w + (row + lane) * terms; }, terms, valid, panel + v * kLanes<P>,
                            kPanelWidth<P>);
    });
  }

  T* hidden(int64_t b) const { return workspace + layout.hidden + b * s.hidden_size; }
  T* bias(int64_t block) const { return workspace + layout.bias + block * kNumGates * kLanes<T>; }
  E* gates_panel(int64_t block, int part) const {
    return reinterpret_cast<E*>(workspace + layout.gates) + (block * kPanelsPerBlock + part) * layout.gates_panel;
  }
  T* projection_panel(int64_t block) const { return workspace + layout.w_hr + block * panel_size<T>(s.hidden_size); }

  // Rows first ... first + R - 1 of the chunk, N blocks; whole ones where they are several.
  template <int R, int N>
  __attribute__((noinline)) void gates_tile(const Chunk& chunk, int64_t first, int64_t block, Spread spread) const {
    const int64_t unit = block * kLanes<T>;
    for (int r = 0; r < R && layer.uses_gates(); ++r)  // they come from afar: fetch them while the product runs
      for (int gate = 0; gate < kNumGates; ++gate)
        __builtin_prefetch(chunk.gates[first + r] + gate * s.hidden_size + unit);
    Vec<T> sums[R * N][kNumGates];
    const auto sum = [&](int r, int v) -> Vec<T>& { return sums[r * N + v / kNumGates][v % kNumGates]; };
    const Panels<E> state = {gates_panel(block, 0), layout.gates_panel};
    multiply_panels<R, N * kNumGates, kSpreads<R>>(
        chunk.h_prev + first, s.proj_width, state, kGateChain,
        [&](int r, int v, Vec<T> product) { sum(r, v) = product; }, &spread);
    // A sum of its own: in one of all I + P terms, each would be rounded to the size of both.
    if (layer.projects_input())
      multiply_panels<R, N * kNumGates, kSpreads<R>>(
          chunk.x + first, p.input_size, Panels<E>{state.begin + layout.input_panel, state.distance}, kGateChain,
          [&](int r, int v, Vec<T> product) { sum(r, v) += product; }, &spread);
    layer.is_variant() ? variant_cells<N>(chunk, first, R * N, block, sums)
                       : cells<N>(chunk, first, R * N, block, sums);
  }

  // The `count` cells of a tile of N blocks; `sums` are h_prev W_hh^T, plus x W_ih^T if formed here. One function for
  // tiles of all heights: in each of them it would be most of the library.
  template <int N>
  __attribute__((noinline)) void cells(const Chunk& chunk, int64_t first, int count, int64_t block,
                                       const Vec<T> (*sums)[kNumGates]) const {
    const int64_t unit = block * kLanes<T>;
    with_lanes<T>(valid_lanes<T>(unit, s.hidden_size), [&](auto lanes) {
      layer.template update<N>(
          chunk, first, count, unit, lanes.value, hidden(0), [&](int gate, int n) { return sums[n][gate]; },
          [&](int gate, int side) { return load(bias(block + side) + gate * kLanes<T>); });
    });
  }

  template <int N>
  __attribute__((noinline)) void variant_cells(const Chunk& chunk, int64_t first, int count, int64_t block,
                                               const Vec<T> (*sums)[kNumGates]) const {
    const int64_t unit = block * kLanes<T>;
    if constexpr (!kMultipliesPairs)
      layer.template update_variant<N>(
          chunk, first, count, unit, valid_lanes<T>(unit, s.hidden_size), hidden(0),
          [&](int gate, int n) { return sums[n][gate]; },
          [&](int gate, int side) { return load(bias(block + side) + gate * kLanes<T>); });
  }

  template <int R>
  __attribute__((noinline)) void projection_tile(const Chunk& chunk, int64_t first, int64_t block) const {
    const T* rows[R];
    for (int r = 0; r < R; ++r) rows[r] = hidden(chunk.row[first + r]);
    const auto acc = multiply<T, R, kTileVectors, kFarRows<T>>(rows, s.hidden_size, projection_panel(block));
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kTileVectors; ++v) {
        const int64_t begin = block * kPanelWidth<T> + v * kLanes<T>;
        with_lanes<T>(valid_lanes<T>(begin, s.proj_width),
                      [&](auto lanes) { layer.store_h(chunk, first + r, begin, acc.at[r][v], lanes.value); });
      }
  }

  const LayerShape& s;
  const CpuForwardParams<T>& p;
  const Workspace<T> layout;
  const Recurrence<T> layer;
  T* const workspace;
};

}  // namespace

template <class T>
int64_t forward_workspace(const LayerShape& shape, int64_t input_size) {
  return Workspace<T>(shape, input_size).size;
}

template <class T>
void forward(const CpuForwardRun<T>& run) {
  run_layer<Forward<T>>(run, forward_workspace<T>(run.shape, run.directions->input_size));
}

template int64_t forward_workspace<float>(const LayerShape&, int64_t);
template void forward(const CpuForwardRun<float>&);
#if !LSTM_FUSED_PAIRS
template int64_t forward_workspace<double>(const LayerShape&, int64_t);
template void forward(const CpuForwardRun<double>&);
#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
