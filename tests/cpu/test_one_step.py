"""The CPU's kernel for one step of many rows: tiles of every shape, every instruction set, the same bits."""

from __future__ import annotations

import pytest
import torch
from cases import Case, draw
from instruction_sets import each_instruction_set
from numerics import assert_accurate, fused
from test_cpu import same_bits
from test_few_rows import HALF_TYPES, STACK, check_half_weights, kernel_of

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
OPTIONS: list[dict] = [
    {"bias": False},
    {"proj_size": 1},
    STACK | {"proj_size": 21, "reset": 0.5},
    STACK | {"lengths": True, "reset": 0.3, "return_cells": True, "batch_first": True},
    {"lengths": True, "proj_size": 6, "return_cells": True, "contiguous": False, "hx": False},
]
CASES = [Case(*sizes) for sizes in SIZES] + [Case(1, 70, 9, 23).but(**options) for options in OPTIONS]


@each_instruction_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_accuracy(case: Case, dtype: torch.dtype) -> None:
    assert kernel_of(case.but(dtype=dtype)) == "one_step"
    assert_accurate(case.but(dtype=dtype))


@each_instruction_set
@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
@pytest.mark.parametrize("case", [CASES[2], CASES[4], CASES[-3]], ids=str)
def test_half_weights_give_the_bits_of_float_weights(case: Case, dtype: torch.dtype) -> None:
    check_half_weights(case, dtype)


@pytest.mark.parametrize("case", [CASES[6], CASES[-3]], ids=str)
def test_the_number_of_threads_does_not_matter(case: Case, threads) -> None:
    problem = draw(case)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(fused(problem))
    assert all(same_bits(results[0], other) for other in results[1:])
