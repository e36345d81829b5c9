// Forward recurrence of the cell's variants. A step is a product, W_hh (m h) of all units, then the cell row by row,
// which a norm needs whole, and with a projection another product.
#include "cpu/isa/variant.h"

namespace lstm_fused::LSTM_FUSED_ISA {
namespace {

// Packed W_hh and W_hr, the sum of all biases, a row of zeros, and with a projection o tanh(..), (B, H).
template <class T>
struct Workspace {
  int64_t w_hr, bias, zeros, hidden, size;

  explicit Workspace(const LayerShape& s) {
    w_hr = PackedMatrix<T>::size(s.proj_width, kNumGates * s.hidden_size);
    bias = w_hr + (s.has_projection ? PackedMatrix<T>::size(s.hidden_size, s.proj_width) : 0);
    zeros = bias + kNumGates * s.hidden_size;
    hidden = zeros + s.hidden_size;
    size = hidden + (s.has_projection ? s.batch * s.hidden_size : 0);
  }
};

template <class T>
class Forward : VariantForwardRows<T> {
  using V = Vectors<T, 1>;
  using Math = VariantMath<T>;

 public:
  Forward(const LayerShape& shape, const VariantForwardParams<T>& params, T* workspace)
      : Rows(shape, params),
        layout(shape),
        workspace(workspace),
        w_hh{workspace, shape.proj_width, kNumGates * shape.hidden_size},
        w_hr{workspace + layout.w_hr, shape.hidden_size, shape.proj_width} {}

  int64_t num_unit_blocks() const { return w_hh.num_blocks(); }
  int64_t num_projection_blocks() const { return s.has_projection ? w_hr.num_blocks() : 0; }
  int64_t num_packed() const { return num_unit_blocks() + num_projection_blocks(); }
  static constexpr int64_t kStepsPastEnd = 0;

  static constexpr auto stages() {
    return std::array{Stage<Forward>{&Forward::num_unit_blocks, &Forward::multiply},
                      Stage<Forward>{&Forward::always, &Forward::cells_of, /*wants_rows=*/true},
                      Stage<Forward>{&Forward::num_projection_blocks, &Forward::project},
                      Stage<Forward>{&Forward::if_projects, &Forward::start_next, /*wants_rows=*/true}};
  }

  void pack(int64_t block) const {
    block < num_unit_blocks() ? w_hh.pack_transpose(p.w_hh, block)
                              : w_hr.pack_transpose(p.w_hr, block - num_unit_blocks());
  }

  void prepare(Steps steps) const {
    for (int64_t step = steps.begin; step < steps.end; ++step)
      for (int64_t b = 0; b < s.batch; ++b) clear(clock.time(step), b);
    if (steps.begin > 0) return;
    fill(zeros(), T(0), s.hidden_size);
    for (int64_t n = 0; n < kNumGates * s.hidden_size; ++n) {
      T sum = p.b_ih != nullptr ? p.b_ih[n] + p.b_hh[n] : 0;
      if (p.cell.has_norms()) sum += p.cell.norm_ih.bias[n] + p.cell.norm_hh.bias[n];
      bias()[n] = sum;
    }
    for (int64_t b = 0; b < s.batch; ++b) start(clock.time(0), b);
  }

  // W_hh (m h), columns of blocks.
  void multiply(int64_t step, Range of_batch, Range blocks) const {
    const int64_t t = clock.time(step);
    for_rows(clock, t, of_batch, [&](const int64_t* row, int64_t count) {
      const T* rows[kChunk];
      for (int64_t n = 0; n < count; ++n) rows[n] = factor(t, row[n]);
      w_hh.multiply_rows(rows, count, blocks, [&](int64_t n, int64_t column, int lanes, Vec<T> sum) {
        store(recurrent_sums(t, row[n]) + column, sum, lanes);
      });
    });
  }

  void cells_of(int64_t step, Range rows, Range) const {
    const int64_t t = clock.time(step);
    for (int64_t b = rows.begin; b < rows.end; ++b)
      if (t < clock.length(b)) cell(t, b);
    if (!s.has_projection) start_next(step, rows, {});
  }

