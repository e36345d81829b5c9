"""The FLOP counter: as many operations as it finds in the reference's own matrix products."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from cases import Case, draw
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode

import lstm_fused
from lstm_fused import functional, ops, reference

CASES = [
    Case(),
    Case(1, 1, 17, 129),
    Case(7, 3, 9, 17, bias=False, bidirectional=True, reset=0.3),
    Case(5, 17, 3, 11, num_layers=3, bidirectional=True, return_cells=True, lengths=True),
    Case(4, 2, 6, 8, num_layers=2, proj_size=3, bidirectional=True),
    Case(3, 5, 7, 16, num_layers=2, proj_size=15, bias=False, batch_first=True),
]


def named(frozen: set[str]) -> str:
    """The same in every process: a set has no order."""
    return " and ".join(sorted(frozen)) or "nothing"


def counted(function: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def training_step(run: Callable[..., tuple[Tensor, ...]], leaves: dict[str, Tensor], frozen: set[str]) -> int:
    """Forward and backward, with `input` or `weights` frozen. States always want the gradient that it forms."""
    leaves = {
        n: t.clone().requires_grad_((n if n in ("input", "h_0", "c_0") else "weights") not in frozen)
        for n, t in leaves.items()
    }
    input, h_0, c_0, *weights = leaves.values()
    return counted(lambda: sum(result.square().sum() for result in run(input, h_0, c_0, weights)).backward())


@pytest.mark.parametrize("frozen", [set(), {"input"}, {"weights"}, {"input", "weights"}], ids=named)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_training(case: Case, frozen: set[str]) -> None:
    problem = draw(case)
    gates = sum(t.numel() for name, t in problem.leaves.items() if name.startswith(("weight_ih", "weight_hh")))

    def ours(input: Tensor, h_0: Tensor, c_0: Tensor, weights: list[Tensor], **more: Any) -> tuple[Tensor, ...]:
        if case.batch_first:
            input = input.transpose(0, 1)
        options = {"num_layers": case.num_layers, "bias": case.bias, "bidirectional": case.bidirectional}
        options |= {"batch_first": case.batch_first, "return_cells": case.return_cells}
        masks = {"lengths": problem.lengths, "reset": problem.reset}
        output, states, *cells = functional.lstm(input, (h_0, c_0), weights, **options, **masks, **more)
        return output, *states, *cells

    def plain(*tensors: Any) -> tuple[Tensor, ...]:
        options = {"lengths": problem.lengths, "reset": problem.reset}
        return reference.lstm(*tensors, bidirectional=case.bidirectional, **options)[: 4 if case.return_cells else 3]

    exact = training_step(plain, problem.leaves, frozen)
    assert training_step(ours, problem.leaves, frozen) == exact
    again = training_step(partial(ours, recompute_gates=True), problem.leaves, frozen)
    assert again == exact + 2 * case.seq_len * case.rows * gates


@pytest.mark.parametrize("frozen", [set(), {"input"}, {"weights"}], ids=named)
@pytest.mark.parametrize("case", [CASES[0], CASES[4]], ids=str)
@pytest.mark.parametrize("allow_tf32", [False, True])
def test_variants(case: Case, frozen: set[str], allow_tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip multiplies no matrix. What is at its default at the end of a call is not among its arguments."""
    monkeypatch.setattr(ops, "uses_tf32", lambda input: allow_tf32)
    problem = draw(case)
    options = {"num_layers": case.num_layers, "bidirectional": case.bidirectional}

    def ours(input: Tensor, h_0: Tensor, c_0: Tensor, weights: list[Tensor]) -> tuple[Tensor, ...]:
        cell = functional.CellOptions(cell_clip=0.5)
        output, states = functional.lstm(input, (h_0, c_0), weights, **options, cell=cell)
        return output, *states

    def plain(*tensors: Any) -> tuple[Tensor, ...]:
        return reference.lstm(*tensors, bidirectional=case.bidirectional)[:3]

    assert training_step(ours, problem.leaves, frozen) == training_step(plain, problem.leaves, frozen)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inference(case: Case) -> None:
    problem = draw(case.but(lengths=False, reset=0, return_cells=False))
    module = lstm_fused.LSTM(**case.but(dropout=0.0).options())
    input, h_0, c_0, *weights = problem.leaves.values()
    exact = counted(lambda: reference.lstm(input, h_0, c_0, weights, bidirectional=case.bidirectional))
    input = input.transpose(0, 1) if case.batch_first else input
    infer = torch.ops.lstm_fused.infer
    with torch.no_grad():
        assert counted(lambda: module(input)) == exact
        args = (problem.leaves["input"], None, None, weights, case.num_layers, case.bidirectional, False)
        assert counted(lambda: infer(*args)) == exact


def test_packed_rows_and_cells_of_one_step() -> None:
    """Padding costs nothing where there is none. A call is found under its module and its operator."""
    lengths = torch.tensor([5, 3, 3, 1])
    module = lstm_fused.LSTM(4, 7)
    packed = pack_padded_sequence(torch.randn(5, 4, 4), lengths)
    assert counted(lambda: module(packed)) == 2 * 12 * 28 * (4 + 7)
    cell = lstm_fused.LSTMCell(4, 7)
    with FlopCounterMode(display=False) as counter:
        cell(torch.randn(3, 4))
    assert counter.get_flop_counts()["LSTMCell"] == {torch.ops.lstm_fused.forward: 2 * 3 * 28 * (4 + 7)}


@pytest.mark.parametrize(
    "frozen", [set(), {"input"}, {"weights"}], ids=lambda names: " and ".join(sorted(names)) or "nothing"
)
def test_backward_of_a_cell(frozen: set[str]) -> None:
    """Counted by itself: the counter is not there while forward runs, which then takes the operators of one step."""
    cell = lstm_fused.LSTMCell(4, 7).requires_grad_("weights" not in frozen)
    input, h, c = (torch.randn(3, n, requires_grad=True) for n in (4, 7, 7))
    input.requires_grad_("input" not in frozen)
    loss = sum(state.sum() for state in cell(input, (h, c)))
    w_ih, w_hh = 28 * 4, 28 * 7
    wanted = w_hh + w_ih * ("input" not in frozen) + (w_ih + w_hh) * ("weights" not in frozen)
    assert counted(lambda: loss.backward()) == 2 * 3 * wanted


@pytest.mark.parametrize("frozen", [set(), {"input"}, {"weights"}], ids=named)
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}, {"proj_size": 3}], ids=str)
def test_cells_beyond_the_plain_one(options: dict, frozen: set[str]) -> None:
    """As many as the plain one: they have its matrices."""
    totals = []
    for own in ({}, {"peephole": True, "layer_norm": True}):
        lstm = lstm_fused.LSTM(5, 7, **options, **own)
        lstm.requires_grad_("weights" not in frozen)
        input = torch.randn(4, 3, 5, requires_grad="input" not in frozen)
        totals.append(counted(lambda lstm=lstm, input=input: lstm(input)[0].sum().backward()))
    assert totals[0] == totals[1] > 0
