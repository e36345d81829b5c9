"""The planner: every named device, the boundaries of every kernel kind, the reasons, and the CPU's rule."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st
from places import ROOT

from lstm_fused import _plan
from lstm_fused._plan import Candidate, CpuPlan, Plan, Problem

DEVICES = {device.name: device for device in _plan.known_devices()}
DTYPES = ["float16", "bfloat16", "float32", "float64"]
KINDS = ["step", "block", "cluster", "group"]
KiB = 1024


def everything(kinds: list[str] = KINDS) -> set[str]:
    return {f"{kind}_{dtype}_{mode}" for kind in kinds for dtype in DTYPES for mode in ("training", "inference")}


def plan(device: str, built: set[str] | None = None, **sizes) -> Plan:
    sizes = {"seq_len": 128, "batch": 16, "dtype": "bfloat16"} | sizes
    return _plan.plan(Problem(**{"input_size": sizes["hidden_size"]} | sizes), DEVICES[device], built or set())


NO_CLUSTERS_TOLD = [0] * 16


def gpu(*facts: int, clusters: list[int] = NO_CLUSTERS_TOLD) -> _plan.DeviceInfo:
    return _plan.cuda_device("mine", [*facts, *clusters])


def candidate(device: str, kind: str, **sizes) -> Candidate:
    return next(found for found in plan(device, everything(), **sizes).candidates if found.kind == kind)


@pytest.mark.parametrize(
    ("name", "capability", "sms", "shared", "l2_mib", "cluster"),
    [
        ("A100", 80, 108, 163, 40, 1),
        ("H100", 90, 132, 227, 50, 16),
        ("H200", 90, 132, 227, 60, 16),
        ("B200", 100, 148, 227, 126, 16),
        ("RTX 4090", 89, 128, 99, 72, 1),
    ],
)
def test_published_figures(name: str, capability: int, sms: int, shared: int, l2_mib: int, cluster: int) -> None:
    device = DEVICES[name]
    assert (device.compute_capability, device.num_sms, device.max_cluster_size) == (capability, sms, cluster)
    assert (device.shared_bytes_per_block, device.l2_bytes) == (shared * KiB, l2_mib * KiB**2)
    assert (device.shared_bytes_per_sm, device.registers_per_sm) == ((shared + 1) * KiB, 65536)


def test_device_from_facts() -> None:
    device = _plan.cuda_device("mine", [75, 40, 1, 2, 3, 4, 5, 6, 7, *range(16)])
    facts = (device.compute_capability, device.num_sms, device.shared_bytes_per_block, device.shared_bytes_per_sm)
    assert facts == (75, 40, 1, 2)
    assert (device.registers_per_sm, device.l2_bytes, device.max_cluster_size) == (3, 4, 5)
    assert (device.clock_mhz, device.memory_gb_per_s, device.is_cuda) == (6, 7, True)
    assert device.resident_clusters == list(range(16))
    with pytest.raises(ValueError, match="facts: expected 25 numbers, got 2"):
        _plan.cuda_device("mine", [1, 2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden_size", [1, 64, 111, 1024, 1 << 24])
@pytest.mark.parametrize("device", DEVICES)
def test_step_is_always_legal_and_refusals_have_reasons(device: str, hidden_size: int, dtype: str) -> None:
    for built in (set(), everything(["step"]), everything()):
        found = plan(device, built, hidden_size=hidden_size, dtype=dtype)
        assert {c.kind: c.legal for c in found.candidates}["step"]
        assert sorted(c.kind for c in found.candidates) == sorted(KINDS)
        assert [bool(c.reason) for c in found.candidates] == [
            found.chosen is None or c.kind != found.kernel for c in found.candidates
        ]
        assert (found.kernel != "none") == bool(built)
        text = str(found)
        assert 10 <= len(text.splitlines()) <= 20
        assert max(map(len, text.splitlines())) <= 140
        assert "estimated, not measured" in text
        assert all(c.reason in text for c in found.candidates)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "largest"), [("float16", 128), ("bfloat16", 128), ("float32", 64)])
def test_register_boundary_of_block(device: str, dtype: str, largest: int) -> None:
    for training in (False, True):
        for allow_tf32 in (False, True):
            sizes = {"dtype": dtype, "training": training, "allow_tf32": allow_tf32}
            assert candidate(device, "block", hidden_size=largest, **sizes).legal
            refused = candidate(device, "block", hidden_size=largest + 1, **sizes)
            assert not refused.legal
            what = f"the registers of one block hold W_hh up to H {largest} in {dtype}, H is {largest + 1}"
            assert refused.reason == what


@pytest.mark.parametrize("device", DEVICES)
def test_block_takes_eight_rows_in_one_direction(device: str) -> None:
    small = candidate(device, "block", hidden_size=64, batch=33, num_directions=2)
    assert (small.blocks_per_group, small.num_groups, small.rows_per_group, small.units_per_block) == (1, 10, 8, 64)
    assert (small.threads_per_block, small.fuses_input, small.launches) == (256, True, 1)
    # 256 rows of W_hh and of W_ih, 64 elements; h and x of 8 rows, twice, rows 64 bytes longer than they need
    assert (small.register_bytes, small.shared_bytes) == (64 * KiB, 2 * 8 * (128 + 128 + 64))
    large = candidate(device, "block", hidden_size=111, batch=0)
    assert (large.num_groups, large.threads_per_block, large.units_per_block) == (1, 14 * 32, 112)
    assert (large.fuses_input, large.launches) == (False, 2)
    assert (large.register_bytes, large.shared_bytes) == (4 * 112 * 256, 2 * 8 * (256 + 64))
    wide = candidate(device, "block", hidden_size=64, input_size=65)
    assert (wide.fuses_input, wide.launches, wide.register_bytes) == (False, 2, 32 * KiB)
    single = candidate(device, "block", hidden_size=20, input_size=32, dtype="float32")
    assert (single.fuses_input, single.threads_per_block, single.units_per_block) == (True, 96, 24)


def test_register_boundary_of_cluster_on_h100() -> None:
    assert candidate("H100", "cluster", hidden_size=512).legal
    refused = candidate("H100", "cluster", hidden_size=513)
    assert not refused.legal
    assert refused.reason == "the registers of 16 blocks hold W_hh up to H 512 in bfloat16, H is 513"


def test_boundaries_of_group() -> None:
    small = candidate("H100", "group", hidden_size=1024)
    assert (small.blocks_per_group, small.units_per_block, small.threads_per_block) == (64, 16, 256)
    sums = 34 * KiB + 256  # of 8 warps, 64 gates and 16 rows, one unit more for the banks; and 64 numbers of steps
    assert (small.register_bytes, small.shared_bytes) == (128 * KiB, sums)
    # what the registers leave over of 16 units' rows of W_hh: 64 x 2048 elements are 256 KiB
    large = candidate("H100", "group", hidden_size=2048)
    assert (large.register_bytes, large.shared_bytes) == (128 * KiB, 128 * KiB + sums)
    assert candidate("H100", "group", hidden_size=2048, training=True).shared_bytes == 128 * KiB + sums
    assert candidate("A100", "group", hidden_size=2048).reason == "128 blocks at once, this device has 108 SMs"
    assert candidate("A100", "group", hidden_size=1728).legal
    assert candidate("H100", "group", hidden_size=2112).legal
    assert candidate("H100", "group", hidden_size=2113).reason == "133 blocks at once, this device has 132 SMs"
    over = candidate("RTX 4090", "group", hidden_size=2048).reason
    assert over == "162.2 KiB of shared memory per block over 128 blocks, this device has 99.0 KiB"
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
    ("sizes", "layers", "groups", "rows", "launches"),
    [
        ({"hidden_size": 1056, "batch": 8}, 2, 2, 8, 3),  # 2 x 66 blocks
        ({"hidden_size": 1056, "batch": 8, "num_layers": 5}, 2, 2, 8, 3 * 3),
        ({"hidden_size": 256, "batch": 17, "num_layers": 3}, 3, 3 * 2, 16, 3),
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
    stacked, single = (candidate("H100", "group", hidden_size=1024, batch=8, num_layers=n) for n in (2, 1))
    assert stacked.register_bytes == single.register_bytes == 128 * KiB
    sums = 17 * KiB  # a layer alone takes twice as many rows in a turn
    assert stacked.shared_bytes == single.shared_bytes + 128 * KiB - sums
    stacked, single = (candidate("H100", "group", hidden_size=512, batch=8, num_layers=n) for n in (2, 1))
    assert stacked.register_bytes == 2 * single.register_bytes
    assert stacked.shared_bytes == single.shared_bytes - sums


@pytest.mark.parametrize(
    ("sizes", "forward", "backward"),
    [
        ({"hidden_size": 1056, "batch": 8}, 2, 2),
        ({"hidden_size": 1057, "batch": 8}, 1, 1),
        ({"hidden_size": 1024, "batch": 9}, 1, 1),
        ({"hidden_size": 768, "batch": 8}, 2, 2),
        ({"hidden_size": 768, "batch": 9}, 2, 1),  # 2 x 8 rows of grad_gates take longer to read than to wait for
        ({"hidden_size": 512, "batch": 16}, 2, 2),
        ({"hidden_size": 512, "batch": 17}, 2, 1),
        ({"hidden_size": 256, "batch": 8, "num_layers": 8}, 8, 8),
        ({"hidden_size": 256, "batch": 25, "num_layers": 8}, 8, 4),
        ({"hidden_size": 256, "batch": 8, "num_layers": 8, "num_directions": 2}, 1, 1),
        ({"hidden_size": 512, "batch": 8, "dtype": "float32"}, 2, 2),  # 222 KiB of shared memory
        ({"hidden_size": 513, "batch": 8, "dtype": "float32"}, 1, 1),
    ],
)
def test_layers_side_by_side_backward(sizes: dict, forward: int, backward: int) -> None:
    """grad_gates are four times as many bytes as h, so that fewer layers are worth it, or a smaller batch."""
    found = candidate("H100", "group", **{"seq_len": 1024, "num_layers": 2, "training": True} | sizes)
    assert (found.layers_at_once, found.backward_layers_at_once) == (forward, backward)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({}, "2 side by side, each a step behind the one above"),
        ({"num_directions": 2}, "one after the other; each direction needs both of the layer above, all steps"),
        ({"hidden_size": 1057}, "2 side by side: 134 blocks at once, this device has 132 SMs"),
        ({"batch": 16}, "2 side by side: 2.99 us per step of a layer against 1.89 us"),
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
        ("H100", {}, "2 side by side, each a step behind the one below"),
        ("H100", {"num_directions": 2}, "one after the other; each direction needs both of the layer below, all steps"),
        ("H100", {"hidden_size": 1057}, "2 side by side: 134 blocks at once, this device has 132 SMs"),
        ("RTX 4090", {"hidden_size": 800}, "2 side by side: 145.2 KiB of shared memory per block over 50 blocks"),
        ("H100", {"batch": 16}, "2 side by side: 0.88 us per step of a layer against 0.84 us"),
        ("H100", {"hidden_size": 96, "proj_size": 9}, "one after the other; only group takes several at once"),
    ],
)
def test_explain_says_how_layers_follow_each_other(device: str, sizes: dict, says: str) -> None:
    sizes = {"hidden_size": 1024, "batch": 8, "num_layers": 2, "seq_len": 1024} | sizes
    line = next(line for line in str(plan(device, everything(), **sizes)).splitlines() if line.startswith("layers"))
    assert says in line
    assert "layers" not in str(plan(device, everything(), **sizes | {"num_layers": 1}))


def test_too_many_rows_for_a_group() -> None:
    refused = candidate("H100", "group", hidden_size=1024, batch=1025)
    assert refused.reason == "520 rows per group, it takes 512"


def test_reasons_of_architecture_and_options() -> None:
    for name, capability in (("A100", "8.0"), ("RTX 4090", "8.9")):
        reason = candidate(name, "cluster", hidden_size=256).reason
        assert reason == f"needs compute capability 9.0, this device has {capability}"
    for kind in ("block", "cluster", "group"):
        assert candidate("B200", kind, hidden_size=64, dtype="float64").reason == "float64: only step computes it"
        assert candidate("B200", kind, hidden_size=64, proj_size=9).reason == "proj_size 9: only step projects h"
    old = gpu(75, 40, 64 * KiB, 64 * KiB, 65536, 4 << 20, 1, 1590, 320)
    reasons = {c.kind: c.reason for c in _plan.plan(Problem(hidden_size=64), old, everything(["step"])).candidates}
    assert reasons["block"] == reasons["group"] == "needs compute capability 8.0, this device has 7.5"
    assert reasons["step"] == ""
    half = gpu(80, 40, 64 * KiB, 64 * KiB, 32768, 4 << 20, 1, 1590, 320)
    reasons = {c.kind: c.reason for c in _plan.plan(Problem(hidden_size=64), half).candidates}
    assert reasons["block"] == "needs 65536 registers per SM, this device has 32768"
    assert reasons["group"] == "needs 65536 registers per SM, this device has 32768"
    bare = gpu(80, 40, 4 * KiB, 64 * KiB, 65536, 4 << 20, 1, 1590, 320)
    reasons = {c.kind: c.reason for c in _plan.plan(Problem(hidden_size=64), bare).candidates}
    assert reasons["block"] == "7.0 KiB of shared memory per block, this device has 4.0 KiB"


def test_clock_rates_that_a_driver_does_not_tell() -> None:
    problem = Problem(hidden_size=2048, batch=64, dtype="bfloat16")
    h100 = [90, 132, 227 * KiB, 228 * KiB, 65536, 50 << 20, 16]
    silent, told = (_plan.plan(problem, gpu(*h100, *clocks)) for clocks in ((0, 0), (1500, 1000)))
    assert str(silent) == str(told)
    assert str(silent) != str(_plan.plan(problem, gpu(*h100, 1830, 3350)))


def test_clusters_that_a_device_has_room_for() -> None:
    """As the driver counts them: borders of GPCs leave SMs over, and a part of a GPU may lack a size."""
    h100 = [90, 132, 227 * KiB, 228 * KiB, 65536, 50 << 20, 16, 1830, 3350]

    def cluster(clusters: list[int], **sizes) -> Candidate:
        problem = Problem(dtype="bfloat16", **sizes)
        found = _plan.plan(problem, gpu(*h100, clusters=clusters)).candidates
        return next(c for c in found if c.kind == "cluster")

    by_sms = [132 // n for n in range(1, 17)]
    for sizes in ({"hidden_size": 256, "batch": 128}, {"hidden_size": 400, "batch": 64}):
        assert cluster(by_sms, **sizes).us_per_step == cluster(NO_CLUSTERS_TOLD, **sizes).us_per_step
    in_gpcs_of_18 = [7 * (18 // n) for n in range(1, 17)]
    assert cluster(by_sms, hidden_size=400, batch=80).blocks_per_group == 13  # 10 clusters of it would run at once
    assert (
        cluster(in_gpcs_of_18, hidden_size=512, batch=64).us_per_step
        > cluster(by_sms, hidden_size=512, batch=64).us_per_step
    )
    only_two = [132, 66, *[0] * 14]
    assert cluster(only_two, hidden_size=64).blocks_per_group <= 2
    refused = cluster(only_two, hidden_size=512)
    assert (refused.legal, refused.reason) == (False, "clusters of 16 blocks, this device has room for none")


def test_only_what_is_built_is_chosen() -> None:
    none = plan("H100", hidden_size=256)
    assert (none.kernel, none.chosen, none.cpu) == ("none", None, None)
    assert {c.reason for c in none.candidates if c.legal} == {"not in this build"}
    assert "none: no CUDA kernel for bfloat16 inference in this build" in str(none)
    assert plan("H100", {"cluster_float16_inference", "cluster_bfloat16_training"}, hidden_size=256).kernel == "none"
    assert plan("H100", {"cluster_bfloat16_training"}, hidden_size=256, training=True).kernel == "cluster"
    step = plan("H100", {"step_bfloat16_inference"}, hidden_size=256)
    assert step.kernel == "step"
    assert not any(c.built for c in step.candidates if c.kind != "step")
    full = plan("H100", everything(), hidden_size=256)
    assert full.kernel == "cluster"
    slower = next(c for c in full.candidates if c.kind == "step")
    assert slower.reason == f"slower: {slower.us_per_step:.2f} us per step against {full.chosen.us_per_step:.2f} us"


# Of the H100 in 16 bit: H, B, the kind that is built for them, and us per step at best, by bytes, products and
# exchanges, the input's product left out.
FLOORS = [
    (64, 8, "block", 0.25),
    (128, 8, "block", 0.5),
    (256, 128, "cluster", 0.45),
    (512, 64, "cluster", 0.6),
    (768, 16, "group", 0.75),
    (1024, 16, "group", 0.9),
    (1024, 128, "group", 4.1),
    (1536, 16, "group", 1.6),
    (2048, 16, "group", 1.85),
]


@pytest.mark.parametrize(("hidden_size", "batch", "kind", "floor"), FLOORS)
def test_estimates_follow_the_floors(hidden_size: int, batch: int, kind: str, floor: float) -> None:
    assert candidate("H100", kind, hidden_size=hidden_size, batch=batch).us_per_step == pytest.approx(floor, rel=0.2)


def test_launches() -> None:
    """An input GEMM per direction; one recurrence, or one per step and one to finish, for both directions."""
    sizes = {"hidden_size": 256, "seq_len": 10, "num_layers": 3, "num_directions": 2}
    assert candidate("H100", "cluster", **sizes).launches == 3 * (2 + 1)
    assert candidate("H100", "step", **sizes).launches == 3 * (2 + 10 + 1)
    assert candidate("H100", "step", proj_size=8, **sizes).launches == 3 * (2 + 2 * 10 + 1)
    # fused: every layer, the first one, the upper ones, none
    for hidden_size, input_size, directions, launches in [(32, 64, 2, 3), (64, 64, 2, 1 + 2 * 3), (64, 65, 1, 2 + 2)]:
        sizes = {"hidden_size": hidden_size, "input_size": input_size, "num_layers": 3, "num_directions": directions}
        assert candidate("H100", "block", **sizes).launches == launches
    assert candidate("H100", "block", hidden_size=128, num_layers=3, num_directions=2).launches == 3 * 3


def test_step_multiplies_as_many_rows_as_it_has_accumulators_for() -> None:
    for dtype, allow_tf32, rows in [
        ("bfloat16", False, 32),
        ("float32", True, 32),
        ("float32", False, 16),
        ("float64", True, 8),
    ]:
        found = candidate(
            "A100", "step", hidden_size=100, batch=33, num_directions=2, dtype=dtype, allow_tf32=allow_tf32
        )
        assert (found.blocks_per_group, found.units_per_block, found.rows_per_group) == (13, 8, rows)
        assert (found.num_groups, found.threads_per_block) == (2 * -(-33 // rows), 256)


def test_blocks_share_an_sm_before_they_wait_for_one() -> None:
    """132 SMs, and registers for two blocks of H = 64 on each, if the input is not fused."""
    one, two, three = (
        candidate("H100", "block", hidden_size=64, input_size=65, batch=8 * n).us_per_step
        for n in (132, 2 * 132, 2 * 132 + 1)
    )
    assert one < two < 2 * one
    assert three == pytest.approx(2 * two)


@hypothesis.given(
    device=st.sampled_from(sorted(DEVICES)),
    hidden_size=st.integers(1, 4096),
    batch=st.integers(0, 5000),
    num_directions=st.integers(1, 2),
    dtype=st.sampled_from(DTYPES),
    allow_tf32=st.booleans(),
)
def test_legal_tiles_cover_the_problem_and_fit(device: str, **sizes) -> None:
    found = plan(device, everything(), **sizes)
    costs = [c.us_per_step for c in found.candidates if c.legal]
    assert found.chosen.us_per_step == min(costs) > 0
    for c in found.candidates:
        if not c.legal or c.kind == "step":
            continue
        assert c.blocks_per_group * c.units_per_block >= sizes["hidden_size"]
        assert c.num_groups % sizes["num_directions"] == 0
        assert c.num_groups // sizes["num_directions"] * c.rows_per_group >= sizes["batch"]
        assert c.shared_bytes <= DEVICES[device].shared_bytes_per_block
        weights = 4 * c.units_per_block * sizes["hidden_size"] * (4 if sizes["dtype"] == "float32" else 2)
        assert c.register_bytes + c.shared_bytes >= weights
        assert c.register_bytes <= 160 * KiB


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 0}, "hidden_size: expected 1 to 16777216, got 0"),
        ({"seq_len": 0}, "seq_len: expected 1 to 2147483647, got 0"),
        ({"batch": -1}, "batch: expected 0 to 2147483647, got -1"),
        ({"hidden_size": 4, "proj_size": 4}, "proj_size: expected 0 to 3, got 4"),
        ({"num_directions": 3}, "num_directions: expected 1 to 2, got 3"),
        ({"dtype": "int8"}, "dtype: expected float16, bfloat16, float32 or float64, got int8"),
    ],
)
def test_problems_out_of_range(sizes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _plan.plan(Problem(**sizes), DEVICES["H100"])


def split(batch: int, hidden_size: int, threads: int, **sizes) -> tuple[str, int]:
    sizes = {"seq_len": 100} | sizes
    found: CpuPlan = _plan.plan_cpu(Problem(batch=batch, hidden_size=hidden_size, **sizes), threads)
    return found.split, found.num_tasks


def test_cpu_split_rule() -> None:
    # W_hh of H = 181 in float32 fits in half of an L2 of 1 MiB, one of H = 182 does not
    assert split(4, 181, 2) == ("rows", 2)
    assert split(4, 182, 2) == ("gates", 2)
    assert split(4, 181, 2, dtype="float64") == ("gates", 2)
    assert split(4, 182, 2, dtype="bfloat16") == ("gates", 2)  # computed in float32
    assert split(4, 257, 2, proj_size=100) == ("rows", 2)
    # 24 rows per thread hide the reading; directions share the threads
    assert split(47, 1024, 2) == ("gates", 2)
    assert split(48, 1024, 2) == ("rows", 2)
    assert split(24, 1024, 2, num_directions=2) == ("rows", 2)
    assert split(23, 1024, 2, num_directions=2) == ("gates", 2)
    # fewer rows than threads: gates once a step is worth about 100,000 flop (8 * H * H at B = 1: H = 112)
    assert split(1, 111, 4) == ("rows", 1)
    assert split(1, 112, 4) == ("gates", 4)
    assert split(4, 112, 4) == ("rows", 4)
    # one thread never waits for itself
    assert split(1, 1024, 1) == ("rows", 1)
    # no more tasks than rows, units or work
    assert split(0, 1024, 8) == ("rows", 1)
    assert split(1, 112, 64) == ("gates", 14)
    assert split(1, 112, 64, num_directions=2) == ("gates", 28)
    assert split(8, 16, 8, seq_len=1) == ("rows", 1)


def direct(seq_len: int, batch: int, hidden_size: int, input_size: int = 16, **sizes) -> tuple[bool, bool]:
    problem = Problem(seq_len=seq_len, batch=batch, hidden_size=hidden_size, input_size=input_size, **sizes)
    found = _plan.plan_cpu(problem, 1)
    return found.direct_w_hh, found.direct_w_ih


def test_cpu_one_step() -> None:
    def one_step(seq_len: int, batch: int) -> bool:
        return _plan.plan_cpu(Problem(seq_len=seq_len, batch=batch, hidden_size=200, input_size=9), 2).one_step

    assert one_step(1, 25) and one_step(1, 5000)
    assert not one_step(1, 24) and not one_step(2, 25) and not one_step(0, 64)
    whole = _plan.plan(Problem(seq_len=1, batch=64, hidden_size=200), _plan.cpu_device(2, 32))
    assert whole.cpu.one_step and "a single step" in str(whole)


def test_cpu_weights_are_packed_where_rows_repay_it() -> None:
    # short rows of W_hh: up to 24 rows T x B, as for W_ih; up to 16 in batches of three at most
    assert direct(1, 24, 127) == direct(6, 4, 127) == direct(16, 1, 127) == direct(5, 3, 127) == (True, True)
    assert direct(17, 1, 127) == direct(6, 3, 127) == (False, True)
    assert direct(25, 1, 127) == direct(1, 25, 127) == (False, False)
    # long ones: up to 48, or 32
    assert direct(6, 4, 128) == direct(1, 1, 1024) == (True, True)
    assert direct(1, 25, 128) == (False, False)  # a kernel of its own
    assert direct(5, 5, 128) == direct(12, 4, 128) == direct(32, 1, 128) == direct(16, 2, 128) == (True, False)
    assert direct(7, 7, 128) == direct(33, 1, 128) == direct(17, 2, 128) == direct(1000, 1, 256) == (False, False)
    # or a single row of the batch, if W_hh fills more than a cache or is of a half type
    assert direct(1000, 1, 257) == direct(1000, 1, 128, dtype="bfloat16") == (True, False)
    assert direct(1000, 1, 182, dtype="float64") == (True, False)
    assert direct(1000, 1, 181, dtype="float64") == direct(1000, 1, 127, dtype="float16") == (False, False)
    assert direct(1000, 2, 1024) == (False, False)
    # h is as wide as its projection
    assert direct(100, 1, 1024, proj_size=127) == (False, False)
    assert direct(100, 1, 1024, proj_size=128) == (True, False)
    assert direct(1, 0, 16) == (True, True)
    # short rows of W_ih are torch's
    assert direct(1, 1, 64, input_size=15) == (True, False)


def test_cpu_pairs_of_bfloat16() -> None:
    def direct(seq_len: int, batch: int, hidden_size: int, dtype: str = "bfloat16") -> bool:
        problem = Problem(seq_len=seq_len, batch=batch, hidden_size=hidden_size, dtype=dtype)
        found = _plan.plan_cpu(problem, 1, multiplies_pairs=True)
        if dtype == "bfloat16":  # a single step that is not direct has a kernel of its own
            assert found.one_step is (seq_len == 1 and not found.direct_w_hh)
        return found.direct_w_hh

    # up to 4 rows and one for every 32 columns of W_hh, 24 at most; two thirds of those in batches of three at most
    assert direct(1, 6, 64) and not direct(1, 7, 64)
    assert direct(1, 12, 256) and not direct(1, 13, 256) and not direct(1, 64, 256)
    assert direct(6, 4, 2048) and not direct(5, 5, 2048)
    assert direct(8, 1, 256) and not direct(9, 1, 256) and not direct(1000, 1, 2048)
    assert direct(1000, 1, 2048, dtype="float16") and direct(1, 24, 64, dtype="float32")
    device = _plan.cpu_device(2, 64, multiplies_pairs=True)
    whole = _plan.plan(Problem(seq_len=1, batch=64, hidden_size=200, dtype="bfloat16"), device)
    assert whole.cpu.one_step and "pairs of bfloat16" in str(whole)


@hypothesis.given(
    batch=st.integers(0, 300),
    hidden_size=st.integers(1, 3000),
    threads=st.integers(1, 256),
    num_directions=st.integers(1, 2),
    dtype=st.sampled_from(DTYPES),
)
def test_cpu_tasks_are_never_empty(threads: int, **sizes) -> None:
    problem = Problem(seq_len=16, **sizes)
    found = _plan.plan_cpu(problem, threads)
    if found.split == "gates":
        assert 1 < threads >= found.num_tasks >= 1
        assert (found.num_tasks - 1) * 8 < sizes["num_directions"] * (sizes["hidden_size"] + 7)
    else:
        assert found.num_tasks % sizes["num_directions"] == 0
        assert found.num_tasks <= max(sizes["num_directions"], threads)
        assert found.num_tasks <= sizes["num_directions"] * max(1, sizes["batch"])
    whole = _plan.plan(problem, _plan.cpu_device(threads, 32))
    assert (whole.kernel, whole.cpu.split, whole.cpu.num_tasks) == ("cpu", found.split, found.num_tasks)
    assert whole.chosen.us_per_step >= 0
    assert found.split in str(whole)


def test_plan_is_read_only() -> None:
    found = plan("H100", hidden_size=64)
    for thing, name in ((found, "kernel"), (found.problem, "batch"), (found.device, "num_sms")):
        with pytest.raises(AttributeError):
            setattr(thing, name, 1)


TABLE_PROGRAM = r"""
#include <cstdio>
#include "kernels/table.h"
using namespace lstm_fused;
int run(const Launch&, const LayerShape&, const void*, void*) { return 0; }
int main() {
  const KernelEntry entries[] = {{KernelKind::kStep, DType::kFloat32, false, run, nullptr},
                                 {KernelKind::kBlock, DType::kBFloat16, true, run, run}};
  const KernelTable table = {entries, entries + 2};
  if (find_kernel(table, KernelKind::kBlock, DType::kBFloat16, true) != &entries[1]) return 1;
  if (find_kernel(table, KernelKind::kBlock, DType::kBFloat16, false)) return 2;
  if (find_kernel(table, KernelKind::kGroup, DType::kBFloat16, true)) return 3;
  std::puts(missing_kernel(table, KernelKind::kGroup, DType::kFloat16, true).c_str());
  std::puts(missing_kernel({nullptr, nullptr}, KernelKind::kStep, DType::kFloat64, false).c_str());
}
"""


def test_launcher_table_lists_what_it_knows(tmp_path: Path) -> None:
    csrc = ROOT / "csrc"
    (tmp_path / "main.cpp").write_text(TABLE_PROGRAM)
    compiler = os.environ.get("CXX", "g++").split()
    sources = [tmp_path / "main.cpp", csrc / "kernels" / "table.cpp"]
    subprocess.run([*compiler, "-std=c++17", f"-I{csrc}", *sources, "-o", tmp_path / "table"], check=True)
    said = subprocess.run([tmp_path / "table"], check=True, capture_output=True, text=True).stdout
    assert said == (
        "no kernel group_float16_training in this build; it has: step_float32_inference,block_bfloat16_training\n"
        "no kernel step_float64_inference in this build; it has: none\n"
    )
