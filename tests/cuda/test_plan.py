"""The planner: every named device, the boundaries of every kernel kind, the reasons, and the CPU's rule."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st
from places import ROOT
from planning import DEVICES, DTYPES, KINDS, NO_CLUSTERS_TOLD, KiB, candidate, everything, gpu, plan

from lstm_fused import _plan
from lstm_fused._plan import Candidate, Problem


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
        assert "not measured)" in text
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
# exchanges, the input's product left out. Of `group` at B = 16: to L2 and back, 2 x 270 cycles, and 2 H bytes of 8 rows
# from there at 24 bytes a cycle; beyond H = 1024 one group has both tiles of rows, and it is the bytes of both, while
# one tile's way to L2 lies beside the others'. So at B = 128, with the bytes of eight: 8 x 16 KB at 24 bytes a cycle.
FLOORS = [
    (64, 8, "block", 0.25),
    (128, 8, "block", 0.5),
    (256, 128, "cluster", 0.45),
    (512, 64, "cluster", 0.6),
    (768, 16, "group", 0.57),
    (1024, 16, "group", 0.66),
    (1024, 128, "group", 3.1),
    (1536, 16, "group", 1.11),
    (2048, 16, "group", 1.49),
]


@pytest.mark.parametrize(("hidden_size", "batch", "kind", "floor"), FLOORS)
def test_no_estimate_is_below_the_floor(hidden_size: int, batch: int, kind: str, floor: float) -> None:
    assert candidate("H100", kind, hidden_size=hidden_size, batch=batch).us_per_step >= floor


@pytest.mark.parametrize(
    ("kinds", "sizes", "basis"),
    [
        (KINDS, {}, "(modelled from the compiled kernels, not measured)"),
        (["group"], {"num_layers": 2}, "(modelled from the compiled kernels, not measured)"),
        (["step"], {}, "(launches 2.00, rest modelled from the compiled kernels, not measured)"),
        (["step"], {"proj_size": 8}, "(launches 4.00, rest modelled from the compiled kernels, not measured)"),
        (["step"], {"dtype": "float64"}, "(launches 2.00, rest reckoned from published rates, not measured)"),
    ],
)
def test_explain_says_what_an_estimate_comes_from(kinds: list[str], sizes: dict, basis: str) -> None:
    found = plan("H100", everything(kinds), hidden_size=64, **sizes)
    estimate = next(line for line in str(found).splitlines() if line.startswith("estimate"))
    assert estimate.endswith(f"{found.chosen.us_per_step:.2f} us per step of a layer's forward recurrence {basis}")
    launches = 0 if "launches" not in basis else 4 if sizes.get("proj_size") else 2
    assert found.chosen.launch_us_per_step == launches


def test_published_rates_bound_what_is_modelled() -> None:
    """A GeForce has a quarter of the tensor cores' rate: 128 rows of H = 1024 wait for them."""
    text = str(plan("RTX 4090", everything(), hidden_size=1024, batch=512))
    assert "reckoned from published rates" in text


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
    assert 1.15 * min(costs) >= found.chosen.us_per_step > 0
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
