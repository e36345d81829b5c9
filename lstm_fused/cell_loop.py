"""The gradients of a cell's weights, of all steps of a loop at once.

By itself each step of a loop over an ``LSTMCell`` has gradients of all weights, and autograd adds them up: with one row
at H = 512 that is most of a step. Here a step's backward leaves the gradients of its gates instead, with the input and
the h that the weights met, and a node that is behind all of the loop's steps multiplies them as the rows of one matrix.

The first step of a loop cannot know of others, and has gradients of its own; so has one whose gradients may be
differentiated again. Only on the CPU: on a GPU the node would have to wait for other streams.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _library
from .options import MaybeTensor

_WEIGHT_GRADS = functools.partial(torch._C._dispatch_call_boxed, torch.ops.lstm_fused.cell_weight_grads.default._handle)
_library.IMPLEMENTATIONS.impl("cell_weight_grads", torch.library.fallthrough_kernel, "Autograd")

# In elements of the weights, as a measure of time: fewer of them gain nothing; gradients of its own cost a step, beside
# the elements themselves, as much as _OF_A_CALL; and the node, some 30 us, pays once steps before it cost more.
_LEAST_ELEMENTS, _OF_A_CALL, _WORTH_A_NODE = 1 << 14, 1 << 15, 1 << 19

# So many are multiplied as soon as they are there: more make the product no faster, and would be kept.
_MOST_ROWS = 512


class Loop:
    """Steps of one graph, each from the state that another left, with the same weights."""

    __slots__ = "left", "steps", "token", "trained", "weights"

    steps: int
    token: Tensor | None  # ties steps to the node that multiplies, as soon as it pays; empty
    left: Left
    trained: list[bool]

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = weights
        self.steps = 1  # before this one
        self.token = None

    def goes_on(self, weights: Sequence[Tensor]) -> bool:
        """Whether the next step, with these weights, belongs to it."""
        if self.token is None and self.steps * (_elements(weights) + _OF_A_CALL) < _WORTH_A_NODE:
            self.steps += 1
            return True
        if not all(map(operator.is_, weights, self.weights)):
            return False
        trained = [weight.requires_grad for weight in weights]
        if self.token is not None:
            return self.token.dtype == weights[0].dtype and trained == self.trained
        # A weight that is computed may be another tensor at every step.
        if True not in trained or not all(weight.is_leaf for weight in weights):
            return False
        self.left, self.trained = Left(), trained
        self.token = _Weights.apply(self.left, *weights)
        return True

    def is_awaited(self) -> bool:
        """Whether the node is part of this backward; if not, nobody wants the weights' gradients."""
        assert self.token is not None
        return torch._C._will_engine_execute_node(self.token.grad_fn)  # type: ignore[arg-type]


def is_run_by_engine(ctx: Any) -> bool:
    """Rather than by compiled autograd, which adds up whatever nodes return, and cannot add None."""
    return isinstance(ctx, torch.autograd.function.BackwardCFunction)


def can_leave(ctx: Any, *grads: MaybeTensor) -> bool:
    """Whether a step's backward of these can leave something for a node that comes later."""
    is_batched = torch._C._functorch.is_legacy_batchedtensor  # many gradients at once
    return is_run_by_engine(ctx) and not any(grad is not None and is_batched(grad) for grad in grads)


def _elements(weights: Sequence[Tensor]) -> int:
    return weights[0].numel() + weights[1].numel()


def loop_of(node: Any, weights: Sequence[Tensor], step: type) -> Loop | None:
    """The loop of a step whose h_0 is made by ``node``, or by one that takes its first argument from there.

    Steps are the nodes of the type ``step``. None for the first step, and where a loop gains nothing.
    """
    if node is None or _elements(weights) < _LEAST_ELEMENTS or not weights[0].is_cpu:
        return None
    if type(node) is not step and node.next_functions:
        node, _ = node.next_functions[0]
    if type(node) is not step:
        return None
    loop: Loop = getattr(node, "loop", None) or Loop(weights)
    return loop if loop.goes_on(weights) else Loop(weights)


class Left:
    """What the steps have left, of each backward that is running: the engine's number of it."""

    def __init__(self) -> None:
        self.of_backward: dict[int, _Rows] = {}

    def add(self, grad_gates: Tensor, input: Tensor, h_0: MaybeTensor, weights: Sequence[Tensor]) -> None:
        self.of_backward.setdefault(torch._C._current_graph_task_id(), _Rows()).add(grad_gates, input, h_0, weights)

    def grads(self) -> list[Tensor]:
        """Of this backward; none where nothing was left."""
        rows = self.of_backward.pop(torch._C._current_graph_task_id(), None)
        return [] if rows is None else rows.grads()


class _Rows:
    def __init__(self) -> None:
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []
        self.count = 0
        self.sums: list[Tensor] = []

    def add(self, grad_gates: Tensor, input: Tensor, h_0: MaybeTensor, weights: Sequence[Tensor]) -> None:
        count = grad_gates.size(0)
        if h_0 is None:
            h_0 = input.new_zeros((*input.shape[:-1], weights[1].size(1)))
        if input.dim() == 1:
            input, h_0 = input.unsqueeze(0), h_0.unsqueeze(0)
        self.rows.append((grad_gates, input, h_0))
        self.weights = weights
        self.count += count
        if self.count >= _MOST_ROWS:
            self._multiply()

    def grads(self) -> list[Tensor]:
        if self.rows:
            self._multiply()
        return self.sums

    def _multiply(self) -> None:
        one = len(self.rows) == 1
        grad_gates, input, h_0 = self.rows[0] if one else (torch.cat(part) for part in zip(*self.rows, strict=True))
        grads = _WEIGHT_GRADS(grad_gates, input, h_0, self.weights)
        if self.sums:
            torch._foreach_add_(self.sums, grads)
        else:
            self.sums = grads
        self.rows, self.count = [], 0


class _Weights(torch.autograd.Function):
    """The node: autograd comes to it when all of the loop's steps that take part have been."""

    @staticmethod
    def forward(ctx: Any, left: Left, *weights: Tensor) -> Tensor:
        ctx.left, ctx.weights = left, weights
        ctx.set_materialize_grads(False)
        return weights[0].new_empty(0)

    @staticmethod
    def backward(ctx: Any, _: MaybeTensor) -> tuple[MaybeTensor, ...]:
        if not is_run_by_engine(ctx):
            return None, *(torch.zeros_like(weight) for weight in ctx.weights)
        return None, *(ctx.left.grads() or [None] * len(ctx.weights))


@torch.library.register_fake("lstm_fused::cell_weight_grads")
def _fake_cell_weight_grads(grad_gates: Tensor, input: Tensor, h_0: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    return [weight.new_empty(weight.shape) for weight in weights]
