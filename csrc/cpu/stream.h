// A stream: inference of a stack in one direction, call after call, with weights that were packed beforehand and a
// state that stays. Sizes as in params.h; panels as in isa/product.h: kPanelWidth = 2 vectors of lanes.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"

namespace lstm_fused {

// How packed weights are stored. They are computed in the type of x, as which kWide stores them.
enum class StreamWeights : int32_t { kWide, kBFloat16, kInt8 };

// Rows of weights in panels: rows of a panel are its lanes, K runs along it. A block is one vector of units, and two
// panels: of its rows i and f, then g and o. Rows that fill up a panel are zero.
struct StreamLayer {
  const void* w_ih;  // (blocks, 2, I, kPanelWidth), in the second layer and later I = P
  const void* w_hh;  // (blocks, 2, P, kPanelWidth)
  const void* w_hr;  // (panels of P columns, H, kPanelWidth), null without projection
  // Of x's type, in the order of the rows: b_ih + b_hh, and for kInt8 what a row is multiplied by, else null.
  const void *bias, *scale_ih, *scale_hh, *scale_hr;
};

constexpr int64_t kStreamRows =
    16;  // of x that share a reading of W_ih, if the batch is not larger: it bounds the scratch

struct Stream {
  int64_t batch, input_size, hidden_size, proj_width, num_layers;
  const StreamLayer* layers;
  StreamWeights weights;
  // Owned by the stream, of x's type. P' and H' are P and H in whole panels.
  void* h;        // (L, B, P')
  void* c;        // (L, B, H')
  void* outputs;  // (2, rows, P'): of a layer and of the one below
  void* gates;    // (rows, 4H'): x W_ih^T
  void* hidden;   // (B, H') with projection: o tanh(c)

  // Steps that are taken together, layer by layer. Nothing else depends on it.
  int64_t steps_at_once() const { return batch < kStreamRows ? kStreamRows / batch : 1; }
  int64_t rows() const { return steps_at_once() * batch; }
};

// y (T, B, P) for x (T, B, I); h and c go on.
using StreamRun = void(const Stream&, int64_t seq_len, const void* x, void* y, const Parallel&);

}  // namespace lstm_fused
