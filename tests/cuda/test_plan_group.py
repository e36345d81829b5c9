"""When the planner takes `group`, for how many rows, and how it runs the layers of a stack side by side."""

from __future__ import annotations

import pytest
from planning import KiB, candidate, everything, gpu, plan

from lstm_fused import _plan
from lstm_fused._plan import Problem


def test_boundaries_of_group() -> None:
    small = candidate("H100", "group", hidden_size=1024)
    assert (small.blocks_per_group, small.units_per_block, small.threads_per_block) == (64, 16, 256)
    sums = 34 * KiB  # twice those of 8 warps, 64 gates and 8 rows, one unit more for the banks
    tile = KiB + 16  # of a tile 8 bytes for each cell, and the number of steps
    assert (small.register_bytes, small.shared_bytes) == (128 * KiB, sums + tile)
    # what the registers leave over of 16 units' rows of W_hh: 64 x 2048 elements are 256 KiB
    large = candidate("H100", "group", hidden_size=2048)
    assert (large.register_bytes, large.shared_bytes) == (128 * KiB, 128 * KiB + sums + 2 * tile)
    assert candidate("H100", "group", hidden_size=2048, training=True).shared_bytes == 128 * KiB + sums + 2 * tile
    assert candidate("A100", "group", hidden_size=2048).reason == "128 blocks at once, this device has 108 SMs"
    assert candidate("A100", "group", hidden_size=1728).legal
    assert candidate("H100", "group", hidden_size=2112).legal
    assert candidate("H100", "group", hidden_size=2113).reason == "133 blocks at once, this device has 132 SMs"
    over = candidate("RTX 4090", "group", hidden_size=2048).reason
    assert over == "164.0 KiB of shared memory per block over 128 blocks, this device has 99.0 KiB"
    for allow_tf32, largest in ((True, 1280), (False, 1024)):
        sizes = {"dtype": "float32", "allow_tf32": allow_tf32, "training": True}
        assert candidate("H100", "group", hidden_size=largest, **sizes).legal
        assert "of shared memory" in candidate("H100", "group", hidden_size=largest + 1, **sizes).reason


@pytest.mark.parametrize(
    ("sms", "batch", "directions", "rows", "groups", "launches"),
    [
        (132, 16, 1, 8, 2, 1 + 2),  # H 1024: two groups of 64 blocks fit
        (132, 17, 1, 16, 2, 1 + 2),
        (132, 17, 2, 24, 2, 2 + 2),
        (127, 16, 1, 16, 1, 1 + 2),
        (127, 16, 2, 16, 2, 2 + 3),  # one direction after the other
        (132, 1024, 1, 512, 2, 1 + 2),
    ],
)
def test_rows_of_a_group(sms: int, batch: int, directions: int, rows: int, groups: int, launches: int) -> None:
    """As many groups as there are SMs for share the rows; launches: projections, zeros, recurrences."""
    device = gpu(90, sms, 227 * KiB, 228 * KiB, 65536, 50 << 20, 16, 1830, 3350)
    problem = Problem(hidden_size=1024, batch=batch, num_directions=directions, dtype="bfloat16")
    found = next(c for c in _plan.plan(problem, device).candidates if c.kind == "group")
    assert (found.rows_per_group, found.num_groups, found.launches) == (rows, groups, launches)


@pytest.mark.parametrize(
    ("sizes", "threads", "groups", "rows"),
    [
        ({"hidden_size": 512, "batch": 96}, 256, 4, 24),
        ({"hidden_size": 512, "batch": 97}, 128, 7, 16),
        ({"hidden_size": 512, "batch": 160}, 256, 4, 40),  # three tiles of two blocks take longer than five of one
        ({"hidden_size": 513, "batch": 128}, 256, 4, 32),  # registers of 4 warps hold less
        ({"hidden_size": 256, "batch": 256, "dtype": "float32", "allow_tf32": True}, 128, 16, 16),
        ({"hidden_size": 257, "batch": 256, "dtype": "float32", "allow_tf32": True}, 256, 7, 40),
        ({"hidden_size": 512, "batch": 1024}, 128, 8, 128),
    ],
)
def test_two_blocks_on_an_sm(sizes: dict, threads: int, groups: int, rows: int) -> None:
    """Where an SM has four tiles of rows or more, and the registers of two blocks hold their part of W_hh twice."""
    found = candidate("H100", "group", **sizes)
    assert (found.threads_per_block, found.num_groups, found.rows_per_group) == (threads, groups, rows)


