#include "torch/cuda/layer_kernel.h"
#include "torch/cuda/stream.h"

namespace lstm_fused {
namespace {

template <class T>
VariantOutputs forward(const VariantCall& call, bool training) {
  const VariantLayer layer(call);
  const DeviceScope scope(call.x);
  const int64_t rows = layer.num_rows(), batch = layer.batch, hidden = layer.hidden_size, width = layer.proj_width,
                gates = layer.gates_width();
  const auto make = [&](SizeList sizes) { return empty(sizes, call.x, layer.dtype); };
  const VariantOutputs results = {.h = make({layer.seq_len, batch, width}),
                                  .cells = make({layer.seq_len, batch, hidden}),
                                  .h_n = make({batch, width}),
                                  .c_n = make({batch, hidden}),
                                  .reserve = make({training ? layer.reserve_size() : 0})};

  VariantKept<T> kept{};
  std::vector<Tensor> scratch;  // for what is not kept
  const auto take = [&](SizeList sizes) { return data<T>(scratch.emplace_back(make(sizes))); };
  Tensor input_sums;
  if (training) {
    kept = layer.kept<T>(results.reserve);
    input_sums = slice(results.reserve, kept.input_sums - data<T>(results.reserve), {rows, gates});
  } else {
    input_sums = make({rows, gates});
    kept.input_sums = kept.gates = data<T>(input_sums);
    kept.factor = take({2, batch, width});
    kept.c_prev = take({batch, hidden});
    kept.raw = take({batch, hidden});
  }
  if (kept.recurrent_sums == nullptr) kept.recurrent_sums = take({batch, gates});

  const Tensor x = dense(call.x, layer.dtype), h_0 = dense(call.h_0, layer.dtype), c_0 = dense(call.c_0, layer.dtype);
  mm_out(input_sums, torch::stable::view(x, {rows, layer.input_size}), transposed(layer.weights.w_ih));
  const LayerShape shape = layer.shape();
  const LayerKernel::Pass pass = variant_kernel(layer, training, scope.device()).forward;
  const GroupMemory memory(pass.launch, shape, /*backward=*/false, call.x);
  const VariantForwardParams<T> params = {.reverse = layer.reverse,
                                          .w_hh = const_data<T>(layer.weights.w_hh),
                                          .w_hr = const_data<T>(layer.weights.w_hr),
                                          .b_ih = const_data<T>(layer.weights.b_ih),
                                          .b_hh = const_data<T>(layer.weights.b_hh),
                                          .h_0 = const_data<T>(h_0),
                                          .c_0 = const_data<T>(c_0),
                                          .cell = layer.cell<T>(),
                                          .kept = kept,
                                          .output = data<T>(results.h),
                                          .cells = data<T>(results.cells),
                                          .h_n = data<T>(results.h_n),
                                          .c_n = data<T>(results.c_n),
                                          .hidden = layer.has_projection ? take({batch, hidden}) : nullptr,
                                          .exchange = memory.exchange(0)};
  run(pass, shape, &params, sizeof(params), scope.stream(), [](int64_t) {});
  return results;
}

}  // namespace

VariantOutputs variant_cuda(const VariantCall& call, bool training) {
  return call.x.scalar_type() == ScalarType::Double ? forward<double>(call, training) : forward<float>(call, training);
}

}  // namespace lstm_fused
