// Backward recurrence of the cell's variants, against the direction's order of time. A step takes the gradients of its
// h and c, which grad_h_0 and grad_c_0 carry, to those of the h and c it started from: the cell row by row, then a
// product with W_hh; with a projection, a product with W_hr before.
#include "cpu/isa/variant.h"

namespace lstm_fused::LSTM_FUSED_ISA {
namespace {

// Packed W_hh and W_hr, and the gradient of o tanh(..), (B, H).
template <class T>
struct Workspace {
  int64_t w_hr, grad_hidden, size;

  explicit Workspace(const LayerShape& s) {
    w_hr = PackedMatrix<T>::size(kNumGates * s.hidden_size, s.proj_width);
    grad_hidden = w_hr + (s.has_projection ? PackedMatrix<T>::size(s.proj_width, s.hidden_size) : 0);
    size = grad_hidden + s.batch * s.hidden_size;
  }
};

template <class T>
class Backward : VariantBackwardRows<T> {
  using V = Vectors<T, 1>;
  using Math = VariantMath<T>;

 public:
  Backward(const LayerShape& shape, const VariantBackwardParams<T>& params, T* workspace)
      : Rows(shape, params),
        grad_hiddens(workspace + Workspace<T>(shape).grad_hidden),
        w_hh{workspace, kNumGates * shape.hidden_size, shape.proj_width},
        w_hr{workspace + Workspace<T>(shape).w_hr, shape.proj_width, shape.hidden_size} {}

  int64_t num_h_blocks() const { return w_hh.num_blocks(); }
  int64_t num_unit_blocks() const { return s.has_projection ? w_hr.num_blocks() : 0; }
  int64_t num_packed() const { return num_h_blocks() + num_unit_blocks(); }
  static constexpr int64_t kStepsPastEnd = 0;

  static constexpr auto stages() {
    return std::array{Stage<Backward>{&Backward::if_projects, &Backward::states, /*wants_rows=*/true},
                      Stage<Backward>{&Backward::num_unit_blocks, &Backward::project},
                      Stage<Backward>{&Backward::always, &Backward::cells, /*wants_rows=*/true},
                      Stage<Backward>{&Backward::num_h_blocks, &Backward::multiply}};
  }

  void pack(int64_t block) const {
    block < num_h_blocks() ? w_hh.pack(p.w_hh, block) : w_hr.pack(p.w_hr, block - num_h_blocks());
  }

  void prepare(Steps steps) const {
    for (int64_t step = steps.begin; step < steps.end; ++step)
      for (int64_t b = 0; b < s.batch; ++b) clear(time(step), b);
    if (steps.begin > 0) return;
    const auto given = [](T* to, const T* from, int64_t size) {
      from != nullptr ? copy(to, from, size) : fill(to, T(0), size);
    };
    given(carried_h(0), p.grad_h_n, s.batch * s.proj_width);
    given(carried_c(0), p.grad_c_n, s.batch * s.hidden_size);
  }
  void finish(int64_t) const {}

  // The whole gradient of h, split by zoneout; what goes to h~ is that of o tanh(..), or the projection's.
  void states(int64_t step, Range rows, Range) const {
    const int64_t t = time(step);
    for (int64_t b = rows.begin; b < rows.end; ++b) {
      if (t >= clock.length(b)) continue;
      const int64_t row = (t * s.batch + b) * s.proj_width;
      T *const carried = carried_h(b), *const to =
                                           s.has_projection ? in_range(p.grad_h, t, b, s.proj_width) : grad_hidden(b);
      for_vectors<T>(s.proj_width, [&](int64_t n, int lanes) {
        Vec<T> grad = load(carried + n, lanes);
        if (p.grad_output != nullptr) grad += load(p.grad_output + row + n, lanes);
        const T* const mask = p.cell.zoneout_h != nullptr ? p.cell.zoneout_h + row + n : nullptr;
        const ZoneoutGradient<Vec<T>> split = zoneout_backward(mask, p.cell.keeps_h, lanes, grad);
        store(carried + n, split.before, lanes);
        store(to + n, split.after, lanes);
      });
    }
  }

  void project(int64_t step, Range of_batch, Range blocks) const {
    const int64_t t = time(step);
    for_rows(clock, t, of_batch, [&](const int64_t* row, int64_t count) {
      const T* rows[kChunk];
      for (int64_t n = 0; n < count; ++n) rows[n] = in_range(p.grad_h, t, row[n], s.proj_width);
      w_hr.multiply_rows(rows, count, blocks, [&](int64_t n, int64_t column, int lanes, Vec<T> sum) {
        store(grad_hidden(row[n]) + column, sum, lanes);
      });
    });
  }

