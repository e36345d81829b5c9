"""docs/pytorch.md: the peaks in its second table of memory, measured again."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from places import ROOT

import lstm_fused  # noqa: F401 (the operators)

HEAD = "| options | inference | torch.nn.LSTM | training | torch.nn.LSTM |"


def rows() -> dict[str, list[str]]:
    lines = (ROOT / "docs" / "pytorch.md").read_text().splitlines()
    table = lines[lines.index(HEAD) + 2 :]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[: table.index("")]]
    return {options: values for options, *values in cells}


def as_options(text: str) -> dict:
    values = {"True": True}
    pairs = (item.split("=") for item in text.split(", "))
    return {name: values.get(value) or (int(value) if value.isdigit() else value) for name, value in pairs}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for a process's peak")
@pytest.mark.parametrize("options", rows())
def test_peaks(options: str):
    """At most torch's, and what the page says but for the allocator's whims."""
    measured = [(m, mode, as_options(options)) for mode in ("inference", "training") for m in ("lstm_fused", "torch")]
    command = [sys.executable, str(ROOT / "tests" / "peak_memory.py")]
    ran = subprocess.run(command, input=json.dumps(measured), check=True, capture_output=True, text=True, cwd=ROOT)
    inference, torch_inference, training, torch_training = json.loads(ran.stdout)
    assert inference <= torch_inference and training <= torch_training
    for peak, cell in zip((inference, training), rows()[options][::2], strict=True):
        page = float(cell)
        in_pairs = "bfloat16" in options and torch.ops.lstm_fused.cpu_isa() == "avx512_bf16"  # keeps less in float
        assert peak == pytest.approx(page, rel=0.15, abs=1.0) or (in_pairs and peak < page)
