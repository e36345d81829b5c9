"""Tests once more under another instruction set of the CPU: a process runs one, chosen at its start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from places import ROOT

import lstm_fused
from lstm_fused.stream_weights import MULTIPLIES_BYTES

needs_bytes = pytest.mark.skipif(not MULTIPLIES_BYTES, reason="products of bytes need AVX2 or AVX512-VNNI")

# Those of this build.
INSTRUCTION_SETS = json.loads(Path(lstm_fused.__file__).with_name("_build.json").read_text())["instruction_sets"]

# Tests that run once more under every other one: test_machines.py.
each_instruction_set = pytest.mark.each_instruction_set

# What torch's own libraries are told, so that they compute as on a machine with no more than this instruction set: the
# rule compares errors on one machine, and fused multiply-add alone makes a difference.
OF_TORCH = {
    "baseline": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
}


def environment_of(isa: str) -> dict[str, str]:
    """In which a process runs this instruction set, its own and torch's."""
    return os.environ | OF_TORCH.get(isa, {}) | {"LSTM_FUSED_CPU_ISA": isa}


def skip_unless_another(isa: str) -> None:
    """What this process runs is tested anyway."""
    if isa == torch.ops.lstm_fused.cpu_isa():
        pytest.skip(f"this process runs {isa}")
    ask = "import torch, lstm_fused; print(torch.ops.lstm_fused.cpu_isa())"
    environment = environment_of(isa)
    found = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True)
    if found.stdout.strip() != isa:
        pytest.skip(f"this machine has no {isa}")


def run_in(environment: dict[str, str], *arguments: str) -> str:
    """What pytest prints of tests, one at least, that all pass in this environment."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout
    return ran.stdout
