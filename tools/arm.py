"""Runs lstm_fused for aarch64 on an x86-64 Linux, under qemu's user mode: no Arm machine, no root.

    python tools/arm.py test             # tests/cpu and tests/module, but for what takes long there
    python tools/arm.py test -k stream tests/cpu
    python tools/arm.py wheel            # dist/*_aarch64.whl, run in an empty folder
    python tools/arm.py python -c 'import platform; print(platform.machine())'

build/arm keeps what it fetches, once: `root`, Debian's Python and C library, unpacked; `site`, torch and what else the
tests import; `python`, the command that runs it all. `package` is lstm_fused, cross-compiled.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import wheels

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "build" / "arm"
SYSTEM, SITE, PACKAGE, PYTHON = HOME / "root", HOME / "site", HOME / "package", HOME / "python"
EMULATED = HOME / "emulated"  # what only the emulated Python imports
MACHINE, COMPILER, EMULATOR = "aarch64", "aarch64-linux-gnu-g++", "qemu-aarch64-static"
# Of Graviton 2 and Altra. With SVE (`max`) torch's own bfloat16 kernels meet an instruction that qemu 7.2 does not
# know.
CPU = "neoverse-n1"
# Later releases for aarch64 are CUDA builds, which do not load without its libraries.
TORCH = "2.10.0"
PYTHON_VERSION = "3.11"
DEBIAN_PACKAGES = """python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libstdc++6 libgcc-s1 libgomp1
zlib1g libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 libuuid1 libsqlite3-0 libcrypt1 libncursesw6 libtinfo6
libreadline8""".split()
# What torch and the tests import, of the releases that are here.
PACKAGES = """numpy hypothesis sortedcontainers pytest pytest-xdist execnet pluggy iniconfig packaging pygments
expecttest filelock typing_extensions sympy mpmath networkx jinja2 markupsafe fsspec setuptools""".split()
# All CPU kernels, and what users call. The other modules' tests (torch.compile, export, ONNX, other tools) are about
# Python, which is the same on every machine, and slow where it is emulated.
MODULES = """module autograd cell cell_loop single_steps convert errors infer forward_backward inputs packed extremes
lengths_reset_cells""".split()
# Exact sums of scaled values take half of all the time, and memory that an emulator cannot have is not refused cleanly.
CHOSEN = "(not scaled_values or float32) and not beyond_memory"
TESTS = ["tests/cpu", *(f"tests/module/test_{name}.py" for name in MODULES)]
SELECTION = ["-n", "auto", "-m", "not slow", "-k", CHOSEN, *TESTS]


def run(*command: str | Path, **options: object) -> None:
    subprocess.run(command, check=True, **options)  # type: ignore[call-overload]


def find_programs() -> None:
    for program, package in ((EMULATOR, "qemu-user-static"), (COMPILER, "g++-aarch64-linux-gnu"), ("apt-get", "apt")):
        if shutil.which(program) is None:
            sys.exit(f"{program} was not found. Install it (Debian, Ubuntu): apt install {package}")


def fetch_system() -> None:
    """Debian's packages for arm64, with apt's lists of a folder of our own: the system's stay as they are."""
    if SYSTEM.exists():
        return
    part, debs = HOME / "root.part", HOME / "debs"
    for folder in (part, debs, HOME / "apt/lists/partial", HOME / "apt/cache/archives/partial"):
        folder.mkdir(parents=True, exist_ok=True)
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State": HOME / "apt",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": HOME / "apt/cache",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "--quiet=2", *(f"--option={name}={value}" for name, value in options.items())]
    run(*apt, "update")
    run(*apt, "download", *DEBIAN_PACKAGES, cwd=debs)
    for deb in debs.glob("*.deb"):
        run("dpkg-deb", "--extract", deb, part)
    part.rename(SYSTEM)


