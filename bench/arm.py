"""Instructions that the CPU kernels execute on aarch64: NEON's, and those of the code for machines without a set.

    python -m bench.arm

Counted, not timed: qemu runs bench/arm.cpp instruction by instruction and writes a line for each. A case runs once and
then twice, and the difference is one call. Wants qemu's user mode and g++ for aarch64 (tools/arm.py says which).
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import arm  # noqa: E402

import setup  # noqa: E402

SETS = {"baseline": "-U__ARM_NEON", **setup.INSTRUCTION_SETS[arm.MACHINE]}


def build(name: str, flags: str) -> Path:
    """bench/arm.cpp with one instruction set, without a shared library."""
    folder = arm.HOME / "count" / name
    folder.mkdir(parents=True, exist_ok=True)
    shared = [flag for flag in setup.FLAGS if flag not in ("-fPIC", "-fvisibility=hidden")]
    compile = [*arm.compiler(), *shared, *flags.split(), f"-DLSTM_FUSED_ISA={name}"]
    sources = [*sorted(ROOT.glob("csrc/cpu/isa/*.cpp")), ROOT / "bench" / "arm.cpp"]
    objects = [folder / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda at: arm.run(*compile, "-c", at[0], "-o", at[1], cwd=ROOT), zip(sources, objects)))
    arm.run(arm.COMPILER, "-static", *objects, "-o", folder / "count")
    return folder / "count"


def lines(program: Path, *arguments: str) -> int:
    command = [arm.EMULATOR, "-singlestep", "-d", "exec,nochain", "-D", "/dev/stdout", program, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        return sum(part.count(b"\n") for part in iter(lambda: running.stdout.read(1 << 20), b""))


def main() -> None:
    arm.find_programs()
    programs = {name: build(name, flags) for name, flags in SETS.items()}
    cases = subprocess.check_output([arm.EMULATOR, programs["neon"]], text=True).splitlines()
    print("| (T, B, I, H) | portable | NEON | |\n| --- | --- | --- | --- |")
    for case in cases:
        portable, neon = (lines(program, case, "2") - lines(program, case, "1") for program in programs.values())
        print(f"| {case} | {portable:,} | {neon:,} | {portable / neon:.2f} |", flush=True)


if __name__ == "__main__":
    main()
