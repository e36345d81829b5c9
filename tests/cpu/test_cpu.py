"""The CPU kernels among threads, torch's and Python's, and in each instruction set that this machine has."""

from __future__ import annotations

import ctypes
import dataclasses
import mmap
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import setup_file
import toolchain
import torch
from cases import Case, draw
from instruction_sets import each_instruction_set
from numerics import Results, assert_accurate, fused, scaled
from python_lock import lets_python_run
from torch import Tensor

import lstm_fused

# Rows for every thread; one row whose hidden units the threads share; rows a power of two apart, which the kernels keep
# a copy of, as they are and projected.
SPLITS = [
    Case(5, 17, 33, 65, num_layers=2, bidirectional=True, lengths=True, reset=0.2, return_cells=True),
    Case(6, 1, 40, 160, proj_size=48),
    Case(4, 20, 5, 512, bidirectional=True, lengths=True, reset=0.2),
    Case(3, 9, 4, 528, bidirectional=True, proj_size=512),
]


def at_once(callers: int, call: Callable[[int], object]) -> list:
    """call(0) ... call(callers - 1), each in a Python thread of its own; none begins before all are there."""
    start = threading.Barrier(callers)

    def wait_and_call(index: int) -> object:
        start.wait()
        return call(index)

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(wait_and_call, range(callers)))


def same_bits(a: Results, b: Results) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("number_of_threads", [1, 2])
def test_eight_python_threads_share_a_module(number_of_threads: int, threads):
    threads(number_of_threads)
    module = lstm_fused.LSTM(24, 96, num_layers=2, bidirectional=True)
    inputs = [torch.randn(15, 1 + 3 * index, 24) for index in range(8)]

    def infer(index: int) -> Tensor:
        with torch.inference_mode():
            return module(inputs[index])[0]

    alone = [infer(index) for index in range(8)]
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(at_once(8, infer), alone, strict=True))


@each_instruction_set
@pytest.mark.parametrize("case", SPLITS, ids=str)
@pytest.mark.parametrize("number_of_threads", [1, 2, 3])
def test_a_number_of_threads_gives_right_results_and_the_same_bits(case: Case, number_of_threads: int, threads):
    """Forward and backward, in turn and from several Python threads at once, which all have torch's number."""
    threads(number_of_threads)
    assert_accurate(case, times=1)
    problem = draw(case)
    first = fused(problem)
    assert same_bits(fused(problem), first)
    seen = at_once(4, lambda _: (torch.get_num_threads(), fused(problem)))
    assert all(number == number_of_threads and same_bits(results, first) for number, results in seen)


# Sizes past every block, panel and running sum of the products, in rows, columns and terms.
PRODUCTS = [
    Case(9, 70, 130, 150),
    Case(3, 40, 530, 37, num_layers=2, bidirectional=True, proj_size=21, reset=0.2),
    Case(1, 70, 9, 23, num_layers=2, bidirectional=True, lengths=True),
    Case(40, 1, 65, 129, num_layers=2),
    Case(2, 3, 17, 300, bidirectional=True),
]


@each_instruction_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("recompute_gates", [False, True])
@pytest.mark.parametrize("case", SPLITS + PRODUCTS, ids=str)
def test_any_number_of_threads_gives_the_same_bits(case: Case, recompute_gates: bool, dtype: torch.dtype, threads):
    """Forward and every gradient."""
    problem = draw(case.but(dtype=dtype))
    results = []
    for number in (1, 2, 3, 7):
        threads(number)
        results.append(fused(problem, recompute_gates))
    assert all(same_bits(results[0], other) for other in results[1:])


@each_instruction_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", SPLITS + PRODUCTS, ids=str)
def test_any_alignment_gives_the_same_bits(case: Case, dtype: torch.dtype):
    """Contiguous views at odd offsets, as of a flat buffer of parameters."""
    problem = draw(case.but(dtype=dtype))
    first = fused(problem)
    for offset in (1, 3):

        def shifted(tensor: Tensor, offset: int = offset) -> Tensor:
            flat = torch.empty(tensor.numel() + offset, dtype=tensor.dtype)
            return flat[offset:].copy_(tensor.flatten()).view(tensor.shape)

        odd = dataclasses.replace(problem, leaves={name: shifted(tensor) for name, tensor in problem.leaves.items()})
        assert same_bits(fused(odd, copies=False), first)