  void cells(int64_t step, Range rows, Range) const {
    if (!s.has_projection) states(step, rows, {});
    const int64_t t = time(step);
    for (int64_t b = rows.begin; b < rows.end; ++b)
      if (t < clock.length(b)) cell(t, b);
  }

  // On to the h that the step started from: columns of blocks.
  void multiply(int64_t step, Range of_batch, Range blocks) const {
    const int64_t t = time(step), first = blocks.begin * kPanelWidth<T>;
    const int64_t last = min(blocks.end * kPanelWidth<T>, s.proj_width);
    for_rows(clock, t, of_batch, [&](const int64_t* row, int64_t count) {
      const T* rows[kChunk];
      int64_t taken[kChunk], num_taken = 0;
      for (int64_t n = 0; n < count; ++n) {
        if (clock.before(t, row[n]) == Before::kNothing) {
          fill(carried_h(row[n]) + first, T(0), last - first);
          continue;
        }
        taken[num_taken] = row[n];
        rows[num_taken++] = in_range(p.grad_hh, t, row[n], gates_width());
      }
      w_hh.multiply_rows(rows, num_taken, blocks, [&](int64_t n, int64_t column, int lanes, Vec<T> sum) {
        const T* const mask = p.cell.recurrent_mask;
        if (mask != nullptr) sum *= load(mask + taken[n] * s.proj_width + column, lanes);
        T* const to = carried_h(taken[n]) + column;
        store(to, load(to, lanes) + sum, lanes);
      });
    });
  }

 private:
  using Rows = VariantBackwardRows<T>;
  using Rows::s, Rows::p, Rows::clock, Rows::time, Rows::gates_width, Rows::carried_h, Rows::carried_c, Rows::in_range;

  int64_t always() const { return 1; }
  int64_t if_projects() const { return s.has_projection; }

  // Past a row's length.
  void clear(int64_t t, int64_t b) const {
    if (t < clock.length(b)) return;
    for (T* const grads : {p.grad_sums, p.grad_ih, p.grad_hh})
      fill(in_range(grads, t, b, gates_width()), T(0), gates_width());
    if (s.has_projection) {
      fill(in_range(p.grad_h, t, b, s.proj_width), T(0), s.proj_width);
      fill(in_range(p.hidden, t, b, s.hidden_size), T(0), s.hidden_size);
    }
    if (p.cell.has_norms())
      for (T* const rows : {p.grad_norm, p.norm_c}) fill(in_range(rows, t, b, s.hidden_size), T(0), s.hidden_size);
  }

  T* grad_hidden(int64_t b) const { return grad_hiddens + b * s.hidden_size; }
  LSTM_FUSED_INLINE CellExtras<V> extras(int64_t unit, int lanes) const {
    return extras_at(p.cell, s.hidden_size, [=](int) { return unit; }, lanes);
  }

