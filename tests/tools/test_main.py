"""`python -m lstm_fused`, as a user runs it, and its self-check, which must be able to fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lstm_fused
from lstm_fused import __main__ as main

HERE = Path(lstm_fused.__file__).parent


def test_report(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-m", "lstm_fused"], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    build = json.loads((HERE / "_build.json").read_text())
    lines = ran.stdout.splitlines()
    facts = dict(line.split(maxsplit=1) for line in lines[: lines.index("")])
    assert facts["lstm_fused"] == build["version"]
    assert build["compiler"] in facts["build"]
    assert (f"CUDA {build['cuda']}" if build["cuda"] else "no CUDA") in facts["build"]
    assert build["torch_target"] in facts["torch"]
    assert facts["torch"].endswith(f"found {torch.__version__}")
    assert facts["cpu"].endswith(torch.ops.lstm_fused.cpu_isa())
    assert int(facts["threads"]) >= 1
    kernels = torch.ops.lstm_fused.kernels()
    assert facts["kernels"] == (", ".join(sorted(kernels.split(","))) if kernels else "no CUDA kernels in this build")
    checks = [line for line in lines if line.startswith("cpu ") and "error" in line]
    assert len(checks) == len(main.DTYPES) * len(main.CHECKS)
    assert all(re.search(r"error \d\.\de[-+]\d\d, torch \d\.\de[-+]\d\d  OK$", line) for line in checks)
    assert lines[-1] == "all OK"


def wrong(change):
    """An LSTM whose results are changed by `change`."""

    class Wrong(torch.nn.LSTM):
        def forward(self, input, hx=None):
            output, state = super().forward(input, hx)
            return change(output), state

    return Wrong


@pytest.mark.parametrize(
    "change",
    [lambda x: x * 1.001, lambda x: x.detach() + 0 * x, lambda x: x * float("nan")],
    ids=["values", "grad", "nan"],
)
def test_self_check_finds_errors(change, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(main.lstm_fused, "LSTM", wrong(change))
    monkeypatch.setattr(main, "DTYPES", (torch.float32,))
    assert main.main() == 1
    said = capsys.readouterr().out
    assert len(re.findall(r"error \S+, torch \S+  FAILED$", said, re.MULTILINE)) == len(main.CHECKS)
    assert said.endswith("\nFAILED\n")


def test_self_check_reports_what_raises(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def broken(*_):
        raise RuntimeError("broken\nsecond line")

    monkeypatch.setattr(main.lstm_fused, "LSTM", wrong(broken))
    assert main.main() == 1
    said = capsys.readouterr().out
    assert "FAILED: broken\n" in said
    assert "second line" not in said


@pytest.mark.gpu
def test_a_gpu_without_kernels_is_said_plainly(capsys: pytest.CaptureFixture) -> None:
    assert main.main() == 0
    said = capsys.readouterr().out
    assert ("cuda:0    not checked: no CUDA kernels" in said) == (not torch.ops.lstm_fused.kernels())
