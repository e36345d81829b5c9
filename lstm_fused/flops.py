"""The matrix products of a call, for :class:`torch.utils.flop_counter.FlopCounterMode`, as torch counts its own.

A product of (m, k) and (k, n) is 2 m k n operations. With N steps of all rows, T * B or the N of packed input, forward
multiplies each of them by each matrix of each layer and direction, w_ih, w_hh and w_hr: 2 N times its elements.
Backward multiplies gradients by the same matrices, but by the first layer's w_ih only where the input's are wanted,
and for gradients of weights by what these were multiplied by: as much for each. Where the reserve has no gates, w_ih
and w_hh are multiplied once more. Steps past a row's length count: the sizes do not tell them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from . import _library  # noqa: F401 (the operators)

Shape = Sequence[int]


def _elements(weights: Sequence[Shape]) -> int:
    """Of the matrices among the weights."""
    return sum(math.prod(shape) for shape in weights if len(shape) == 2)


def _by_name(op: Any, args: Sequence[Any]) -> dict[str, Any]:
    """Arguments of a call, less what is at its default at the end."""
    return dict(zip([argument.name for argument in op._schema.arguments], args))


@register_flop_formula([torch.ops.lstm_fused.forward, torch.ops.lstm_fused.infer, torch.ops.lstm_fused.cell])
def _forward(input: Shape, h_0: Shape, c_0: Shape, weights: Sequence[Shape], *args: Any, out_shape: Any = None) -> int:
    return 2 * math.prod(input[:-1]) * _elements(weights)


@register_flop_formula(torch.ops.lstm_fused.backward)
def _backward(*args: Any, out_shape: Any = None) -> int:
    given = _by_name(torch.ops.lstm_fused.backward.default, args)
    steps, input_size = math.prod(given["input"][:-1]), given["input"][-1]
    states, gates, weights = given["h_0"][0], 4 * given["c_0"][2], given["weights"]
    elements = _elements(weights) * (2 if given["needs_weight_grads"] else 1)
    if not given["needs_input_grad"]:
        elements -= (2 if given["bidirectional"] else 1) * gates * input_size
    if given["reserve"][0] < steps * states * gates:
        elements += sum(_elements(weights[n : n + 2]) for n in range(0, len(weights), len(weights) // states))
    return 2 * steps * elements


@register_flop_formula(torch.ops.lstm_fused.variant)
def _variant(x: Shape, h_0: Shape, c_0: Shape, weights: Sequence[Shape], *args: Any, out_shape: Any = None) -> int:
    return 2 * math.prod(x[:-1]) * _elements(_matrices(weights, h_0, c_0))


@register_flop_formula(torch.ops.lstm_fused.variant_backward)
def _variant_backward(*args: Any, out_shape: Any = None) -> int:
    given = _by_name(torch.ops.lstm_fused.variant_backward.default, args)
    matrices = _matrices(given["weights"], given["h_0"], given["c_0"])
    elements = _elements(matrices) * (2 if given["needs_weight_grads"] else 1)
    if not given["needs_input_grad"]:
        elements -= _elements(matrices[:1])
    return 2 * math.prod(given["x"][:-1]) * elements


def _matrices(weights: Sequence[Shape], h_0: Shape, c_0: Shape) -> Sequence[Shape]:
    """w_ih, w_hh and w_hr of a variant, whose peepholes are no matrix."""
    return [*weights[:2], *((h_0[1], c_0[1]) for _ in range(h_0[1] != c_0[1]))]


@register_flop_formula(torch.ops.lstm_fused.cell_backward)
def _cell_backward(
    grad_h: Shape,
    grad_c: Shape,
    input: Shape,
    h_0: Shape,
    c_0: Shape,
    weights: Sequence[Shape],
    reserve: Shape,
    needs_input_grad: bool,
    needs_weight_grads: bool,
    needs_state_grads: bool,
    *args: Any,
    out_shape: Any = None,
) -> int:
    w_ih, w_hh = (math.prod(shape) for shape in weights[:2])
    elements = w_ih * needs_input_grad + w_hh * needs_state_grads + (w_ih + w_hh) * needs_weight_grads
    return 2 * math.prod(input[:-1]) * elements


@register_flop_formula(torch.ops.lstm_fused.cell_backward_gates)
def _cell_backward_gates(*args: Any, out_shape: Any = None) -> int:
    *of_cell, needs_input_grad, needs_state_grads = args
    return _cell_backward(*of_cell, needs_input_grad, False, needs_state_grads)


@register_flop_formula(torch.ops.lstm_fused.cell_weight_grads)
def _cell_weight_grads(
    grad_gates: Shape, input: Shape, h_0: Shape, weights: Sequence[Shape], out_shape: Any = None
) -> int:
    return 2 * math.prod(grad_gates) * (input[-1] + h_0[-1])
