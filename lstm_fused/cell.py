"""One step of an LSTM on (B, I), by operators and a ``Function`` of its own: at these sizes the time is the call's.

Steps of a loop may leave the gradients of weights to a node that they share: :mod:`.cell_loop`.

``torch.ops.lstm_fused.cell(input, h_0, c_0, weights, training, allow_tf32) -> (h, c, reserve)`` takes and returns what
:class:`torch.nn.LSTMCell` does, with and without a batch; states that are None are zero, and ``training`` keeps the
reserve that ``torch.ops.lstm_fused.cell_backward`` needs. They have no gradients and are not for compilers: whatever is
not plain eager use goes through :mod:`.functional`, with a dimension for time.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from . import _library, autograd, batching, cell_loop, keeping, ops
from .options import MaybeTensor, Needs, Options, Outputs

# As in ops.py: the overload without a look for __torch_function__.
_CELL = functools.partial(torch._C._dispatch_call_boxed, torch.ops.lstm_fused.cell.default._handle)
_BACKWARD = functools.partial(torch._C._dispatch_call_boxed, torch.ops.lstm_fused.cell_backward.default._handle)
_BACKWARD_GATES = functools.partial(
    torch._C._dispatch_call_boxed, torch.ops.lstm_fused.cell_backward_gates.default._handle
)

for _name in ("cell", "cell_backward", "cell_backward_gates"):
    _library.IMPLEMENTATIONS.impl(_name, torch.library.fallthrough_kernel, "Autograd")


def is_plain(input: Tensor, hx: Sequence[Tensor] | None, weights: Sequence[Tensor]) -> bool:
    """Whether a step is for plain eager use, and :func:`step` takes it."""
    if torch.compiler.is_compiling() or type(input) is not Tensor:
        return False
    if autograd.in_forward_mode() or autograd.transforms_are_active() or torch._C._get_tracing_state():
        return False
    return not (torch._C._len_torch_dispatch_stack() or has_torch_function((*(hx or ()), *weights)))


def step(
    input: Tensor, hx: Sequence[Tensor] | None, weights: Sequence[Tensor], origin: Any = None
) -> tuple[Tensor, Tensor]:
    """h and c after the step. ``origin`` is the node of autograd that h of hx comes from, if it is not h's own."""
    h_0, c_0 = (None, None) if hx is None else hx
    own = weights
    if torch._C._is_any_autocast_enabled() and input.dtype != torch.float64:
        device_type = input.device.type
        if torch.is_autocast_enabled(device_type):
            dtype = torch.get_autocast_dtype(device_type)
            h_0, c_0 = (None if state is None else state.to(dtype) for state in (h_0, c_0))
            input, *weights = [t.to(dtype) for t in (input, *weights)]
    if torch.is_grad_enabled():
        node = origin if origin is not None or h_0 is None else h_0.grad_fn
        loop = cell_loop.loop_of(node, own, _Step._backward_cls)
        h, c = _Step.apply(None if loop is None else loop.token, input, h_0, c_0, *weights)
        node = h.grad_fn
        keeping.stop_checks(node)
        if loop is not None and node is not None:
            node.loop = loop
        return h, c
    h, c, _ = _CELL(input, h_0, c_0, weights, False, ops.uses_tf32(input))
    return h, c


