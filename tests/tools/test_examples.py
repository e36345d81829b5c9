"""The demo: both models learn the same, alone and under torchrun, and bad arguments end in one clear line."""

import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from places import ROOT

EXAMPLES = ROOT / "examples"
TINY = "--device cpu --dtype float64 --steps 40 --hidden 16 --batch 4 --window 16 --lr 0.02 --sample 40".split()
AMPLE = "--minutes", "60"  # on a machine as busy as can be


def run_demo(out: Path, *launcher: str, minutes: tuple[str, str] = AMPLE) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, *launcher, str(EXAMPLES / "char_lm.py"), *TINY, *minutes, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cells(printed: str, label: str) -> list[str]:
    """The table's row that begins with `label`: its cells after the label."""
    (row,) = (line for line in printed.splitlines() if line.startswith(f"│ {label}"))
    return [cell.strip() for cell in row.strip("│").split("│")[1:]]


def check(printed: str, out: Path) -> None:
    for label in ("time per step", "tokens/s", "training time", "speed-up"):
        assert all(float(cell.split()[0].strip("x").replace(",", "")) >= 0 for cell in cells(printed, label))
    first, final = (list(map(float, cells(printed, label))) for label in ("first loss", "final loss"))
    assert first[0] == pytest.approx(5.545, abs=0.2)  # ln 256: nothing is known yet
    assert max(final) < first[0] - 1
    assert float(cells(printed, "largest loss difference")[1].split()[0]) < 1e-12
    assert (out / "char_lm.png").read_bytes().startswith(b"\x89PNG")
    assert "written by the lstm_fused.LSTM model" in printed


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("out") / "new"
    return run_demo(out), out


def test_demo(alone: tuple[str, Path]) -> None:
    check(*alone)


def test_demo_ends_in_time(tmp_path: Path) -> None:
    printed = run_demo(tmp_path, minutes=("--minutes", "0.00001"))
    assert "1 steps, not 40: as many as fit in 1e-05 minutes here (--minutes)." in printed
    assert "1/1" in printed and "final loss (mean of 1 steps)" in printed


def test_demo_under_torchrun_learns_what_one_process_learns(alone: tuple[str, Path], tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={port}")
    printed = run_demo(tmp_path, *launcher)
    check(printed, tmp_path)
    assert "processes: 2" in printed
    for label in ("first loss", "final loss", "held-out bits per byte"):
        assert cells(printed, label) == cells(alone[0], label)


@pytest.fixture
def char_lm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("char_lm")


def test_windows_go_on_where_the_last_one_ended(char_lm: ModuleType) -> None:
    windows = char_lm.cut(bytes(range(32)), batch=2, window=5)
    assert windows.shape == (3, 6, 2)
    assert windows[0].T.tolist() == [[0, 1, 2, 3, 4, 5], [16, 17, 18, 19, 20, 21]]
    assert torch.equal(windows[1:, 0], windows[:-1, -1])


def test_the_standard_library_is_read_in_a_fixed_order(char_lm: ModuleType) -> None:
    text = char_lm.read_stdlib()
    assert 1_000_000 < len(text) <= char_lm.MAX_STDLIB_BYTES
    assert text == char_lm.read_stdlib()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--hidden 0", "argument --hidden: expected a whole number from 1 to 65536, got '0'"),
        ("--steps many", "argument --steps: expected a whole number from 1 to 1000000000, got 'many'"),
        ("--seed -1", "argument --seed: expected a whole number from 0 to 9223372036854775807, got '-1'"),
        ("--lr nan", "argument --lr: expected a number above 0, got 'nan'"),
        ("--temperature 0", "argument --temperature: expected a number above 0, got '0'"),
        ("--text missing.txt", "argument --text: cannot read missing.txt: No such file or directory"),
        ("--text .", "argument --text: cannot read .: Is a directory"),
        ("--text short.txt", "the text is too short: --batch 16 and --window 64 need 20801 bytes, got 5"),
        (
            "--text short.txt --out short.txt/out",
            "argument --out: cannot make the folder short.txt/out: Not a directory",
        ),
        ("--colour red", "unrecognized arguments: --colour red"),
    ],
)
def test_bad_arguments(
    arguments: str,
    message: str,
    char_lm: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("short")
    monkeypatch.setattr(sys, "argv", ["char_lm.py", *arguments.split()])
    with pytest.raises(SystemExit) as end:
        char_lm.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"char_lm.py: error: {message}\n"


def test_cuda_without_a_device_is_refused(
    char_lm: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["char_lm.py", "--device", "cuda", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        char_lm.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "char_lm.py: error: argument --device: there is no CUDA device\n"


@pytest.mark.parametrize(
    ("script", "module", "package"),
    [
        ("recurrent_ppo.py", "sb3_contrib", "sb3-contrib"),
        ("keras_lessons.py", "keras", "keras"),
        ("torchrl_recall.py", "torchrl", "torchrl"),
    ],
)
def test_what_to_install(script: str, module: str, package: str) -> None:
    missing = f"import runpy, sys; sys.modules['{module}'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    command = [sys.executable, "-c", missing, str(EXAMPLES / script)]
    environment = os.environ | {"PYTHONPATH": f"{EXAMPLES}:{ROOT}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    message = f"{script}: error: the package {package} is missing: pip install {package}\n"
    assert (done.returncode, done.stderr) == (1, message)
