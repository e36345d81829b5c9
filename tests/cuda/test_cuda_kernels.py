"""The CUDA kernels and the op around them, without a GPU: their own source on the simulator of tests/sim."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from functools import partial

import ptx
import pytest
import toolchain
import torch
from cases import Case, draw
from kernel_kinds import ARITHMETICS, HOW, KINDS, SEEDS, STACK, arguments, check, fitted, inference
from numerics import Results, expected, fused
from places import ROOT
from simulated import Simulator, planned
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only


@pytest.fixture(params=HOW, ids="-".join)
def how(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The kind of kernel and its arithmetic."""
    return request.param


SIZES = [
    # T, B, I, H
    (1, 1, 1, 1),
    (7, 9, 17, 1),
    (2, 33, 3, 1),
    (7, 1, 5, 17),
    (1, 9, 65, 17),
    (2, 33, 1, 17),
    (7, 5, 17, 17),
]
LARGE_SIZES = [(7, 1, 9, 111), (1, 33, 17, 111), (2, 9, 64, 111), (1, 5, 128, 128), (2, 33, 3, 128)]
OPTIONS: list[dict] = [
    {},
    {"lengths": True, "bidirectional": True},
    {"reset": 0.3, "bidirectional": True, "bias": False},
    {"return_cells": True, "hx": False, "num_layers": 2},
    {"proj_size": 5, "bidirectional": True},
    STACK | {"lengths": True, "reset": 0.3, "return_cells": True},
    STACK | {"lengths": True, "dropout": 0.5, "proj_size": 16},
    STACK | {"contiguous": False, "batch_first": True, "proj_size": 3, "bias": False, "return_cells": True},
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes(simulator: Simulator, how: tuple[str, str], sizes: tuple[int, ...]) -> None:
    check(simulator, how, Case(*sizes, lengths=True, bidirectional=True), times=10 if sizes[3] == 1 else 3)


@pytest.mark.parametrize("sizes", LARGE_SIZES, ids=str)
def test_large_sizes(simulator: Simulator, how: tuple[str, str], sizes: tuple[int, ...]) -> None:
    check(simulator, how, Case(*sizes, lengths=True), times=1)


@pytest.mark.parametrize(("arithmetic", "hidden_size"), [("bfloat16", 264), ("float32", 130), ("tf32", 200)])
def test_warps_of_a_cluster_that_share_units(simulator: Simulator, arithmetic: str, hidden_size: int) -> None:
    """Beyond 512 bytes of h, where each warp has a part of K."""
    case = Case(2, 3, 5, hidden_size, lengths=True, reset=0.3)
    check(simulator, ("cluster", arithmetic), case, times=1)


@pytest.mark.slow
def test_clusters_trap_on_older_gpus() -> None:
    """Their code is in every build, and nobody may launch it there: it ends the launch."""
    if ptx.CUDA is None:
        pytest.skip("no CUDA toolkit found: nothing to compile PTX with")
    with Simulator("sm_80").running("cluster"), pytest.raises(RuntimeError, match=r"cluster\.cuh:\d+: trap"):
        fused(draw(Case(2, 3, 5, 33, dtype=torch.bfloat16)))


@pytest.mark.parametrize(("kind", "room"), [("cluster", 1), ("group", 2)])
def test_no_room_for_all_blocks(simulator: Simulator, kind: str, room: int) -> None:
    """A GPU, or a part of one, may have less room than it promises: step runs then, and nothing hangs."""
    problem = draw(Case(3, 9, 5, 33, **STACK, lengths=True, reset=0.3, return_cells=True))
    with simulator.running("step"):
        by_step, launches = fused(problem), simulator.launches()
    with simulator.running(kind, room=room):
        results = fused(problem)
        assert simulator.launches() == launches
    for name, tensor in by_step.items():
        assert torch.equal(tensor, results[name]), name


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(simulator: Simulator, how: tuple[str, str], options: dict) -> None:
    check(simulator, how, Case(2, 5, 9, 17, **options), times=3)


def test_everything_at_once(simulator: Simulator, how: tuple[str, str]) -> None:
    check(simulator, how, Case(3, 9, 17, 33, **STACK, lengths=True, reset=0.3, return_cells=True), times=1)


def test_recomputed_gates(simulator: Simulator, how: tuple[str, str]) -> None:
    """Where grad_gates lie, the gates are read before: a cell's own thread does both."""
    case = Case(3, 5, 9, 17, **STACK, lengths=True, reset=0.3, dropout=0.5, proj_size=3)
    check(simulator, how, case, times=2, run=partial(fused, recompute_gates=True))


@pytest.mark.parametrize(
    "case",
    [
        Case(2, 5, 9, 17, **STACK, proj_size=5),
        Case(3, 5, 9, 17, **STACK, lengths=True, reset=0.3, return_cells=True),
        Case(2, 9, 3, 128),
    ],
    ids=str,
)
def test_inference(simulator: Simulator, how: tuple[str, str], case: Case) -> None:
    check(simulator, how, case, times=1, run=inference)


@pytest.mark.parametrize("proj_size", [0, 5])
def test_states_that_are_not_given_are_zero(simulator: Simulator, proj_size: int) -> None:
    problem = draw(Case(2, 5, 9, 17, **STACK, proj_size=proj_size))
    input, h_0, c_0, weights, bidirectional = arguments(problem)
    options = weights, problem.case.num_layers, bidirectional, False
    with simulator.running("step"):
        expected = simulator.ops.infer(input, torch.zeros_like(h_0), torch.zeros_like(c_0), *options)
        for given in ((None, None), (torch.zeros_like(h_0), None), (None, torch.zeros_like(c_0))):
            actual = simulator.ops.infer(input, *given, *options)
            assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_every_schedule_gives_the_same_bits(simulator: Simulator, how: tuple[str, str]) -> None:
    kind, arithmetic = how
    case = fitted(Case(3, 9, 5, 17, bidirectional=True, lengths=True, reset=0.3, return_cells=True), kind, arithmetic)
    problem = draw(case)
    results = []
    for seed in range(SEEDS):
        with simulator.running(kind, allow_tf32=arithmetic == "tf32", seed=seed):
            results.append(fused(problem))
    for other in results[1:]:
        for name, tensor in results[0].items():
            assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_tf32_is_used_where_it_is_allowed_and_nowhere_else(simulator: Simulator, kind: str) -> None:
    problem = draw(Case(3, 9, 40, 40))
    exact = expected(problem, torch.float64)["output"]
    errors = []
    for allow_tf32 in (False, True):
        with simulator.running(kind, allow_tf32):
            errors.append(float((fused(problem)["output"] - exact).abs().max()))
    assert errors[0] < 2**-20 < 2**-14 < errors[1] < 2**-9
    half = problem.to(torch.bfloat16)
    with simulator.running(kind, True):
        one = fused(half)
    with simulator.running(kind, False):
        assert all(torch.equal(tensor, one[name]) for name, tensor in fused(half).items())


PADDED = Case(7, 5, 4, 17, **STACK, return_cells=True)


@pytest.mark.parametrize("input_size", [4, 70])
@pytest.mark.parametrize("proj_size", [0, 3])
@pytest.mark.parametrize(("kind", "bidirectional"), [*((kind, True) for kind in KINDS), ("group", False)])
def test_padding_is_exact_zero_and_never_read(
    simulator: Simulator, kind: str, bidirectional: bool, proj_size: int, input_size: int
) -> None:
    """NaN past the end of a row, in input and incoming gradients, changes no bit of any result."""
    case = PADDED.but(input_size=input_size, proj_size=proj_size, bidirectional=bidirectional, dtype=torch.bfloat16)
    clean = dataclasses.replace(draw(case), lengths=torch.tensor([1, 7, 4, 2, 6]))
    padding = (torch.arange(7).unsqueeze(1) >= clean.lengths).unsqueeze(2)

    def poisoned(tensors: Results) -> Results:
        return {n: t.masked_fill(padding, float("nan")) if len(t) == 7 else t for n, t in tensors.items()}

    poison = dataclasses.replace(clean, leaves=poisoned(clean.leaves), cotangents=poisoned(clean.cotangents))
    with simulator.running(kind):
        results, same = fused(clean), fused(poison)
    for name, tensor in results.items():
        assert torch.equal(tensor, same[name]), name
        assert tensor.isfinite().all(), name
    for name in ("output", "cells", "grad input"):
        assert (results[name].masked_select(padding) == 0).all(), name


@pytest.mark.parametrize(("kind", "num_layers"), [*((kind, 1) for kind in KINDS), ("group", 2)])
def test_lengths_out_of_range_are_clamped(simulator: Simulator, kind: str, num_layers: int) -> None:
    """On a GPU nobody can refuse them without waiting. A row of no steps hands its states on."""
    problem = draw(Case(3, 4, 2, 5, num_layers=num_layers))

    def call(lengths: list[int]) -> list[torch.Tensor]:
        args = (*arguments(problem), torch.tensor(lengths), None, None)
        output, h_n, c_n, cells, reserve = simulator.ops.forward(*args, True, True, False)
        grads = *map(torch.ones_like, (output, h_n, c_n)), None
        *gradients, of_weights = simulator.ops.backward(*grads, *args, reserve, True, True, False)
        return [output, h_n, c_n, cells, *gradients, *of_weights]

    with simulator.running(kind):
        results = call([-7, 0, 2, 99])
        for tensor, same in zip(results, call([0, 0, 2, 3]), strict=True):
            assert torch.equal(tensor, same)
    for n, name in enumerate(("h_0", "c_0")):
        assert torch.equal(results[1 + n][0, :2], problem.leaves[name][0, :2])
        assert (results[5 + n][0, :2] == 1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, STACK | {"proj_size": 3}], ids=str)