class _Step(torch.autograd.Function):
    """Not for torch.func, whose kind of ``Function`` takes longer to call."""

    @staticmethod
    def forward(
        ctx: Any,
        token: MaybeTensor,
        input: Tensor,
        h_0: MaybeTensor,
        c_0: MaybeTensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        needs = ctx.needs_input_grad
        needs_input, needs_weights = needs[1], True in needs[4:]
        ctx.needs = needs_input, needs_weights, needs[2] or needs[3]
        ctx.in_loop = needs[0]
        ctx.set_materialize_grads(False)
        h, c, reserve = _CELL(input, h_0, c_0, weights, True in needs, ops.uses_tf32(input))
        others = keeping.other_weights(len(weights), 1, False, needs_input)
        keeping.save(ctx, (reserve, c_0), input, h_0, weights, others, needs_weights)
        return h, c

    @staticmethod
    def backward(ctx: Any, grad_h: MaybeTensor, grad_c: MaybeTensor) -> tuple[Any, ...]:
        again = torch.is_grad_enabled() or autograd.transforms_are_active()
        (reserve, c_0), input, h_0, weights = keeping.saved(ctx, check=again)
        if again:
            return _wanted(ctx, *_differentiable(ctx, grad_h, grad_c, input, h_0, c_0, weights, reserve))
        args = (grad_h, grad_c, input, h_0, c_0, weights, reserve)
        needs_input, needs_weights, needs_states = ctx.needs
        in_loop = ctx.in_loop and cell_loop.can_leave(ctx, grad_h, grad_c)
        if in_loop:
            needs_weights = ctx.loop.is_awaited()
        if in_loop and needs_weights:
            grad_input, grad_h_0, grad_c_0, grad_gates = _BACKWARD_GATES(*args, needs_input, needs_states)
            ctx.loop.left.add(grad_gates, input, h_0, weights)
            grad_weights: list[MaybeTensor] = []
        else:
            needs = needs_input, needs_weights, needs_states
            grad_input, grad_h_0, grad_c_0, grad_weights = _BACKWARD(*args, *needs, ops.uses_tf32(input))
        return _wanted(ctx, grad_input, grad_h_0, grad_c_0, grad_weights or [None] * len(weights))


def _wanted(
    ctx: Any, grad_input: Tensor, grad_h_0: Tensor, grad_c_0: Tensor, grad_weights: Sequence[MaybeTensor]
) -> tuple[MaybeTensor, ...]:
    needs_input, _, needs_states = ctx.needs
    of_states = (grad_h_0, grad_c_0) if needs_states else (None, None)
    grad_token = None if not ctx.in_loop or cell_loop.is_run_by_engine(ctx) else grad_input.new_zeros(0)
    return grad_token, grad_input if needs_input else None, *of_states, *grad_weights


def _differentiable(
    ctx: Any,
    grad_h: MaybeTensor,
    grad_c: MaybeTensor,
    input: Tensor,
    h_0: MaybeTensor,
    c_0: MaybeTensor,
    weights: Sequence[Tensor],
    reserve: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Sequence[MaybeTensor]]:
    """The gradients by the operator for a stack, which knows how to differentiate them again."""
    batched = input.dim() == 2

    def as_step(tensor: MaybeTensor) -> MaybeTensor:
        return None if tensor is None else tensor.unsqueeze(0) if batched else tensor.view(1, 1, -1)

    if h_0 is None or c_0 is None:
        h_0 = c_0 = input.new_zeros((*input.shape[:-1], weights[1].size(1)))
    needs_input, needs_weights, _ = ctx.needs
    call = Options(), Needs(needs_input, needs_weights), reserve
    grads = Outputs(None, as_step(grad_h), as_step(grad_c), None)
    primals = as_step(input), as_step(h_0), as_step(c_0), *weights
    grad_input, grad_h_0, grad_c_0, *grad_weights = autograd.Backward.apply(*call, *grads, *primals)
    if needs_input:
        grad_input = grad_input.view_as(input)
    if not needs_weights:
        grad_weights = [None] * len(weights)
    return grad_input, grad_h_0.view_as(h_0), grad_c_0.view_as(c_0), grad_weights


batching.register_batched_grads("cell_backward")


@torch.library.register_fake("lstm_fused::cell")
def _fake_cell(
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    training: bool,
    allow_tf32: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    size, rows = weights[1].size(1), input.shape[:-1].numel()
    cell_width = 2 if input.is_cuda and input.dtype.itemsize == 2 else 1
    reserve = input.new_empty(rows * size * (4 + cell_width + input.is_cuda) if training else 0)
    return input.new_empty((*input.shape[:-1], size)), input.new_empty((*input.shape[:-1], size)), reserve


@torch.library.register_fake("lstm_fused::cell_backward")
def _fake_cell_backward(
    grad_h: Tensor | None,
    grad_c: Tensor | None,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    reserve: Tensor,
    needs_input_grad: bool,
    needs_weight_grads: bool,
    needs_state_grads: bool,
    allow_tf32: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    size = (*input.shape[:-1], weights[1].size(1)) if needs_state_grads else (0,)
    grad_input = input.new_empty(input.shape if needs_input_grad else (0,))
    grad_weights = [w.new_empty(w.shape) for w in weights] if needs_weight_grads else []
    return grad_input, input.new_empty(size), input.new_empty(size), grad_weights


@torch.library.register_fake("lstm_fused::cell_backward_gates")
def _fake_cell_backward_gates(
    grad_h: Tensor | None,
    grad_c: Tensor | None,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    reserve: Tensor,
    needs_input_grad: bool,
    needs_state_grads: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    args = (grad_h, grad_c, input, h_0, c_0, weights, reserve)
    grad_input, grad_h_0, grad_c_0, _ = _fake_cell_backward(*args, needs_input_grad, False, needs_state_grads, False)
    rows, wide = input.shape[:-1].numel(), torch.float64 if input.dtype == torch.float64 else torch.float32
    return grad_input, grad_h_0, grad_c_0, input.new_empty((rows, weights[1].size(0)), dtype=wide)
