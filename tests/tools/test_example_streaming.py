"""examples/streaming.py, small: it prints a row for each way, all of which predict alike, and draws."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from lstm_fused.stream_weights import MULTIPLIES_BYTES

SCRIPT = ROOT / "examples" / "streaming.py"
TINY = "--steps 30 --hidden 32 --layers 2 --bytes 120".split()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=240)


def test_streaming(tmp_path: Path) -> None:
    done = run(*TINY, "--out", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in done.stdout.splitlines() if "│" in line]
    found = {name: list(map(float, numbers)) for name, *numbers in rows}
    streams = ["Stream, float32", "Stream, bfloat16", "Stream, int8"]
    streams += ["Stream, int8 x int8"] if MULTIPLIES_BYTES else []
    assert list(found) == [*streams, "torch.nn.LSTMCell", "torch int8"]
    for p50, p99, p999, bits, perplexity in found.values():
        assert 0 < p50 <= p99 <= p999
        assert 1 < bits < 8 and perplexity == pytest.approx(2**bits, rel=1e-3)
    bits = {name: numbers[3] for name, numbers in found.items()}
    assert bits["Stream, float32"] == pytest.approx(bits["torch.nn.LSTMCell"], abs=2e-4)
    assert all(value == pytest.approx(bits["Stream, float32"], abs=0.1) for value in bits.values())
    assert (tmp_path / "new" / "streaming.png").read_bytes().startswith(b"\x89PNG")


def test_bad_arguments() -> None:
    done = run("--hidden", "0")
    assert done.returncode == 2
    assert "argument --hidden: expected a whole number from 1 to 65536, got '0'" in done.stderr