  void cell(int64_t t, int64_t b) const {
    const int64_t width = s.hidden_size, place = t * s.batch + b;
    const T *const gates = p.kept.gates + place * gates_width(), *const raw = p.kept.raw + place * width;
    T* const sums = in_range(p.grad_sums, t, b, gates_width());
    const bool norms = p.cell.has_norms();
    const T* const kept = norms ? p.kept.statistics + place * kNumStatistics : nullptr;
    const auto gate = [&](int which, int64_t n, int lanes) -> V { return load(gates + which * width + n, lanes); };

    // Through o tanh(..).
    T* const grad_norm = norms ? in_range(p.grad_norm, t, b, width) : grad_hidden(b);
    T* const norm_c = norms ? in_range(p.norm_c, t, b, width) : nullptr;
    for_vectors<T>(width, [&](int64_t n, int lanes) {
      V inner = extras(n, lanes).template clipped<Math>(load(raw + n, lanes));
      if (norms) {
        const Vec<T> normalised = (inner.at[0] - kept[kMeanC]) * kept[kScaleC];
        store(norm_c + n, normalised, lanes);
        inner = normalised * load(p.cell.norm_c.weight + n, lanes) + load(p.cell.norm_c.bias + n, lanes);
      }
      const V o = gate(3, n, lanes), tanh_n = Math::tanh(inner);
      if (s.has_projection) store(in_range(p.hidden, t, b, width) + n, (o * tanh_n).at[0], lanes);
      const HiddenGradient<V> grad = hidden_backward<V>(o, tanh_n, load(grad_hidden(b) + n, lanes));
      store(sums + 3 * width + n, grad.pre_o.at[0], lanes);
      store(grad_norm + n, grad.inner.at[0], lanes);
    });
    const T* inner_grad = grad_norm;
    if (norms) {
      norm_backward(width, grad_norm, p.cell.norm_c.weight, norm_c, kept[kScaleC], grad_hidden(b));
      inner_grad = grad_hidden(b);
    }

    // Through the cell.
    const bool starts_anew = clock.before(t, b) == Before::kNothing;
    T* const carried = carried_c(b);
    for_vectors<T>(width, [&](int64_t n, int lanes) {
      Vec<T> of_c = load(carried + n, lanes);
      if (p.grad_cells != nullptr) of_c += load(p.grad_cells + place * width + n, lanes);
      const T* const mask = p.cell.zoneout_c != nullptr ? p.cell.zoneout_c + place * width + n : nullptr;
      const ZoneoutGradient<Vec<T>> split = zoneout_backward(mask, p.cell.keeps_c, lanes, of_c);
      const Gates<V> active = {gate(0, n, lanes), gate(1, n, lanes), gate(2, n, lanes), gate(3, n, lanes)};
      const CellGradient<V> grad = variant_cell_backward<Math, V>(
          active, load(p.kept.c_prev + place * width + n, lanes), load(raw + n, lanes),
          load(sums + 3 * width + n, lanes), split.after + load(inner_grad + n, lanes), extras(n, lanes));
      store(sums + n, grad.pre.i.at[0], lanes);
      store(sums + width + n, grad.pre.f.at[0], lanes);
      store(sums + 2 * width + n, grad.pre.g.at[0], lanes);
      store(carried + n, starts_anew ? Vec<T>{} : split.before + grad.c_prev.at[0], lanes);
    });
    if (!norms) return;
    const auto before_norm = [&](const Norm<T>& norm, const T* normalised, Statistic scale, T* to) {
      norm_backward(gates_width(), sums, norm.weight, normalised + place * gates_width(), kept[scale],
                    in_range(to, t, b, gates_width()));
    };
    before_norm(p.cell.norm_ih, p.kept.input_sums, kScaleIh, p.grad_ih);
    before_norm(p.cell.norm_hh, p.kept.recurrent_sums, kScaleHh, p.grad_hh);
  }

  T* const grad_hiddens;
  const PackedMatrix<T> w_hh, w_hr;
};

}  // namespace

#if !LSTM_FUSED_PAIRS

template <class T>
int64_t variant_backward_workspace(const LayerShape& shape) {
  return Workspace<T>(shape).size;
}

template <class T>
void variant_backward(const VariantBackwardRun<T>& run) {
  run_layer<Backward<T>>(run, variant_backward_workspace<T>(run.shape));
}

template <class T>
void sum_products(const ProductSumParams<T>& p, const Parallel& parallel) {
  Team{parallel, 1}.each(num_tiles(p.width, kLanes<T>), INT64_MAX, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t n = begin * kLanes<T>; n < min(p.width, end * kLanes<T>); n += kLanes<T>)
      with_lanes<T>(valid_lanes<T>(n, p.width), [&](auto lanes) {
        Vec<T> total = {};
        if (p.adds) total = load(p.y + n, lanes.value);
        for (int64_t row = 0; row < p.num_rows;) {
          Vec<T> sum = {};
          for (const int64_t last = min(p.num_rows, row + kChain); row < last; ++row) {
            Vectors<T, 1> b = load(p.b + row * p.b_stride + n, lanes.value);
            if (p.limit > 0) b = VariantMath<T>::clamped(b, p.limit);
            sum += load(p.a + row * p.a_stride + n, lanes.value) * b.at[0];
          }
          total += sum;
        }
        store(p.y + n, total, lanes.value);
      });
  });
}

template int64_t variant_backward_workspace<float>(const LayerShape&);
template int64_t variant_backward_workspace<double>(const LayerShape&);
template void variant_backward(const VariantBackwardRun<float>&);
template void variant_backward(const VariantBackwardRun<double>&);
template void sum_products(const ProductSumParams<float>&, const Parallel&);
template void sum_products(const ProductSumParams<double>&, const Parallel&);
#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
