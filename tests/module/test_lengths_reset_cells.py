"""lengths, reset and return_cells: what lstm_fused adds to torch.nn.LSTM."""

from __future__ import annotations

import pytest
import torch
from cases import DTYPES, Case, draw
from numerics import assert_accurate

import lstm_fused

SOME = Case(9, 5, 4, 7)
STACK = {"num_layers": 2, "bidirectional": True, "proj_size": 3}
EXTRAS: list[dict] = [
    {"lengths": True},
    {"reset": 0.3},
    {"return_cells": True},
    {"lengths": True, "reset": 0.3, "return_cells": True},
]
SHAPES: list[dict] = [
    {},
    {"bidirectional": True},
    {"num_layers": 3, "bias": False},
    STACK | {"hx": False},
    {"batch_first": True, "bidirectional": True},
    {"dropout": 0.5, "num_layers": 2, "bidirectional": True},
    {"seq_len": 1, "bidirectional": True},
    {"batch": 1, "bidirectional": True},
    {"hidden_size": 65, "batch": 17, "seq_len": 4},
    {"contiguous": False, "batch_first": True, "num_layers": 2},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("extras", EXTRAS, ids=str)
def test_accuracy(extras: dict, shape: dict):
    assert_accurate(SOME.but(**extras, **shape))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("extras", EXTRAS, ids=str)
def test_accuracy_in_other_dtypes(extras: dict, dtype: torch.dtype):
    assert_accurate(SOME.but(dtype=dtype, **extras, **STACK))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    "extras", [{"reset": 0.4}, {"return_cells": True}, {"reset": 0.4, "return_cells": True}], ids=str
)
def test_unbatched(extras: dict, batch_first: bool):
    assert_accurate(SOME.but(batch=None, batch_first=batch_first, **extras, **STACK))


def test_every_step_resets():
    """Each step then stands alone, and only the hx of the reverse direction is seen, by the last step."""
    assert_accurate(SOME.but(reset=1.0, return_cells=True, **STACK))


def call(case: Case, **extras):
    """output, h_n, c_n[, cells] of a module with fixed weights on fixed inputs."""
    leaves = draw(case).leaves
    module = lstm_fused.LSTM(**case.options())
    module.load_state_dict({name: leaves[name] for name in module.state_dict()})
    output, states, *cells = module(leaves["input"], (leaves["h_0"], leaves["c_0"]), **extras)
    return [output, *states, *cells]


