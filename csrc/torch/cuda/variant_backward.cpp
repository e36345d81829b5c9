#include "torch/cuda/layer_kernel.h"
#include "torch/cuda/stream.h"

namespace lstm_fused {
namespace {

// What the kernels leave for the products and sums over all rows, (N, ..).
struct RowGradients {
  Tensor sums;               // of the sums of i, f, g, o
  Tensor of_ih, of_hh;       // before the norms; without them, `sums`
  Tensor grad_h, hidden;     // with a projection
  Tensor grad_norm, norm_c;  // with norms
};

// Of all weights, in their order.
template <class T>
std::vector<Tensor> weight_gradients(const VariantLayer& layer, const RowGradients& g, const Tensor& x,
                                     const Tensor& reserve) {
  const int64_t rows = layer.num_rows(), hidden = layer.hidden_size, gates = layer.gates_width();
  const VariantKept<T> kept = layer.kept<T>(reserve);
  const auto of_reserve = [&](const T* p, int64_t width) {
    return slice(reserve, p - const_data<T>(reserve), {rows, width});
  };
  const auto product = [&](const Tensor& grad, const Tensor& factor) {
    const Tensor result = empty({grad.size(1), factor.size(1)}, x, layer.dtype);
    mm_out(result, transposed(grad), factor);
    return result;
  };
  // Autocast makes float32 of a sum.
  const auto sum = [&](const Tensor& tensor) {
    return dense(torch::stable::sum(tensor, std::vector<int64_t>{0}), layer.dtype);
  };

  std::vector<Tensor> result = {product(g.of_ih, torch::stable::view(x, {rows, layer.input_size})),
                                product(g.of_hh, of_reserve(kept.factor, layer.proj_width))};
  // All vectors that are added to the sums of the gates have one gradient, and each has it for itself.
  OptionalTensor bias;
  if (layer.weights.b_ih || layer.has_norms()) bias = sum(g.sums);
  if (layer.weights.b_ih)
    for (int n = 0; n < 2; ++n) result.push_back(torch::stable::clone(*bias));
  if (layer.has_projection) result.push_back(product(g.grad_h, g.hidden));
  if (layer.weights.peepholes) {
    const Tensor c_prev = of_reserve(kept.c_prev, hidden);
    Tensor c = of_reserve(kept.raw, hidden);
    if (layer.cell_clip > 0) {
      const auto limit = [&](double value) {
        Tensor filled = empty({1}, x, layer.dtype);
        return OptionalTensor(torch::stable::fill_(filled, value));
      };
      c = call_operator("aten::clamp", "Tensor", c, limit(-layer.cell_clip), limit(layer.cell_clip));
    }
    const Tensor peepholes = empty({3, hidden}, x, layer.dtype);
    const auto of_gate = [&](int64_t row, int64_t gate, const Tensor& factor) {
      Tensor to = part(peepholes, 0, row, 1);
      torch::stable::copy_(to, sum(multiply(part(g.sums, 1, gate * hidden, hidden), factor)));
    };
    of_gate(0, 0, c_prev);
    of_gate(1, 1, c_prev);
    of_gate(2, 3, c);
    result.push_back(peepholes);
  }
  if (!layer.has_norms()) return result;
  for (const T* const normalised : {kept.input_sums, kept.recurrent_sums}) {
    result.push_back(sum(multiply(g.sums, of_reserve(normalised, gates))));
    result.push_back(torch::stable::clone(*bias));
  }
  result.push_back(sum(multiply(g.grad_norm, g.norm_c)));
  result.push_back(sum(g.grad_norm));
  return result;
}

template <class T>
VariantInputGrads backward(const VariantCall& call, const VariantOutputGrads& grads, const Tensor& reserve,
                           bool needs_input, bool needs_weights) {
  const VariantLayer layer(call);
  layer.check_gradients(grads, reserve);
  const DeviceScope scope(call.x);
  const bool norms = layer.has_norms(), projection = layer.has_projection;
  const int64_t rows = layer.num_rows(), batch = layer.batch, hidden = layer.hidden_size, width = layer.proj_width,
                gates = layer.gates_width();
  const auto make = [&](SizeList sizes) { return empty(sizes, call.x, layer.dtype); };
  const auto make_if = [&](bool wanted, int64_t columns) { return make({wanted ? rows : 0, columns}); };
  RowGradients g = {.sums = make({rows, gates}),
                    .of_ih = make_if(norms, gates),
                    .of_hh = make_if(norms, gates),
                    .grad_h = make_if(projection, width),
                    .hidden = make_if(projection, hidden),
                    .grad_norm = make_if(norms, hidden),
                    .norm_c = make_if(norms, hidden)};
  if (!norms) g.of_ih = g.of_hh = g.sums;

  // The gradients of the last h and c are where those of the first ones will be.
  const auto carried = [&](const OptionalTensor& grad, int64_t columns) {
    Tensor result = make({batch, columns});
    return grad ? torch::stable::copy_(result, *grad) : torch::stable::fill_(result, 0.0);
  };
  const Tensor grad_h_0 = carried(grads.h_n, width), grad_c_0 = carried(grads.c_n, hidden);
  const OptionalTensor grad_h = dense(grads.h, layer.dtype), grad_cells = dense(grads.cells, layer.dtype);
  const LayerShape shape = layer.shape();
  const LayerKernel::Pass pass = variant_kernel(layer, /*training=*/true, scope.device()).backward;
  const GroupMemory memory(pass.launch, shape, /*backward=*/true, call.x);
  OptionalTensor w_hh_t, w_hr_t, grad_hidden;
  if (norms) grad_hidden = make({batch, hidden});
  VariantBackwardParams<T> params = {.reverse = layer.reverse,
                                     .w_hh = const_data<T>(layer.weights.w_hh),
                                     .w_hr = const_data<T>(layer.weights.w_hr),
                                     .cell = layer.cell<T>(),
                                     .kept = layer.kept<T>(reserve),
                                     .grad_output = const_data<T>(grad_h),
                                     .grad_cells = const_data<T>(grad_cells),
                                     .grad_h_n = nullptr,
                                     .grad_c_n = nullptr,
                                     .first_time = 0,
                                     .grad_sums = data<T>(g.sums),
                                     .grad_ih = data<T>(g.of_ih),
                                     .grad_hh = data<T>(g.of_hh),
                                     .grad_h = data<T>(g.grad_h),
                                     .hidden = data<T>(g.hidden),
                                     .grad_norm = data<T>(g.grad_norm),
                                     .norm_c = data<T>(g.norm_c),
                                     .grad_h_0 = data<T>(grad_h_0),
                                     .grad_c_0 = data<T>(grad_c_0),
                                     .grad_hidden = data<T>(grad_hidden),
                                     .exchange = memory.exchange(0)};
  const auto for_step = [&](int64_t) {
    w_hh_t = dense(transposed(layer.weights.w_hh), layer.dtype);
    if (projection) w_hr_t = dense(transposed(*layer.weights.w_hr), layer.dtype);
    params.w_hh_t = const_data<T>(w_hh_t);
    params.w_hr_t = const_data<T>(w_hr_t);
  };
  if (pass.chosen == pass.step) for_step(0);
  run(pass, shape, &params, sizeof(params), scope.stream(), for_step);

  VariantInputGrads results = {.x = make({0}), .h_0 = grad_h_0, .c_0 = grad_c_0, .weights = {}};
  if (needs_weights) {
    const Tensor x = dense(call.x, layer.dtype);
    results.weights = weight_gradients<T>(layer, g, layer.lengths ? without_padding(x, *layer.lengths) : x, reserve);
  }
  if (needs_input) {
    results.x = make({layer.seq_len, batch, layer.input_size});
    mm_out(torch::stable::view(results.x, {rows, layer.input_size}), g.of_ih, layer.weights.w_ih);
  }
  return results;
}

}  // namespace

VariantInputGrads variant_backward_cuda(const VariantCall& call, const VariantOutputGrads& grads, const Tensor& reserve,
                                        bool needs_input, bool needs_weights) {
  return call.x.scalar_type() == ScalarType::Double ? backward<double>(call, grads, reserve, needs_input, needs_weights)
                                                    : backward<float>(call, grads, reserve, needs_input, needs_weights);
}

}  // namespace lstm_fused
