// The frame of all kernels of a layer, forward and backward: how they go through its steps, and the threads through
// them.
#pragma once

#include <array>

#include "cpu/isa/rows.h"
#include "cpu/run.h"

namespace lstm_fused::LSTM_FUSED_ISA {

// A part of a step, complete before the next one begins. Threads that split the gates share its blocks, or where it
// wants whole rows, the rows.
template <class Kernel>
struct Stage {
  int64_t (Kernel::*num_blocks)() const;  // 0: the layer has no such part
  void (Kernel::*run)(int64_t step, Range rows, Range blocks) const;
  bool wants_rows = false;
};

// A kernel is of one direction. It has
//   prepare(steps)     before a range of steps;
//   pack(n)            before the first step, of n < num_packed();
//   stages()           of a step, and kStepsPastEnd, steps that it takes after the last one;
//   finish(b)          after the last step, of each row.
template <class Kernel, class T, class Params>
void run_layer(const CpuRun<T, Params>& run, int64_t workspace_size) {
  const auto direction = [&](int64_t d) {
    return Kernel(run.shape, run.directions[d], run.workspace + d * workspace_size);
  };
  const Kernel kernels[2] = {direction(0), direction(run.num_directions - 1)};
  const Kernel& first = kernels[0];
  const Team team{run.parallel, run.num_directions};
  const int64_t batch = run.shape.batch;
  const bool ends = run.steps.end == run.shape.seq_len;
  const Range steps = {run.steps.begin, run.steps.end + ends * Kernel::kStepsPastEnd};
  constexpr std::array stages = Kernel::stages();

  team.each(1, 1, [&](int64_t d, int64_t, int64_t) { kernels[d].prepare(run.steps); });
  if (steps.begin == 0)
    team.each(first.num_packed(), INT64_MAX, [&](int64_t d, int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) kernels[d].pack(n);
    });
  if (run.split == CpuSplit::kRows) {
    team.each(batch, kChunk, [&](int64_t d, int64_t begin, int64_t end) {
      for (int64_t step = steps.begin; step < steps.end; ++step)
        for (const Stage<Kernel>& stage : stages)
          if (const int64_t blocks = (first.*stage.num_blocks)())
            (kernels[d].*stage.run)(step, {begin, end}, {0, blocks});
    });
  } else {
    for (int64_t step = steps.begin; step < steps.end; ++step)
      for (const Stage<Kernel>& stage : stages) {
        const int64_t blocks = (first.*stage.num_blocks)();
        team.each(stage.wants_rows && blocks > 0 ? batch : blocks, INT64_MAX,
                  [&](int64_t d, int64_t begin, int64_t end) {
                    const Range part = {begin, end};
                    (kernels[d].*stage.run)(step, stage.wants_rows ? part : Range{0, batch},
                                            stage.wants_rows ? Range{0, blocks} : part);
                  });
      }
  }
  if (!ends) return;
  team.each(batch, INT64_MAX, [&](int64_t d, int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) kernels[d].finish(b);
  });
}

}  // namespace lstm_fused::LSTM_FUSED_ISA
