"""``torch.func.vmap`` of the two operators, N members at a time.

Members that share their weights are more rows of one batch: N joins B and the kernels run once. Members with weights
of their own (an ensemble) run one after the other, as do gradients of which each member wants its own.

The reserve is opaque, so a batched call returns it as it is, of the folded batch, N times over (``expand``). What the
forward call was, its backward sees by ``reserve``: it is not batched if the call was not, has a stride of its own for
the members if it was a loop, and none if it was folded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _library

Dims = Sequence[int | None]
Batched = tuple[tuple[Tensor | None, ...], tuple[int | None, ...]]  # results, and where N is in each

# Where B is in the arguments of forward: training, bidirectional, lengths, reset, dropout_mask, return_cells,
# recompute_gates, input, h_0, c_0.
_FORWARD_BATCH_DIMS = (None, None, 0, 1, 2, None, None, 1, 1, 1)
# And of backward: bidirectional, needs_input, needs_weights, lengths, reset, dropout_mask, the gradients of output,
# h_n, c_n, cells, then input, h_0, c_0. The reserve follows.
_BACKWARD_BATCH_DIMS = (None, None, None, 0, 1, 2, 1, 1, 1, 1, 1, 1, 1)
_RETURN_CELLS, _NEEDS_INPUT, _NEEDS_WEIGHTS, _RESERVE = 5, 1, 2, 13


def forward(apply: Callable[..., Sequence[Tensor]], num_members: int, dims: Dims, args: Sequence[Any]) -> Batched:
    """``apply(*args)`` for each member; ``dims`` says where N is in each argument, None where it is not."""
    count = len(_FORWARD_BATCH_DIMS)
    if any(dim is not None for dim in dims[count:]):
        return _one_by_one(apply, num_members, dims, args)
    folded = _fold(num_members, dims, args, _FORWARD_BATCH_DIMS)
    output, h_n, c_n, cells, reserve = apply(*folded, *args[count:])
    results = [_unfold(num_members, t) for t in (output, h_n, c_n)]
    reserve = reserve.expand(num_members, *reserve.shape)
    if args[_RETURN_CELLS]:
        return (*results, _unfold(num_members, cells), reserve), (1, 1, 1, 1, 0)
    return (*results, cells, reserve), (1, 1, 1, None, 0)


def backward(
    apply: Callable[..., Sequence[Tensor]],
    apply_forward: Callable[..., Sequence[Tensor]],
    num_members: int,
    dims: Dims,
    args: Sequence[Any],
) -> Batched:
    """As :func:`forward`; ``apply_forward`` keeps a reserve for each member where there is one of all of them."""
    reserve, dim = args[_RESERVE], dims[_RESERVE]
    if dim is None or num_members == 1 or reserve.stride(dim) != 0:
        return _one_by_one(apply, num_members, dims, args)
    if not args[_NEEDS_WEIGHTS]:
        folded = _fold(num_members, dims, args, _BACKWARD_BATCH_DIMS)
        grad_input, grad_h_0, grad_c_0 = apply(*folded, reserve.select(dim, 0), *args[_RESERVE + 1 :])
        grad_states = _unfold(num_members, grad_h_0), _unfold(num_members, grad_c_0)
        if args[_NEEDS_INPUT]:
            return (_unfold(num_members, grad_input), *grad_states), (1, 1, 1)
        return (grad_input, *grad_states), (None, 1, 1)

    def backward_of_member(*member: Any) -> Sequence[Tensor]:
        bidirectional, _, _, lengths, reset, dropout_mask, *_ = member
        input, h_0, c_0, _, *weights = member[10:]
        options = (True, bidirectional, lengths, reset, dropout_mask, False, False)
        results = apply_forward(*options, input, h_0, c_0, *weights)
        return apply(*member[:_RESERVE], results[-1], *weights)

    return _one_by_one(backward_of_member, num_members, dims, args)


def _one_by_one(
    function: Callable[..., Sequence[Tensor]], num_members: int, dims: Dims, args: Sequence[Any]
) -> Batched:
    members = [
        function(*(arg if dim is None else arg.select(dim, n) for arg, dim in zip(args, dims, strict=True)))
        for n in range(num_members)
    ]
    results = tuple(torch.stack(parts) for parts in zip(*members, strict=True))
    return results, (0,) * len(results)


def _fold(num_members: int, dims: Dims, args: Sequence[Any], batch_dims: Dims) -> list[Any]:
    """N and B as one dimension of ``N * B`` where B was, for as many arguments as ``batch_dims`` has."""
    folded = []
    for arg, dim, batch_dim in zip(args, dims, batch_dims, strict=False):
        if arg is None or batch_dim is None:
            folded.append(arg)
            continue
        if dim is None:
            members = arg.unsqueeze(batch_dim).expand(*arg.shape[:batch_dim], num_members, *arg.shape[batch_dim:])
        else:
            members = arg.movedim(dim, batch_dim)
        folded.append(members.flatten(batch_dim, batch_dim + 1).contiguous())
    return folded


def _unfold(num_members: int, tensor: Tensor) -> Tensor:
    """(..., N * B, ...) as (..., N, B, ...): B comes second in every result."""
    return tensor.unflatten(1, (num_members, tensor.size(1) // num_members))


def register_batched_grads(name: str) -> None:
    """Of a backward operator, for ``torch.autograd.grad(is_grads_batched=True)``: batches of an older kind."""
    function = functools.partial(_backward_of_batched_grads, getattr(torch.ops.lstm_fused, name).default)
    _library.IMPLEMENTATIONS.impl(name, function, "Batched")


def _backward_of_batched_grads(op: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()

    def is_batched(arg: Any) -> bool:
        return isinstance(arg, Tensor) and torch._C._functorch.is_legacy_batchedtensor(arg)

    # The size is asked for tensors that are not batched only.
    plain = [torch._remove_batch_dim(arg, level, 0, 0) if is_batched(arg) else arg for arg in args]
    dims = [0 if is_batched(arg) else None for arg in args]
    num_members = next(arg.size(0) for arg, dim in zip(plain, dims, strict=True) if dim == 0)

    def flat(*args: Any) -> list[Tensor]:
        *grads, grad_weights = op(*args)
        return [*grads, *grad_weights]

    results, _ = _one_by_one(flat, num_members, dims, plain)
    batched = [torch._add_batch_dim(result, 0, level) for result in results if result is not None]
    return batched[0], batched[1], batched[2], batched[3:]


register_batched_grads("backward")
