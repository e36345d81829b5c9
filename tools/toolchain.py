"""Finds what the build needs: a C++ compiler, ninja, torch, pybind11 and, where there is one, a CUDA toolkit.

Nothing here imports torch or setuptools, so it answers in milliseconds. Run as a program it prints the root of the
CUDA toolkit that a build would use, and exits with 1 where a build would want one and there is none.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OLDEST_TORCH = (2, 10)
ARCHITECTURES = ("80", "90a", "100", "120")  # machine code for these
# PTX of these and of the newest, for GPUs that have no machine code: 11.0 can run that of 10.0, and not of 12.0.
PTX_ARCHITECTURES = ("100",)
DEFAULT_CUDA = Path("/usr/local/cuda")
DRIVERS = "/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg"  # any of them: Linux twice, Windows' Linux
THIS_MACHINE = platform.machine()
BUILD_INFO = Path(__file__).resolve().parent.parent / "lstm_fused" / "_build.json"  # of the last build in place


class BuildError(SystemExit):
    """Ends the build with its message alone: the reader has to install something, not to read a traceback."""


@dataclass(frozen=True)
class Torch:
    root: Path
    version: str
    cuda: str | None  # the CUDA release torch itself was built with


@dataclass(frozen=True)
class Cuda:
    root: Path
    version: str
    architectures: tuple[str, ...]
    library_dir: Path  # of libcudart_static.a

    @property
    def nvcc(self) -> str:
        return str(self.root / "bin" / "nvcc")

    def gencode(self) -> list[str]:
        targets = [(arch, f"sm_{arch}") for arch in self.architectures]
        targets += [(arch, f"compute_{arch}") for arch in self.ptx_architectures()]
        return [f"-gencode=arch=compute_{arch},code={code}" for arch, code in targets]

    def ptx_architectures(self) -> list[str]:
        newest = self.architectures[-1].rstrip("a")  # PTX of an "a" architecture runs on no later GPU
        return [*(arch for arch in PTX_ARCHITECTURES if arch in self.architectures and arch != newest), newest]


def find_compiler() -> list[str]:
    """The C++ compiler as the start of a command: $CXX, else g++, else what the system calls c++."""
    asked = os.environ.get("CXX")
    for command in [asked] if asked else ["g++", "c++"]:
        if (words := shlex.split(command)) and shutil.which(words[0]):
            return words
    raise BuildError(
        f"lstm_fused needs a C++20 compiler, and {f'CXX={asked}' if asked else 'g++'} was not found. "
        "Install g++ (Debian, Ubuntu: apt install g++) or point $CXX at a compiler."
    )


def find_machine() -> str:
    """What the compiler compiles for, by the name that Python's platform.machine() has for it there."""
    asked = subprocess.run([*find_compiler(), "-dumpmachine"], capture_output=True, text=True).stdout
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine := asked.strip().partition("-")[0].lower(), machine)


def macros(*flags: str) -> set[str]:
    """The names that the compiler defines by itself, with these flags."""
    command = [*find_compiler(), *flags, "-dM", "-E", "-x", "c++", os.devnull]
    defined = subprocess.run(command, capture_output=True, text=True).stdout
    return {line.split()[1] for line in defined.splitlines()}


def find_ninja() -> str:
    """The ninja of this Python's environment, which need not be activated, else the one on PATH."""
    if importlib.util.find_spec("ninja"):
        import ninja

        if path := shutil.which("ninja", path=ninja.BIN_DIR):
            return path
    if path := shutil.which("ninja"):
        return path
    raise BuildError("lstm_fused is built with ninja, which was not found. Install it: pip install ninja")


def find_pybind11() -> Path:
    """The folder with pybind11's headers."""
    if importlib.util.find_spec("pybind11") is None:
        raise BuildError("lstm_fused is built with pybind11, which was not found. Install it: pip install pybind11")
    import pybind11

    return Path(pybind11.get_include())


