"""Gradients: an ``autograd.Function`` for eager use, and the same formula registered on the op for compilers.

The two cover different ground. A registered formula is what ``torch.compile`` and ``torch.export`` trace; a
``Function`` is what ``torch.func`` transforms understand. Forward-mode differentiation takes neither: a registered
formula would drop the tangents in silence, and the kernels carry none, so that :mod:`.reference` runs on the dual
tensors themselves. :func:`lstm` picks one per call.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _library, batching, keeping, ops, packing, reference, tracing
from .options import MaybeTensor, Needs, Options, Outputs


def lstm(input: Tensor, h_0: Tensor, c_0: Tensor, weights: Sequence[Tensor], options: Options) -> Outputs:
    """What :func:`lstm_fused.reference.lstm` returns, by the kernels, with gradients where needed."""
    if in_forward_mode() or (torch.compiler.is_compiling() and transforms_are_active()):
        return _by_reference(options, input, h_0, c_0, *weights)
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (input, h_0, c_0, *weights))
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _functionalizes():
        tracing.refuse_onnx()
        # A program is most often only run. (Up to torch 2.11 a compiler takes is_exporting() for true.)
        is_program = torch.compiler._is_exporting_flag or torch.jit.is_tracing()
        results: Sequence[Tensor] = ops.forward(input, h_0, c_0, list(weights), options, needs_grad and not is_program)
    elif needs_grad or transforms_are_active():  # which hide what requires a gradient at another level
        results = _Forward.apply(options, torch.is_grad_enabled(), input, h_0, c_0, *weights)
        keeping.stop_checks(results[0].grad_fn)
    else:
        results = _forward(options, False, input, h_0, c_0, *weights)
    *outputs, _ = results  # and the reserve
    return Outputs(*outputs)


def in_forward_mode() -> bool:
    """Whether a tensor may carry a tangent, be it by torch.func or by torch.autograd.forward_ad."""
    return forward_ad._current_level >= 0


def transforms_are_active() -> bool:
    """Whether a torch.func transform may look at this call."""
    return torch._C._are_functorch_transforms_active()


def _functionalizes() -> bool:
    """Whether torch.func.functionalize is the next to look at this call: it traces, and knows no ``Function``."""
    if not transforms_are_active():
        return False
    return torch._C._functorch.peek_interpreter_stack().key() == torch._C._functorch.TransformType.Functionalize


def _forward(
    options: Options, training: bool, input: Tensor, h_0: Tensor, c_0: Tensor, *weights: Tensor
) -> tuple[Tensor, ...]:
    with torch._C._AutoDispatchBelowAutograd():  # the registered formula is for compilers; it would cost 20 us here
        return ops.forward(input, h_0, c_0, weights, options, training)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return _forward(*args)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> batching.Batched:
        return batching.forward(_Forward.apply, info.batch_size, in_dims, args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        options, _, input, h_0, c_0, *weights = inputs
        *_, cells, reserve = output
        ctx.mark_non_differentiable(*([reserve] if options.return_cells else [cells, reserve]))
        ctx.set_materialize_grads(False)
        _, _, needs_input, _, _, *need_weights = ctx.needs_input_grad
        ctx.needs, ctx.num_weights = Needs(needs_input, any(need_weights)), len(weights)
        ctx.options = options.without_tensors()
        others: Sequence[int] = ()
        if not options.recompute_gates:  # which takes all of them
            others = keeping.other_weights(len(weights), h_0.size(0), options.bidirectional, needs_input)
        needs_all = options.recompute_gates or ctx.needs.weights
        keeping.save(ctx, (*options.tensors(), reserve, c_0), input, h_0, weights, others, needs_all)

    @staticmethod
    def backward(ctx: Any, *grads: MaybeTensor) -> tuple[Any, ...]:
        *of_outputs, _ = grads
        grad_input, grad_h_0, grad_c_0, *grad_weights = _gradients(ctx, Outputs(*of_outputs))
        if not ctx.needs.input:
            grad_input = None
        if not ctx.needs.weights:
            grad_weights = [None] * ctx.num_weights
        return None, None, grad_input, grad_h_0, grad_c_0, *grad_weights


class Backward(torch.autograd.Function):
    """Gradients that can be differentiated again: the kernels forward, the reference's own gradients backward."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return _backward(*args)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> batching.Batched:
        return batching.backward(Backward.apply, _Forward.apply, info.batch_size, in_dims, args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        options, _, _, *tensors = inputs
        ctx.options = options.without_tensors()
        ctx.save_for_backward(*options.tensors(), *tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_grads: MaybeTensor) -> tuple[Any, ...]:
        lengths, reset, dropout_mask, output, h_n, c_n, cells, *primals = ctx.saved_tensors
        options, grads = ctx.options.with_tensors(lengths, reset, dropout_mask), Outputs(output, h_n, c_n, cells)
        given = [n for n, grad in enumerate(grads) if grad is not None]
        wanted = [n for n, grad_grad in enumerate(grad_grads) if grad_grad is not None]
        if not given or not wanted:
            return (None,) * len(ctx.needs_input_grad)

        def gradients(of_given: Sequence[Tensor], primals: Sequence[Tensor]) -> tuple[Tensor, ...]:
            all_grads = Outputs(*(of_given[given.index(n)] if n in given else None for n in range(len(grads))))
            of_primals = _gradients_by_reference(options, all_grads, primals)
            return tuple(of_primals[n] for n in wanted)

        pullback = torch.func.vjp(gradients, tuple(grads[n] for n in given), tuple(primals))[1]
        of_given, of_primals = pullback(tuple(grad_grads[n] for n in wanted))
        of_grads: list[MaybeTensor] = [None] * len(grads)
        for n, grad in zip(given, of_given, strict=True):
            of_grads[n] = grad
        return None, None, None, *of_grads, *of_primals


# Function.apply asks inspect for it in every call, which takes longer than a short one's kernels.
for _function in (_Forward, Backward):
    setattr(_function.forward, "__signature__", inspect.signature(_function.forward))  # noqa: B010 (mypy)


def _gradients(ctx: Any, grads: Outputs) -> tuple[Any, ...]:
    """Of input, h_0, c_0 and the weights, from what was kept; of what is not needed there may be none, or nonsense."""
    again = torch.is_grad_enabled() or transforms_are_active() or in_forward_mode()  # may be differentiated
    (*tensors, reserve, c_0), input, h_0, weights = keeping.saved(ctx, check=again)
    options = ctx.options.with_tensors(*tensors)
    if in_forward_mode():
        return _gradients_by_reference(options, grads, (input, h_0, c_0, *weights))
    backward = Backward.apply if again else _backward
    return backward(options, ctx.needs, reserve, *grads, input, h_0, c_0, *weights)


def _backward(
    options: Options,
    needs: Needs,
    reserve: Tensor,
    grad_output: MaybeTensor,
    grad_h_n: MaybeTensor,
    grad_c_n: MaybeTensor,
    grad_cells: MaybeTensor,
    input: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    *weights: Tensor,
) -> tuple[Tensor, ...]:
    grads = Outputs(grad_output, grad_h_n, grad_c_n, grad_cells)
    with torch._C._AutoDispatchBelowAutograd():
        *of_inputs, of_weights = ops.backward(grads, input, h_0, c_0, weights, options, reserve, needs)
    return *of_inputs, *of_weights


def _by_reference(options: Options, *primals: Tensor) -> Outputs:
    """As :func:`lstm`, in torch's own operations: slower, and differentiable in every mode and to any order.

    The half types are widened once and rounded at the end, as the kernels do. Packed input is padded.
    """
    lengths, reset, dropout_mask = options.tensors()
    places = None
    if primals[0].dim() == 2:
        assert lengths is not None
        places = packing.places_of_lengths(lengths, primals[0].size(0))
        primals = places.pad(primals[0]), *primals[1:]
        dropout_mask = (
            None if dropout_mask is None else torch.stack([places.pad(layer) for layer in dropout_mask.unbind()])
        )
    dtype, device_type = primals[0].dtype, primals[0].device.type
    wide = torch.float32 if dtype.itemsize == 2 else dtype
    input, h_0, c_0, *weights = (t.to(wide) for t in primals)
    with torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else nullcontext():
        output, h_n, c_n, cells = reference.lstm(
            input,
            h_0,
            c_0,
            weights,
            bidirectional=options.bidirectional,
            lengths=lengths,
            reset=reset,
            dropout_mask=dropout_mask,
        )
    if places is not None:
        output, cells = places.pack(output), places.pack(cells)
    return Outputs(output.to(dtype), h_n.to(dtype), c_n.to(dtype), cells.to(dtype))


def _gradients_by_reference(options: Options, grads: Outputs, primals: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of the primals."""
    given = [n for n, grad in enumerate(grads) if grad is not None]

    def outputs(*primals: Tensor) -> tuple[Tensor, ...]:
        results = _by_reference(options, *primals)
        return tuple(results[n] for n in given)

    return torch.func.vjp(outputs, *primals)[1](tuple(grads[n] for n in given))


def _setup_registered(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keeps what :mod:`.keeping` says, but nothing for a second derivative, of which this formula has none."""
    call = ops.Forward(*inputs)
    options, weights = call.options, call.weights
    input, h_0, c_0 = call.input, call.h_0, call.c_0
    ctx.options, ctx.training = options.without_tensors(), call.training
    ctx.set_materialize_grads(False)
    ctx.needs = Needs(ctx.needs_input_grad[0], any(w.requires_grad for w in weights))
    ctx.sizes = input.shape, h_0.shape, [w.shape for w in weights]
    kept = [True] * len(weights)
    if call.training and not options.recompute_gates:
        if not ctx.needs.weights:
            input = h_0 = None
        for n in keeping.other_weights(len(weights), int(c_0.size(0)), options.bidirectional, ctx.needs.input):
            kept[n] = False
    saved = [w if keep else None for w, keep in zip(weights, kept, strict=True)]
    *_, reserve = output
    ctx.save_for_backward(*options.tensors(), reserve, c_0, input, h_0, *saved)


def _backward_registered(ctx: Any, *grads: MaybeTensor) -> tuple[Any, ...]:
    lengths, reset, dropout_mask, reserve, c_0, input, h_0, *weights = ctx.saved_tensors
    options = ctx.options.with_tensors(lengths, reset, dropout_mask)

    def or_stand_in(tensor: MaybeTensor, size: Sequence[Any]) -> Tensor:
        """Something of that size, to be looked at by nobody, where nothing was kept."""
        return c_0.new_zeros(()).expand(size) if tensor is None else tensor

    of_input, of_h_0, of_weights = ctx.sizes
    input, h_0 = or_stand_in(input, of_input), or_stand_in(h_0, of_h_0)
    weights = [or_stand_in(w, size) for w, size in zip(weights, of_weights, strict=True)]
    if not ctx.training:  # forward kept nothing: so once more
        *_, reserve = ops.forward(input, h_0, c_0, weights, options.without_extras(), True)
    *of_outputs, _ = grads
    given = Outputs(*of_outputs)
    if not options.return_cells:
        given = given._replace(cells=None)
    results = ops.backward(given, input, h_0, c_0, weights, options, reserve, ctx.needs)
    grad_input, grad_h_0, grad_c_0, grad_weights = results
    of_options = [None] * (len(ctx.needs_input_grad) - 4)  # the dispatcher drops arguments that are their defaults
    return (
        grad_input if ctx.needs.input else None,
        grad_h_0,
        grad_c_0,
        grad_weights if ctx.needs.weights else [None] * len(weights),
        *of_options,
    )


torch.library.register_autograd("lstm_fused::forward", _backward_registered, setup_context=_setup_registered)


def _refuse_tangents(name: str, device_type: str) -> None:
    """Where a registered formula would drop a tangent in silence: in a call of the operator by hand."""
    key = {"cpu": "AutogradCPU", "cuda": "AutogradCUDA", "meta": "AutogradMeta"}[device_type]
    formula = torch.library.get_kernel(f"lstm_fused::{name}", key)

    def checked(keyset: Any, *args: Any) -> Any:
        if in_forward_mode():
            tensors = (arg for arg in torch.utils._pytree.tree_leaves(args) if isinstance(arg, Tensor))
            if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
                raise NotImplementedError(
                    f"torch.ops.lstm_fused.{name} has no forward-mode derivative; lstm_fused.functional.lstm has one"
                )
        return formula.call_boxed(keyset, *args)

    _library.IMPLEMENTATIONS.impl(name, checked, key, with_keyset=True)


for _device_type in ops.DEVICE_TYPES:
    _refuse_tangents("forward", _device_type)
    _refuse_tangents("backward", _device_type)
