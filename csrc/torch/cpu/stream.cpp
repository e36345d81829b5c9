// The step of lstm_fused.Stream, called by address: by then there are no tensors, only memory, and torch's threads.
#include "torch/cpu/cpu.h"
#include "torch/ops.h"

namespace lstm_fused {
namespace {

void run(const Stream& stream, bool is_double, int64_t seq_len, const void* x, void* y) {
  const InstructionSet& kernels = instruction_set();
  (is_double ? kernels.float64.stream : kernels.float32.stream)(stream, seq_len, x, y, torch_threads());
}

}  // namespace

std::vector<int64_t> stream_facts() {
  return {reinterpret_cast<int64_t>(&run), instruction_set().vector_bytes, multiplies_bytes()};
}

}  // namespace lstm_fused