  void project(int64_t step, Range of_batch, Range blocks) const {
    const int64_t t = clock.time(step);
    for_rows(clock, t, of_batch, [&](const int64_t* row, int64_t count) {
      const T* rows[kChunk];
      for (int64_t n = 0; n < count; ++n) rows[n] = hidden(row[n]);
      w_hr.multiply_rows(rows, count, blocks, [&](int64_t n, int64_t column, int lanes, Vec<T> sum) {
        store_h(t, row[n], column, lanes, sum);
      });
    });
  }

  // Once h of a step is complete.
  void start_next(int64_t step, Range rows, Range) const {
    if (step + 1 == s.seq_len) return;
    for (int64_t b = rows.begin; b < rows.end; ++b) start(clock.time(step + 1), b);
  }

  void finish(int64_t b) const {
    const bool empty = clock.length(b) == 0;
    const int64_t last = clock.last(b);
    copy(p.h_n + b * s.proj_width, empty ? p.h_0 + b * s.proj_width : output(last, b), s.proj_width);
    copy(p.c_n + b * s.hidden_size, empty ? p.c_0 + b * s.hidden_size : cells(last, b), s.hidden_size);
  }

 private:
  using Rows = VariantForwardRows<T>;
  using Rows::recurrent_sums, Rows::factor, Rows::c_prev, Rows::raw, Rows::statistics;
  using Rows::s, Rows::p, Rows::clock, Rows::gates_width, Rows::output, Rows::cells, Rows::gates_row;

  int64_t always() const { return 1; }
  int64_t if_projects() const { return s.has_projection; }

  T* bias() const { return workspace + layout.bias; }
  T* zeros() const { return workspace + layout.zeros; }
  T* hidden(int64_t b) const { return workspace + layout.hidden + b * s.hidden_size; }

  const T* h_before(int64_t t, int64_t b) const {
    const T* const h = Rows::h_before(t, b);
    return h != nullptr ? h : zeros();
  }

  // What nobody computes, past a row's length.
  void clear(int64_t t, int64_t b) const {
    if (t < clock.length(b)) return;
    fill(output(t, b), T(0), s.proj_width);
    fill(cells(t, b), T(0), s.hidden_size);
    if (!p.kept.all_states) return;
    fill(gates_row(p.kept.gates, t, b), T(0), gates_width());
    fill(factor(t, b), T(0), s.proj_width);
    fill(c_prev(t, b), T(0), s.hidden_size);
    fill(raw(t, b), T(0), s.hidden_size);
    if (!p.cell.has_norms()) return;
    fill(gates_row(p.kept.input_sums, t, b), T(0), gates_width());
    fill(recurrent_sums(t, b), T(0), gates_width());
    fill(statistics(t, b), T(0), kNumStatistics);
  }

  // m h and c that a step starts from.
  void start(int64_t t, int64_t b) const {
    if (t >= clock.length(b)) return;
    const T *const c = Rows::c_before(t, b), *const h = h_before(t, b);
    copy(c_prev(t, b), c != nullptr ? c : zeros(), s.hidden_size);
    const T* const mask = p.cell.recurrent_mask;
    T* const to = factor(t, b);
    if (mask == nullptr) return copy(to, h, s.proj_width);
    for (int64_t n = 0; n < s.proj_width; ++n) to[n] = mask[b * s.proj_width + n] * h[n];
  }

  static T normalise(T* row, int64_t width) {
    const Moments<T> m = moments<T>(width, [&](int64_t n, int lanes) { return load(row + n, lanes); });
    for_vectors<T>(width,
                   [&](int64_t n, int lanes) { store(row + n, (load(row + n, lanes) - m.mean) * m.scale, lanes); });
    return m.scale;
  }

