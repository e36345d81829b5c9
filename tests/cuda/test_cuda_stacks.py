"""Layers of a stack side by side in one launch, on the simulator: only `group` has them, in one direction."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from cases import Case, Problem, draw
from kernel_kinds import ARITHMETICS, SEEDS, arguments, check, inference
from numerics import assert_accurate, fused
from simulated import Simulator, planned
from test_cuda_waiting import barriers
from torch import Tensor

ALL = ["float16", "bfloat16", "float32", "tf32"]
EVERYTHING = {"lengths": True, "reset": 0.3, "dropout": 0.5, "return_cells": True}
CASES = [
    Case(2, 1, 1, 1, num_layers=2),
    Case(7, 9, 17, 1, num_layers=3, lengths=True),
    Case(3, 5, 5, 18, num_layers=3, reset=0.3, bias=False),
    Case(2, 17, 3, 33, num_layers=2, dropout=0.5, hx=False),
    Case(3, 9, 65, 17, num_layers=4, **EVERYTHING),
    Case(2, 3, 9, 111, num_layers=2, lengths=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("arithmetic", ALL)
def test_accuracy(simulator: Simulator, arithmetic: str, case: Case) -> None:
    case = case.but(dtype=ARITHMETICS[arithmetic])
    plan = planned("group_stack", case, allow_tf32=arithmetic == "tf32")
    assert plan.layers_at_once == plan.backward_layers_at_once == case.num_layers
    check(simulator, ("group_stack", arithmetic), case, times=10 if case.hidden_size == 1 else 1)


@pytest.mark.parametrize("arithmetic", ALL)
def test_inference(simulator: Simulator, arithmetic: str) -> None:
    case = Case(3, 5, 9, 17, num_layers=3, **EVERYTHING)
    check(simulator, ("group_stack", arithmetic), case, times=2, run=inference)


@pytest.mark.parametrize(("arithmetic", "hidden_size"), [("float32", 129), ("tf32", 257), ("bfloat16", 513)])
def test_weights_in_shared_memory(simulator: Simulator, arithmetic: str, hidden_size: int) -> None:
    """Beyond what half of the registers hold, for W_hh and W_ih each; of the last block a single unit."""
    case = Case(2, 2, 5, hidden_size, num_layers=2, lengths=True, reset=0.3)
    check(simulator, ("group_stack", arithmetic), case, times=1)


@pytest.mark.parametrize("arithmetic", ALL)
def test_every_schedule_and_division_of_rows_gives_the_same_bits(simulator: Simulator, arithmetic: str) -> None:
    """On 4 SMs each layer has one group of two blocks, which takes both tiles of rows in turns."""
    problem = draw(Case(3, 9, 5, 17, num_layers=2, **EVERYTHING).but(dtype=ARITHMETICS[arithmetic]))
    results = []
    for seed in range(SEEDS):
        with simulator.running("group_stack", arithmetic == "tf32", seed, num_sms=4 if seed % 2 else 0):
            results.append(fused(problem))
            assert simulator.launches() == 1 + 1
    for other in results[1:]:
        for name, tensor in results[0].items():
            assert torch.equal(tensor, other[name]), name


def test_more_layers_than_fit(simulator: Simulator) -> None:
    """On 7 SMs two layers of three blocks each, then the third."""
    case = Case(7, 9, 5, 33, num_layers=3, **EVERYTHING)
    with simulator.running("group_stack", num_sms=7):
        assert_accurate(case, times=1)
        assert simulator.launches() == 2 + 2


@pytest.mark.parametrize("training", [True, False])
def test_no_room_for_all_layers(simulator: Simulator, training: bool) -> None:
    """A GPU may have less room than it promises, where others are on it: step runs then, layer by layer."""
    problem = draw(Case(3, 9, 5, 33, num_layers=3, **EVERYTHING))
    with simulator.running("step"), torch.set_grad_enabled(training):
        by_step, launches = fused(problem), simulator.launches()
    with simulator.running("group_stack", room=2), torch.set_grad_enabled(training):
        results = fused(problem)
        assert simulator.launches() == launches
    for name, tensor in by_step.items():
        assert torch.equal(tensor, results[name]), name


def test_recomputed_gates(simulator: Simulator) -> None:
    """Backward runs layer by layer: the gates of a single one are in memory."""
    with simulator.running("group_stack"):
        assert_accurate(Case(3, 5, 9, 17, num_layers=3, **EVERYTHING), partial(fused, recompute_gates=True), times=1)
        assert simulator.launches() == 1 + 3


class Backward:
    """The op's backward on outputs of one forward, with chosen gradients given and asked for."""

    def __init__(self, simulator: Simulator, problem: Problem) -> None:
        self.op = simulator.ops.backward
        self.args = *arguments(problem), problem.lengths, problem.reset, problem.masks
        *outputs, self.reserve = simulator.ops.forward(*self.args, True, True, False)
        self.grads = [torch.ones_like(tensor) for tensor in outputs]

    def __call__(self, grads: list[Tensor | None], of_input: bool = True, of_weights: bool = True) -> list[Tensor]:
        results = self.op(*grads, *self.args, self.reserve, of_input, of_weights, False)
        return [*results[:3], *results[3]]


def test_gradients_that_are_not_given_are_zero_and_only_what_is_wanted_is_computed(simulator: Simulator) -> None:
    with simulator.running("group_stack"):
        backward = Backward(simulator, draw(Case(3, 9, 5, 17, num_layers=3, **EVERYTHING)))
        for n in range(4):
            zero, none = list(backward.grads), list(backward.grads)
            zero[n], none[n] = torch.zeros_like(zero[n]), None
            assert all(map(torch.equal, backward(zero), backward(none)))
        everything = backward(backward.grads)
        without_input = backward(backward.grads, of_input=False)
        assert without_input[0].numel() == 0
        assert all(map(torch.equal, everything[1:], without_input[1:]))
        without_weights = backward(backward.grads, of_weights=False)
        assert len(without_weights) == 3
        assert all(map(torch.equal, everything[:3], without_weights))


@pytest.mark.parametrize(
    ("file_name", "line", "text"),
    [barrier for barrier in barriers() if barrier[0] == "group_exchange.cuh"],
)
def test_no_barrier_may_be_missing_backward(simulator: Simulator, file_name: str, line: int, text: str) -> None:
    """What forward needs too, and would report before; see test_cuda_waiting.py."""
    problem = draw(Case(3, 9, 5, 17, num_layers=2, lengths=True, dtype=torch.bfloat16))
    with simulator.running("group_stack"):
        backward = Backward(simulator, problem)
    for seed in range(SEEDS):
        with (
            simulator.without_barrier(file_name, line),
            simulator.running("group_stack", seed=seed),
            pytest.raises(RuntimeError, match=r"race: |never written"),
        ):
            backward(backward.grads)
