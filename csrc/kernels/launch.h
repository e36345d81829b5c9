// What every launcher looks like. Plain C++, so that builds without a CUDA toolkit have the same table, only shorter.
#pragma once

#include "element.h"
#include "params.h"
#include "tiles.h"

namespace lstm_fused {

// Runs one layer, all its directions, on a CUDA stream, and returns a cudaError_t as int; 0 is success. `params` points
// to launch.num_directions of ForwardParams<T, Accumulator<T>> or BackwardParams<T, Accumulator<T>>, T being the
// element type of launch.dtype (of variants to one of those in variant_params.h); `stream` is a cudaStream_t. A
// launcher allocates nothing and waits for nothing.
using Launcher = int (*)(const Launch& launch, const LayerShape& shape, const void* params, void* stream);

// What a launcher returns where the device has no room for all blocks of a `group` at once, or for one `cluster`, and
// nothing was started: cudaErrorCooperativeLaunchTooLarge.
constexpr int kTooManyBlocks = 720;

struct Index {
  int x, y, z;
};

// How a kernel is started.
struct Grid {
  Index blocks;
  int threads;
  int64_t shared_bytes = 0;  // dynamic, per block
  int cluster = 1;           // blocks along x that form a cluster; kTooManyBlocks where there is no room for one
  bool together = false;     // blocks wait for one another: all run at once, or kTooManyBlocks is returned
};

}  // namespace lstm_fused
