// Forward recurrence for one step of many rows: weights are used once, so they are read where they lie. x and h are
// transposed instead, which are far smaller, into panels with rows of the batch in the lanes of a vector; an element of
// W is multiplied by all of them, and what comes out, gates in rows, is transposed back for the cell. Pairs, in an
// instruction set that has them, are multiplied with W_hh and W_ih, but not with W_hr.
#include <new>

#include "cpu/isa/lanes.h"
#include "cpu/isa/recurrence.h"

namespace lstm_fused::LSTM_FUSED_ISA {
namespace {

// Rows that share a reading of the weights.
template <class T>
using Group = StepRows<T, kStepRows<T>>;

// Per direction: a row of zeros (the state at a reset), the groups of rows, of each of them the panel of h_prev and x
// or, later, of o tanh(c), and with a projection o tanh(c) (B, H).
template <class T>
struct Workspace {
  int64_t groups, group, panels, panel, hidden, size;

  Workspace(const LayerShape& s, int64_t input_size) {
    constexpr int kEach = kTerms<Operand<T>>;
    const auto whole_lines = [](int64_t count) { return num_tiles(count * sizeof(T), 64) * (64 / int64_t(sizeof(T))); };
    const int64_t width = num_tiles(s.proj_width, kEach) + num_tiles(input_size, kEach);
    const int64_t num_groups = LSTM_FUSED_ISA::num_groups<T>(s.batch);
    groups = whole_lines(s.hidden_size);
    group = whole_lines(sizeof(Group<T>) / sizeof(T));
    panels = groups + num_groups * group;
    panel = kStepRows<T> * (s.has_projection && width < s.hidden_size ? s.hidden_size : width);
    hidden = panels + num_groups * panel;
    size = hidden + (s.has_projection ? whole_lines(s.batch * s.hidden_size) : 0);
  }
};

template <class T>
class OneStep {
  using E = Operand<T>;

 public:
  OneStep(const LayerShape& shape, const CpuForwardParams<T>& params, T* workspace)
      : s(shape), p(params), layer{shape, params, workspace}, layout(shape, params.input_size), workspace(workspace) {}

  int64_t num_unit_blocks() const { return num_tiles(s.hidden_size, kLanes<T>); }
  int64_t num_projection_blocks() const { return s.has_projection ? num_tiles(s.proj_width, kLanes<T>) : 0; }

  int64_t num_hidden_groups() const { return s.has_projection ? num_packed() : 0; }
  int64_t num_packed() const { return num_groups<T>(s.batch); }
  static constexpr int64_t kStepsPastEnd = 0;

  static constexpr auto stages() {
    return std::array{Stage<OneStep>{&OneStep::num_unit_blocks, &OneStep::gates},
                      Stage<OneStep>{&OneStep::num_hidden_groups, &OneStep::pack_hidden},
                      Stage<OneStep>{&OneStep::num_projection_blocks, &OneStep::project}};
  }

  void prepare(Steps steps) const { layer.prepare(steps); }
  void finish(int64_t b) const { layer.finish(b); }

  // The rows of a group, and the panels of their h_prev and x; for the projection of o tanh(c).
  void pack(int64_t group) const {
    layer.take_rows(0, group_of<T>(s.batch, group), *new (rows_of(group)) Group<T>);
    with_group(group, [&](const Group<T>& rows, auto vectors, T* panel) {
      E* const of_h = reinterpret_cast<E*>(panel);
      pack_lanes<vectors.value>(rows.count, s.proj_width, of_h,
                                [&](int64_t n) { return reinterpret_cast<const Kept<T>*>(rows.h_prev[n]); });
      if (layer.projects_input())
        pack_lanes<vectors.value>(rows.count, p.input_size, of_h + input_panel(vectors.value),
                                  [&](int64_t n) { return reinterpret_cast<const Kept<T>*>(rows.x[n]); });
    });
  }
  void pack_hidden(int64_t, Range, Range groups) const {
    for (int64_t group = groups.begin; group < groups.end; ++group)
      with_group(group, [&](const Group<T>& rows, auto vectors, T* panel) {
        pack_lanes<vectors.value>(rows.count, s.hidden_size, panel,
                                  [&](int64_t n) { return hidden() + rows.row[n] * s.hidden_size; });
      });
  }

  // All rows, vectors of hidden units.
  void gates(int64_t, Range, Range blocks) const {
    for_groups(blocks, [&](int64_t block, const Group<T>& rows, auto vectors, const T* panel) {
      gates<vectors.value>(rows, reinterpret_cast<const E*>(panel), block * kLanes<T>);
      layer.round_units(rows, block * kLanes<T>, min(s.hidden_size, (block + 1) * kLanes<T>));
    });
  }

  // h = W_hr hidden, vectors of columns.
  void project(int64_t, Range, Range blocks) const {
    for_groups(blocks, [&](int64_t block, const Group<T>& rows, auto vectors, const T* panel) {
      project<vectors.value>(rows, panel, block * kLanes<T>);
      layer.after_projection(rows, block * kLanes<T>, min(s.proj_width, (block + 1) * kLanes<T>));
    });
  }

 private:
  T* hidden() const { return workspace + layout.hidden; }
  // Behind that of h_prev, both of so many vectors.
  int64_t input_panel(int vectors) const { return num_tiles(s.proj_width, kTerms<E>) * vectors * kLanes<T>; }

  Group<T>* rows_of(int64_t group) const {
    return reinterpret_cast<Group<T>*>(workspace + layout.groups + group * layout.group);
  }