  void cell(int64_t t, int64_t b) const {
    const int64_t width = s.hidden_size;
    const bool norms = p.cell.has_norms();
    T *const input = gates_row(p.kept.input_sums, t, b), *const sums = recurrent_sums(t, b);
    T *const gates = gates_row(p.kept.gates, t, b), *const raw_cell = raw(t, b);
    if (norms) {
      T* const kept = statistics(t, b);
      kept[kScaleIh] = normalise(input, gates_width());
      kept[kScaleHh] = normalise(sums, gates_width());
    }
    for_vectors<T>(width, [&](int64_t n, int lanes) {
      const auto pre = [&](int gate) -> V {
        const int64_t place = gate * width + n;
        Vec<T> from_x = load(input + place, lanes), from_h = load(sums + place, lanes);
        if (norms) {
          from_x *= load(p.cell.norm_ih.weight + place, lanes);
          from_h *= load(p.cell.norm_hh.weight + place, lanes);
        }
        return from_x + from_h + load(bias() + place, lanes);
      };
      const V before = load(c_prev(t, b) + n, lanes);
      const CellStep<V> next =
          variant_cell<Math>(Gates<V>{pre(0), pre(1), pre(2), pre(3)}, before, extras_at(p.cell, width, n, lanes));
      store(gates + n, next.gates.i.at[0], lanes);
      store(gates + width + n, next.gates.f.at[0], lanes);
      store(gates + 2 * width + n, next.gates.g.at[0], lanes);
      store(gates + 3 * width + n, next.gates.o.at[0], lanes);
      store(raw_cell + n, next.raw.at[0], lanes);
      if (!norms) leave(t, b, n, lanes, next.gates.o, next.c, next.c);
    });
    if (!norms) return;
    const auto clipped = [&](int64_t n, int lanes) {
      return extras_at(p.cell, width, n, lanes).template clipped<Math>(load(raw_cell + n, lanes)).at[0];
    };
    const Moments<T> m = moments<T>(width, clipped);
    statistics(t, b)[kMeanC] = m.mean;
    statistics(t, b)[kScaleC] = m.scale;
    for_vectors<T>(width, [&](int64_t n, int lanes) {
      const Vec<T> c = clipped(n, lanes), normalised = (c - m.mean) * m.scale;
      leave(t, b, n, lanes, load(gates + 3 * width + n, lanes), c,
            normalised * load(p.cell.norm_c.weight + n, lanes) + load(p.cell.norm_c.bias + n, lanes));
    });
  }

  // A vector of a step's results: c~, and h~ = o tanh(inner).
  LSTM_FUSED_INLINE void leave(int64_t t, int64_t b, int64_t n, int lanes, const V& o, const V& c,
                               const V& inner) const {
    const int64_t place = (t * s.batch + b) * s.hidden_size + n;
    const T* const mask = p.cell.zoneout_c != nullptr ? p.cell.zoneout_c + place : nullptr;
    store(p.cells + place, zoned_out(mask, p.cell.keeps_c, lanes, load(c_prev(t, b) + n, lanes), c.at[0]), lanes);
    const Vec<T> h = (o * Math::tanh(inner)).at[0];
    s.has_projection ? store(hidden(b) + n, h, lanes) : store_h(t, b, n, lanes, h);
  }

  LSTM_FUSED_INLINE void store_h(int64_t t, int64_t b, int64_t n, int lanes, Vec<T> h) const {
    const int64_t place = (t * s.batch + b) * s.proj_width + n;
    const T* const mask = p.cell.zoneout_h != nullptr ? p.cell.zoneout_h + place : nullptr;
    if (mask != nullptr || p.cell.keeps_h != 0)
      h = zoned_out(mask, p.cell.keeps_h, lanes, load(h_before(t, b) + n, lanes), h);
    store(p.output + place, h, lanes);
  }

  const Workspace<T> layout;
  T* const workspace;
  const PackedMatrix<T> w_hh, w_hr;
};

}  // namespace

#if !LSTM_FUSED_PAIRS

template <class T>
int64_t variant_workspace(const LayerShape& shape) {
  return Workspace<T>(shape).size;
}

template <class T>
void variant_forward(const VariantForwardRun<T>& run) {
  run_layer<Forward<T>>(run, variant_workspace<T>(run.shape));
}

template int64_t variant_workspace<float>(const LayerShape&);
template int64_t variant_workspace<double>(const LayerShape&);
template void variant_forward(const VariantForwardRun<float>&);
template void variant_forward(const VariantForwardRun<double>&);
#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
