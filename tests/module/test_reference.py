"""lstm_fused.reference against torch.nn.LSTM and the splitting loop, all in float64.

Both sides are float64 sums of a few hundred terms in different orders: 1e-12 leaves room for that and nothing else.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import OPTIONS, Case, Problem, draw
from exact import exact_lstm
from numerics import differentiate, expected
from oracle import packed, split_rows

from lstm_fused import reference

SPLIT = [
    Case(9, 4, lengths=True),
    Case(9, 4, reset=0.3),
    Case(9, 4, return_cells=True),
    Case(9, 4, lengths=True, reset=0.4, return_cells=True, bidirectional=True),
    Case(9, 4, lengths=True, reset=0.4, return_cells=True, bidirectional=True, num_layers=3, proj_size=2, dropout=0.5),
    Case(9, 4, reset=1.0, bidirectional=True, num_layers=2, bias=False, hx=False),
    Case(1, 2, lengths=True, reset=0.5, bidirectional=True),
]


def by_reference(problem: Problem) -> dict[str, torch.Tensor]:
    case = problem.case
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in problem.leaves.items()}
    states = case.num_layers * case.directions, case.rows
    h_0 = leaves["h_0"] if case.hx else torch.zeros(*states, case.width, dtype=case.dtype)
    c_0 = leaves["c_0"] if case.hx else torch.zeros(*states, case.hidden_size, dtype=case.dtype)
    weights = [tensor for name, tensor in leaves.items() if name not in ("input", "h_0", "c_0")]
    results = reference.lstm(
        leaves["input"], h_0, c_0, weights, bidirectional=case.bidirectional,
        lengths=problem.lengths, reset=problem.reset, dropout_mask=problem.masks,
    )  # fmt: skip
    outputs = dict(zip(("output", "h_n", "c_n", "cells"), results, strict=True))
    if not case.return_cells:
        assert outputs.pop("cells").shape == (case.seq_len, case.rows, case.directions * case.hidden_size)
    return differentiate(outputs, leaves, problem.cotangents)


def assert_same(actual: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == exact.keys()
    for name in exact:
        torch.testing.assert_close(actual[name], exact[name], rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", [c for c in OPTIONS if c.dtype == torch.float64], ids=str)
def test_against_torch(case: Case):
    problem = draw(case)
    assert_same(by_reference(problem), expected(problem, torch.float64))


@pytest.mark.parametrize("case", [*(c for c in OPTIONS if c.dtype == torch.float64), *SPLIT], ids=str)
def test_the_reference_of_float64_against_torch(case: Case):
    problem = draw(case.but(dtype=torch.float64))
    exact = {name: torch.from_numpy(array.astype(np.float64)) for name, array in exact_lstm(problem).items()}
    assert_same(exact, expected(problem, torch.float64))


@pytest.mark.parametrize("case", SPLIT, ids=str)
def test_against_the_splitting_loop(case: Case):
    problem = draw(case.but(dtype=torch.float64))
    assert_same(by_reference(problem), expected(problem, torch.float64))


def test_the_two_oracles_agree():
    """Splitting at lengths is the same as pack -> torch.nn.LSTM -> pad: the oracle is checked against torch itself."""
    problem = draw(Case(9, 5, lengths=True, bidirectional=True, num_layers=2, proj_size=3, dtype=torch.float64))
    results = []
    for oracle in (packed, split_rows):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in problem.leaves.items()}
        results.append(differentiate(oracle(problem, leaves), leaves, problem.cotangents))
    assert_same(*results)
