"""lstm_fused.LSTMCell against torch.nn.LSTMCell."""

from __future__ import annotations

import collections
import copy
import pickle

import pytest
import torch
from cases import DTYPES
from torch import nn

import lstm_fused


def pair(*args, **options) -> tuple[lstm_fused.LSTMCell, nn.LSTMCell]:
    cells = []
    for cls in (lstm_fused.LSTMCell, nn.LSTMCell):
        torch.manual_seed(0)
        cells.append(cls(*args, **options))
    return tuple(cells)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"dtype": torch.float64}, {"device": "meta"}], ids=str)
def test_construction(options: dict):
    ours, theirs = pair(4, 5, **options)
    assert repr(ours) == repr(theirs) and list(ours.state_dict()) == list(theirs.state_dict())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
        assert a.is_meta or torch.equal(a, b)
    assert (ours.bias_ih is None) == (theirs.bias_ih is None)


@pytest.mark.parametrize("hx", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch", [None, 0, 1, 17])
def test_results_and_gradients(batch: int | None, bias: bool, hx: bool):
    lead = () if batch is None else (batch,)
    input, h, c = torch.randn(*lead, 9), torch.randn(*lead, 17), torch.randn(*lead, 17)
    results = []
    for cell in pair(9, 17, bias=bias):
        leaves = [t.clone().requires_grad_() for t in (input, h, c)]
        h_1, c_1 = cell(leaves[0], (leaves[1], leaves[2]) if hx else None)
        wanted = (leaves if hx else leaves[:1]) + list(cell.parameters())
        results.append([h_1, c_1, *torch.autograd.grad(h_1.square().sum() + c_1.sum(), wanted)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy(dtype: torch.dtype):
    """At most twice torch.nn.LSTMCell's error against float64, plus one rounding."""
    ours, theirs = pair(33, 65, dtype=dtype)
    exact = copy.deepcopy(theirs).double()
    tensors = [torch.randn(17, n, dtype=dtype) for n in (33, 65, 65)]
    wanted = exact(tensors[0].double(), (tensors[1].double(), tensors[2].double()))
    eps = torch.finfo(dtype).eps
    for a, b, c in zip(ours(tensors[0], tensors[1:]), theirs(tensors[0], tensors[1:]), wanted, strict=True):
        error = (b - c).abs().max() if dtype != torch.float64 else 8 * eps  # there torch itself is the reference
        assert (a - c).abs().max() <= 2 * error + eps / 2 * c.abs().max()


def test_checkpoints_copies_and_a_loop():
    ours, theirs = pair(4, 5)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    twin = pickle.loads(pickle.dumps(copy.deepcopy(ours)))
    module = lstm_fused.LSTM(4, 5)
    module.load_state_dict({f"{name}_l0": p for name, p in ours.state_dict().items()})
    steps, state, twin_state = torch.randn(6, 3, 4), None, None
    for step in steps:
        state, twin_state = ours(step, state), twin(step, twin_state)
    for a, b, c in zip(state, twin_state, module(steps)[1], strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c[0])


def test_gradcheck():
    cell = lstm_fused.LSTMCell(2, 3, dtype=torch.float64)
    inputs = [torch.randn(2, n, dtype=torch.float64, requires_grad=True) for n in (2, 3, 3)]
    assert torch.autograd.gradcheck(lambda x, h, c: cell(x, (h, c)), inputs)
    assert torch.autograd.gradgradcheck(lambda x, h, c: cell(x, (h, c)), inputs, fast_mode=True)


def test_results_are_no_views():
    """They may be changed, and cut off from their graph, in place."""
    ours, theirs = pair(4, 5)
    gradients = []
    for cell in (ours, theirs):
        input, state = torch.ones(3, 4, requires_grad=True), None
        for _ in range(3):
            h, c = cell(input, state)
            h = torch.nn.functional.dropout(h.mul_(2).relu_(), 0.0, inplace=True)
            c[:, 0] = 0
            state = h, c
        h, c = cell(input, state)
        gradients.append(torch.autograd.grad(h.sum() + c.sum(), [input, *cell.parameters()]))
    for results in (ours(input), ours(input[0])):
        assert not any(result._is_view() or not result.detach_().is_leaf for result in results)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("wanted", ["input", "h", "c", "bias_hh", "weight_ih"])
def test_gradients_of_some_tensors_only(wanted: str):
    results = []
    for cell in pair(9, 17):
        torch.manual_seed(1)
        tensors = {"input": torch.randn(5, 9), "h": torch.randn(5, 17), "c": torch.randn(5, 17)}
        leaf = (tensors | dict(cell.named_parameters()))[wanted]
        cell.requires_grad_(False)
        h, c = cell(tensors["input"], (tensors["h"], tensors["c"])) if leaf.requires_grad_() is leaf else ()
        results.append(torch.autograd.grad(h.square().sum() + c.sum(), leaf)[0])
    torch.testing.assert_close(*results)


def test_a_batch_of_gradients():
    """torch.func.vmap over backward, and the older is_grads_batched."""
    (ours, theirs), input, directions = pair(4, 5), torch.randn(3, 4, requires_grad=True), torch.randn(7, 3, 5)
    exact = [torch.autograd.grad(theirs(input)[0], input, direction)[0] for direction in directions]
    h, _ = ours(input)
    batched = torch.autograd.grad(h, input, directions, is_grads_batched=True, retain_graph=True)[0]
    mapped = torch.func.vmap(lambda d: torch.autograd.grad(h, input, d, retain_graph=True)[0])(directions)
    torch.testing.assert_close(batched, torch.stack(exact))
    torch.testing.assert_close(mapped, torch.stack(exact))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [None, 3])
def test_opcheck(batch: int | None, dtype: torch.dtype):
    """Schemas and fake tensors of the cell's operators."""
    lead = () if batch is None else (batch,)
    input, h_0, c_0 = (torch.randn(*lead, n, dtype=dtype) for n in (4, 5, 5))
    weights = [p.detach() for p in lstm_fused.LSTMCell(4, 5, dtype=dtype).parameters()]
    operators, checks = torch.ops.lstm_fused, ["test_schema", "test_faketensor"]
    for states in ((h_0, c_0), (None, None)):
        args = (input, *states, weights)
        for training in (False, True):
            torch.library.opcheck(operators.cell.default, (*args, training, False), test_utils=checks)
        *_, reserve = operators.cell(*args, True, False)
        for needs in ((True, True, True), (False, False, False)):
            options = (torch.ones_like(h_0), None, *args, reserve, *needs, False)
            torch.library.opcheck(operators.cell_backward.default, options, test_utils=checks)
        options = (torch.ones_like(h_0), None, *args, reserve)
        torch.library.opcheck(operators.cell_backward_gates.default, (*options, True, True), test_utils=checks)
        *_, grad_gates = operators.cell_backward_gates(*options, False, False)
    options = (grad_gates, input, h_0, weights)
    torch.library.opcheck(operators.cell_weight_grads.default, options, test_utils=checks)


def zeros(*sizes: int) -> torch.Tensor:
    return torch.zeros(sizes)


SAME_MESSAGE: dict[str, tuple] = {
    "3-D": (zeros(1, 3, 4),),
    "0-D": (zeros(),),
    "h 3-D": (zeros(3, 4), (zeros(1, 3, 5), zeros(3, 5))),
    "c 3-D": (zeros(3, 4), (zeros(3, 5), zeros(1, 3, 5))),
    "width": (zeros(3, 5),),
    "h batch": (zeros(3, 4), (zeros(2, 5), zeros(3, 5))),
    "h width": (zeros(3, 4), (zeros(3, 6), zeros(3, 5))),
    "c width": (zeros(3, 4), (zeros(3, 5), zeros(3, 6))),
}
SAME_TYPE: dict[str, tuple] = {
    "width, unbatched": (zeros(5),),
    "h 2-D, unbatched": (zeros(4), (zeros(2, 5), zeros(5))),
    "double": (zeros(3, 4).double(),),
    "hx double": (zeros(3, 4), (zeros(3, 5).double(), zeros(3, 5).double())),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", SAME_MESSAGE | SAME_TYPE)
def test_errors(name: str, grad: bool):
    """The step is tried first; what it refuses is said as torch.nn.LSTMCell says it."""
    errors = []
    for cell in pair(4, 5):
        with torch.set_grad_enabled(grad), pytest.raises(Exception) as caught:
            cell(*(SAME_MESSAGE | SAME_TYPE)[name])
        errors.append(caught.value)
    ours, theirs = errors
    assert type(ours) is type(theirs)
    assert str(ours) == str(theirs) or name in SAME_TYPE


def kinds_of_hx(h: torch.Tensor, c: torch.Tensor) -> dict:
    return {
        "list": [h, c],
        "a tensor of both": torch.stack([h, c]),
        "deque": collections.deque([h, c]),
        "generator": (state for state in (h, c)),
        "three": (h, c, h),
        "one": (h,),
        "none": (),
        "h alone": h,
        "(h, None)": (h, None),
        "(None, c)": (None, c),
        "text": "hc",
        "number": 3,
        "dict": {0: h, 1: c},
        "of floats": (1.0, 2.0),
    }


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("batch", [(3,), ()], ids=["batch", "unbatched"])
@pytest.mark.parametrize("kind", kinds_of_hx(zeros(5), zeros(5)))
def test_kinds_of_hx(kind: str, batch: tuple[int, ...], grad: bool):
    """Taken or refused as by torch.nn.LSTMCell."""
    ours, theirs = pair(4, 5)
    h, c, input = (torch.randn(*batch, n) for n in (5, 5, 4))
    results: list = []
    for cell in (ours, theirs):
        try:
            with torch.set_grad_enabled(grad):
                results.append(cell(input, kinds_of_hx(h, c)[kind]))
        except Exception as error:
            results.append(error)
    if isinstance(results[1], Exception):
        assert type(results[0]) is type(results[1])
    else:
        torch.testing.assert_close(*results)
