"""The simulator: faults planted in small kernels are found, the kernels without them run, and numbers are right."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import simulation
import toolchain
import torch
from places import ROOT

SEEDS = 20
CASES = sorted(ROOT.glob("tests/sim/cases/*.c*"))

# Each case: the kernel of that name in tests/sim/cases, and what the report of its planted fault says (a pattern).
FAULTS = {
    "missing_barrier": "never written",
    "missing_barrier_in_many_blocks": "never written",
    "write_before_all_have_read": "with no barrier in between",
    "barrier_in_a_branch": "in block_barrier at block.cu",
    "early_exit": "threads 0-49, 51-95.1 thread of these blocks ended",
    "different_barriers": "comes to block_barrier while others wait for block_barrier",
    "unwritten": "reads byte 280 of shared memory, never written",
    "shared_read_out_of_bounds": "reads 4 bytes at byte 384 of 384 of shared memory: out of bounds",
    "shared_write_out_of_bounds": "writes 4 bytes at byte -4 of 384 of shared memory: out of bounds",
    "misaligned": "misaligned",
    "deep_stack": "stack overflow",
    "lane_missing": "threads 0-4, 6-36, 38-63",
    "lane_left": "threads 32-39, 41-63",
    "other_collective": "while others wait for",
    "missing_warp_barrier": "with no barrier in between",
    "warp_barrier_for_a_block": "with no barrier in between",
    "vote_as_a_barrier": "with no barrier in between",
    "read_before_wait": "is still copying to",
    "group_left_open": "is still copying to",
    "second_group": "is still copying to",
    "copy_without_barrier": "never written|is still copying",
    "copy_over_readers": "with no barrier in between",
    "misaligned_copy": "copies from a global address",
    "named_barriers": "with no barrier in between",
    "named_barrier_count": "in named_barrier at",
    "missing_cluster_barrier": "never written|with no barrier in between",
    "no_barrier_at_the_start": "which may not have started",
    "read_between_arrive_and_wait": "never written|with no barrier in between",
    "write_between_arrive_and_wait": "never written|with no barrier in between",
    "arrive_twice": "comes to cluster_arrive twice",
    "block_ends_early": "block .2, 0, 0., which has ended",
    "rank_outside_cluster": "maps to block 2 of a cluster of 2",
    "not_shared": "takes another address for shared memory",
    "mbarrier_count_too_small": "never written|with no barrier in between|where all 63 have arrived",
    "mbarrier_count_too_large": "in mbarrier_wait at",
    "mbarrier_parity": "never written|with no barrier in between",
    "mbarrier_no_wait": "never written|with no barrier in between",
    "mbarrier_no_fence": "initialised without mbarrier_fence_init",
    "mbarrier_plain_access": "accesses the mbarrier at byte 0",
    "mbarrier_uninitialised": "no mbarrier was initialised at byte 8",
    "mbarrier_overtaken": "in mbarrier_wait at .*threads 32-63",
    "mbarrier_one_buffer": "with no barrier in between",
    "async_count_too_large": "in mbarrier_wait at",
    "async_parity": "never written|is still copying",
    "async_no_wait": "never written|is still copying",
    "async_no_expect": "never written|is still copying",
    "async_too_many_bytes": "in mbarrier_wait at",
    "words_in_two_slots": "in spin_wait at",
    "words_misaligned": "2 words of global memory: misaligned",
    "words_stored_plainly": "global memory at .* with no barrier in between",
    "words_loaded_plainly": "reads global memory at .* with no barrier in between",
    "data_behind_words": "reads global memory at .* with no barrier in between",
    "no_room_for_a_block": "in spin_wait at .*1 block had no room",
}
# Those that break no rule of the machine, but give wrong numbers.
WRONG_RESULTS = ["one_word_of_two", "words_not_cleared", "no_fence"]
GLOBAL = "global_out_of_bounds"  # AddressSanitizer's to find


@pytest.fixture(scope="session", params=["normal", pytest.param("sanitized", marks=pytest.mark.slow)])
def program(request: pytest.FixtureRequest) -> Path:
    return simulation.build("cases", CASES, request.param)


@pytest.fixture(scope="session")
def normal() -> Path:
    return simulation.build("cases", CASES)


@pytest.fixture(scope="session")
def sanitized() -> Path:
    return simulation.build("cases", CASES, "sanitized")


def run(program: Path, *arguments: object) -> str:
    command = [str(word) for word in (program, *arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_every_case_is_tested(normal: Path) -> None:
    assert sorted(run(normal, "list").split()) == sorted([*FAULTS, *WRONG_RESULTS, GLOBAL])


@pytest.mark.parametrize("case", [*FAULTS, *WRONG_RESULTS, GLOBAL])
def test_the_kernel_without_the_fault_runs(program: Path, case: str) -> None:
    assert run(program, "run", case, 0, SEEDS).splitlines() == ["ok"] * SEEDS


@pytest.mark.parametrize("case", FAULTS)
def test_the_fault_is_found(program: Path, case: str) -> None:
    found = [line for line in run(program, "run", case, 1, SEEDS).splitlines() if line.startswith("fault: ")]
    assert any(re.search(FAULTS[case], line) for line in found), found


@pytest.mark.parametrize("case", WRONG_RESULTS)
def test_a_wrong_result_is_seen(program: Path, case: str) -> None:
    assert any(line.startswith("wrong: ") for line in run(program, "run", case, 1, SEEDS).splitlines())


@pytest.mark.slow
def test_a_global_access_out_of_bounds_is_found(sanitized: Path) -> None:
    command = [sanitized, "run", GLOBAL, "1", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr and "block.cu" in done.stderr


def test_one_seed_is_one_schedule(normal: Path) -> None:
    first, second = (run(normal, "run", "missing_barrier", 1, SEEDS).splitlines() for _ in range(2))
    assert first == second
    assert len(set(first)) > SEEDS / 2


@pytest.mark.slow
def test_without_assembly() -> None:
    """Machines other than x86-64 switch stacks through the C library."""
    program = simulation.build("cases", CASES, "ucontext")
    assert run(program, "run", "missing_barrier_in_many_blocks", 0, SEEDS).splitlines() == ["ok"] * SEEDS
    assert "threads 0-49, 51-95" in run(program, "run", "early_exit", 1, 1)


@pytest.mark.parametrize(
    ("grid", "error"),
    [
        ([1, 1, 1, 1024, 232448, 1], 0),
        ([1, 1, 1, 1025, 0, 1], 9),
        ([1, 1, 1, 0, 0, 1], 9),
        ([0, 1, 1, 32, 0, 1], 9),
        ([1, 0, 1, 32, 0, 1], 9),
        ([1, 65535, 1, 1, 0, 1], 0),
        ([1, 65536, 1, 1, 0, 1], 9),
        ([1, 1, 65536, 1, 0, 1], 9),
        ([1, 1, 1, 32, 232449, 1], 1),
        ([16, 1, 1, 32, 0, 16], 0),
        ([17, 1, 1, 32, 0, 17], 9),
        ([15, 1, 1, 32, 0, 2], 9),
    ],
)
def test_what_cuda_refuses(normal: Path, grid: list[int], error: int) -> None:
    got, _, launches, shared_bytes = map(int, run(normal, "launch", *grid, 0, 0).split())
    assert (got, launches) == (error, int(error == 0))
    assert shared_bytes == (0 if error else grid[4])


@pytest.mark.parametrize(("cluster", "limit", "most"), [(1, 1, 1), (1, 3, 3), (1, 0, 12), (4, 4, 4), (4, 9, 8)])
def test_resident_blocks(normal: Path, cluster: int, limit: int, most: int) -> None:
    _, seen, _, _ = map(int, run(normal, "launch", 12, 1, 1, 64, 0, cluster, limit, 0).split())
    assert seen == most


def test_no_room_for_a_cluster(normal: Path) -> None:
    error, _, launches, _ = map(int, run(normal, "launch", 12, 1, 1, 64, 0, 4, 3, 0).split())
    assert (error, launches) == (720, 0)


@pytest.mark.parametrize(("blocks", "limit", "error"), [(12, 0, 0), (100, 100, 0), (101, 100, 720), (5000, 0, 720)])
def test_blocks_that_wait_for_one_another_run_together_or_not_at_all(
    normal: Path, blocks: int, limit: int, error: int
) -> None:
    got, most, launches, _ = map(int, run(normal, "launch", blocks, 1, 1, 64, 0, 1, limit, 1).split())
    assert (got, most, launches) == ((error, 0, 0) if error else (0, blocks, 1))


# ---- the two headers of each name


def names(header: Path) -> set[str]:
    """The functions, types and macros that a header defines."""
    text = re.sub(r"//[^\n]*", "", header.read_text())
    functions = re.findall(r"^(?=\w)(?:LSTM_FUSED_DEVICE |inline )?[\w:<>*& ]+?[ *&](\w+)(?:<[^()]*>)?\(", text, re.M)
    types = re.findall(r"^struct (?:alignas\(\d+\) )?(\w+) {", text, re.M)
    return set(functions + types + re.findall(r"^#define (\w+)", text, re.M))


@pytest.mark.parametrize(
    ("name", "least"), [("primitives.cuh", 21), ("cluster_primitives.cuh", 21), ("accesses.cuh", 2)]
)
def test_the_twins_have_the_same_names(name: str, least: int) -> None:
    own = {"LSTM_FUSED_SM90_ASM", "shared_address"}  # the original's means
    device = names(ROOT / "csrc/kernels" / name) - own
    assert len(device) >= least
    switched_on = {"LSTM_FUSED_WATCHDOG"}
    assert device == names(ROOT / "tests/sim/include/kernels" / name) - switched_on


CUDA = toolchain.find_cuda()


@pytest.mark.skipif(CUDA is None, reason="no CUDA toolkit found: nothing to compile the device's headers with")
@pytest.mark.parametrize("architecture", [*toolchain.ARCHITECTURES, "host"])
def test_every_primitive_compiles(architecture: str, tmp_path: Path) -> None:
    source = ROOT / "tests/sim/every_primitive.cu"
    if architecture == "host":
        command = [*toolchain.find_compiler(), *simulation.FLAGS, "-Werror", "-x", "c++", "-fsyntax-only", source]
    else:
        command = [CUDA.nvcc, "-std=c++17", "-Werror=all-warnings", "-Icsrc", f"-arch=sm_{architecture}"]
        command += ["-cubin", "-o", tmp_path / "cubin", source]
        command += ["-DLSTM_FUSED_WATCHDOG"] if architecture == toolchain.ARCHITECTURES[0] else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- numbers


def convert(program: Path, function: str, values: np.ndarray, to: type) -> np.ndarray:
    done = subprocess.run([program, "convert", function], input=values.tobytes(), capture_output=True, check=True)
    return np.frombuffer(done.stdout, to)


def floats() -> np.ndarray:
    """Floats of every size, the neighbourhood of all halfway points between 16-bit numbers among them."""
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    every16 = np.arange(2**16, dtype=np.uint16)
    half, bfloat = every16.view(np.float16).astype(np.float32).view(np.uint32), every16.astype(np.uint32) << 16
    near = [
        x + np.uint32(d) for x, ulp in [(half, 2**13), (bfloat, 2**16)] for d in (0, ulp // 2 - 1, ulp // 2, ulp - 1)
    ]
    small = np.arange(-5000, 5000, dtype=np.float32) * np.float32(2.0**-27)  # float16's denormals and halves of them
    return np.concatenate([bits, *near, [np.uint32(0x477FEFFF), np.uint32(0x477FF000)], small.view(np.uint32)]).view(
        np.float32
    )


def same(a: np.ndarray, b: np.ndarray) -> bool:
    nan = np.isnan(a)
    return np.array_equal(nan, np.isnan(b)) and np.array_equal(a[~nan].view(np.uint32), b[~nan].view(np.uint32))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_sixteen_bits(program: Path, name: str) -> None:
    every = np.arange(2**16, dtype=np.uint16)
    dtype = getattr(torch, name)
    wide = torch.from_numpy(every.view(np.int16)).view(dtype).float().numpy()
    assert same(convert(program, f"{name}_to_float", every, np.float32), wide)
    x = floats()
    narrow = torch.from_numpy(x).to(dtype).view(torch.int16).numpy().view(np.uint16)
    narrow = np.where(np.isnan(x), np.uint16(0x7FFF), narrow)  # the GPU's NaN
    assert np.array_equal(convert(program, f"float_to_{name}", x, np.uint16), narrow)


def test_tf32(program: Path) -> None:
    x = floats()
    got = convert(program, "round_to_tf32", x.view(np.uint32), np.uint32)
    finite = np.isfinite(x)
    assert (got & 0x1FFF)[finite].max() == 0
    exact, rounded = x[finite].astype(np.float64), got[finite].view(np.float32).astype(np.float64)
    spacing = np.where(np.abs(exact) < 2.0**-126, 2.0**-136, np.exp2(np.floor(np.log2(np.abs(exact) + 1e-300)) - 10))
    away = np.floor(np.abs(exact) / spacing + 0.5) * spacing  # ties away from zero
    away[away > np.finfo(np.float32).max] = np.inf
    assert np.array_equal(np.abs(rounded), away)
    assert np.array_equal(np.signbit(rounded), np.signbit(exact))
    assert np.isnan(got[np.isnan(x)].view(np.float32)).all()


@pytest.mark.parametrize(
    ("name", "exact", "promised", "edges"),
    [
        ("exp2", np.exp2, 2.0**-22, [np.inf, -np.inf, np.nan]),
        ("reciprocal", np.reciprocal, 2.0**-22, [0, -0.0, np.inf, -np.inf, np.nan]),
        ("tanh", np.tanh, 2.0**-11, [0, -0.0, np.inf, -np.inf, np.nan]),
    ],
)
def test_approximations(program: Path, name: str, exact: np.ufunc, promised: float, edges: list[float]) -> None:
    x = np.random.default_rng(0).uniform(0.01, 100, 10_000).astype(np.float32)
    got, wanted = convert(program, f"{name}_approximate", x, np.float32), exact(x.astype(np.float64))
    error = np.abs(got / wanted - 1).max()
    assert promised / 2 < error < promised * 2**0.5
    edge = np.array(edges, np.float32)
    with np.errstate(divide="ignore"):
        assert same(convert(program, f"{name}_approximate", edge, np.float32), exact(edge))


def fragments(name: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Random A (16, K) and B (K, 8) in float64 as the mma sees them, and their fragments (32, 4), (32, 2)."""
    depth = 8 if name == "tf32" else 16
    a, b = rng.standard_normal((16, depth)), rng.standard_normal((depth, 8))
    if name == "tf32":
        words_a, words_b = (x.astype(np.float32).view(np.uint32) for x in (a, b))
        a, b = ((w & 0xFFFFE000).view(np.float32).astype(np.float64) for w in (words_a, words_b))
        per_word = 1
    else:
        dtype = getattr(torch, name)
        a, b = (torch.from_numpy(x).to(dtype) for x in (a, b))
        halves_a, halves_b = (x.view(torch.int16).numpy().view(np.uint16).astype(np.uint32) for x in (a, b))
        words_a = halves_a[:, 0::2] | halves_a[:, 1::2] << 16
        words_b = halves_b[0::2] | halves_b[1::2] << 16
        a, b = (x.double().numpy() for x in (a, b))
        per_word = 2
    assert words_a.shape[1] == depth // per_word
    lane = np.arange(32)
    group, pair = lane // 4, lane % 4
    frag_a = np.stack([words_a[group + 8 * (r % 2), pair + 4 * (r // 2)] for r in range(4)], 1)
    frag_b = np.stack([words_b[pair + 4 * r, group] for r in range(2)], 1)
    return a, b, frag_a, frag_b


@pytest.mark.parametrize("name", ["float16", "bfloat16", "tf32"])
def test_matrix_product(program: Path, name: str) -> None:
    rng = np.random.default_rng(1)
    a, b, frag_a, frag_b = fragments(name, rng)
    d = rng.standard_normal((16, 8)).astype(np.float32)
    lane, i = np.arange(32)[:, None], np.arange(4)
    row, column = lane // 4 + i // 2 * 8, lane % 4 * 2 + i % 2
    packed = np.concatenate([frag_a.ravel(), frag_b.ravel(), d[row, column].view(np.uint32).ravel()])
    got = np.empty((16, 8), np.float32)
    got[row, column] = convert(program, f"mma_{name}", packed, np.float32).reshape(32, 4)
    np.testing.assert_allclose(got, d + a @ b, rtol=0, atol=1e-5)


def test_many_matrix_products(normal: Path) -> None:
    run(normal, "convert", "many_products")