def test_an_empty_batch(simulator: Simulator, kind: str, options: dict) -> None:
    case = Case(3, 0, 4, 5, **options, lengths=True, reset=0.5, return_cells=True)
    with simulator.running(kind):
        results = fused(draw(case))
        assert simulator.launches() == 0
    assert results["output"].shape[:2] == results["cells"].shape[:2] == (3, 0)
    assert all((tensor == 0).all() for name, tensor in results.items() if name.startswith("grad weight"))


def test_any_alignment(simulator: Simulator, how: tuple[str, str]) -> None:
    """Contiguous views at odd offsets, as of a flat buffer of parameters, give the bits of fresh tensors.

    x W_ih^T may be left to torch, which gives other bits for other alignments; of these numbers no sum is rounded.
    """
    kind, arithmetic = how
    case = fitted(Case(2, 5, 16, 32, bidirectional=True, proj_size=16), kind, arithmetic)
    problem = draw(case)
    for name, tensor in problem.leaves.items():
        if name == "input" or name.startswith("weight_ih"):
            tensor.copy_((tensor * 16).round().clamp(-4, 4) / 16)

    def shifted(tensor: torch.Tensor) -> torch.Tensor:
        flat = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
        flat[1:] = tensor.flatten()
        return flat[1:].view(tensor.shape)

    odd = dataclasses.replace(problem, leaves={name: shifted(tensor) for name, tensor in problem.leaves.items()})
    options = (None, None, None, True, True, arithmetic == "tf32")
    with simulator.running(kind):
        plain, same = (simulator.ops.forward(*arguments(p), *options) for p in (problem, odd))
    for a, b in zip(plain[:4], same[:4], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("kind", "options", "gemms"),
    [
        ("step", {}, 1),
        ("step", STACK | {"proj_size": 5}, 4),
        ("block", {}, 0),
        ("block", {"bidirectional": True}, 0),
        ("block", {"input_size": 65}, 1),
        ("block", {"hidden_size": 65}, 1),
        ("block", STACK | {"hidden_size": 32}, 0),
        ("block", STACK | {"hidden_size": 33}, 2),
        ("group", {"hidden_size": 65}, 1 + 1),
        ("group", STACK, 2 * (2 + 1)),
        ("group", {"num_layers": 3}, 1 + 1),
        ("group", {"num_layers": 9}, 2 * (1 + 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("training", [False, True])
def test_the_plan_tells_the_truth(simulator: Simulator, kind: str, options: dict, gemms: int, training: bool) -> None:
    """Launches forward, less those that torch does (input projections, zeros for a group), and shared memory."""
    case = Case(4, 9, 9, 20, dtype=torch.bfloat16).but(**options)
    found = planned(kind, case, training=training)
    with simulator.running(kind):
        simulator.ops.forward(*arguments(draw(case)), None, None, None, training, False, False)
        assert simulator.launches() == found.launches - gemms
        if kind != "step":
            assert simulator.max_shared_bytes() == found.shared_bytes


@pytest.mark.parametrize("recompute_gates", [False, True])
@pytest.mark.parametrize("dtype", sorted(set(ARITHMETICS.values()), key=str), ids=str)
def test_fake_tensors_know_the_reserve(simulator: Simulator, dtype: torch.dtype, recompute_gates: bool) -> None:
    """The size that a compiler is told for CUDA tensors is the one that the op allocates."""
    case = Case(3, 5, 4, 7, **STACK, proj_size=3, dtype=dtype)
    args, options = arguments(draw(case)), (None, None, None, True, True, False, recompute_gates)
    with simulator.running("step"):
        real = simulator.ops.forward(*args, *options)
    with FakeTensorMode():
        on_gpu = tree_map_only(torch.Tensor, lambda t: torch.empty(t.shape, dtype=dtype, device="cuda"), args)
        fake = torch.ops.lstm_fused.forward(*on_gpu, *options)
    assert [(t.shape, t.dtype) for t in real] == [(t.shape, t.dtype) for t in fake]


SANITIZED = """
import torch
from cases import Case, draw
from numerics import fused
from simulated import Simulator
from kernel_kinds import HOW, STACK, arguments, fitted
from variant_loop import ALL, all_of, make, options_of, ours

simulator = Simulator(sanitized=True)
cases = [
    Case(1, 1, 1, 1),
    Case(2, 9, 4, 17, **STACK, lengths=True, reset=0.3, return_cells=True),
    Case(2, 3, 7, 33, proj_size=5, bias=False),
    Case(2, 9, 4, 17, num_layers=2, dropout=0.5, lengths=True, reset=0.3, return_cells=True),
    Case(2, 9, 64, 128),
]
for kind, arithmetic in HOW:
    for case in cases:
        problem = draw(fitted(case, kind, arithmetic))
        one_group = -(-problem.case.hidden_size // 16) if kind == "group" else 0  # SMs: for all tiles of rows in turns
        with simulator.running(kind, allow_tf32=arithmetic == "tf32", num_sms=one_group):
            fused(problem)
            with torch.no_grad():
                fused(problem)
        if kind == "group" and case.num_layers > 1:  # layers side by side, which upper ones have no x W_ih^T for
            with simulator.running("group_stack", allow_tf32=arithmetic == "tf32"):
                fused(problem)
                with torch.no_grad():
                    fused(problem)
    no_steps = draw(fitted(Case(3, 1, 2, 1, bidirectional=True), kind, arithmetic))
    with simulator.running(kind):
        args = *arguments(no_steps), torch.tensor([0]), None, None
        output, *_, reserve = simulator.ops.forward(*args, True, True, arithmetic == "tf32")
        grads = torch.ones_like(output), None, None, None
        simulator.ops.backward(*grads, *args, reserve, True, True, arithmetic == "tf32")
options = options_of(ALL.replace("forget_bias", ""))
own = {name: value for name, value in options.items() if name != "layer_norm"}
for kind in ("step", "block", "cluster", "group"):
    for case in cases if kind == "step" else [fitted(case, kind, "float32") for case in cases[:-1]]:
        call = make(case, **(options if kind == "step" else own))
        with simulator.running(kind):
            all_of(ours, call)
            with torch.no_grad():
                ours(call)
print("all ran")
"""


@pytest.mark.slow
def test_every_access_is_in_bounds() -> None:
    """With AddressSanitizer, which has to be there before Python is, and UndefinedBehaviorSanitizer."""
    ask = [*toolchain.find_compiler(), "-print-file-name=libasan.so"]
    asan = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
    path = os.pathsep.join(str(ROOT / folder) for folder in ("", "tests", "tests/cuda", "tools"))
    environment = os.environ | {"LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": path}
    ran = subprocess.run([sys.executable, "-c", SANITIZED], env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "all ran\n"), ran.stderr