@pytest.mark.parametrize(
    ("sizes", "layers", "groups", "rows", "launches"),
    [
        ({"hidden_size": 1056, "batch": 8, "side_by_side": True}, 2, 2, 8, 3),  # 2 x 66 blocks
        ({"hidden_size": 1056, "batch": 8, "num_layers": 5, "side_by_side": True}, 2, 2, 8, 3 * 3),
        ({"hidden_size": 1056, "batch": 8}, 1, 1, 8, 2 * 3),  # which is slower
        ({"hidden_size": 512, "batch": 8}, 2, 2, 8, 3),
        ({"hidden_size": 256, "batch": 17, "num_layers": 3}, 2, 2 * 3, 8, 2 * 3),
        ({"hidden_size": 256, "batch": 8, "num_layers": 9}, 5, 5, 8, 2 * 3),
        ({"hidden_size": 256, "num_layers": 1}, 1, 2, 8, 3),
    ],
)
def test_layers_of_a_stack_side_by_side(sizes: dict, layers: int, groups: int, rows: int, launches: int) -> None:
    """Launches: for each run of layers the first one's projection, zeros and the recurrence."""
    found = candidate("H100", "group", **{"seq_len": 1024, "num_layers": 2} | sizes)
    assert (found.layers_at_once, found.num_groups, found.rows_per_group) == (layers, groups, rows)
    assert (found.launches, found.blocks_per_group) == (launches, -(-sizes["hidden_size"] // 16))


def test_a_block_of_stacked_layers_holds_both_matrices() -> None:
    sizes = {"batch": 8, "side_by_side": True}
    stacked, single = (candidate("H100", "group", hidden_size=1024, num_layers=n, **sizes) for n in (2, 1))
    assert stacked.register_bytes == single.register_bytes == 128 * KiB
    sums = 17 * KiB  # a layer alone has twice as many
    assert stacked.shared_bytes == single.shared_bytes + 128 * KiB - sums
    stacked, single = (candidate("H100", "group", hidden_size=512, num_layers=n, **sizes) for n in (2, 1))
    assert stacked.register_bytes == 2 * single.register_bytes
    assert stacked.shared_bytes == single.shared_bytes - sums


@pytest.mark.parametrize(
    ("sizes", "forward", "backward"),
    [
        ({"hidden_size": 1056, "batch": 8, "side_by_side": True}, 2, 2),
        ({"hidden_size": 1057, "batch": 8, "side_by_side": True}, 1, 1),
        ({"hidden_size": 768, "batch": 8}, 1, 1),  # a second product takes longer than a second step
        ({"hidden_size": 512, "batch": 16}, 2, 1),
        ({"hidden_size": 512, "batch": 17}, 1, 1),  # side by side 2 x 8 rows for each group, else 8
        ({"hidden_size": 256, "batch": 17}, 2, 2),
        ({"hidden_size": 256, "batch": 8, "num_layers": 8}, 8, 8),
        ({"hidden_size": 256, "batch": 25, "num_layers": 8}, 2, 2),
        ({"hidden_size": 256, "batch": 8, "num_layers": 8, "num_directions": 2}, 1, 1),
        ({"hidden_size": 512, "batch": 8, "dtype": "float32", "side_by_side": True}, 2, 2),  # 222 KiB of shared memory
        ({"hidden_size": 513, "batch": 8, "dtype": "float32", "side_by_side": True}, 1, 1),
    ],
)
def test_layers_side_by_side_backward(sizes: dict, forward: int, backward: int) -> None:
    """grad_gates are four times as many bytes as h, so that fewer layers are worth it, or a smaller batch."""
    found = candidate("H100", "group", **{"seq_len": 1024, "num_layers": 2, "training": True} | sizes)
    assert (found.layers_at_once, found.backward_layers_at_once) == (forward, backward)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"hidden_size": 256}, "2 side by side, each a step behind the one above"),
        ({"num_directions": 2}, "one after the other; each direction needs both of the layer above, all steps"),
        ({"hidden_size": 1057}, "2 side by side: 134 blocks at once, this device has 132 SMs"),
        ({}, "2 side by side: 2.78 us per step of a layer against 1.81 us"),
    ],
)
def test_explain_says_how_layers_follow_each_other_backward(sizes: dict, says: str) -> None:
    sizes = {"hidden_size": 1024, "batch": 8, "num_layers": 2, "seq_len": 1024, "training": True} | sizes
    line = next(line for line in str(plan("H100", everything(), **sizes)).splitlines() if line.startswith("backward"))
    assert says in line
    for other in ({"num_layers": 1}, {"training": False}, {"proj_size": 8, "hidden_size": 16}):
        assert "backward" not in str(plan("H100", everything(), **sizes | other))


@pytest.mark.parametrize(
    ("device", "sizes", "says"),
    [
        ("H100", {"hidden_size": 512}, "2 side by side, each a step behind the one below"),
        ("H100", {"num_directions": 2}, "one after the other; each direction needs both of the layer below, all steps"),
        ("H100", {"hidden_size": 1057}, "2 side by side: 134 blocks at once, this device has 132 SMs"),
        ("RTX 4090", {"hidden_size": 800}, "2 side by side: 146.0 KiB of shared memory per block over 50 blocks"),
        ("H100", {}, "2 side by side: 1.02 us per step of a layer against 0.78 us"),
        ("H100", {"hidden_size": 96, "proj_size": 9}, "one after the other; only group takes several at once"),
    ],
)
def test_explain_says_how_layers_follow_each_other(device: str, sizes: dict, says: str) -> None:
    sizes = {"hidden_size": 1024, "batch": 8, "num_layers": 2, "seq_len": 1024} | sizes
    line = next(line for line in str(plan(device, everything(), **sizes)).splitlines() if line.startswith("layers"))
    assert says in line
    assert "layers" not in str(plan(device, everything(), **sizes | {"num_layers": 1}))


def test_layers_side_by_side_where_that_is_asked_for() -> None:
    """As many as fit, though one after the other would be faster."""
    device = gpu(90, 7, 227 * KiB, 228 * KiB, 65536, 50 << 20, 16, 1830, 3350)
    problem = Problem(hidden_size=33, batch=9, num_layers=3, dtype="bfloat16", training=True)
    for asked, layers in ((False, 1), (True, 2)):
        plan = _plan.plan(problem, device, side_by_side=asked)
        found = next(c for c in plan.candidates if c.kind == "group")
        assert (found.layers_at_once, found.backward_layers_at_once) == (layers, layers)


def test_too_many_rows_for_a_group() -> None:
    refused = candidate("H100", "group", hidden_size=1024, batch=1025)
    assert refused.reason == "520 rows per group, it takes 512"
