"""What nvcc reports of each kernel, left by the build beside the objects: registers, stack, spills, shared memory."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """One function for one architecture. A function that is no kernel has no registers of its own."""

    architecture: str
    function: str
    stack_bytes: int
    spilled_bytes: int  # stores and loads
    registers: int | None
    static_shared_bytes: int


def read_report(text: str) -> Iterator[Usage]:
    """The functions of a report of nvcc --resource-usage."""
    entry = None  # (mangled name, architecture)
    lines = iter(text.splitlines())
    for line in lines:
        if found := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            entry = found[1], found[2]
        elif found := re.search(r"Function properties for (\w+)", line):
            stack, stores, loads = map(int, re.findall(r"(\d+) bytes", next(lines)))
            registers, shared = None, 0
            assert entry is not None, "properties of a function before the first kernel"
            if found[1] == entry[0]:
                used = next(lines)
                registers = int(re.search(r"Used (\d+) registers", used)[1])
                shared = int((re.search(r"(\d+) bytes smem", used) or [0, 0])[1])
            yield Usage(entry[1], found[1], stack, stores + loads, registers, shared)


def demangle(names: list[str]) -> list[str]:
    tool = shutil.which("c++filt")
    if tool is None:
        raise RuntimeError("c++filt is missing; it comes with the linker that built this library (binutils)")
    return subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, check=True).stdout.split("\n")
