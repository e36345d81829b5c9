"""The two operators: what they compute without data (fake tensors), and their place in torch's dispatcher.

``torch.ops.lstm_fused.forward(input, h_0, c_0, weights, bidirectional, lengths, reset, dropout_mask, training,
return_cells) -> (output, h_n, c_n, cells, reserve)`` runs the whole stack of layers and directions. Tensors are shaped
as in :func:`lstm_fused.reference.lstm`. ``training`` keeps the reserve that ``torch.ops.lstm_fused.backward`` needs;
without it the reserve is empty, and without ``return_cells`` so are the cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _library  # noqa: F401  (registers the operators)

forward = torch.ops.lstm_fused.forward.default
backward = torch.ops.lstm_fused.backward.default


def _reserve_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@torch.library.register_fake("lstm_fused::forward")
def _fake_forward(
    input: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[Tensor],
    bidirectional: bool,
    lengths: Tensor | None,
    reset: Tensor | None,
    dropout_mask: Tensor | None,
    training: bool,
    return_cells: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    seq_len, batch, _ = input.shape
    states, _, proj_width = h_0.shape
    hidden = c_0.size(2)
    directions = 2 if bidirectional else 1
    output = input.new_empty((seq_len, batch, directions * proj_width))
    cells = input.new_empty((seq_len, batch, directions * hidden) if return_cells else (0,))
    reserve_width = states * 5 * hidden + (states - directions) * proj_width  # csrc/torch/stack.h, reserve
    reserve_size = seq_len * batch * reserve_width if training else 0
    reserve = input.new_empty((reserve_size,), dtype=_reserve_dtype(input.dtype))
    h_n, c_n = h_0.new_empty(h_0.shape), c_0.new_empty(c_0.shape)
    return output, h_n, c_n, cells, reserve


@torch.library.register_fake("lstm_fused::backward")
def _fake_backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    grad_cells: Tensor | None,
    input: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[Tensor],
    bidirectional: bool,
    lengths: Tensor | None,
    reset: Tensor | None,
    dropout_mask: Tensor | None,
    output: Tensor,
    reserve: Tensor,
    needs_input_grad: bool,
    needs_weight_grads: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    grad_input = input.new_empty(input.shape if needs_input_grad else (0,))
    grad_weights = [w.new_empty(w.shape) for w in weights] if needs_weight_grads else []
    return grad_input, h_0.new_empty(h_0.shape), c_0.new_empty(c_0.shape), grad_weights