def find_torch() -> Torch:
    """The torch of this environment, read from its version file: importing it would take seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildError(
            "lstm_fused is built against the torch it will run with, and this Python has none. "
            "Install torch first, then build without isolation: pip install --no-build-isolation ."
        )
    root = Path(spec.origin).parent
    facts = runpy.run_path(str(root / "version.py"))
    version = str(facts["__version__"])
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise BuildError(
            f"lstm_fused needs torch {oldest} or later and found {version}. Upgrade it: pip install 'torch>={oldest}'"
        )
    return Torch(root, version, facts.get("cuda"))


def cuda_roots() -> Iterator[Path]:
    """Where a CUDA toolkit may lie, most wanted first."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if root := os.environ.get(variable):
            yield Path(root)
    if nvcc := shutil.which("nvcc"):  # often a wrapper or a link far from its toolkit, so it is asked
        plan = subprocess.run([nvcc, "--dryrun", "none.cu"], capture_output=True, text=True)
        if top := re.search(r"^#\$ TOP=(.+)$", plan.stderr, re.MULTILINE):
            yield Path(top[1].strip())
    packages = importlib.util.find_spec("nvidia")  # NVIDIA's PyPI packages share nvidia/cu<major>
    for folder in (packages and packages.submodule_search_locations) or []:
        yield from sorted(Path(folder).glob("cu[0-9]*"), reverse=True)
    yield DEFAULT_CUDA


def last_build() -> dict[str, Any]:
    """What the last build in place says about itself."""
    return json.loads(BUILD_INFO.read_text()) if BUILD_INFO.is_file() else {}


def wants_cuda() -> bool:
    """LSTM_FUSED_CUDA=0 wants none; =driver where a GPU may be, or the library that is there has kernels for one."""
    wish = os.environ.get("LSTM_FUSED_CUDA")
    if wish != "driver":
        return wish != "0"
    if os.environ.get("FORCE_CUDA") == "1" or any(Path(path).exists() for path in DRIVERS):
        return True
    return last_build().get("cuda") is not None


def find_cuda() -> Cuda | None:
    """The first complete toolkit of cuda_roots(), or None; also where wants_cuda() says no.

    Raises BuildError where FORCE_CUDA=1 asks for a toolkit and there is none.
    """
    if not wants_cuda():
        return None
    for root in cuda_roots():
        libraries = [*root.glob("lib64"), *root.glob("lib"), *root.glob("targets/*/lib")]
        library_dir = next((folder for folder in libraries if (folder / "libcudart_static.a").is_file()), None)
        nvcc = root / "bin" / "nvcc"
        if nvcc.is_file() and (root / "include" / "cuda_runtime.h").is_file() and library_dir:
            return _describe(root.resolve(), library_dir.resolve())
    if os.environ.get("FORCE_CUDA") == "1":
        raise BuildError(
            "FORCE_CUDA=1 asks for the CUDA kernels, and no CUDA toolkit was found. Set $CUDA_HOME, "
            "or take the compiler from PyPI: pip install -r requirements-cuda.txt"
        )
    return None


def _describe(root: Path, library_dir: Path) -> Cuda:
    def ask(option: str) -> str:
        return subprocess.run([root / "bin" / "nvcc", option], capture_output=True, text=True, check=True).stdout

    version = re.search(r"release (\d+\.\d+)", ask("--version"))
    known = ask("--list-gpu-code").split()  # an older toolkit lacks the newest GPUs
    architectures = tuple(arch for arch in ARCHITECTURES if f"sm_{arch.rstrip('a')}" in known)
    if version is None or not architectures:
        raise BuildError(
            f"The nvcc under {root} knows none of the GPUs lstm_fused is built for (compute capability 8.0 and later). "
            "Point $CUDA_HOME at a newer toolkit, or set LSTM_FUSED_CUDA=0 to build without CUDA."
        )
    return Cuda(root, version[1], architectures, library_dir)


if __name__ == "__main__":
    if found := find_cuda():
        print(found.root)
    elif wants_cuda():
        sys.exit("no CUDA toolkit found")
