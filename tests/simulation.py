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

MACHINE, PTX = (sorted(ROOT.glob(f"tests/sim/{pattern}")) for pattern in ("*.cpp", "ptx/*.cpp"))
# g++ does not know CUDA's "#pragma unroll".
FLAGS = "-std=c++20 -g1 -fPIC -Wall -Wextra -Wno-unknown-pragmas -Itests/sim/include -Itests -Icsrc".split()
MODES = {
    "normal": ["-O2"],
    "sanitized": ["-Og", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "ucontext": ["-O0", "-DSIM_UCONTEXT"],  # stacks are switched through the C library
}


def build(
    name: str,
    sources: Iterable[Path | str],
    mode: str = "normal",
    *,
    objects: Iterable[str] = (),
    flags: Iterable[str] = (),
    link_flags: Iterable[str] = (),
) -> Path:
    """The program `name`, or the library if it ends in .so, from `sources` (relative to the root) and the simulator.

    It lies in a folder of its own under build/, and the simulator in others, for all that is built in this mode; only
    what has changed is compiled again. `objects` are linked to it. `flags` are for the compiler, includes among them,
    and `sources` alone; `link_flags` stand last on the link line. Processes that build the same thing wait for one
    another.
    """
    # Other modes execute no PTX, whatever mode that part is built in. What may be of another mode is last, so that of
    # inline functions that others have, too, theirs are linked.
    simulator = compiled("machine", MACHINE, mode) + compiled("ptx", PTX, "normal")
    folder = Path("build", f"sim-{name.removesuffix('.so')}-{mode}")
    lines, own = compiling(folder, sources, [*MODES[mode], *flags])
    kind = "-shared" if name.endswith(".so") else "-rdynamic"  # kernels have names
    link = shlex.join([*toolchain.find_compiler(), *MODES[mode], kind])
    last = shlex.join([*link_flags, "-ldl"])
    lines.append(f"rule link\n  command = {link} $in -o $out {last}".replace("$ORIGIN", "$$ORIGIN"))
    lines.append(f"build {folder / name}: link {' '.join([*own, *simulator, *objects])}")
    run_ninja(folder, lines)
    return ROOT / folder / name


def compiled(part: str, sources: Iterable[Path | str], mode: str, flags: Iterable[str] = ()) -> list[str]:
    """The objects of what several programs share."""
    folder = Path("build", f"sim-{part}-{mode}")
    lines, objects = compiling(folder, sources, [*MODES[mode], *flags])
    run_ninja(folder, lines)
    return objects


def compiling(folder: Path, sources: Iterable[Path | str], flags: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of a build.ninja the lines that compile the sources, and the names of their objects, in the folder."""
    cxx = shlex.join([*toolchain.find_compiler(), *FLAGS, *flags]).replace("$", "$$")
    lines = [
        f"builddir = {folder}",
        f"rule compile\n  command = {cxx} -MD -MF $out.d -x c++ -c $in -o $out",
        "  depfile = $out.d\n  deps = gcc",
    ]
    objects = []
    for source in sources:
        path = (ROOT / source).relative_to(ROOT)
        objects.append(f"{folder / path}.o")
        lines.append(f"build {objects[-1]}: compile {path}")
    return lines, objects


def run_ninja(folder: Path, lines: list[str]) -> None:
    """Builds what these lines of a build.ninja say, which lies in the folder."""
    ninja_file, text = ROOT / folder / "build.ninja", "\n".join(lines) + "\n"
    ninja_file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(ROOT / folder / "lock"):
        if not ninja_file.exists() or ninja_file.read_text() != text:
            ninja_file.write_text(text)
        jobs = [f"-j{os.environ['MAX_JOBS']}"] if "MAX_JOBS" in os.environ else []
        done = run([toolchain.find_ninja(), "-f", ninja_file, *jobs], cwd=ROOT, stdout=PIPE, stderr=STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{folder} did not compile:\n{done.stdout}")