def test_full_lengths_and_no_reset_change_nothing():
    case = SOME.but(**STACK)
    plain = call(case)
    full = call(case, lengths=torch.full((5,), 9), reset=torch.zeros(9, 5, dtype=torch.bool))
    for a, b in zip(plain, full, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_lengths_of_either_integer_type(dtype: torch.dtype):
    lengths = torch.tensor([1, 9, 4, 2, 8])
    for a, b in zip(call(SOME, lengths=lengths.to(dtype)), call(SOME, lengths=lengths), strict=True):
        assert torch.equal(a, b)


def test_padding_is_exact_zero_and_never_read():
    """NaN past the end of a row reaches neither a result nor a gradient; the results there are exact zeros."""
    case = SOME.but(bidirectional=True, num_layers=2, dropout=0.5)
    lengths = torch.tensor([1, 9, 4, 2, 8])
    padding = (torch.arange(9).unsqueeze(1) >= lengths).unsqueeze(2)
    input = draw(case).leaves["input"].masked_fill(padding, float("nan")).requires_grad_()
    module = lstm_fused.LSTM(**case.options())
    output, (h_n, c_n), cells = module(input, lengths=lengths, return_cells=True)
    poison = torch.randn_like(output).masked_fill(padding, float("nan"))
    gradients = torch.autograd.grad([output, h_n, c_n], [input, *module.parameters()], [poison, h_n, c_n])
    for tensor in (output, cells, gradients[0]):
        assert (tensor.masked_select(padding) == 0).all()
    for tensor in (output, h_n, c_n, cells, *gradients):
        assert tensor.isfinite().all()


def test_nothing_crosses_a_reset():
    """Exact zeros, in both directions: NaN before a boundary stays before it, gradients end at it."""
    case = SOME.but(bidirectional=True)
    reset = torch.zeros(9, 5, dtype=torch.bool)
    reset[4] = True
    leaves = {name: tensor.requires_grad_() for name, tensor in draw(case).leaves.items()}
    module = lstm_fused.LSTM(**case.options())
    output, (h_n, c_n) = module(leaves["input"], (leaves["h_0"], leaves["c_0"]), reset=reset)
    wanted = [leaves["input"], leaves["h_0"], leaves["c_0"]]
    late = torch.autograd.grad(output[4:].sum() + h_n[0].sum() + c_n[0].sum(), wanted, retain_graph=True)
    early = torch.autograd.grad(output[:4].sum() + h_n[1].sum() + c_n[1].sum(), wanted)
    assert (late[0][:4] == 0).all() and (late[0][4:] != 0).any(dim=2).all()
    assert (early[0][4:] == 0).all() and (early[0][:4] != 0).any(dim=2).all()
    for state in (1, 2):  # late steps start from the hx of the reverse direction only, early ones from the other
        assert (late[state][0] == 0).all() and (late[state][1] != 0).any()
        assert (early[state][1] == 0).all() and (early[state][0] != 0).any()
    with torch.no_grad():
        poisoned = leaves["input"].clone()
        poisoned[:4] = float("nan")
        h_0 = torch.stack([torch.full_like(leaves["h_0"][0], float("nan")), leaves["h_0"][1]])
        again = module(poisoned, (h_0, leaves["c_0"]), reset=reset)[0]
    assert torch.equal(again[4:], output[4:])


def test_reset_at_step_0():
    """It discards hx going forward; going backward the boundary lies behind the last step and changes nothing."""
    case = SOME.but(bidirectional=True)
    reset = torch.zeros(9, 5, dtype=torch.bool)
    reset[0, 2] = True
    plain, cut = call(case)[0], call(case, reset=reset)[0]
    leaves = draw(case).leaves
    module = lstm_fused.LSTM(**case.options())
    module.load_state_dict({name: leaves[name] for name in module.state_dict()})
    fresh = module(leaves["input"])[0]
    others = [0, 1, 3, 4]
    torch.testing.assert_close(cut[:, others], plain[:, others])
    torch.testing.assert_close(cut[:, 2, :7], fresh[:, 2, :7])
    torch.testing.assert_close(cut[:, 2, 7:], plain[:, 2, 7:])


def test_reset_past_the_end_of_a_row_is_ignored():
    case = SOME.but(**STACK)
    lengths = torch.tensor([1, 9, 4, 2, 8])
    reset = torch.arange(9).unsqueeze(1) >= lengths
    for a, b in zip(call(case, lengths=lengths, reset=reset), call(case, lengths=lengths), strict=True):
        torch.testing.assert_close(a, b)


def test_states_are_those_of_the_last_valid_step():
    lengths = torch.tensor([1, 9, 4, 2, 8])
    output, h_n, c_n, cells = call(SOME, lengths=lengths, return_cells=True)
    last = torch.arange(5)
    assert torch.equal(output[lengths - 1, last], h_n[0]) and torch.equal(cells[lengths - 1, last], c_n[0])


@pytest.mark.parametrize("wrong", [[0, 9, 4, 2, 8], [1, 10, 4, 2, 8], [1, 9, -4, 2, 8], [1, 9, 4, 2, 2**40]], ids=str)
def test_lengths_out_of_range(wrong: list[int]):
    with pytest.raises((ValueError, RuntimeError), match=r"lengths.*9"):
        call(SOME, lengths=torch.tensor(wrong))


@pytest.mark.parametrize("options", [{}, STACK], ids=str)
def test_an_empty_batch(options: dict):
    case = SOME.but(batch=0, **options)
    extras = {"lengths": torch.zeros(0, dtype=torch.int64), "reset": torch.zeros(9, 0, dtype=torch.bool)}
    output, h_n, c_n, cells = call(case, **extras, return_cells=True)
    assert output.shape == (9, 0, case.directions * case.width) and cells.shape == (9, 0, case.directions * 7)
    assert h_n.shape[1] == c_n.shape[1] == 0
    (output.sum() + cells.sum()).backward()
