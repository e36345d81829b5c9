// What a kernel of a layer is called with.
#pragma once

#include "cpu/parallel.h"
#include "params.h"

namespace lstm_fused {

// How the threads share a layer. Rows: each takes some rows of the batch (of one direction) through all of time and
// never waits. Gates: each takes some hidden units of all rows and they meet after every step; W_hh is then read once,
// not once a thread.
enum class CpuSplit { kRows, kGates };

// Steps [begin, end) in a direction's own order of time, in backward against it. A sequence may be run in several
// ranges, in order and with one workspace: the one that begins at 0 packs the weights into it, the one that ends at T
// leaves the states, or their gradients.
struct Steps {
  int64_t begin, end;
};

// Params: of one direction.
template <class T, class Params>
struct CpuRun {
  const LayerShape& shape;
  const Params* directions;
  int num_directions;
  T* workspace;  // of the directions, one behind the other
  Steps steps;
  CpuSplit split;
  const Parallel& parallel;
};

}  // namespace lstm_fused
