#include "torch/cpu/input_projection.h"
#include "torch/cpu/variant.h"

namespace lstm_fused {
namespace {

template <class T>
VariantOutputs forward(const VariantCall& call, bool training) {
  const VariantLayer layer(call);
  const LayerShape shape = layer.shape();
  const CpuKernels<T>& kernels = variant_cpu_kernels<T>();
  const CpuSchedule schedule(layer.problem(training));
  const bool is_direct = schedule.plan.kernel == CpuPlan::kDirect, norms = layer.has_norms();
  const CpuForward<T>& recurrence = is_direct ? kernels.direct : kernels.packed;
  const int64_t seq_len = layer.seq_len, batch = layer.batch, hidden = layer.hidden_size, width = layer.proj_width,
                gates = layer.gates_width();
  const auto make = [&](SizeList sizes) { return empty(sizes, call.x, layer.dtype); };
  const VariantOutputs results = {.h = make({seq_len, batch, width}),
                                  .cells = make({seq_len, batch, hidden}),
                                  .h_n = make({batch, width}),
                                  .c_n = make({batch, hidden}),
                                  .reserve = make({training ? layer.reserve_size() : 0})};

  // A norm needs all of W_ih x by itself.
  const InputProjection projection = {batch, layer.input_size, hidden, sizeof(T), /*pairs=*/false};
  const bool fuses_input =
      !norms && (is_direct ? schedule.plan.direct_w_ih && seq_len == 1 : projection.in_recurrence());
  const int64_t fused_size = fuses_input ? layer.input_size : 0;
  const int64_t range = fuses_input ? seq_len : std::min(projection.steps_per_range(false), seq_len);

  // Scratch, one behind the other: the kernel's, and what is needed but not kept.
  const int64_t kernel_size = whole_lines<T>(recurrence.workspace(shape, fused_size));
  const auto scratch_size = [&](bool wanted, int64_t size) { return wanted && !training ? whole_lines<T>(size) : 0; };
  const int64_t input_size = scratch_size(!fuses_input, range * batch * gates),
                sums_size = scratch_size(norms, batch * gates), raw_size = scratch_size(norms, batch * hidden),
                factor_size = scratch_size(layer.recurrent_mask.has_value(), 2 * batch * width);
  const Tensor scratch = make({kernel_size + input_size + sums_size + raw_size + factor_size});
  T* free = data<T>(scratch) + kernel_size;
  const auto take = [&](int64_t size) { return size > 0 ? std::exchange(free, free + size) : nullptr; };
  CpuVariant<T> variant = {.cell = layer.cell<T>(), .kept = {}};
  if (training) {
    variant.kept = layer.kept<T>(results.reserve);
  } else {
    variant.kept.input_sums = take(input_size);
    variant.kept.recurrent_sums = take(sums_size);
    variant.kept.raw = take(raw_size);
    variant.kept.factor = take(factor_size);
    if (norms) variant.kept.gates = variant.kept.input_sums;
  }

  const Tensor x = dense(call.x, layer.dtype), h_0 = dense(call.h_0, layer.dtype), c_0 = dense(call.c_0, layer.dtype);
  const void* const w_ih = const_data<void>(layer.weights.w_ih);
  const DType type = kernel_type(layer.dtype);
  CpuForwardParams<T> params{};
  params.reverse = layer.reverse;
  params.w_hh = const_data<void>(layer.weights.w_hh);
  params.w_hr = const_data<void>(layer.weights.w_hr);
  params.b_ih = const_data<T>(layer.weights.b_ih);
  params.b_hh = const_data<T>(layer.weights.b_hh);
  params.h_0 = const_data<T>(h_0);
  params.c_0 = const_data<T>(c_0);
  params.gates = variant.kept.input_sums;
  params.keep_gates = training;
  params.cells = data<T>(results.cells);
  params.output = data<T>(results.h);
  params.h_n = data<T>(results.h_n);
  params.c_n = data<T>(results.c_n);
  params.x = fuses_input ? const_data<T>(x) : nullptr;
  params.w_ih = w_ih;
  params.input_size = fused_size;
  params.weight_type = params.kept_type = type;
  params.variant = &variant;
  for (int64_t begin = 0; begin < seq_len; begin += range) {
    const int64_t end = std::min(begin + range, seq_len), time = layer.reverse ? seq_len - end : begin;
    if (!training) params.gates_time = time;
    if (!fuses_input)
      multiply_matrices<T>(
          kernels,
          {.rows = (end - begin) * batch,
           .terms = layer.input_size,
           .a = const_data<T>(x) + time * batch * layer.input_size,
           .factors = {{gates, w_ih, type, params.gates + (time - params.gates_time) * batch * gates, type}},
           .b_transposed = true},
          x);
    recurrence.run({.shape = shape,
                    .directions = &params,
                    .num_directions = 1,
                    .workspace = data<T>(scratch),
                    .steps = {begin, end},
                    .split = schedule.split,
                    .parallel = schedule.parallel});
  }
  return results;
}

}  // namespace

VariantOutputs variant_cpu(const VariantCall& call, bool training) {
  return call.x.scalar_type() == ScalarType::Double ? forward<double>(call, training) : forward<float>(call, training);
}

}  // namespace lstm_fused
