"""What a call keeps for its backward, and which of it may change meanwhile.

A first backward reads the reserve, c_0, W_hh and W_hr; W_ih of the first layer for the gradient of input alone; input
and h_0 for those of weights alone; and no bias. The rest is needed only where gradients are differentiated again, which
starts from the tensors themselves: they are held, and whoever has changed one in place learns of it there, not in a
backward that has no use for it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .options import MaybeTensor


def other_weights(count: int, num_states: int, bidirectional: bool, needs_input: bool) -> tuple[int, ...]:
    """Which of ``count`` weights, of so many layers and directions, a first backward does not read."""
    return _other_weights(count, int(num_states), bidirectional, needs_input)  # to a tracer a size is no plain number


@functools.cache
def _other_weights(count: int, num_states: int, bidirectional: bool, needs_input: bool) -> tuple[int, ...]:
    per = count // num_states
    first_layer = per * (2 if bidirectional else 1)
    biases = (2, 3) if per >= 4 else ()
    return tuple(n for n in range(count) if n % per in biases or (n % per == 0 and n < first_layer and not needs_input))


def save(
    ctx: Any,
    always: Sequence[MaybeTensor],
    input: Tensor,
    h_0: MaybeTensor,
    weights: Sequence[Tensor],
    others: Sequence[int],
    needs_input_and_h_0: bool,
) -> None:
    """Keeps all of that for a first backward but the weights with the numbers ``others`` and, maybe, input and h_0."""
    ctx.others = [(n, weights[n], weights[n]._version) for n in others]
    kept: list[MaybeTensor] = [*weights]
    for n in others:
        kept[n] = None
    ctx.versions = None
    if not needs_input_and_h_0 and not torch._C._are_functorch_transforms_active():
        ctx.versions = [None if t is None else t._version for t in (input, h_0)]
    ctx.num_always = len(always)
    ctx.save_for_backward(*always, input, h_0, *kept)


def stop_checks(node: Any) -> None:
    """Rids input and h_0 of torch's check that nobody has changed them, where a first backward does not read them.

    For the node of the call, as soon as there is one. Hooks do that; where there are others already, they have.
    """
    if node is None or node.versions is None or torch._C._autograd._top_saved_tensors_default_hooks(False):
        return
    for n, version in enumerate(node.versions):
        if version is not None:
            node._raw_saved_tensors[node.num_always + n].register_hooks(_itself, _itself)


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def saved(ctx: Any, check: bool) -> tuple[tuple[Any, ...], Tensor, Any, list[Tensor]]:
    """What :func:`save` was given. ``check`` raises where a tensor that it did not have to keep has changed."""
    count = ctx.num_always
    tensors = ctx.saved_tensors
    input, h_0, *weights = tensors[count:]
    for n, weight, _ in ctx.others:
        weights[n] = weight
    if check:
        held = [(f"weight {n}", weight, version) for n, weight, version in ctx.others]
        if ctx.versions is not None:
            held += [(name, t, v) for name, t, v in zip(("input", "h_0"), (input, h_0), ctx.versions) if t is not None]
        for name, tensor, version in held:
            if tensor._version != version:
                raise RuntimeError(
                    f"one of the variables needed to differentiate the gradient of an LSTM has been modified by an "
                    f"inplace operation: {name}, of size {list(tensor.shape)}, is at version {tensor._version}; "
                    f"expected version {version} instead"
                )
    return tensors[:count], input, h_0, weights
