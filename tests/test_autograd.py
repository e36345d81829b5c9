"""The op as a citizen of torch: gradcheck to any order, opcheck, compile, functorch, and the same bits every time."""

from __future__ import annotations

import pytest
import torch
from cases import Case, draw
from torch.utils._python_dispatch import TorchDispatchMode

import lstm_fused
from lstm_fused import functional, reference

SMALL = Case(3, 2, 2, 2, dtype=torch.float64)
SEVERAL: list[dict] = [
    {},
    {"bias": False, "bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "hidden_size": 3, "proj_size": 2},
    {"lengths": True, "bidirectional": True},
    {"reset": 0.4, "bidirectional": True, "num_layers": 2},
    {"lengths": True, "reset": 0.4, "bidirectional": True, "return_cells": True, "hidden_size": 3, "proj_size": 1},
    {"return_cells": True, "num_layers": 2, "dropout": 0.5},
    {"batch_first": True, "return_cells": True},
]


def as_function(case: Case):
    """A function of all differentiable tensors of a case, and these tensors."""
    problem = draw(case)
    if case.lengths:
        problem.lengths = torch.arange(case.rows) % case.seq_len + 1  # each length from 1 up, also the full one
    reset = problem.reset
    if case.batch_first:
        problem.leaves["input"] = problem.leaves["input"].transpose(0, 1)
        reset = None if reset is None else reset.t()

    def function(input, h_0, c_0, *weights):
        torch.manual_seed(case.seed)
        output, states, *cells = functional.lstm(
            input, (h_0, c_0), list(weights), num_layers=case.num_layers, bias=case.bias, training=case.dropout > 0,
            bidirectional=case.bidirectional, batch_first=case.batch_first, dropout=case.dropout,
            lengths=problem.lengths, reset=reset, return_cells=case.return_cells,
        )  # fmt: skip
        return output, *states, *cells

    return function, tuple(t.clone().requires_grad_() for t in problem.leaves.values())


@pytest.mark.parametrize("options", SEVERAL, ids=str)
def test_gradcheck(options: dict):
    function, inputs = as_function(SMALL.but(**options))
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("options", SEVERAL, ids=str)
def test_gradgradcheck(options: dict):
    function, inputs = as_function(SMALL.but(**options))
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_gradgradcheck_element_by_element():
    function, inputs = as_function(Case(2, 1, 1, 1, dtype=torch.float64))
    assert torch.autograd.gradgradcheck(function, inputs)


def test_third_order():
    """The third derivative, against the one of the reference in plain torch ops."""
    function, inputs = as_function(SMALL)

    def third(f):
        current = sum(result.square().sum() for result in f(*inputs))
        for _ in range(3):
            current = sum(g.sum() for g in torch.autograd.grad(current, inputs, create_graph=True))
        return current

    plain = third(lambda input, h_0, c_0, *weights: reference.lstm(input, h_0, c_0, list(weights))[:3])
    torch.testing.assert_close(third(function), plain)


class Recorder(TorchDispatchMode):
    """Keeps every call of an op of lstm_fused with its arguments."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "lstm_fused":
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", SEVERAL, ids=str)
def test_opcheck(options: dict, dtype: torch.dtype):
    """Schema, fake tensors, autograd registration and tracing, on the very calls that training makes."""
    function, inputs = as_function(SMALL.but(dtype=dtype, **options))
    with Recorder() as recorder:
        results = function(*inputs)
        sum(result.float().sum() for result in results).backward()
    ops = torch.ops.lstm_fused
    assert {func for func, _, _ in recorder.calls} >= {ops.forward.default, ops.backward.default}
    tolerances = {"rtol": 0, "atol": 0}  # traced and eager run the same kernel
    for func, args, kwargs in recorder.calls:
        args = [detached(a, grad=func is ops.forward.default) for a in args]
        torch.library.opcheck(func, tuple(args), kwargs, **tolerances)


def detached(value, grad: bool):
    if isinstance(value, (list, tuple)):
        return [detached(v, grad) for v in value]
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().clone().requires_grad_(grad and value.is_floating_point())


@pytest.mark.parametrize("extras", [False, True])
def test_compile(extras: bool):
    """One graph, the same results and gradients."""
    torch._dynamo.reset()
    input = draw(SMALL).leaves["input"].requires_grad_()
    module = lstm_fused.LSTM(2, 2, num_layers=2, bidirectional=True, dtype=torch.float64)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    kwargs = {"lengths": torch.tensor([1, 3]), "reset": torch.tensor([[0, 1], [0, 0], [1, 1]]) == 1} if extras else {}
    wanted = [input, *module.parameters()]
    eager = module(input, **kwargs)[0]
    traced = compiled(input, **kwargs)[0]
    assert torch.equal(eager, traced)
    pairs = zip(*(torch.autograd.grad(o.square().sum(), wanted) for o in (eager, traced)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b)


def test_forward_mode_is_right_or_refused():
    """Silently zero tangents would be the worst answer."""
    function, inputs = as_function(SMALL.but(num_layers=2))
    inputs = tuple(t.detach() for t in inputs)
    tangents = tuple(torch.ones_like(t) for t in inputs)

    def plain(input, h_0, c_0, *weights):
        return reference.lstm(input, h_0, c_0, list(weights))[:3]

    exact = torch.func.jvp(plain, inputs, tangents)[1]
    try:
        actual = torch.func.jvp(function, inputs, tangents)[1]
    except (RuntimeError, NotImplementedError) as error:
        assert str(error)
    else:
        torch.testing.assert_close(actual, exact)
    try:
        with torch.autograd.forward_ad.dual_level():
            dual = [torch.autograd.forward_ad.make_dual(t, v) for t, v in zip(inputs, tangents, strict=True)]
            tangent = torch.autograd.forward_ad.unpack_dual(function(*dual)[0]).tangent
            assert tangent is not None
            torch.testing.assert_close(tangent, exact[0])
    except (RuntimeError, NotImplementedError) as error:
        assert str(error)


def test_functional_gradients():
    """torch.func.grad sees what autograd sees."""
    function, inputs = as_function(SMALL.but(bidirectional=True, num_layers=2))

    def loss(*tensors):
        return sum(result.square().sum() for result in function(*tensors))

    numbers = tuple(range(len(inputs)))
    eager = torch.autograd.grad(loss(*inputs), inputs)
    for a, b in zip(torch.func.grad(loss, numbers)(*(t.detach() for t in inputs)), eager, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("number_of_threads", [1, 2])
def test_same_bits_run_after_run(dtype: torch.dtype, number_of_threads: int, threads):
    """Two whole runs, and two backwards through one graph."""
    threads(number_of_threads)
    case = Case(
        12, 17, 33, 65, num_layers=2, bidirectional=True, lengths=True, reset=0.2, return_cells=True, dtype=dtype
    )
    function, inputs = as_function(case)
    runs = []
    for _ in range(2):
        results = function(*inputs)
        loss = sum(result.float().square().sum() for result in results)
        first = torch.autograd.grad(loss, inputs, retain_graph=True)
        second = torch.autograd.grad(loss, inputs)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        runs.append([*results, *first])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_graph_is_freed_after_backward():
    loss = lstm_fused.LSTM(3, 4)(torch.randn(2, 2, 3))[0].sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()