def fetch_site() -> None:
    part, listed = HOME / "site.part", SITE / "wanted.txt"
    wanted = [f"torch=={TORCH}", *(f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES)]
    if listed.exists() and listed.read_text().split() == wanted:
        return
    for old in (part, SITE):
        shutil.rmtree(old, ignore_errors=True)
    options = f"--no-deps --only-binary=:all: --python-version {PYTHON_VERSION} --implementation cp".split()
    options += [f"--platform=manylinux{release}_aarch64" for release in ("2014", "_2_17", "_2_27", "_2_28")]
    options += [f"--abi={abi}" for abi in (f"cp{PYTHON_VERSION.replace('.', '')}", "abi3", "none")]
    run(sys.executable, "-m", "pip", "install", "--quiet", "--target", part, *options, *wanted)
    part.rename(SITE)
    listed.write_text("\n".join(wanted))


def write_python() -> None:
    """The emulated Python as a program: sys.executable, so that what a test starts is emulated as well."""
    options = ["-cpu", CPU, "-L", SYSTEM, "-E", f"PYTHONHOME={SYSTEM / 'usr'}"]
    program = [EMULATOR, *options, SYSTEM / "usr/bin" / f"python{PYTHON_VERSION}"]
    PYTHON.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, program))} "$@"\n')
    PYTHON.chmod(0o755)
    EMULATED.mkdir(exist_ok=True)
    (EMULATED / "sitecustomize.py").write_text(f"import sys\n\nsys.executable = {str(PYTHON)!r}\n")


def compiler() -> list[str]:
    return ["ccache", COMPILER] if shutil.which("ccache") else [COMPILER]


def cross() -> dict[str, str]:
    """What setup.py builds for aarch64 with: the compiler decides, Python is told by two variables."""
    data, folder = f"_sysconfigdata__{MACHINE}-linux-gnu", HOME / "sysconfig"
    folder.mkdir(exist_ok=True)
    shutil.copy(SYSTEM / "usr/lib" / f"python{PYTHON_VERSION}" / f"{data}.py", folder)
    return {
        "CXX": " ".join(compiler()),
        "LSTM_FUSED_CUDA": "0",
        "PYTHONPATH": os.pathsep.join(map(str, (folder, SITE, wheels.PURELIB))),
        "_PYTHON_SYSCONFIGDATA_NAME": data,
        "_PYTHON_HOST_PLATFORM": f"linux-{MACHINE}",
    }


def build() -> None:
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-lib", PACKAGE]
    run(*command, "--build-base", HOME / "build", cwd=ROOT, env=os.environ | cross())


def emulated(*arguments: str, package: Path = PACKAGE, folder: Path = ROOT) -> int:
    own = {"PYTHONPATH": os.pathsep.join(map(str, (EMULATED, package, SITE))), "PYTHONSAFEPATH": "1", "CXX": COMPILER}
    own["OMP_WAIT_POLICY"] = "passive"  # threads that wait leave the processors to those that emulate
    return subprocess.run([PYTHON, *arguments], cwd=folder, env=os.environ | own).returncode


def test(*arguments: str) -> int:
    build()
    options = ["-p", "no:cacheprovider", "-o", f"pythonpath={PACKAGE} . tools tests"]
    return emulated("-m", "pytest", "-q", *options, *(arguments or SELECTION))


def wheel() -> int:
    """Built as on such a machine, and run from an empty folder: its self-check of accuracy."""
    wheels.DIST.mkdir(exist_ok=True)
    built = wheels.build(Path(sys.executable), **cross())
    print(f"{built.name}  {built.stat().st_size / 1e6:.1f} MB", flush=True)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(built) as file:
        file.extractall(folder)
        return emulated("-m", "lstm_fused", package=Path(folder), folder=Path(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["test", "wheel", "python"])
    asked, rest = parser.parse_known_args()
    find_programs()
    if sys.version_info[:2] != tuple(map(int, PYTHON_VERSION.split("."))):
        sys.exit(f"The emulated Python is {PYTHON_VERSION}, and headers come from this one, {sys.version.split()[0]}.")
    HOME.mkdir(parents=True, exist_ok=True)
    fetch_system()
    fetch_site()
    write_python()
    if asked.what == "python":
        build()
        return emulated(*rest)
    return wheel() if asked.what == "wheel" else test(*rest)


if __name__ == "__main__":
    sys.exit(main())
