"""Tests of a file once more under another instruction set of the CPU: a process runs one, chosen at its start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

INSTRUCTION_SETS = ["baseline", "avx2", "avx512"]


def run_again(isa: str, file: str, which: str, count: int) -> None:
    """Runs those tests of the file that pytest's -k finds, `count` of them, or skips where there is no point in it."""
    if isa == torch.ops.lstm_fused.cpu_isa():
        pytest.skip(f"this process runs {isa}")
    environment = os.environ | {"LSTM_FUSED_CPU_ISA": isa}
    ask = "import torch, lstm_fused; print(torch.ops.lstm_fused.cpu_isa())"
    found = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True)
    if found.stdout.strip() != isa:
        pytest.skip(f"this machine has no {isa}")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", which, file]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert ran.returncode == 0, ran.stdout
    assert f"{count} passed" in ran.stdout
