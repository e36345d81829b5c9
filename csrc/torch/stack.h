// A call's sizes, weights and reserve: what forward and backward must agree on. The user-facing checks are in Python;
// those here keep a direct call of the op from reading where it should not.
#pragma once

#include "cell.h"
#include "params.h"
#include "torch/call.h"

namespace lstm_fused {

struct DirectionWeights {
  Tensor w_ih, w_hh;
  OptionalTensor b_ih, b_hh, w_hr;

  void convert_matrices(ScalarType dtype) {
    w_ih = dense(w_ih, dtype);
    w_hh = dense(w_hh, dtype);
    w_hr = dense(w_hr, dtype);
  }
};

// Where a stack runs. The CPU computes on half types in float: it widens them as it reads them and rounds what comes of
// it, and what it keeps, at once; a GPU computes on them as they are, and keeps the cell state between steps in float.
enum class Platform { kCpu, kCuda };

DType kernel_type(ScalarType dtype);

struct Stack {
  Platform platform;
  torch::stable::Device device;
  int64_t seq_len, batch, input_size, hidden_size, proj_width, num_layers, num_directions;
  bool has_biases, has_projection;
  ScalarType dtype;          // of every tensor in and out
  ScalarType compute_dtype;  // of the kernels' tensors; the reserve is of dtype
  ScalarType cell_dtype;     // of the cell state between steps
  bool keeps_gates = true;   // in the reserve; otherwise backward regenerates them

  std::vector<int64_t> row_begin;  // of packed input: LayerShape's, and the end; else empty

  // Raise where a size or dtype is not what others ask for. A length may be 0: nothing of the row is read.
  static Stack of_forward(Platform platform, const Call& call, bool training);
  static Stack of_backward(Platform platform, const Call& call, const OutputGrads& grads, const Tensor& reserve);

  bool is_packed() const { return !row_begin.empty(); }
  int64_t first_row(int64_t time) const { return is_packed() ? row_begin[time] : time * batch; }
  int64_t num_rows() const { return first_row(seq_len); }
  // A tensor with one element of `width` for every step of every row: (T, B, width), or packed (N, width).
  Sizes by_step(int64_t width) const { return is_packed() ? Sizes{num_rows(), width} : Sizes{seq_len, batch, width}; }
  int64_t output_width() const { return num_directions * proj_width; }
  int64_t layer_input_size(int64_t layer) const { return layer == 0 ? input_size : output_width(); }
  int64_t weights_per_direction() const { return 2 + 2 * has_biases + has_projection; }

  // States (L*D, B, P) and (L*D, B, H), and where those of a layer and direction begin.
  Tensor new_h(const Tensor& like, ScalarType type) const {
    return empty({num_states(), batch, proj_width}, like, type);
  }
  Tensor new_c(const Tensor& like, ScalarType type) const {
    return empty({num_states(), batch, hidden_size}, like, type);
  }
  int64_t h_begin(int64_t layer, int64_t direction) const { return first_state(layer, direction) * proj_width; }
  int64_t c_begin(int64_t layer, int64_t direction) const { return first_state(layer, direction) * hidden_size; }

  // Contiguous: matrices of dtype, biases of compute_dtype.
  DirectionWeights weights(const std::vector<Tensor>& all, int64_t layer, int64_t direction) const;

  // The factor (T*B, D*P) on the input of a layer above the first.
  Tensor mask(const OptionalTensor& dropout_mask, int64_t layer, ScalarType type) const;

  // The reserve, flat: for each layer and direction gates (T, B, 4H), if kept, and cells (T, B, H), then, if kept, the
  // outputs (T, B, D*P) of all layers. On a GPU, a cell in float takes the room of two elements of a half type.
  // lstm_fused/ops.py knows the size, too.
  Tensor gates(const Tensor& reserve, int64_t layer, int64_t direction) const;
  Tensor cells(const Tensor& reserve, int64_t layer, int64_t direction) const;
  Tensor layer_output(const Tensor& reserve, int64_t layer) const;
  // Whether h is in the reserve. It is never read from `output`, which is the caller's to change. Without a projection
  // the CPU forms it again, as o tanh(c).
  bool keeps_outputs() const { return platform == Platform::kCuda || has_projection || !keeps_gates; }
  int64_t gates_begin(int64_t layer, int64_t direction) const;  // in elements of dtype
  int64_t cells_begin(int64_t layer, int64_t direction) const;
  int64_t output_begin(int64_t layer) const;
  int64_t reserve_size() const;

  Problem problem(bool training, bool has_lengths, bool has_reset) const;
  LayerShape layer_shape(const Options& options) const;

 private:
  Stack(Platform platform, const Call& call);

  int64_t num_states() const { return num_layers * num_directions; }
  int64_t first_state(int64_t layer, int64_t direction) const { return (layer * num_directions + direction) * batch; }
  int64_t elements_of_gates() const { return keeps_gates ? kNumGates : 0; }
  int64_t elements_per_cell() const { return platform == Platform::kCuda && cell_dtype != dtype ? 2 : 1; }
  int64_t reserve_per_state() const;  // gates and cells of one layer and direction
  void lay_out_packed(const Tensor& input, const OptionalTensor& lengths);
  void check(const char* name, const Tensor& tensor, SizeList expected, ScalarType type) const;
  void check_masks(const Options& options) const;
  void check_gradients(const OutputGrads& grads, const Tensor& reserve) const;
};

// Those of all layers, one behind the other.
std::vector<Tensor> in_order(const std::vector<std::vector<Tensor>>& of_layers);

}  // namespace lstm_fused
