"""Accuracy and bits as on other machines: torch's products (MKL) acting as there, and every instruction set of ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from instruction_sets import INSTRUCTION_SETS, environment_of, run_in, skip_unless_another

from lstm_fused.stream_weights import MULTIPLIES_BYTES

# What has failed on one machine and passed on another. Of the numbers there that torch computes MKL has a part in those
# of float32 and float64, and our own owe nothing to it.
OF_TORCH = [
    "tests/module/test_forward_backward.py",
    "tests/module/test_extremes.py",
    "tests/cpu/test_cpu.py",
    "tests/cpu/test_one_step.py",
]
ACCURACY = "(test_sizes or scaled_values or right_results or test_accuracy) and not float16"


@pytest.mark.slow
@pytest.mark.parametrize("products", ["COMPATIBLE", "AUTO", "SSE4_2", "AVX2", "AVX512"])
def test_as_torch_computes_elsewhere(products: str):
    """MKL_CBWR chooses the branch of MKL's code; in place of one that the machine lacks MKL takes another."""
    environment = os.environ | {"MKL_CBWR": products}
    multiply = "import torch; torch.ones(2, 2).double().mm(torch.ones(2, 2).double())"
    command, verbose = [sys.executable, "-c", multiply], environment | {"MKL_VERBOSE": "1"}
    said = subprocess.run(command, env=verbose, capture_output=True, text=True, check=True).stdout
    if f"CNR:{products} " not in said:
        pytest.skip(f"MKL has no {products} here: {re.findall('CNR:.*?(?= )', said)}")
    run_in(environment, *OF_TORCH, "-k", ACCURACY)


@pytest.mark.slow
@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_as_we_compute_elsewhere(isa: str):
    """A process runs one set, chosen at its start."""
    skip_unless_another(isa)
    files = ["tests/cpu", "tests/module/test_forward_backward.py", "tests/module/test_extremes.py"]
    printed = run_in(environment_of(isa), *files, "-m", "each_instruction_set")
    multiplies_bytes = isa == "avx2" or (MULTIPLIES_BYTES and isa.startswith("avx512"))
    assert ("skipped" in printed) != multiplies_bytes  # and nothing else is
