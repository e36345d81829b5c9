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
from torch.utils._pytree import _broadcast_to_and_flatten, tree_flatten, tree_unflatten

from . import _library
from .options import Needs, Options, Outputs

Batched = tuple[tuple[Tensor | None, ...], tuple[int | None, ...]]  # results, and where N is in each

# Where B is in the tensors of a call; the weights have none.
_IN_OPTIONS = 0, 1, 2  # lengths, reset, dropout_mask
_IN_PRIMALS = 1, 1, 1  # input, h_0, c_0
_IN_OUTPUTS = Outputs(1, 1, 1, 1)


def forward(apply: Callable[..., Sequence[Tensor]], num_members: int, dims: Any, args: Any) -> Batched:
    """``apply(options, training, input, h_0, c_0, *weights)`` for each member, of ``args``.

    ``dims`` says where N is in each tensor of them, None where it is not.
    """
    options, training, *primals = args
    of_options, _, *of_primals = dims
    primals, weights, of_primals, of_weights = primals[:3], primals[3:], of_primals[:3], of_primals[3:]
    if any(dim is not None for dim in of_weights):
        return _one_by_one(apply, num_members, dims, args)
    options = _folded_options(num_members, of_options, options)
    primals = _fold(num_members, of_primals, primals, _IN_PRIMALS)
    *results, reserve = apply(options, training, *primals, *weights)
    outputs = Outputs(*results)
    unfolded = [_unfold(num_members, t) for t in (outputs.output, outputs.h_n, outputs.c_n)]
    cells, of_cells = (_unfold(num_members, outputs.cells), 1) if options.return_cells else (outputs.cells, None)
    return (*unfolded, cells, reserve.expand(num_members, *reserve.shape)), (1, 1, 1, of_cells, 0)


def backward(
    apply: Callable[..., Sequence[Tensor]],
    apply_forward: Callable[..., Sequence[Tensor]],
    num_members: int,
    dims: Any,
    args: Any,
) -> Batched:
    """As :func:`forward`, of ``apply(options, needs, reserve, *grads, input, h_0, c_0, *weights)``.

    ``apply_forward`` keeps a reserve for each member where there is one of all of them.
    """
    options, needs, reserve, *tensors = args
    of_options, _, dim, *of_tensors = dims
    if dim is None or num_members == 1 or reserve.stride(dim) != 0:
        return _one_by_one(apply, num_members, dims, args)
    if not needs.weights:
        batch_dims = *_IN_OUTPUTS, *_IN_PRIMALS
        count = len(batch_dims)
        folded = _fold(num_members, of_tensors[:count], tensors[:count], batch_dims)
        options = _folded_options(num_members, of_options, options)
        grad_input, grad_h_0, grad_c_0 = apply(options, needs, reserve.select(dim, 0), *folded, *tensors[count:])
        grad_states = _unfold(num_members, grad_h_0), _unfold(num_members, grad_c_0)
        if needs.input:
            return (_unfold(num_members, grad_input), *grad_states), (1, 1, 1)
        return (grad_input, *grad_states), (None, 1, 1)

    def backward_of_member(options: Options, needs: Needs, shared: Tensor, *tensors: Any) -> Sequence[Tensor]:
        *_, own_reserve = apply_forward(options.without_extras(), True, *tensors[len(_IN_OUTPUTS) :])
        return apply(options, needs, own_reserve, *tensors)

    return _one_by_one(backward_of_member, num_members, dims, args)


def _one_by_one(function: Callable[..., Sequence[Tensor]], num_members: int, dims: Any, args: Any) -> Batched:
    flat, structure = tree_flatten(args)
    flat_dims = _broadcast_to_and_flatten(dims, structure)  # a list of weights may have one for all
    assert flat_dims is not None
    members = []
    for n in range(num_members):
        own = [arg if dim is None else arg.select(dim, n) for arg, dim in zip(flat, flat_dims, strict=True)]
        members.append(function(*tree_unflatten(own, structure)))
    results = tuple(torch.stack(parts) for parts in zip(*members, strict=True))
    return results, (0,) * len(results)


def _folded_options(num_members: int, dims: Any, options: Options) -> Options:
    return options.with_tensors(*_fold(num_members, dims.tensors(), options.tensors(), _IN_OPTIONS))


def _fold(num_members: int, dims: Any, args: Sequence[Any], batch_dims: Sequence[int]) -> list[Any]:
    """N and B as one dimension of ``N * B`` where B was."""
    folded = []
    for arg, dim, batch_dim in zip(args, dims, batch_dims, strict=True):
        if not isinstance(arg, Tensor):
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
