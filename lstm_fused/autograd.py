"""Gradients: an ``autograd.Function`` for eager use, and the same formula registered on the op for compilers.

The two cover different ground. A registered formula is what ``torch.compile`` and ``torch.export`` trace; a
``Function`` is what ``torch.func`` transforms understand, and it refuses forward-mode differentiation where the
registered formula would drop the tangent in silence. :func:`lstm` picks one per call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import ops, reference

MaybeTensor = Tensor | None
Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


def lstm(
    input: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[Tensor],
    bidirectional: bool,
    lengths: MaybeTensor,
    reset: MaybeTensor,
    dropout_mask: MaybeTensor,
    return_cells: bool,
) -> Outputs:
    """output, h_n, c_n, cells of :func:`lstm_fused.reference.lstm`, by the kernels, with gradients where needed."""
    differentiable = (input, h_0, c_0, *weights)
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in differentiable)
    options = (bidirectional, lengths, reset, dropout_mask)
    if torch.compiler.is_compiling():
        keep = needs_grad and not torch.compiler.is_exporting()  # an exported program is most often only run
        results = ops.forward(input, h_0, c_0, list(weights), *options, keep, return_cells)
    elif needs_grad or _transforms_are_active():
        results = _Forward.apply(*options, return_cells, *differentiable)
    else:
        results = _forward(False, *options, return_cells, *differentiable)
    output, h_n, c_n, cells, _ = results
    return output, h_n, c_n, cells


def _transforms_are_active() -> bool:
    """Whether a torch.func transform or forward-mode differentiation may look at this call."""
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


def _forward(
    training: bool,
    bidirectional: bool,
    lengths: MaybeTensor,
    reset: MaybeTensor,
    dropout_mask: MaybeTensor,
    return_cells: bool,
    input: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    *weights: Tensor,
) -> tuple[Tensor, ...]:
    masks = (lengths, reset, dropout_mask)
    with torch._C._AutoDispatchBelowAutograd():  # the registered formula is for compilers; it would cost 20 us here
        return ops.forward(input, h_0, c_0, weights, bidirectional, *masks, training, return_cells)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return _forward(True, *args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        bidirectional, lengths, reset, dropout_mask, return_cells, input, h_0, c_0, *weights = inputs
        _save(ctx, input, h_0, c_0, weights, bidirectional, lengths, reset, dropout_mask, output)
        cells, reserve = output[3:]
        ctx.mark_non_differentiable(*([reserve] if return_cells else [cells, reserve]))
        ctx.needs_weight_grads = any(ctx.needs_input_grad[8:])

    @staticmethod
    def backward(ctx: Any, *grads: MaybeTensor) -> tuple[Any, ...]:
        grad_input, grad_h_0, grad_c_0, grad_weights = _gradients(ctx, grads[:4], ctx.needs_input_grad[5])
        if not ctx.needs_weight_grads:
            grad_weights = [None] * (len(ctx.needs_input_grad) - 8)
        return None, None, None, None, None, grad_input, grad_h_0, grad_c_0, *grad_weights


class _Backward(torch.autograd.Function):
    """Gradients that can be differentiated again: the kernels forward, the reference's own gradients backward."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        grad_input, grad_h_0, grad_c_0, grad_weights = _backward(*args)
        return grad_input, grad_h_0, grad_c_0, *grad_weights

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.bidirectional, ctx.needs_input, ctx.needs_weights, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_grads: MaybeTensor) -> tuple[Any, ...]:
        lengths, reset, dropout_mask, *grads, input, h_0, c_0, _, _ = ctx.saved_tensors[:12]
        primals = (input, h_0, c_0, *ctx.saved_tensors[12:])
        given = [n for n, grad in enumerate(grads) if grad is not None]
        wanted = [n for n, grad_grad in enumerate(grad_grads) if grad_grad is not None]
        if not given or not wanted:
            return (None,) * len(ctx.needs_input_grad)

        def outputs(*primals: Tensor) -> tuple[Tensor, ...]:
            input, h_0, c_0, *weights = primals
            result = reference.lstm(
                input,
                h_0,
                c_0,
                weights,
                bidirectional=ctx.bidirectional,
                lengths=lengths,
                reset=reset,
                dropout_mask=dropout_mask,
            )
            return tuple(result[n] for n in given)

        def gradients(grads: tuple[Tensor, ...], primals: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            of_primals = torch.func.vjp(outputs, *primals)[1](grads)
            return tuple(of_primals[n] for n in wanted)

        pullback = torch.func.vjp(gradients, tuple(grads[n] for n in given), primals)[1]
        of_given, of_primals = pullback(tuple(grad_grads[n] for n in wanted))
        of_grads: list[MaybeTensor] = [None] * 4
        for n, grad in zip(given, of_given, strict=True):
            of_grads[n] = grad
        return None, None, None, None, None, None, *of_grads, *of_primals[:3], None, None, *of_primals[3:]


def _save(
    ctx: Any,
    input: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[Tensor],
    bidirectional: bool,
    lengths: MaybeTensor,
    reset: MaybeTensor,
    dropout_mask: MaybeTensor,
    output: tuple[Tensor, ...],
) -> None:
    ctx.save_for_backward(lengths, reset, dropout_mask, input, h_0, c_0, output[0], output[4], *weights)
    ctx.set_materialize_grads(False)
    ctx.bidirectional = bidirectional


def _gradients(ctx: Any, grads: Sequence[MaybeTensor], needs_input: bool) -> tuple[Any, Any, Any, list[Any]]:
    """Of input, h_0, c_0 and the list of weights, from what _save kept; input's is None where it is not needed."""
    lengths, reset, dropout_mask, *tensors = ctx.saved_tensors
    args = (ctx.bidirectional, needs_input, ctx.needs_weight_grads, lengths, reset, dropout_mask, *grads, *tensors)
    if torch.is_grad_enabled() or _transforms_are_active():
        grad_input, grad_h_0, grad_c_0, *grad_weights = _Backward.apply(*args)
    else:
        grad_input, grad_h_0, grad_c_0, grad_weights = _backward(*args)
    return grad_input if needs_input else None, grad_h_0, grad_c_0, grad_weights


def _backward(
    bidirectional: bool,
    needs_input: bool,
    needs_weights: bool,
    lengths: MaybeTensor,
    reset: MaybeTensor,
    dropout_mask: MaybeTensor,
    grad_output: MaybeTensor,
    grad_h_n: MaybeTensor,
    grad_c_n: MaybeTensor,
    grad_cells: MaybeTensor,
    input: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    output: Tensor,
    reserve: Tensor,
    *weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    grads = (grad_output, grad_h_n, grad_c_n, grad_cells)
    masks = (lengths, reset, dropout_mask)
    needs = (needs_input, needs_weights)
    return ops.backward(*grads, input, h_0, c_0, weights, bidirectional, *masks, output, reserve, *needs)


def _setup_registered(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, h_0, c_0, weights, bidirectional, lengths, reset, dropout_mask, training, return_cells, _ = inputs
    ctx.training, ctx.return_cells = training, return_cells
    _save(ctx, input, h_0, c_0, weights, bidirectional, lengths, reset, dropout_mask, output)
    ctx.needs_weight_grads = any(w.requires_grad for w in weights)


def _backward_registered(ctx: Any, *grads: MaybeTensor) -> tuple[Any, ...]:
    lengths, reset, dropout_mask, input, h_0, c_0, output, reserve, *weights = ctx.saved_tensors
    masks = (lengths, reset, dropout_mask)
    if not ctx.training:  # forward kept nothing: so once more
        *_, reserve = ops.forward(input, h_0, c_0, weights, ctx.bidirectional, *masks, True, False)
    needs = (ctx.needs_input_grad[0], ctx.needs_weight_grads)
    grads = (*grads[:3], grads[3] if ctx.return_cells else None)
    grad_input, grad_h_0, grad_c_0, grad_weights = ops.backward(
        *grads, input, h_0, c_0, weights, ctx.bidirectional, *masks, output, reserve, *needs
    )
    if not needs[1]:
        grad_weights = [None] * len(weights)
    return (grad_input if needs[0] else None, grad_h_0, grad_c_0, grad_weights, *[None] * 7)


torch.library.register_autograd("lstm_fused::forward", _backward_registered, setup_context=_setup_registered)
