"""The operator for one direction of one layer whose cell is a variant, its gradients, and what it is without data.

``torch.ops.lstm_fused.variant(x, h_0, c_0, weights, reverse, lengths, reset, zoneout_h_mask, zoneout_c_mask,
recurrent_mask, zoneout_h, zoneout_c, cell_clip, peephole, layer_norm, training, allow_tf32=False) -> (h, cells, h_n,
c_n, reserve)`` computes :func:`lstm_fused.reference.direction` in float32 or float64. A mask that is None stands for
the number of its name, and ``cell_clip`` 0 for none. ``training`` keeps the reserve that ``variant_backward`` needs,
and ``allow_tf32`` concerns W_hh h in float32 on a GPU.

Where no kernel can serve - in a transform of torch.func, in forward mode, for gradients of gradients - the reference
runs itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import autograd, batching, ops, reference, tracing
from .options import MaybeTensor, Needs, Variant

_VARIANT = torch.ops.lstm_fused.variant.default
_BACKWARD = torch.ops.lstm_fused.variant_backward.default

Results = tuple[Tensor, Tensor, Tensor, Tensor]  # h and cells of all steps, h_n, c_n


class Arguments(NamedTuple):
    """Of ``torch.ops.lstm_fused.variant``, in the order of its schema, but for ``training`` before the last."""

    x: Any  # (T, B, I)
    h_0: Any  # (B, P)
    c_0: Any  # (B, H)
    weights: Any
    reverse: bool
    lengths: Any
    reset: Any
    zoneout_h_mask: Any
    zoneout_c_mask: Any
    recurrent_mask: Any
    zoneout_h: float
    zoneout_c: float
    cell_clip: float
    peephole: bool
    layer_norm: bool
    allow_tf32: bool

    def forward(self, training: bool) -> Any:
        return _VARIANT(*self[:-1], training, self.allow_tf32)

    def backward(self, grads: Sequence[MaybeTensor], reserve: Tensor, needs: Needs) -> Any:
        return _BACKWARD(*grads, *self[:-1], reserve, *needs, self.allow_tf32)

    @property
    def masks(self) -> tuple[MaybeTensor, ...]:
        return self.lengths, self.reset, self.zoneout_h_mask, self.zoneout_c_mask, self.recurrent_mask

    @property
    def variant(self) -> Variant:
        return Variant(
            self.zoneout_h if self.zoneout_h_mask is None else self.zoneout_h_mask,
            self.zoneout_c if self.zoneout_c_mask is None else self.zoneout_c_mask,
            self.recurrent_mask,
            self.cell_clip or None,
            self.peephole,
            self.layer_norm,
        )


def direction(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[Tensor],
    reverse: bool,
    lengths: MaybeTensor,
    reset: MaybeTensor,
    variant: Variant,
    is_widened: bool = False,
) -> Results:
    """What :func:`lstm_fused.reference.direction` returns, by the kernels where there are some.

    ``is_widened``: float32 stands for a half type, and TF32, which has no fewer bits, will do.
    """
    if autograd.in_forward_mode() or autograd.transforms_are_active():
        tracing.refuse_onnx()
        return reference.direction(x, h_0, c_0, weights, reverse, lengths, reset, variant)
    (h_mask, h), (c_mask, c) = _mask_and_number(variant.zoneout_h), _mask_and_number(variant.zoneout_c)
    _, _, recurrent_mask, clip, peephole, layer_norm = variant
    masks = lengths, reset, h_mask, c_mask, recurrent_mask
    tf32 = ops.uses_tf32(x) or (is_widened and x.is_cuda)
    call = Arguments(x, h_0, c_0, weights, reverse, *masks, h, c, clip or 0.0, peephole, layer_norm, tf32)
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (x, h_0, c_0, *weights))
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        tracing.refuse_onnx()
        is_program = torch.compiler._is_exporting_flag or torch.jit.is_tracing()  # is most often only run
        results = call.forward(needs_grad and not is_program)
    elif needs_grad:
        results = _Direction.apply(call._replace(**_NO_TENSORS), call.masks, x, h_0, c_0, *weights)
    else:
        with torch._C._AutoDispatchBelowAutograd():
            results = call.forward(False)
    return results[:4]


def _mask_and_number(zoneout: Tensor | float) -> tuple[MaybeTensor, float]:
    return (zoneout, 0.0) if isinstance(zoneout, Tensor) else (None, float(zoneout))


@torch.library.register_fake("lstm_fused::variant")
def _fake_variant(*args: Any, **named: Any) -> tuple[Tensor, ...]:
    tracing.refuse_onnx()
    names = (*Arguments._fields[:-1], "training", "allow_tf32")
    given = {"allow_tf32": False} | dict(zip(names, args, strict=False)) | named
    training, call = given.pop("training"), Arguments(**given)
    x, h_0, c_0 = call.x, call.h_0, call.c_0
    seq_len, batch = x.shape[:2]
    width, hidden = h_0.size(1), c_0.size(1)
    h, cells = x.new_empty((seq_len, batch, width)), x.new_empty((seq_len, batch, hidden))
    # csrc/torch/variant.h: gates, factor, c_prev, raw cell; of layer norm the two sums and four statistics.
    per_row = (6 + (8 if call.layer_norm else 0)) * hidden + width + (4 if call.layer_norm else 0)
    reserve = x.new_empty(seq_len * batch * per_row if training else 0)
    return h, cells, torch.empty_like(h_0), torch.empty_like(c_0), reserve


@torch.library.register_fake("lstm_fused::variant_backward")
def _fake_backward(*args: Any, **named: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    *arguments, _, needs_input, needs_weights = args[4 : 4 + len(Arguments._fields) - 1 + 3]
    call = Arguments._make((*arguments, False))
    grad_x = call.x.new_empty(call.x.shape if needs_input else (0,))
    grad_weights = [torch.empty_like(w) for w in call.weights] if needs_weights else []
    return grad_x, torch.empty_like(call.h_0), torch.empty_like(call.c_0), grad_weights


_TENSORS = "x", "h_0", "c_0", "weights", "lengths", "reset", "zoneout_h_mask", "zoneout_c_mask", "recurrent_mask"
_NO_TENSORS: dict[str, Any] = dict.fromkeys(_TENSORS)  # what is left may be kept beside save_for_backward


class _Direction(torch.autograd.Function):
    """Eager calls: a registered formula takes longer, as does the kind of ``Function`` that torch.func wants."""

    @staticmethod
    def forward(
        ctx: Any, call: Arguments, masks: tuple[MaybeTensor, ...], x: Tensor, h_0: Tensor, c_0: Tensor, *weights: Tensor
    ) -> Results:
        ctx.call, ctx.training = call, True
        ctx.needs = Needs(ctx.needs_input_grad[2], any(ctx.needs_input_grad[5:]))
        ctx.set_materialize_grads(False)
        tensors: dict[str, Any] = dict(zip(_TENSORS, (x, h_0, c_0, weights, *masks), strict=True))
        own = call._replace(**tensors)
        with torch._C._AutoDispatchBelowAutograd():
            *results, reserve = own.forward(True)
        ctx.save_for_backward(*masks, reserve, x, h_0, c_0, *weights)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: MaybeTensor) -> tuple[Any, ...]:
        of_x, of_h, of_c, of_weights = _gradients(ctx, grads)
        return None, None, of_x, of_h, of_c, *of_weights


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *arguments, ctx.training, allow_tf32 = inputs
    call = Arguments._make((*arguments, allow_tf32))
    *_, reserve = output
    ctx.set_materialize_grads(False)
    ctx.needs = Needs(ctx.needs_input_grad[0], any(w.requires_grad for w in call.weights))
    ctx.call = call._replace(**_NO_TENSORS)
    ctx.save_for_backward(*call.masks, reserve, call.x, call.h_0, call.c_0, *call.weights)


def _backward_registered(ctx: Any, *all_grads: MaybeTensor) -> tuple[Any, ...]:
    *grads, _ = all_grads
    # The dispatcher drops arguments that are their defaults.
    return *_gradients(ctx, grads), *[None] * (len(ctx.needs_input_grad) - 4)


def _gradients(ctx: Any, grads: Sequence[MaybeTensor]) -> tuple[Any, Any, Any, Sequence[MaybeTensor]]:
    """Of x, h_0, c_0 and the weights, from what was kept."""
    *masks, reserve, x, h_0, c_0 = ctx.saved_tensors[:9]
    weights = list(ctx.saved_tensors[9:])
    tensors: dict[str, Any] = dict(zip(_TENSORS, (x, h_0, c_0, weights, *masks), strict=True))
    call = ctx.call._replace(**tensors)
    if (torch.is_grad_enabled() and not torch.compiler.is_compiling()) or autograd.in_forward_mode():
        of_x, of_h, of_c, *of_weights = _gradients_by_reference(call, grads)
        return of_x, of_h, of_c, of_weights
    if not ctx.training:  # forward kept nothing: so once more
        *_, reserve = call.forward(True)
    with torch._C._AutoDispatchBelowAutograd():
        of_x, of_h, of_c, of_weights = call.backward(grads, reserve, ctx.needs)
    nothing = [None] * len(weights)
    return of_x if ctx.needs.input else None, of_h, of_c, of_weights if ctx.needs.weights else nothing


def _gradients_by_reference(call: Arguments, grads: Sequence[MaybeTensor]) -> tuple[Tensor, ...]:
    """Of x, h_0, c_0 and the weights, differentiable to any order."""
    given = [n for n, grad in enumerate(grads) if grad is not None]

    def outputs(x: Tensor, h_0: Tensor, c_0: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        results = reference.direction(x, h_0, c_0, weights, call.reverse, call.lengths, call.reset, call.variant)
        return tuple(results[n] for n in given)

    pullback = torch.func.vjp(outputs, call.x, call.h_0, call.c_0, *call.weights)[1]
    return pullback(tuple(grads[n] for n in given))


torch.library.register_autograd("lstm_fused::variant", _backward_registered, setup_context=_setup)
batching.register_batched_grads("variant_backward")
