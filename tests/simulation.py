"""Compiles kernels for the simulator: the .cu files as C++, with tests/sim/include first on the include path."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from subprocess import PIPE, STDOUT, run

import toolchain
from filelock import FileLock
from places import ROOT

SIMULATOR = sorted([*ROOT.glob("tests/sim/*.cpp"), *ROOT.glob("tests/sim/ptx/*.cpp")])
# g++ does not know CUDA's "#pragma unroll".
FLAGS = "-std=c++20 -g1 -fPIC -Wall -Wextra -Wno-unknown-pragmas -Itests/sim/include -Itests -Icsrc".split()
NORMAL = ["-O2"]
SANITIZED = ["-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def build(
    name: str,
    sources: Iterable[Path | str],
    *,
    sanitized: bool = False,
    flags: Iterable[str] = (),
    link_flags: Iterable[str] = (),
) -> Path:
    """The program `name`, or the library if it ends in .so, from `sources` (relative to the root) and the simulator.

    It lies in a folder of its own under build/, where only what has changed is compiled again. `flags` are for the
    compiler, includes among them; `link_flags` stand last on the link line. Processes that build the same thing wait
    for one another.
    """
    folder = ROOT / "build" / f"sim-{name.removesuffix('.so')}{'-sanitized' if sanitized else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    mode = SANITIZED if sanitized else NORMAL
    compiler = toolchain.find_compiler()
    cxx = shlex.join([*compiler, *FLAGS, *mode, *flags]).replace("$", "$$")
    link = shlex.join([*compiler, *mode, "-shared" if name.endswith(".so") else "-rdynamic"])  # kernels have names
    lines = [
        f"rule compile\n  command = {cxx} -MD -MF $out.d -x c++ -c $in -o $out",
        "  depfile = $out.d\n  deps = gcc",
        f"rule link\n  command = {link} $in -o $out {shlex.join([*link_flags, '-ldl'])}".replace("$ORIGIN", "$$ORIGIN"),
    ]
    objects = []
    for source in [*SIMULATOR, *sources]:
        path = (ROOT / source).relative_to(ROOT)
        objects.append(folder.relative_to(ROOT) / f"{path}.o")
        lines.append(f"build {objects[-1]}: compile {path}")
    target = folder / name
    lines.append(f"build {target.relative_to(ROOT)}: link {' '.join(map(str, objects))}")
    text = f"builddir = {folder.relative_to(ROOT)}\n" + "\n".join(lines) + "\n"
    with FileLock(folder / "lock"):
        ninja_file = folder / "build.ninja"
        if not ninja_file.exists() or ninja_file.read_text() != text:
            ninja_file.write_text(text)
        jobs = [f"-j{os.environ['MAX_JOBS']}"] if "MAX_JOBS" in os.environ else []
        done = run([toolchain.find_ninja(), "-f", ninja_file, *jobs], cwd=ROOT, stdout=PIPE, stderr=STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} did not compile:\n{done.stdout}")
    return target
