"""Groups of blocks: tiles of rows in turns, turns in pairs, two blocks on an SM, and weights in shared memory."""

from __future__ import annotations

import pytest
import torch
from cases import Case, draw
from kernel_kinds import ARITHMETICS, check, inference
from numerics import fused
from simulated import Simulator


@pytest.mark.parametrize(("arithmetic", "hidden_size"), [("float32", 257), ("tf32", 513)])
def test_weights_of_a_group_in_shared_memory(simulator: Simulator, arithmetic: str, hidden_size: int) -> None:
    """Beyond what its registers hold, and of the last block a single unit."""
    check(simulator, ("group", arithmetic), Case(2, 3, 5, hidden_size, lengths=True, reset=0.3), times=1)


# T, B, H, SMs: one group, of 1 or 3 blocks, that takes two or three tiles of rows, one direction after the other; and
# for each direction two groups of 2 blocks, with three tiles and two.
TURNS = [(2, 9, 1, 1), (3, 17, 33, 3), (7, 33, 17, 8)]


@pytest.mark.parametrize("arithmetic", ["float16", "bfloat16", "float32", "tf32"])
@pytest.mark.parametrize("sizes", TURNS, ids=str)
def test_tiles_of_rows_in_turns(simulator: Simulator, arithmetic: str, sizes: tuple[int, ...]) -> None:
    """Where groups have more tiles than one, or take the directions one after the other, no bit is another."""
    seq_len, batch, hidden_size, num_sms = sizes
    case = Case(seq_len, batch, 5, hidden_size, lengths=True, reset=0.3, bidirectional=True, return_cells=True)
    problem = draw(case.but(dtype=ARITHMETICS[arithmetic]))
    with simulator.running("group", arithmetic == "tf32"):
        plain = fused(problem)
    for seed in range(3):
        with simulator.running("group", arithmetic == "tf32", seed, num_sms=num_sms):
            results = fused(problem)
            assert simulator.launches() == (2 if num_sms == 8 else 4)
        for name, tensor in plain.items():
            assert torch.equal(tensor, results[name]), name


@pytest.mark.parametrize("sizes", [(18, 24, 1, 1), (15, 40, 3, 1)], ids=str)
def test_lanes_without_a_unit(simulator: Simulator, sizes: tuple[int, ...]) -> None:
    """They hand on what the other half of the warps has sent, and wait for it alone: no warp multiplies it."""
    seq_len, batch, hidden_size, num_sms = sizes
    check(simulator, ("group", "float16"), Case(seq_len, batch, 5, hidden_size), times=1, num_sms=num_sms)


# T, B, H, SMs, directions: groups whose tiles go in pairs of turns: one of five tiles and more steps than there are
# slots, one of three blocks, two of two blocks, and one for each direction. With as many steps as are odd the last turn
# is no pair's second.
PAIRS = [(18, 40, 16, 1, 1), (5, 39, 33, 3, 1), (4, 70, 17, 4, 1), (1, 33, 17, 4, 2), (7, 35, 17, 4, 2)]


@pytest.mark.parametrize("arithmetic", ["float16", "bfloat16"])
@pytest.mark.parametrize("sizes", PAIRS, ids=str)
def test_turns_in_pairs(simulator: Simulator, arithmetic: str, sizes: tuple[int, ...]) -> None:
    """Where tiles have as many steps, no bit is another than with one tile, or where `lengths` are given."""
    seq_len, batch, hidden_size, num_sms, directions = sizes
    case = Case(seq_len, batch, 5, hidden_size, bidirectional=directions == 2, return_cells=True)
    problem = draw(case.but(dtype=ARITHMETICS[arithmetic]))
    with simulator.running("group"):
        plain, without_gradients = fused(problem), inference(problem)
    for seed in range(3):
        with simulator.running("group", seed=seed, num_sms=num_sms):
            launched = len(simulator.launched())
            results, others = fused(problem), inference(problem)
            names = [name for name, _ in simulator.launched()[launched:]]
        assert simulator.machine == "twin" or sum("pairs" in name for name in names) == 2
        for name, tensor in (plain | without_gradients).items():
            assert torch.equal(tensor, (results | others)[name]), name


@pytest.mark.slow
def test_turns_in_pairs_of_many_units(simulator: Simulator) -> None:
    """All that registers hold, and of the last block a single unit."""
    check(simulator, ("group", "bfloat16"), Case(2, 25, 5, 1009, return_cells=True), times=1, num_sms=64)


# T, B, H, SMs: two groups of one block on one SM; four of three blocks on six SMs, the last one with a single tile; and
# three of two blocks on three SMs.
SHARED_SMS = [(3, 27, 1, 1), (5, 100, 33, 6), (2, 70, 17, 3)]


@pytest.mark.parametrize("arithmetic", ["float16", "bfloat16", "float32", "tf32"])
@pytest.mark.parametrize("sizes", SHARED_SMS, ids=str)
def test_two_blocks_of_groups_on_an_sm(simulator: Simulator, arithmetic: str, sizes: tuple[int, ...]) -> None:
    """Of four warps each, where there are many tiles of rows."""
    seq_len, batch, hidden_size, num_sms = sizes
    case = Case(seq_len, batch, 5, hidden_size, lengths=True, reset=0.3, return_cells=True)
    check(simulator, ("group", arithmetic), case, times=2, num_sms=num_sms)
