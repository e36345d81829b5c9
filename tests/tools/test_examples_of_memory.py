"""examples/long_memory.py, sentiment.py and recurrent_policy.py, small: what they print and draw."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=240)


def rows(printed: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines() if "│" in line]


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_long_memory(tmp_path: Path) -> None:
    done = run("long_memory.py", *"--distances 3 40 --steps 60".split(), "--out", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    found = {(int(distance), name): numbers for distance, name, *numbers in rows(done.stdout)}
    kinds = ("RNN", "GRU", "LSTM", "LSTM, open")
    assert list(found) == [(distance, kind) for distance in (3, 40) for kind in kinds]
    accuracy = {key: float(numbers[0].strip("%")) for key, numbers in found.items()}
    gradient = {key: float(numbers[2]) for key, numbers in found.items()}
    assert min(accuracy[3, kind] for kind in kinds) > 90  # a quarter is chance
    assert all(0 < gradient[40, kind] < 1e-3 * gradient[3, kind] for kind in ("RNN", "GRU", "LSTM"))
    assert gradient[40, "LSTM, open"] > 1e-3
    assert is_picture(tmp_path / "new" / "long_memory.png")


def test_sentiment() -> None:
    done = run("sentiment.py", *"--hidden 64 --steps 110".split())
    assert done.returncode == 0, done.stderr
    found = {name: numbers for name, *numbers in rows(done.stdout)}
    assert list(found) == ["torch.nn.LSTM, packed", "lstm_fused.LSTM, lengths"]
    for accuracy, loss, median, minimum in found.values():
        assert float(accuracy.strip("%")) > 80 and 0 < float(loss) < 0.7
        assert 0 < float(minimum) <= float(median)
    assert float(re.search(r"difference (\S+)", done.stdout)[1]) < 1e-5


def test_recurrent_policy(tmp_path: Path) -> None:
    arguments = "--hidden 32 --mazes 32 --window 48 --updates 60".split()
    done = run("recurrent_policy.py", *arguments, "--out", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    first, last = map(float, re.search(r"(\S+) at first, (\S+) at last", done.stdout).groups())
    assert first < 0.3 < 0.6 < last
    assert float(re.search(r"largest difference (\S+)", done.stdout)[1]) < 1e-4
    once, loop = map(float, re.search(r"(\S+) ms with reset=, (\S+) ms", done.stdout).groups())
    assert 0 < once < loop
    assert is_picture(tmp_path / "new" / "recurrent_policy.png")


@pytest.mark.parametrize("script", ["long_memory.py", "sentiment.py", "recurrent_policy.py"])
def test_bad_arguments(script: str) -> None:
    done = run(script, "--hidden", "0")
    assert done.returncode == 2
    assert "argument --hidden: expected a whole number from 1 to 65536, got '0'" in done.stderr
