"""Tensors without data, and make_fx: no value is read, so that a graph serves other lengths; transforms on top."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, func
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._pytree import tree_map_only

import lstm_fused

Function = Callable[..., Any]
MODULE = lstm_fused.LSTM(4, 5, num_layers=2, bidirectional=True)
WEIGHTS = dict(MODULE.named_parameters())


def with_lengths(weights: dict[str, Tensor], input: Tensor, lengths: Tensor, reset: Tensor) -> tuple[Tensor, ...]:
    output, states = func.functional_call(MODULE, weights, (input,), {"lengths": lengths, "reset": reset})
    return output, *states


def packed(
    weights: dict[str, Tensor], data: Tensor, batch_sizes: Tensor, sorted_indices: Tensor, unsorted_indices: Tensor
) -> tuple[Tensor, ...]:
    sequence = PackedSequence(data, batch_sizes, sorted_indices, unsorted_indices)
    output, states = func.functional_call(MODULE, weights, (sequence,))
    return output.data, *states


def packed_with_states(
    weights: dict[str, Tensor], data: Tensor, batch_sizes: Tensor, h_0: Tensor, c_0: Tensor
) -> tuple[Tensor, ...]:
    output, states = func.functional_call(MODULE, weights, (PackedSequence(data, batch_sizes), (h_0, c_0)))
    return output.data, *states


def arguments(function: Function, lengths: list[int]) -> tuple[Any, ...]:
    """For `lengths` in descending order, of five steps and a sum of nine: the sizes of all tensors are the same."""
    input, reset = torch.randn(5, 3, 4), torch.rand(5, 3) < 0.3
    if function is with_lengths:
        return WEIGHTS, input, torch.tensor(lengths), reset
    if function is packed:
        return WEIGHTS, *pack_padded_sequence(input, torch.tensor(lengths).roll(1), enforce_sorted=False)
    sequence = pack_padded_sequence(input, torch.tensor(lengths))
    return WEIGHTS, *sequence[:2], torch.randn(4, 3, 5), torch.randn(4, 3, 5)


def loss(function: Function) -> Function:
    return lambda *args: sum(result.square().sum() for result in function(*args))


def batched(function: Function, inner: Function = lambda function: function) -> Function:
    """Of several members, for all but weights and what says where packed rows lie; ``inner`` transforms the member."""
    dims = (None, 0, 0, 0) if function is with_lengths else (None, 0, None, None, None)

    def of_members(*args: Any) -> Any:
        members = [arg if dim is None else torch.stack([arg, arg]) for arg, dim in zip(args, dims, strict=True)]
        return func.vmap(inner(function), in_dims=dims)(*members)

    return of_members


def tangents(function: Function) -> Function:
    return lambda weights, x, *rest: func.jvp(lambda x: function(weights, x, *rest), (x,), (x,))


TRANSFORMS: dict[str, Function] = {
    "no": lambda function: function,
    "grad": lambda function: func.grad(loss(function)),
    "vmap": batched,
    "vmap(jvp)": lambda function: batched(function, tangents),
    "jvp": tangents,
    "functionalize": func.functionalize,
}
FUNCTIONS = [with_lengths, packed, packed_with_states]


@pytest.mark.parametrize(("transform", "grad"), [*((name, True) for name in TRANSFORMS), ("no", False)])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_fake_tensors(function: Function, transform: str, grad: bool) -> None:
    """Of the sizes and dtypes of the results."""
    args = arguments(function, [5, 3, 1])
    transformed = TRANSFORMS[transform](function)
    with torch.set_grad_enabled(grad):
        expected = torch.utils._pytree.tree_leaves(transformed(*args))
        for shapes in (None, ShapeEnv()):
            mode = FakeTensorMode(shape_env=shapes)
            fakes = tree_map_only(Tensor, lambda t, mode=mode: mode.from_tensor(t, static_shapes=True), args)
            with mode:
                results = torch.utils._pytree.tree_leaves(transformed(*fakes))
            assert [(r.shape, r.dtype) for r in results] == [(e.shape, e.dtype) for e in expected]


@pytest.mark.parametrize(
    ("transform", "mode", "grad"),
    [*((name, "symbolic", True) for name in TRANSFORMS), ("no", "real", True), ("no", "real", False)],
)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_make_fx(function: Function, transform: str, mode: str, grad: bool) -> None:
    """A graph made of full rows knows nothing of lengths; and one made without gradients has them."""
    if torch.__version__ < (2, 13) and (transform, mode) == ("grad", "symbolic") and function != with_lengths:
        pytest.skip("torch's autograd engine before 2.13 stops at an assertion of its own: isIntList()")
    transformed = TRANSFORMS[transform](function)
    with torch.set_grad_enabled(grad):
        graph = make_fx(transformed, tracing_mode=mode)(*arguments(function, [5, 2, 2]))
    args = arguments(function, [5, 3, 1])
    torch.testing.assert_close(graph(*args), transformed(*args))
    if transform == "no":
        gradients = [torch.autograd.grad(loss(f)(*args), list(WEIGHTS.values())) for f in (graph, function)]
        torch.testing.assert_close(*gradients)


def test_bad_lengths_in_a_graph() -> None:
    """Found by the operator when it runs."""
    weights, input, lengths, reset = arguments(with_lengths, [5, 3, 1])
    graph = make_fx(with_lengths)(weights, input, lengths, reset)
    for wrong in (lengths + 1, lengths - 2):
        with pytest.raises(RuntimeError, match="lengths must lie in"):
            graph(weights, input, wrong, reset)


def test_bad_packed_rows_in_a_graph() -> None:
    weights, data, batch_sizes, h_0, c_0 = arguments(packed_with_states, [4, 3, 2])
    graph = make_fx(packed_with_states)(weights, data, batch_sizes, h_0, c_0)
    for wrong in ([3, 2, 1, 3], [3, 3, 3, 0], [3, 3, 2, 2]):
        with pytest.raises(RuntimeError, match="batch_sizes do not fit"):
            graph(weights, data, torch.tensor(wrong), h_0, c_0)


@pytest.mark.parametrize("weights", ["trained", "frozen"])
def test_the_operators_by_hand(weights: str) -> None:
    """In grad mode: torch multiplies by weights that are trained, in an operator that has no formula."""
    lstm = lstm_fused.LSTM(20, 30, num_layers=2).requires_grad_(weights == "trained")
    input, state = torch.randn(5, 3, 20), torch.zeros(2, 3, 30)
    forward, backward = torch.ops.lstm_fused.forward, torch.ops.lstm_fused.backward
    args = (input, state, state, list(lstm.parameters()), False, None, None, None)
    output = forward(*args, True, False, False)[0]
    for recompute_gates in (False, True):
        kept = forward(*args, True, False, False, recompute_gates)[-1]
        grads = backward(torch.ones_like(output), None, None, None, *args, kept, True, True, False)
        exact = torch.autograd.grad(lstm.requires_grad_()(input)[0].sum(), list(lstm.parameters()))
        torch.testing.assert_close(grads[3], list(exact))


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_default_device_changes_nothing(function: Function) -> None:
    """What is created inside lies where the arguments are: with gradients twice, and dual tensors."""
    weights, x, *rest = arguments(function, [5, 3, 1])

    def everything() -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        results = [*function(weights, leaf, *rest)]
        (gradient,) = torch.autograd.grad(loss(function)(weights, leaf, *rest), leaf, create_graph=True)
        results += torch.autograd.grad(gradient.square().sum(), leaf)
        with forward_ad.dual_level():
            dual = function(weights, forward_ad.make_dual(x, x), *rest)
            results += [forward_ad.unpack_dual(result).tangent for result in dual]
        results += func.vmap(lambda x: function(weights, x, *rest))(torch.stack([x, x]))
        with torch.no_grad():
            return [*results, *function(weights, x, *rest)]

    expected = everything()
    for default in ("meta", "cpu"):
        with torch.device(default):
            torch.testing.assert_close(everything(), expected)
    torch.set_default_dtype(torch.float64)
    try:
        torch.testing.assert_close(everything(), expected)
    finally:
        torch.set_default_dtype(torch.float32)
