"""The op as a citizen of torch: gradcheck, opcheck, compile, and the same bits every time."""

from __future__ import annotations

import pytest
import torch
from cases import Case, draw
from functions import SEVERAL, SMALL, Recorder, as_function

import lstm_fused


@pytest.mark.parametrize("options", SEVERAL, ids=str)
def test_gradcheck(options: dict):
    function, inputs = as_function(SMALL.but(**options))
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", SEVERAL, ids=str)
def test_opcheck(options: dict, dtype: torch.dtype):
    """Schema, fake tensors, autograd registration and tracing, on the very calls that training makes."""
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if dtype == torch.float32:  # what is traced has no dtype of its own, and takes most of the time
        checks.append("test_aot_dispatch_dynamic")
    function, inputs = as_function(SMALL.but(dtype=dtype, **options))
    with Recorder() as recorder:
        results = function(*inputs)
        sum(result.float().sum() for result in results).backward()
    ops = torch.ops.lstm_fused
    assert {func for func, _, _ in recorder.calls} >= {ops.forward.default, ops.backward.default}
    tolerances = {"rtol": 0, "atol": 0}  # traced and eager run the same kernel
    for func, args, kwargs in recorder.calls:
        args = [detached(a, grad=func is ops.forward.default) for a in args]
        torch.library.opcheck(func, tuple(args), kwargs, test_utils=checks, **tolerances)


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
