// The contract between csrc/torch, the planner, the CUDA kernels and the CPU kernels: plain structs, no behaviour.
// Sizes:  T = seq_len, B = batch, I = input_size, H = hidden_size, P = width of h (proj_size, or H without one),
//         D = directions (1 or 2), L = num_layers.  Gate order everywhere: i, f, g, o.  Counts and strides are
//         elements.
#pragma once

#include <cstdint>

namespace lstm_fused {

enum class DType : int32_t { kFloat16, kBFloat16, kFloat32, kFloat64 };

// What is asked for: everything the planner needs to know, no pointers.
struct Problem {
  int64_t seq_len = 1;
  int64_t batch = 1;
  int64_t input_size = 1;
  int64_t hidden_size = 1;
  int64_t proj_size = 0;  // 0: none
  int64_t num_layers = 1;
  int64_t num_directions = 1;
  DType dtype = DType::kFloat32;
  bool allow_tf32 = false;
  bool training = false;  // forward keeps a reserve, and backward will follow
  bool has_lengths = false;
  bool has_reset = false;
  bool is_variant = false;  // the cell is not the plain one; it is of one direction of one layer then
  bool has_norms = false;   // and has layer norms
};

// Which steps of a row exist, and where a new segment starts. Both may be null.
struct Segments {
  const int64_t* lengths;  // (B,), in [0, T]
  const bool* reset;       // (T, B)
};

// One direction of one layer, forward. `output` is h after every step; its rows are D*P apart, and the two directions
// of a layer interleave in it. T, B, H, P and the segments are those of the LayerShape beside it.
struct LayerShape {
  int64_t seq_len;
  int64_t batch;
  int64_t hidden_size;
  int64_t proj_width;     // P
  int64_t output_stride;  // distance between rows of `output`, `grad_output`: D*P
  int64_t cells_stride;   // distance between rows of `cells`: H in the reserve, D*H in a returned tensor
  int64_t cells_time;     // distance between steps of `cells`: B*cells_stride, or 0 where one step is kept (inference)
  bool has_projection;
  Segments segments;
  // CPU only: packed rows. (T,): the first row of each step in every (T, B, ...) tensor but `reset`; a step has only
  // the rows that are not over, and lengths do not grow with b. Null: every step has B rows.
  const int64_t* row_begin = nullptr;
};

// T is the type of the tensors, Acc that of sums and of the cell state between steps. On the CPU the two are one, and
// the weights' type is known when it runs: W is void, and they are of weight_type.
template <class T, class Acc = T, class W = T>
struct ForwardParams {
  bool reverse;        // time runs from T-1 to 0
  const W* w_hh;       // (4H, P)
  const W* w_hr;       // (P, H), null without projection
  const T* b_ih;       // (4H,), null without biases
  const T* b_hh;       // (4H,)
  const T* h_0;        // (B, P)
  const T* c_0;        // (B, H)
  T* gates;            // (T', B, 4H): in x W_ih^T unless x is given, out the activated gates if keep_gates
  int64_t gates_time;  // the time of the first row of `gates`, where T' < T
  bool keep_gates;
  Acc* cells;  // (T, B, H) or (B, H); see cells_time
  T* output;   // (T, B, P)
  T* h_n;      // (B, P)
  T* c_n;      // (B, H)

  T* hidden = nullptr;  // (B, H), CUDA only: scratch of `step` with a projection, o * tanh(c)

  // Where the kernel projects the input itself; `gates` is then written only.
  const T* x = nullptr;     // (T, B, I)
  const W* w_ih = nullptr;  // (4H, I)
  int64_t input_size = 0;   // I; 0 without x

  // CUDA only, of `group`: group_exchange_bytes of tiles.h, all kGroupMissing.
  char* exchange = nullptr;
  // Of layers that run at the same time, all but the last: h on its way to the layer above.
  char* onward = nullptr;          // group_onward_bytes, all kGroupMissing
  const T* onward_mask = nullptr;  // (T, B, H), the factor on it, null for one

  DType weight_type = DType::kFloat32;  // CPU only
};

template <class T, class Acc = T>
struct BackwardParams {
  bool reverse;
  const T* w_hh;         // (4H, P)
  const T* w_hr;         // (P, H), null without projection
  const T* h_0;          // (B, P)
  const T* c_0;          // (B, H)
  const T* gates;        // (T, B, 4H), activated, from forward
  const Acc* cells;      // (T, B, H), from forward
  const T* grad_output;  // (T, B, P), null for zero
  const T* grad_cells;   // (T, B, H) with cells_stride of its own: see grad_cells_stride; null for zero
  int64_t grad_cells_stride;
  const T* grad_h_n;  // (B, P), null for zero
  const T* grad_c_n;  // (B, H), null for zero
  T* grad_gates;      // (T, B, 4H), out: gradient of the pre-activations, zero past a row's length
  T* hidden;          // (T, B, H), out with projection: o * tanh(c), the left factor of grad W_hr
  T* grad_h;          // (T, B, P), out with projection: whole gradient of h, the other factor of grad W_hr
  T* grad_h_0;        // (B, P), out
  T* grad_c_0;        // (B, H), out

  Acc* grad_c = nullptr;      // (B, H), scratch of `step`: the gradient of c, carried from step to step
  const T* w_hh_t = nullptr;  // (P, 4H), of `step`: W_hh transposed
  const T* w_hr_t = nullptr;  // (H, P), of `step` with a projection: W_hr transposed
  char* exchange = nullptr;   // of `group`, as forward
  char* onward = nullptr;     // grad_gates on their way to the layer below
  // Read by a layer below that runs at the same time.
  const T* w_ih = nullptr;        // (4H, H)
  const T* input_mask = nullptr;  // (T, B, H), the factor on this layer's input, null for one
};

}  // namespace lstm_fused
