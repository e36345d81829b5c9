"""Layers of a stack side by side in one launch, on the simulator: only `group` has them, in one direction."""

from __future__ import annotations

import pytest
import torch
from cases import Case, draw
from numerics import assert_accurate, fused
from simulated import Simulator, planned
from test_cuda_kernels import ARITHMETICS, SEEDS, arguments, check, inference

ALL = ["float16", "bfloat16", "float32", "tf32"]
EVERYTHING = {"lengths": True, "reset": 0.3, "dropout": 0.5, "return_cells": True}
CASES = [
    Case(2, 1, 1, 1, num_layers=2),
    Case(7, 9, 17, 1, num_layers=3, lengths=True),
    Case(3, 5, 5, 17, num_layers=3, reset=0.3, bias=False),
    Case(2, 17, 3, 33, num_layers=2, dropout=0.5, hx=False),
    Case(3, 9, 65, 17, num_layers=4, **EVERYTHING),
    Case(2, 3, 9, 111, num_layers=2, lengths=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("arithmetic", ALL)
def test_accuracy(simulator: Simulator, arithmetic: str, case: Case) -> None:
    case = case.but(dtype=ARITHMETICS[arithmetic])
    assert planned("group", case, allow_tf32=arithmetic == "tf32").layers_at_once == case.num_layers
    check(simulator, ("group", arithmetic), case, times=10 if case.hidden_size == 1 else 1)


@pytest.mark.parametrize("arithmetic", ALL)
def test_inference(simulator: Simulator, arithmetic: str) -> None:
    case = Case(3, 5, 9, 17, num_layers=3, **EVERYTHING)
    check(simulator, ("group", arithmetic), case, times=2, run=inference)


@pytest.mark.parametrize(("arithmetic", "hidden_size"), [("float32", 129), ("tf32", 257), ("bfloat16", 513)])
def test_weights_in_shared_memory(simulator: Simulator, arithmetic: str, hidden_size: int) -> None:
    """Beyond what half of the registers hold, for W_hh and W_ih each; of the last block a single unit."""
    case = Case(2, 2, 5, hidden_size, num_layers=2, lengths=True, reset=0.3)
    check(simulator, ("group", arithmetic), case, times=1, run=inference)


@pytest.mark.parametrize("arithmetic", ALL)
def test_every_schedule_and_division_of_rows_gives_the_same_bits(simulator: Simulator, arithmetic: str) -> None:
    """On 4 SMs each layer has one group of two blocks, which takes both tiles of rows in turns."""
    problem = draw(Case(3, 9, 5, 17, num_layers=2, **EVERYTHING).but(dtype=ARITHMETICS[arithmetic]))
    args = *arguments(problem), problem.lengths, problem.reset, problem.masks, True, True, arithmetic == "tf32"
    results = []
    for seed in range(SEEDS):
        with simulator.running("group", seed=seed, num_sms=4 if seed % 2 else 0):
            results.append(simulator.ops.forward(*args)[:4])
            assert simulator.launches() == 1
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_more_layers_than_fit(simulator: Simulator) -> None:
    """On 7 SMs two layers of three blocks each, then the third."""
    case = Case(7, 9, 5, 33, num_layers=3, **EVERYTHING)
    with simulator.running("group", num_sms=7):
        assert_accurate(case, times=1)
        assert simulator.launches() == 2 + 3


@pytest.mark.parametrize("training", [True, False])
def test_no_room_for_all_layers(simulator: Simulator, training: bool) -> None:
    """A GPU may have less room than it promises, where others are on it: step runs then, layer by layer."""
    problem = draw(Case(3, 9, 5, 33, num_layers=3, **EVERYTHING))
    with simulator.running("step"), torch.set_grad_enabled(training):
        by_step, launches = fused(problem), simulator.launches()
    with simulator.running("group", room=2), torch.set_grad_enabled(training):
        results = fused(problem)
        assert simulator.launches() == launches
    for name, tensor in by_step.items():
        assert torch.equal(tensor, results[name]), name
