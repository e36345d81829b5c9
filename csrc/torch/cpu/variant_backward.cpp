#include "torch/cpu/variant.h"

namespace lstm_fused {
namespace {

// Of all weights; they grow from range to range.
template <class T>
class WeightGradients {
 public:
  WeightGradients(const VariantLayer& layer, const Tensor& like, const Parallel& parallel)
      : layer_(layer), kernels_(variant_cpu_kernels<T>()), parallel_(parallel) {
    const int64_t gates = layer.gates_width(), hidden = layer.hidden_size;
    const auto make = [&](SizeList sizes) { return empty(sizes, like, layer.dtype); };
    w_ih_ = make({gates, layer.input_size});
    w_hh_ = make({gates, layer.proj_width});
    if (layer.weights.b_ih || layer.has_norms()) bias_ = make({gates});
    if (layer.has_projection) w_hr_ = make({layer.proj_width, hidden});
    if (layer.weights.peepholes) peepholes_ = make({3, hidden});
    if (layer.has_norms())
      for (const int64_t width : {gates, gates, hidden, hidden}) norms_.push_back(make({width}));
  }

  // Of `rows` rows from `first` on. What `p` holds of a range begins at `first`.
  void add(int64_t first, int64_t rows, const VariantBackwardParams<T>& p, const T* x) {
    const int64_t gates = layer_.gates_width(), hidden = layer_.hidden_size;
    const ProductFactor of_x = factor(x, w_ih_), of_h = factor(p.kept.factor + first * layer_.proj_width, w_hh_);
    if (p.grad_ih == p.grad_hh) {
      product(rows, p.grad_ih, gates, of_x, of_h);
    } else {
      product(rows, p.grad_ih, gates, of_x);
      product(rows, p.grad_hh, gates, of_h);
    }
    if (bias_)
      kernels_.sum_rows({rows, gates, p.grad_sums, kernel_type(kScalarType<T>), data<T>(*bias_), adds_}, parallel_);
    if (w_hr_) product(rows, p.grad_h, layer_.proj_width, factor(p.hidden, *w_hr_));
    const auto products = [&](const T* a, int64_t a_stride, const T* b, int64_t b_stride, int64_t width, T* y,
                              T limit = 0) {
      kernels_.variant.sum_products({.num_rows = rows,
                                     .width = width,
                                     .a = a,
                                     .a_stride = a_stride,
                                     .b = b,
                                     .b_stride = b_stride,
                                     .limit = limit,
                                     .y = y,
                                     .adds = adds_},
                                    parallel_);
    };
    if (peepholes_) {
      T* const y = data<T>(*peepholes_);
      products(p.grad_sums, gates, p.kept.c_prev + first * hidden, hidden, hidden, y);
      products(p.grad_sums + hidden, gates, p.kept.c_prev + first * hidden, hidden, hidden, y + hidden);
      products(p.grad_sums + 3 * hidden, gates, p.kept.raw + first * hidden, hidden, hidden, y + 2 * hidden,
               static_cast<T>(layer_.cell_clip));
    }
    if (layer_.has_norms()) {
      products(p.grad_sums, gates, p.kept.input_sums + first * gates, gates, gates, data<T>(norms_[0]));
      products(p.grad_sums, gates, p.kept.recurrent_sums + first * gates, gates, gates, data<T>(norms_[1]));
      products(p.grad_norm, hidden, p.norm_c, hidden, hidden, data<T>(norms_[2]));
      kernels_.sum_rows({rows, hidden, p.grad_norm, kernel_type(kScalarType<T>), data<T>(norms_[3]), adds_}, parallel_);
    }
    adds_ = true;
  }

  // In the weights' order.
  std::vector<Tensor> all() const {
    std::vector<Tensor> result = {w_ih_, w_hh_};
    if (layer_.weights.b_ih)
      for (int n = 0; n < 2; ++n) result.push_back(bias());
    if (w_hr_) result.push_back(*w_hr_);
    if (peepholes_) result.push_back(*peepholes_);
    if (layer_.has_norms())
      for (const Tensor& gradient : {norms_[0], bias(), norms_[1], bias(), norms_[2], norms_[3]})
        result.push_back(gradient);
    return result;
  }

 private:
  // All vectors that are added to the sums of the gates have one gradient, and each has it for itself.
  Tensor bias() const {
    const Tensor copy = empty({layer_.gates_width()}, w_ih_, layer_.dtype);
    std::copy_n(const_data<T>(*bias_), copy.numel(), data<T>(copy));
    return copy;
  }

  ProductFactor factor(const T* rows, const Tensor& result) const {
    const DType type = kernel_type(layer_.dtype);
    return {result.size(1), rows, type, data<void>(result), type, adds_};
  }

  void product(int64_t rows, const T* grad, int64_t width, const ProductFactor& first,
               const ProductFactor& second = {}) const {
    multiply_matrices<T>(kernels_, weight_gradients<T>(rows, grad, width, layer_.batch, first, second), w_ih_);
  }

