"""A call of one time step in training, as the cells of its layers: decoders and agents call an LSTM so in a loop.

Cells cost less to call, and those of a loop share the gradients of their weights (:mod:`.cell_loop`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import cell
from .checks import Layout
from .forms import Call
from .options import Options, Outputs

# Of a layer: with fewer, several cells cost more to call than their loop saves.
_LEAST_ELEMENTS = 1 << 18


def suits(call: Call, weights: Sequence[Tensor], layout: Layout, options: Options) -> bool:
    """On the CPU alone: a GPU's kernels run all layers at once."""
    if not call.input.is_cpu or not torch.is_grad_enabled() or not cell.is_plain(call.input, call.hx, weights):
        return False
    columns, hidden, width, _, directions = layout
    if directions != 1 or width != hidden or 4 * hidden * (columns + hidden) < _LEAST_ELEMENTS:
        return False
    return call.input.dim() == 3 and call.input.size(0) == 1 and options == Options()


def run(call: Call, weights: Sequence[Tensor], num_layers: int, dropout: float) -> Outputs:
    """As :func:`lstm_fused.reference.lstm`, without cells."""
    (h,), hx, count = call.input.unbind(), call.hx, len(weights) // num_layers
    before: list[Any] = [None] * num_layers if hx is None else [*zip(*(state.unbind() for state in hx), strict=True)]
    origins = [None] * num_layers if hx is None else _origins(hx[0], num_layers)
    after = []
    for n in range(num_layers):
        if n and dropout:
            h = torch.nn.functional.dropout(h, dropout)
        h, c = cell.step(h, before[n], weights[n * count : (n + 1) * count], origins[n])
        after.append((h, c))
    h_n, c_n = (torch.stack(states) for states in zip(*after, strict=True))
    return Outputs(torch.stack((h,)), h_n, c_n, None)  # no views, which cannot be detached in place


def _origins(h_0: Tensor, num_layers: int) -> Sequence[Any]:
    """The nodes that the layers' h come from, where an earlier call has stacked them, maybe some operations ago."""
    node: Any = h_0.grad_fn
    for _ in range(5):
        behind = () if node is None else node.next_functions
        if not behind:
            break
        if type(node).__name__ == "StackBackward0" and len(behind) == num_layers:
            return [node for node, _ in behind]
        node, _ = behind[0]
    return [None] * num_layers
