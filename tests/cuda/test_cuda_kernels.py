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
from cases import Case, Problem, draw
from numerics import Results, assert_accurate, expected, fused
from places import ROOT
from simulated import Simulator, planned
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

# How a kernel computes: the type of the tensors, or float32 with TF32 products.
ARITHMETICS = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "tf32": torch.float32,
    "float64": torch.float64,
}
KINDS = ["step", "block", "cluster", "group"]
HOW = [(kind, name) for kind in KINDS for name in ARITHMETICS if kind == "step" or name != "float64"]
SEEDS = 20


@pytest.fixture(params=HOW, ids="-".join)
def how(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The kind of kernel and its arithmetic."""
    return request.param


def fitted(case: Case, kind: str, arithmetic: str) -> Case:
    """The case in this arithmetic; in the persistent kinds not projected, and no larger than they hold."""
    case = case.but(dtype=ARITHMETICS[arithmetic])
    if kind == "step":
        return case
    most = {"block": 256, "cluster": 1024, "group": 4096}[kind.removesuffix("_stack")] // case.dtype.itemsize
    return case.but(proj_size=0, hidden_size=min(case.hidden_size, most))


def check(
    simulator: Simulator, how: tuple[str, str], case: Case, times: int | None = None, run=fused, num_sms: int = 0
) -> None:
    """The rule of tests/numerics.py, every draw with a schedule of its own.

    TF32 keeps as many bits of a factor as float16 does, so its errors are held against torch.nn.LSTM in float16: on
    float16 numbers, and with one rounding to float16 of what comes out.
    """
    kind, arithmetic = how
    case = fitted(case, kind, arithmetic)
    calls = 0

    def counted(problem: Problem) -> Results:
        nonlocal calls
        calls += 1
        if arithmetic != "tf32":
            return run(problem)
        return {name: tensor.half() for name, tensor in run(problem.to(torch.float32)).items()}

    with simulator.running(kind, allow_tf32=arithmetic == "tf32", seed=case.seed, num_sms=num_sms):
        assert_accurate(case.but(dtype=torch.float16) if arithmetic == "tf32" else case, counted, times=times)
        plan = planned(kind, case, training=run is fused, allow_tf32=arithmetic == "tf32")
        forward = -(-case.num_layers // plan.layers_at_once)
        backward = -(-case.num_layers // (plan.backward_layers_at_once if run is fused else 1))
        expected = calls * (forward + (backward if run is not inference else 0))
        assert (simulator.launches() == expected) == (kind != "step")


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
STACK = {"num_layers": 2, "bidirectional": True}
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


def arguments(problem: Problem) -> tuple:
    """The op's first five."""
    leaves = problem.leaves
    weights = [tensor for name, tensor in leaves.items() if "_l" in name]
    return leaves["input"], leaves["h_0"], leaves["c_0"], weights, problem.case.bidirectional


def inference(problem: Problem) -> Results:
    """The outputs of a call without gradients; torch's own stand in for the gradients."""
    with torch.no_grad():
        outputs = fused(problem)
    theirs = expected(problem, problem.case.dtype)
    return {
        name: theirs[name].to(outputs[name].dtype) if name.startswith("grad ") else outputs[name] for name in theirs
    }


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
from test_cuda_kernels import HOW, STACK, arguments, fitted
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
