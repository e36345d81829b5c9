// A stream: inference of a stack in one direction, call after call, with weights that were packed beforehand and a
// state that stays. Sizes as in params.h; panels as in isa/product.h: kPanelWidth = 2 vectors of lanes.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"

namespace lstm_fused {

// How packed weights are stored. They are computed in the type of x, as which kWide stores them; but for kByteProducts
// the rows that they multiply are rounded to bytes too, each with a factor of its own. That is for CPUs with
// AVX512-VNNI or AVX2 (without AVX-512).
enum class StreamWeights : int32_t { kWide, kBFloat16, kInt8, kByteProducts };

// Rows of weights in panels: rows of a panel are its lanes, K runs along it. A block is one vector of units, and two
// panels: of its rows i and f, then g and o. Rows that fill up a panel are zero. Of kByteProducts a panel is
// (1 + K / 4, kPanelWidth, 4): four k's lie together, and before them the int32 -128 times the sum of the row.
struct StreamLayer {
  const void* w_ih;  // (blocks, 2, I, kPanelWidth), in the second layer and later I = P
  const void* w_hh;  // (blocks, 2, P, kPanelWidth)
  const void* w_hr;  // (panels of P columns, H, kPanelWidth), null without projection
  // Of x's type, in the order of the rows: b_ih + b_hh, and what a row of bytes is multiplied by, else null.
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
  // Of kByteProducts: rows as bytes, and what each is multiplied by: h or o tanh(c) of the batch, then x.
  uint8_t* bytes;  // (B + rows, bytes_stride), the stride being that of the longest row, of I, P or H elements
  void* factors;   // (B + rows,)
  int64_t bytes_stride;

  int64_t steps_taken = 0;  // before this call

  // Steps that are taken together, layer by layer. Nothing else depends on it.
  int64_t steps_at_once() const { return batch < kStreamRows ? kStreamRows / batch : 1; }
  int64_t rows() const { return steps_at_once() * batch; }
};

// y (T, B, P) for x (T, B, I); h and c go on.
using StreamRun = void(const Stream&, int64_t seq_len, const void* x, void* y, const Parallel&);

}  // namespace lstm_fused