def test_python_runs_while_the_op_does():
    case = Case(20000, 1, 8, 32)  # some 10 ms, so that another thread wakes up in time
    leaves = draw(case).leaves
    weights = [tensor for name, tensor in leaves.items() if name not in ("input", "h_0", "c_0")]
    operands = (leaves["input"], leaves["h_0"], leaves["c_0"], weights, False, None, None, None)
    output, *_, reserve = torch.ops.lstm_fused.forward(*operands, True, False, False)
    gradients = (torch.ones_like(output), None, None, None)
    assert lets_python_run(lambda: torch.ops.lstm_fused.forward(*operands, True, False, False))
    assert lets_python_run(lambda: torch.ops.lstm_fused.backward(*gradients, *operands, reserve, True, True, False))


# Sizes around the lanes, tile rows, panels and running sums of every instruction set, and values at the ends of exp().
HOSTILE = [
    Case(1, 1, 1, 1),
    Case(7, 3, 17, 17),
    Case(4, 15, 5, 33, num_layers=2, bidirectional=True, lengths=True, reset=0.3, return_cells=True),
    Case(5, 15, 3, 19, proj_size=7, bias=False),
    Case(3, 2, 9, 130, hx=False),
    Case(1, 20, 3, 515),  # sums of 4H terms
    PRODUCTS[0],
    PRODUCTS[1],
]
SCALES = [("bias_ih", 30.0), ("input", 300.0), ("c_0", 300.0), ("input", 1e-42)]


@pytest.mark.slow
@each_instruction_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", HOSTILE, ids=str)
def test_hostile_sizes(case: Case, dtype: torch.dtype):
    assert_accurate(case.but(dtype=dtype))


@pytest.mark.slow
@each_instruction_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("names", "factor"), SCALES)
def test_hostile_values(names: str, factor: float, dtype: torch.dtype):
    assert_accurate(Case(4, 5, 6, 37, dtype=dtype), make=scaled(names, factor), times=8, orders=8)


# Another architecture: everything that a build there would compile, by clang for aarch64.

ZIG = [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-gnu"]


@pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import ziglang"], capture_output=True).returncode != 0,
    reason="ziglang is not installed (requirements-dev.txt)",
)
@pytest.mark.parametrize(
    "folder", ["cpu", *(pytest.param(name, marks=pytest.mark.slow) for name in ("plan", "kernels", "torch"))]
)
def test_compiles_on_aarch64(folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The objects are not run. Unoptimized, as that is several times faster and finds the same errors."""
    monkeypatch.setenv("CXX", shlex.join(ZIG))
    setup = setup_file.load()
    assert list(setup.instruction_sets()) == ["neon"]
    text = setup.ninja_file(Path("build/x"), "_plan.so", toolchain.find_torch(), None)
    sources = {source: flags for source, flags in setup_file.compiled(text) if source.startswith(f"csrc/{folder}/")}
    assert sources
    if folder == "cpu":
        sources["bench/arm.cpp"] = ["-DLSTM_FUSED_ISA=neon"]  # calls the kernels without an operator between
    flags = [*setup.FLAGS, "-O0", "-fno-sanitize=undefined", "-Werror", "-Wno-unused-command-line-argument"]
    flags += ["-Wno-ignored-optimization-argument"]  # GCC's alone
    for source, own_flags in sources.items():
        command = [*ZIG, *flags, *own_flags, "-c", source, "-o", str(tmp_path / "object.o")]
        done = subprocess.run(command, cwd=setup.ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{source}:\n{done.stderr[:3000]}"


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no large pages to ask for")
def test_large_tensors_ask_for_large_pages():
    def asks(address: int) -> bool:
        """What Linux knows of the mapping that this is in."""
        begin = end = 0
        for line in Path("/proc/self/smaps").read_text().splitlines():
            name, *words = line.split()
            if "-" in name and not name.endswith(":"):
                begin, end = (int(number, 16) for number in name.split("-"))
            elif name == "VmFlags:" and begin <= address < end:
                return "hg" in words
        raise AssertionError("no mapping holds the address")

    def middle(tensor: Tensor) -> int:
        return tensor.data_ptr() + tensor.nbytes // 2

    with mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        if not asks(ctypes.addressof(ctypes.c_char.from_buffer(memory))):
            pytest.skip("an emulator passes no advice on to the system")
    with torch.no_grad():
        large, _ = lstm_fused.LSTM(8, 512)(torch.randn(48, 512, 8))  # 48 MB: a mapping of its own
    others = torch.empty_like(large)
    if asks(middle(others)):
        pytest.skip("the allocator asks for them by itself")
    assert asks(middle(large))