  const VariantLayer& layer_;
  const CpuKernels<T>& kernels_;
  const Parallel& parallel_;
  Tensor w_ih_, w_hh_;
  OptionalTensor bias_, w_hr_, peepholes_;
  std::vector<Tensor> norms_;  // weights of the three, and the bias of the last
  bool adds_ = false;
};

// What lies past a row's length was never read, and zero times NaN would not be zero.
template <class T>
Tensor without_padding(const VariantLayer& layer, const Tensor& x) {
  if (!layer.lengths) return x;
  const Tensor result = empty(x.sizes(), x, layer.dtype);
  const int64_t width = layer.input_size, *lengths = const_data<int64_t>(*layer.lengths);
  for (int64_t row = 0; row < layer.num_rows(); ++row) {
    T* const to = data<T>(result) + row * width;
    if (row / layer.batch < lengths[row % layer.batch])
      std::copy_n(const_data<T>(x) + row * width, width, to);
    else
      std::fill_n(to, width, T(0));
  }
  return result;
}

template <class T>
VariantInputGrads backward(const VariantCall& call, const VariantOutputGrads& grads, const Tensor& reserve,
                           bool needs_input, bool needs_weights) {
  const VariantLayer layer(call);
  const LayerShape shape = layer.shape();
  const CpuKernels<T>& kernels = variant_cpu_kernels<T>();
  const int64_t batch = layer.batch, hidden = layer.hidden_size, width = layer.proj_width, gates = layer.gates_width();
  layer.check_gradients(grads, reserve);
  const auto make = [&](SizeList sizes) { return empty(sizes, call.x, layer.dtype); };
  VariantInputGrads results = {
      .x = make({0}), .h_0 = make({batch, width}), .c_0 = make({batch, hidden}), .weights = {}};
  if (needs_input) results.x = make({layer.seq_len, batch, layer.input_size});

  // As backward.cpp: not all gradients of the gates should exist at a time, and fewer rows would make the products
  // slower.
  constexpr int64_t kLeastRows = 512, kMostRanges = 8;
  const int64_t range_rows = std::max(kLeastRows, layer.num_rows() / kMostRanges);
  const int64_t range = std::clamp<int64_t>(range_rows / std::max<int64_t>(1, batch), 1, layer.seq_len);

  // Scratch, one behind the other: the kernel's, and the results of a range.
  const int64_t kernel_size = whole_lines<T>(kernels.variant.backward_workspace(shape));
  const bool norms = layer.has_norms(), projection = layer.has_projection;
  const auto per_row = [&](bool wanted, int64_t size) { return wanted ? whole_lines<T>(range * batch * size) : 0; };
  const int64_t gates_size = per_row(true, gates), norm_gates = per_row(norms, gates), norm_c = per_row(norms, hidden),
                grad_h_size = per_row(projection, width), hidden_size = per_row(projection, hidden);
  const Tensor scratch = make({kernel_size + gates_size + 2 * norm_gates + 2 * norm_c + grad_h_size + hidden_size});
  T* free = data<T>(scratch) + kernel_size;
  const auto take = [&](int64_t size) { return size == 0 ? nullptr : std::exchange(free, free + size); };

  const OptionalTensor grad_h = dense(grads.h, layer.dtype), grad_cells = dense(grads.cells, layer.dtype),
                       grad_h_n = dense(grads.h_n, layer.dtype), grad_c_n = dense(grads.c_n, layer.dtype);
  VariantBackwardParams<T> params = {.reverse = layer.reverse,
                                     .w_hh = const_data<T>(layer.weights.w_hh),
                                     .w_hr = const_data<T>(layer.weights.w_hr),
                                     .cell = layer.cell<T>(),
                                     .kept = layer.kept<T>(reserve),
                                     .grad_output = const_data<T>(grad_h),
                                     .grad_cells = const_data<T>(grad_cells),
                                     .grad_h_n = const_data<T>(grad_h_n),
                                     .grad_c_n = const_data<T>(grad_c_n),
                                     .first_time = 0,
                                     .grad_sums = take(gates_size),
                                     .grad_ih = take(norm_gates),
                                     .grad_hh = take(norm_gates),
                                     .grad_h = take(grad_h_size),
                                     .hidden = take(hidden_size),
                                     .grad_norm = take(norm_c),
                                     .norm_c = take(norm_c),
                                     .grad_h_0 = data<T>(results.h_0),
                                     .grad_c_0 = data<T>(results.c_0)};
  if (!norms) params.grad_ih = params.grad_hh = params.grad_sums;

  const Parallel all_threads = torch_threads();
  const CpuSchedule schedule(layer.problem(/*training=*/true));
  const Tensor x = dense(call.x, layer.dtype);
  const Tensor own_x = needs_weights ? without_padding<T>(layer, x) : x;
  std::optional<WeightGradients<T>> gradients;
  if (needs_weights) gradients.emplace(layer, call.x, all_threads);
  for (int64_t begin = 0; begin < layer.seq_len; begin += range) {
    const int64_t end = std::min(begin + range, layer.seq_len);
    params.first_time = layer.reverse ? begin : layer.seq_len - end;
    kernels.variant.backward({.shape = shape,
                              .directions = &params,
                              .num_directions = 1,
                              .workspace = data<T>(scratch),
                              .steps = {begin, end},
                              .split = schedule.split,
                              .parallel = schedule.parallel});
    const int64_t first = params.first_time * batch, rows = (end - begin) * batch;
    if (gradients) gradients->add(first, rows, params, const_data<T>(own_x) + first * layer.input_size);
    if (!needs_input) continue;
    const DType type = kernel_type(layer.dtype);
    multiply_matrices<T>(kernels,
                         {.rows = rows,
                          .terms = gates,
                          .a = params.grad_ih,
                          .factors = {{layer.input_size, const_data<void>(layer.weights.w_ih), type,
                                       data<T>(results.x) + first * layer.input_size, type}}},
                         x);
  }
  if (gradients) results.weights = gradients->all();
  return results;
}

}  // namespace

VariantInputGrads variant_backward_cpu(const VariantCall& call, const VariantOutputGrads& grads, const Tensor& reserve,
                                       bool needs_input, bool needs_weights) {
  return call.x.scalar_type() == ScalarType::Double ? backward<double>(call, grads, reserve, needs_input, needs_weights)
                                                    : backward<float>(call, grads, reserve, needs_input, needs_weights);
}

}  // namespace lstm_fused