  // f(rows, vectors that they fill, panel), unless none takes part.
  template <class F>
  void with_group(int64_t group, F&& f) const {
    const Group<T>& rows = *rows_of(group);
    if (rows.count > 0)
      with_rows<kMostVectors>(num_tiles(rows.count, kLanes<T>), [&](auto vectors) {
        f(rows, vectors, workspace + layout.panels + group * layout.panel);
      });
  }

  // f(block, rows, vectors, panel) of all groups for each block.
  template <class F>
  void for_groups(Range blocks, F&& f) const {
    for (int64_t block = blocks.begin; block < blocks.end; ++block)
      for (int64_t group = 0; group < num_packed(); ++group)
        with_group(group, [&](const Group<T>& rows, auto vectors, const T* panel) { f(block, rows, vectors, panel); });
  }

  template <int V>
  __attribute__((noinline)) void gates(const Group<T>& rows, const E* panel, int64_t unit) const {
    constexpr int kWidth = V * kLanes<T>;
    alignas(kVectorBytes) T sums[kNumGates][kLanes<T>][kWidth];
    const int units = valid_lanes<T>(unit, s.hidden_size);
    // Four gates of a unit, then of one half a block away: rows that are read together lie in different pages, each of
    // which the hardware fetches ahead.
    struct {
      int64_t row;
      T* sums;
    } places[kNumGates * kLanes<T>];
    for (int i = 0; i < kNumGates * units; ++i) {
      const int gate = i % kNumGates, of_unit = i / kNumGates % 2 * ((units + 1) / 2) + i / (2 * kNumGates);
      places[i] = {gate * s.hidden_size + unit + of_unit, sums[gate][of_unit]};
    }
    const auto out = [&](int64_t i) { return places[i].sums; };
    const auto add_product = [&](const void* weight, int64_t terms, const E* factor, bool adds) {
      const auto multiply_by = [&](const auto* w) {
        const auto row = [&](int64_t i) { return w + places[i].row * terms; };
        multiply_rows<V, kNumGates * kLanes<T>, kGateChain>(kNumGates * units, terms, factor, adds, row, out);
      };
      if constexpr (kMultipliesPairs)
        multiply_by(static_cast<const BFloat16*>(weight));
      else
        with_type<T>(weight, p.weight_type, multiply_by);
    };
    add_product(p.w_hh, s.proj_width, panel, false);
    if (layer.projects_input()) add_product(p.w_ih, p.input_size, panel + input_panel(V), true);
    cells(rows, unit, units, sums[0][0], kWidth);
  }

  // Of `sums` (gates, kLanes units, `width`), rows of the batch in its columns.
  __attribute__((noinline)) void cells(const Group<T>& rows, int64_t unit, int units, const T* sums,
                                       int64_t width) const {
    Vec<T> bias[kNumGates];
    for (int gate = 0; gate < kNumGates; ++gate) bias[gate] = layer.bias(gate, unit, units);
    for (int64_t first = 0; first < rows.count; first += kLanes<T>) {
      Vec<T> of_rows[kNumGates][kLanes<T>] = {};
      for (int gate = 0; gate < kNumGates; ++gate) {
        for (int n = 0; n < units; ++n) of_rows[gate][n] = load(sums + (gate * kLanes<T> + n) * width + first);
        transpose<T>(of_rows[gate]);
      }
      with_lanes<T>(units, [&](auto lanes) {
        layer.template update<1>(
            rows, first, static_cast<int>(min(kLanes<T>, rows.count - first)), unit, lanes.value, hidden(),
            [&](int gate, int n) { return of_rows[gate][n]; }, [&](int gate, int) { return bias[gate]; });
      });
    }
  }

  template <int V>
  __attribute__((noinline)) void project(const Group<T>& rows, const T* panel, int64_t begin) const {
    alignas(kVectorBytes) T sums[kLanes<T>][V * kLanes<T>];
    const int columns = valid_lanes<T>(begin, s.proj_width);
    with_type<T>(p.w_hr, p.weight_type, [&](const auto* w) {
      multiply_rows<V, kLanes<T>, kChain>(
          columns, s.hidden_size, panel, false, [&](int64_t i) { return w + (begin + i) * s.hidden_size; },
          [&](int64_t i) { return sums[i]; });
    });
    for_rows_of_lanes<T>(sums[0], V * kLanes<T>, columns, rows.count,
                         [&](int64_t n, Vec<T> of_row) { store(rows.output[n] + begin, of_row, columns); });
  }

  const LayerShape& s;
  const CpuForwardParams<T>& p;
  const Recurrence<T> layer;
  const Workspace<T> layout;
  T* const workspace;
};

}  // namespace

template <class T>
int64_t one_step_workspace(const LayerShape& shape, int64_t input_size) {
  return Workspace<T>(shape, input_size).size;
}

// Threads share the units, whatever the split: each then reads weights of its own.
template <class T>
void one_step_forward(const CpuForwardRun<T>& run) {
  CpuForwardRun<T> by_gates = run;
  by_gates.split = CpuSplit::kGates;
  run_layer<OneStep<T>>(by_gates, one_step_workspace<T>(run.shape, run.directions->input_size));
}

template int64_t one_step_workspace<float>(const LayerShape&, int64_t);
template void one_step_forward(const CpuForwardRun<float>&);
#if !LSTM_FUSED_PAIRS
template int64_t one_step_workspace<double>(const LayerShape&, int64_t);
template void one_step_forward(const CpuForwardRun<double>&);
#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
