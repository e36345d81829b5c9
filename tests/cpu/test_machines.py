"""Accuracy and bits as on other machines: torch's products (MKL) acting as there, and every instruction set of ours."""

from __future__ import annotations

import os

import pytest
from instruction_sets import INSTRUCTION_SETS, environment_of, run_in, skip_unless_there

# What has failed on one machine and passed on another.
TESTS = [
    "tests/module/test_forward_backward.py",
    "tests/module/test_extremes.py",
    "tests/cpu/test_cpu.py",
    "tests/cpu/test_one_step.py",
]
WHICH = "test_sizes or scaled_values or same_bits or test_accuracy"


@pytest.mark.slow
@pytest.mark.parametrize("products", ["COMPATIBLE", "SSE4_2", "AVX2", "AVX512"])
def test_as_torch_computes_elsewhere(products: str):
    """MKL_CBWR chooses the branch of MKL's code; one that the machine lacks acts as COMPATIBLE."""
    run_in(os.environ | {"MKL_CBWR": products}, *TESTS, "-k", WHICH)


@pytest.mark.slow
@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_as_we_compute_elsewhere(isa: str):
    skip_unless_there(isa)
    run_in(environment_of(isa), *TESTS, "-k", WHICH)
