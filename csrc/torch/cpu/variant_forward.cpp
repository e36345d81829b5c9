#include "torch/cpu/variant.h"

namespace lstm_fused {
namespace {

// Steps whose x W_ih^T is formed at a time: as forward.cpp, it should still be in a cache when a step reads it, and
// have enough rows to be worth its product's packing.
template <class T>
int64_t steps_per_range(const VariantLayer& layer) {
  constexpr int64_t kRows = 512;
  const int64_t cached = l2_bytes() / 2 / (layer.gates_width() * static_cast<int64_t>(sizeof(T)));
  return std::max<int64_t>(1, std::max(cached, kRows) / std::max<int64_t>(1, layer.batch));
}

template <class T>
VariantOutputs forward(const VariantCall& call, bool training) {
  const VariantLayer layer(call);
  const LayerShape shape = layer.shape();
  const CpuKernels<T>& kernels = variant_cpu_kernels<T>();
  const int64_t batch = layer.batch, hidden = layer.hidden_size, width = layer.proj_width, gates = layer.gates_width();
  const auto make = [&](SizeList sizes) { return empty(sizes, call.x, layer.dtype); };
  const VariantOutputs results = {.h = make({layer.seq_len, batch, width}),
                                  .cells = make({layer.seq_len, batch, hidden}),
                                  .h_n = make({batch, width}),
                                  .c_n = make({batch, hidden}),
                                  .reserve = make({training ? layer.reserve_size() : 0})};
  const int64_t range = std::min(steps_per_range<T>(layer), layer.seq_len);

  // Scratch, one behind the other: the kernel's, and what is not kept.
  const int64_t kernel_size = whole_lines<T>(kernels.variant.forward_workspace(shape));
  const auto scratch_size = [](bool wanted, int64_t size) { return wanted ? whole_lines<T>(size) : 0; };
  const int64_t input_size = scratch_size(!training, range * batch * gates),
                sums_size = scratch_size(!training || !layer.has_norms(), batch * gates),
                factor_size = scratch_size(!training, 2 * batch * width),
                c_size = scratch_size(!training, batch * hidden),
                statistics_size = scratch_size(!training, batch * kNumStatistics);
  const Tensor scratch = make({kernel_size + input_size + sums_size + factor_size + 2 * c_size + statistics_size});
  T* free = data<T>(scratch) + kernel_size;
  const auto take = [&](T*& place, int64_t size) {
    if (size > 0) place = std::exchange(free, free + size);
  };
  VariantKept<T> kept{};
  if (training) kept = layer.kept<T>(results.reserve);
  take(kept.input_sums, input_size);
  take(kept.recurrent_sums, sums_size);
  take(kept.factor, factor_size);
  take(kept.c_prev, c_size);
  take(kept.raw, c_size);
  take(kept.statistics, statistics_size);
  if (!training) kept.gates = kept.input_sums;

  const Tensor x = dense(call.x, layer.dtype), h_0 = dense(call.h_0, layer.dtype), c_0 = dense(call.c_0, layer.dtype);
  VariantForwardParams<T> params = {.reverse = layer.reverse,
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
                                    .c_n = data<T>(results.c_n)};
  Parallel parallel = torch_threads();
  const CpuSplit split = variant_split(layer, parallel);
  const DType type = kernel_type(layer.dtype);
  for (int64_t begin = 0; begin < layer.seq_len; begin += range) {
    const int64_t end = std::min(begin + range, layer.seq_len), time = layer.reverse ? layer.seq_len - end : begin;
    if (!training) params.kept.gates_time = time;
    multiply_matrices<T>(kernels,
                         {.rows = (end - begin) * batch,
                          .terms = layer.input_size,
                          .a = const_data<T>(x) + time * batch * layer.input_size,
                          .factors = {{gates, const_data<void>(layer.weights.w_ih), type,
                                       params.kept.input_sums + (time - params.kept.gates_time) * batch * gates, type}},
                          .b_transposed = true},
                         x);
    kernels.variant.forward({.shape = shape,
                             .directions = &params,
                             .num_directions = 1,
                             .workspace = data<T>(scratch),
                             .steps = {begin, end},
                             .split = split,
                             .parallel = parallel});
  }
  return results;
}

}  // namespace

VariantOutputs variant_cpu(const VariantCall& call, bool training) {
  return call.x.scalar_type() == ScalarType::Double ? forward<double>(call, training) : forward<float>(call, training);
}

}  // namespace lstm_fused
