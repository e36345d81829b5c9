"""Schedules that are not fair, on the simulator: whoever is held up as long as anybody else can move, kernels end."""

from __future__ import annotations

import pytest
import torch
from cases import Case, draw
from kernel_kinds import ARITHMETICS
from numerics import fused
from simulated import Simulator

# Of each persistent kind: several blocks where it has such, warps without units, warps that share their units (the
# cluster in float32 beyond H 128), and tiles of rows that a group takes in turns.
RUNS = [
    ("block", Case(4, 9, 5, 24), "bfloat16"),
    ("block", Case(4, 9, 5, 24), "float32"),
    ("cluster", Case(5, 3, 5, 72), "bfloat16"),
    ("cluster", Case(5, 3, 5, 72), "float32"),
    pytest.param("cluster", Case(4, 1, 5, 130), "float32", marks=pytest.mark.slow),
    ("group", Case(4, 9, 5, 17), "bfloat16"),
    ("group", Case(3, 57, 5, 17), "bfloat16"),  # two blocks on an SM, of groups with two tiles each
    # groups with five tiles and four, in pairs of turns
    pytest.param("group", Case(2, 70, 5, 17), "bfloat16", marks=pytest.mark.slow),
    ("group", Case(3, 3, 5, 17, num_layers=2), "bfloat16"),
    pytest.param("group", Case(4, 9, 5, 17), "float32", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("what", ["warp", "block", "last"])
@pytest.mark.parametrize(("kind", "case", "arithmetic"), RUNS, ids=str)
def test_kernels_end_whoever_is_held_up(
    simulator: Simulator, kind: str, case: Case, arithmetic: str, what: str
) -> None:
    """And give the bits that they give otherwise."""
    ragged = {} if case.batch == 70 else {"lengths": True, "reset": 0.3}
    problem = draw(case.but(dtype=ARITHMETICS[arithmetic], return_cells=True, **ragged))
    num_sms = 4 if kind == "group" else 0
    with simulator.running(kind, num_sms=num_sms):
        wanted = fused(problem)
    starved = 0
    for starved in simulator.starved(what):
        with simulator.running(kind, seed=starved, num_sms=num_sms):
            results = fused(problem)
        for name, tensor in wanted.items():
            assert torch.equal(tensor, results[name]), name
    if what != "last":
        assert starved > (0 if kind == "block" and what == "block" else 1)
