// One call of a CPU kernel on one thread, `calls` times, by the instruction set that it is compiled with: for
// bench/arm.py to count the instructions of. arm CASE CALLS; without them, the cases.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "cpu/kernels.h"

using namespace lstm_fused;

namespace {

const CpuKernels<float>& kKernels = LSTM_FUSED_ISA::kInstructionSet.float32;
const Parallel kAlone = {1, nullptr};

using Numbers = std::vector<float>;

// Between -0.5 and 0.5; in half types their halves, whatever those stand for.
Numbers numbers(int64_t count) {
  static uint32_t state = 1;
  Numbers result(count);
  for (float& number : result) {
    state = state * 1664525 + 1013904223;
    number = static_cast<float>(state >> 8) / 0x1000000 - 0.5f;
  }
  return result;
}

// 64-byte aligned, for the whole run.
float* workspace(int64_t floats) { return static_cast<float*>(std::aligned_alloc(64, (floats / 16 + 1) * 64)); }

using Call = std::function<void()>;

struct Sizes {
  int64_t T, B, I, H;
};

struct Recurrence {
  Sizes s;
  DType weights = DType::kFloat32;
  LayerShape shape = {s.T, s.B, s.H, s.H, s.H, s.H, s.B * s.H, false, {nullptr, nullptr}};
  Numbers x = numbers(s.T * s.B * s.I), w_ih = numbers(4 * s.H * s.I), w_hh = numbers(4 * s.H * s.H),
          b = numbers(4 * s.H), state = numbers(s.B * s.H), gates = numbers(s.T * s.B * 4 * s.H),
          cells = numbers(s.T * s.B * s.H), output = numbers(s.T * s.B * s.H), h_n = state, c_n = state,
          grad_gates = gates, grad_h_0 = state, grad_c_0 = state;

  void forward(const CpuForward<float>& kernel, float* workspace) {
    CpuForwardParams<float> p{};
    p.w_hh = w_hh.data();
    p.w_ih = w_ih.data();
    p.weight_type = weights;
    p.b_ih = p.b_hh = b.data();
    p.x = x.data();
    p.input_size = s.I;
    p.h_0 = p.c_0 = state.data();
    p.gates = gates.data();
    p.keep_gates = true;
    p.cells = cells.data();
    p.output = output.data();
    p.h_n = h_n.data();
    p.c_n = c_n.data();
    kernel.run({.shape = shape,
                .directions = &p,
                .num_directions = 1,
                .workspace = workspace,
                .steps = {0, s.T},
                .split = CpuSplit::kRows,
                .parallel = kAlone});
  }

  void backward(float* workspace) {
    CpuBackwardParams<float> p{};
    p.w_hh = w_hh.data();
    p.weight_type = p.gates_type = p.kept_type = p.grad_output_type = DType::kFloat32;
    p.h_0 = p.c_0 = state.data();
    p.gates = gates.data();
    p.cells = cells.data();
    p.output = p.grad_output = output.data();
    p.grad_gates = grad_gates.data();
    p.grad_h_0 = grad_h_0.data();
    p.grad_c_0 = grad_c_0.data();
    kKernels.backward({.shape = shape,
                       .directions = &p,
                       .num_directions = 1,
                       .workspace = workspace,
                       .steps = {0, s.T},
                       .split = CpuSplit::kRows,
                       .parallel = kAlone});
  }
};

Call forward(const CpuForward<float>& kernel, Sizes sizes, DType weights = DType::kFloat32) {
  Recurrence recurrence{sizes, weights};
  float* const scratch = workspace(kernel.workspace(recurrence.shape, sizes.I));
  return [=, &kernel]() mutable { recurrence.forward(kernel, scratch); };
}

Call backward(Sizes sizes) {
  Recurrence recurrence{sizes};
  float* const scratch = workspace(kKernels.backward_workspace(recurrence.shape));
  return [=]() mutable { recurrence.backward(scratch); };
}

// As of an input by a weight; or as of a weight's gradient.
Call product(int64_t rows, int64_t columns, int64_t terms, bool gradient) {
  const Numbers a = numbers(rows * terms), b = numbers(terms * columns);
  float* const y = workspace(rows * columns);
  ProductParams<float> p{};
  p.rows = rows;
  p.terms = terms;
  p.a_transposed = gradient;
  p.b_transposed = !gradient;
  p.factors[0] = {columns, nullptr, DType::kFloat32, y, DType::kFloat32};
  float* const scratch = workspace(kKernels.product_workspace(p, 1));
  return [=]() mutable {
    p.a = a.data();
    p.factors[0].b = b.data();
    kKernels.product(p, scratch, kAlone);
  };
}

Call widen(int64_t count, DType type) {
  const Numbers from = numbers(count / 2);
  float* const to = workspace(count);
  return [=] { kKernels.widen({count, from.data(), nullptr, type, to}, kAlone); };
}

// (T, B, I, H)
const std::vector<std::pair<std::string, std::function<Call()>>> kCases = {
    {"forward, (2, 40, 64, 64)", [] { return forward(kKernels.packed, {2, 40, 64, 64}); }},
    {"forward, (8, 1, 64, 64)", [] { return forward(kKernels.packed, {8, 1, 64, 64}); }},
    {"backward, (3, 40, 64, 64)", [] { return backward({3, 40, 64, 64}); }},
    {"a single step, (1, 40, 64, 64)", [] { return forward(kKernels.one_step, {1, 40, 64, 64}); }},
    {"few rows, (1, 4, 128, 128)", [] { return forward(kKernels.direct, {1, 4, 128, 128}); }},
    {"few rows, weights in float16", [] { return forward(kKernels.direct, {1, 4, 128, 128}, DType::kFloat16); }},
    {"few rows, weights in bfloat16", [] { return forward(kKernels.direct, {1, 4, 128, 128}, DType::kBFloat16); }},
    {"product, (80, 64) by (64, 256)", [] { return product(80, 256, 64, false); }},
    {"of a gradient, (256, 80) by (80, 64)", [] { return product(256, 64, 80, true); }},
    {"cells, 64 times 32 units", [] { return forward(kKernels.direct, {64, 1, 1, 32}); }},
    {"4096 float16 to float32", [] { return widen(4096, DType::kFloat16); }},
};

}  // namespace

int main(int argc, char** argv) {
  for (const auto& [name, prepare] : kCases) {
    if (argc == 1) std::puts(name.c_str());
    if (argc < 3 || argv[1] != name) continue;
    const Call call = prepare();
    for (int n = std::atoi(argv[2]); n > 0; --n) call();
  }
}
