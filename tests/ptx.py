"""What nvcc makes of kernels, for the simulator to execute: PTX in a folder of its own, kept between runs."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import toolchain
from filelock import FileLock
from places import ROOT

CUDA = toolchain.find_cuda()
# -lineinfo says where in the source an instruction comes from, and changes none.
FLAGS = ["-ptx", "-O3", "-std=c++17", "-lineinfo"]
OF_HOST = ["device_query", "start"]
KERNELS = sorted(path for path in ROOT.glob("csrc/kernels/*.cu") if path.stem not in OF_HOST)


CSRC = ROOT / "csrc"


def nvcc(architecture: str, *flags: str, csrc: Path = CSRC) -> list[str]:
    """The command, up to source and target, for a GPU of this architecture ("90a")."""
    assert CUDA is not None
    return [CUDA.nvcc, *FLAGS, *flags, f"-I{csrc}", f"-arch=sm_{architecture}"]


def build(architecture: str, sources: Sequence[Path] = KERNELS, *, flags: Sequence[str] = ()) -> Path:
    """The folder with the PTX of `sources`."""
    return _build(architecture, tuple(sources), tuple(flags))


@cache
def _build(architecture: str, sources: tuple[Path, ...], flags: tuple[str, ...]) -> Path:
    assert CUDA is not None
    command = nvcc(architecture, *flags)
    content = hashlib.sha256(" ".join([CUDA.version, *command]).encode())
    for path in [*sources, *sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cuh"))]:
        content.update(f"{path}\0".encode() + path.read_bytes())
    folder = ROOT / "build" / "ptx" / f"sm_{architecture}-{content.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> None:
        target = folder / f"{source.stem}.ptx"
        if target.exists():
            return
        part = target.with_suffix(".part")
        done = subprocess.run([*command, source, "-o", part], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{source} did not compile:\n{done.stdout}{done.stderr}")
        part.rename(target)

    with FileLock(folder / "lock"), ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
        list(pool.map(compile_one, sources))
    return folder
