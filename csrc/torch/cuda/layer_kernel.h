// What the two CUDA entries share: the kernel that runs a layer, and the choice of a function by type.
#pragma once

#include <functional>

#include "kernels/table.h"
#include "torch/variant_layer.h"

namespace lstm_fused {

// The planner's choice, and the kernel that launches at every step: it runs where the device has no room for the other,
// see kTooManyBlocks.
struct LayerKernel {
  struct Pass {
    Launch launch;
    const KernelEntry *chosen, *step;
    Launcher KernelEntry::* launcher;
  };
  Pass forward, backward;
};

// The global memory through which the blocks of a `group` meet, for one launch; of other kinds nothing. It is filled
// with kGroupMissing on the stream, so that a launch never sees what another one left. n: of the launch's directions,
// or layers.
class GroupMemory {
 public:
  GroupMemory(const Launch& launch, const LayerShape& shape, bool backward, const Tensor& like);

  char* exchange(int64_t n) const;
  char* onward(int64_t n) const;  // null of the last layer

 private:
  int64_t exchange_bytes_, onward_bytes_;  // of each n
  int64_t count_, num_onward_;
  Tensor memory_;  // all exchanges, then what goes onward
};

// For one layer of a stack on this device: as many as launch.num_layers says run side by side.
// Raises where this build has no kernel for it.
LayerKernel layer_kernel(const Stack& stack, int64_t layer, bool training, bool allow_tf32, int device);
// For one direction of one layer whose cell is a variant.
LayerKernel variant_kernel(const VariantLayer& layer, bool training, int device);

// Runs one layer, all its directions, or launch.num_layers layers; `params` has an element of `params_bytes` for each,
// forward from below, backward from above. Where `step` runs in place of what was chosen, layer by layer, for_step(n)
// comes first, to complete params[n]. Raises where the kernel cannot be launched.
void run(const LayerKernel::Pass& pass, const LayerShape& shape, const void* params, size_t params_bytes, void* stream,
         const std::function<void(int64_t)>& for_step);

// One of four instantiations.
template <class Function>
Function by_type(ScalarType dtype, Function of_float16, Function of_bfloat16, Function of_float, Function of_double) {
  return dtype == ScalarType::Half       ? of_float16
         : dtype == ScalarType::BFloat16 ? of_bfloat16
         : dtype == ScalarType::Float    ? of_float
                                         : of_double;
}

}  // namespace lstm_fused
