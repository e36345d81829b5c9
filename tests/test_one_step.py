"""The CPU's kernel for one step of many rows: tiles of every shape, every instruction set, the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import Case, draw
from numerics import assert_accurate, fused
from test_cpu import same_bits

from lstm_fused import _plan

# T, B, I, H: rows in one to four vectors and beyond the most that share a weight; units below, at and past a vector,
# and odd; widths of x and h at and past the 256 that are added up at a time.
SIZES = [
    (1, 25, 1, 1),
    (1, 33, 16, 7),
    (1, 49, 5, 33),
    (1, 64, 17, 16),
    (1, 65, 513, 3),
    (1, 26, 256, 2),
    (1, 131, 2, 45),
    (1, 28, 3, 259),
]
STACK = {"num_layers": 2, "bidirectional": True}
OPTIONS: list[dict] = [
    {"bias": False},
    {"proj_size": 1},
    STACK | {"proj_size": 21, "reset": 0.5},
    STACK | {"lengths": True, "reset": 0.3, "return_cells": True, "batch_first": True},
    {"lengths": True, "proj_size": 6, "return_cells": True, "contiguous": False, "hx": False},
]
CASES = [Case(*sizes) for sizes in SIZES] + [Case(1, 70, 9, 23).but(**options) for options in OPTIONS]


def runs_here(case: Case) -> bool:
    names = ("seq_len", "batch", "hidden_size", "proj_size")
    return _plan.plan_cpu(_plan.Problem(**{name: getattr(case, name) for name in names}), 1).one_step


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_accuracy(case: Case, dtype: torch.dtype) -> None:
    assert runs_here(case)
    assert_accurate(case.but(dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", [CASES[2], CASES[4], CASES[-3]], ids=str)
def test_half_weights_give_the_bits_of_float_weights(case: Case, dtype: torch.dtype) -> None:
    problem = draw(case.but(dtype=dtype))
    half, wide = fused(problem), fused(problem.to(torch.float32))
    for name in half:
        if not name.startswith("grad"):  # backward starts from what has been rounded
            assert torch.equal(half[name], wide[name].to(dtype)), name


@pytest.mark.parametrize("case", [CASES[6], CASES[-3]], ids=str)
def test_the_number_of_threads_does_not_matter(case: Case, threads) -> None:
    problem = draw(case)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(fused(problem))
    assert all(same_bits(results[0], other) for other in results[1:])


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_instruction_sets(isa: str) -> None:
    """Most of the tests above once more, in a process for each of the sets that this one does not run."""
    if isa == torch.ops.lstm_fused.cpu_isa():
        pytest.skip(f"the tests above have run {isa}")
    environment = os.environ | {"LSTM_FUSED_CPU_ISA": isa}
    ask = "import torch, lstm_fused; print(torch.ops.lstm_fused.cpu_isa())"
    found = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True)
    if found.stdout.strip() != isa:
        pytest.skip(f"this machine has no {isa}")
    most = "half_weights or test_accuracy and float32"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", most, __file__]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert ran.returncode == 0, ran.stdout
    assert f"{len(CASES) + 6} passed" in ran.stdout
