"""What nvcc reports of each kernel, left by the build beside the objects: registers, stack, spills, shared memory."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import toolchain
from places import ROOT
from resources import Usage, demangle, read_report

import lstm_fused

OBJECTS = ROOT / "build" / "ninja"
PACKAGE = Path(lstm_fused.__file__).parent
ARCHITECTURES = json.loads((PACKAGE / "_build.json").read_text())["cuda_architectures"]
REGISTERS_PER_SM = 65536

needs_cuda_build = pytest.mark.skipif(ARCHITECTURES is None, reason="this build of lstm_fused has no CUDA kernels")


@pytest.fixture(scope="module")
def limits(tmp_path_factory: pytest.TempPathFactory, usages: list[Usage]) -> dict[str, tuple[int, int]]:
    """Of each kernel, by csrc/tiles.h: the most threads of a block, and the registers per thread that plans have."""
    program = tmp_path_factory.mktemp("limits") / "launch_bounds"
    source = ROOT / "tests" / "launch_bounds.cpp"
    compile = [*toolchain.find_compiler(), "-std=c++17", f"-I{ROOT / 'csrc'}", source, "-o", program]
    subprocess.run(compile, check=True)
    kernels = sorted({u.function for u in usages if u.registers is not None and "nothing_kernel" not in u.function})
    questions = []
    for kernel in kernels:
        name = r"lstm_(block|cluster|group|step|variant)_(forward|backward)_\w*kernel"
        found = re.search(name + r"<(?:lstm_fused::)?(\w+)((?:, \w+)*)(?:, lstm_fused::\w+Cells)?>", kernel)
        assert found, f"a kernel of a kind that tests/launch_bounds.cpp does not know: {kernel}"
        chunks = [*re.findall(r"\d+", found[4]), "0", "0"][:2]
        questions.append(" ".join([found[1], found[2], found[3], *chunks]))
    answers = subprocess.run([program], input="\n".join(questions), capture_output=True, text=True, check=True).stdout
    numbers = [tuple(map(int, line.split())) for line in answers.splitlines()]
    return dict(zip(kernels, numbers, strict=True))


@pytest.fixture(scope="module")
def usages() -> list[Usage]:
    sources = sorted(path.relative_to(ROOT) for path in (ROOT / "csrc" / "kernels").glob("*.cu"))
    reports = [OBJECTS / f"{source}.o.resources" for source in sources]
    missing = [str(path.relative_to(ROOT)) for path in reports if not path.exists()]
    assert not missing, f"build in place first (make build); missing: {missing}"
    found = [usage for report in reports for usage in read_report(report.read_text())]
    names = demangle([usage.function for usage in found])
    return [Usage(u.architecture, name, *list(vars(u).values())[2:]) for u, name in zip(found, names)]


@needs_cuda_build
def test_every_kernel_is_there_for_every_architecture(usages: list[Usage]) -> None:
    kernels = {usage.function for usage in usages if usage.registers is not None}
    assert kernels, "the build has CUDA and no kernel"
    for kernel in kernels:
        assert {u.architecture for u in usages if u.function == kernel} == set(ARCHITECTURES), kernel


@needs_cuda_build
def test_nothing_spills_and_nothing_lies_in_local_memory(usages: list[Usage]) -> None:
    """Local memory is device memory: an array that falls out of registers costs more than the step that uses it."""
    spilling = [str(usage) for usage in usages if usage.stack_bytes or usage.spilled_bytes]
    assert not spilling, "\n".join(spilling)


@needs_cuda_build
def test_registers_fit_the_sm_and_the_plan(usages: list[Usage], limits: dict[str, tuple[int, int]]) -> None:
    """Beyond the first a launch fails; beyond the second fewer blocks share an SM than the planner says."""
    too_many = []
    for usage in usages:
        if usage.function in limits:
            threads, planned = limits[usage.function]
            if -(-usage.registers // 8) * 8 * threads > REGISTERS_PER_SM or usage.registers > planned:
                too_many.append(
                    f"{usage.registers} of {planned} x {threads}: {usage.function} for {usage.architecture}"
                )
    assert not too_many, "\n".join(too_many)


@needs_cuda_build
def test_shared_memory_is_dynamic(usages: list[Usage]) -> None:
    """The planner counts what a launch asks for; static arrays would come on top of it."""
    assert [usage for usage in usages if usage.static_shared_bytes] == []


REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4goodPf' for 'sm_80'
ptxas info    : Function properties for _Z4goodPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 72 registers, used 1 barriers, 368 bytes cmem[0]
ptxas info    : Compile time = 40.416 ms
ptxas info    : Compiling entry function '_Z3badPf' for 'sm_90a'
ptxas info    : Function properties for _Z3badPf
    128 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 128 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Function properties for _Z6calleef
    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
"""


def test_reports_are_understood() -> None:
    assert list(read_report(REPORT)) == [
        Usage("sm_80", "_Z4goodPf", 0, 0, 72, 0),
        Usage("sm_90a", "_Z3badPf", 128, 28, 255, 1024),
        Usage("sm_90a", "_Z6calleef", 8, 0, None, 0),
    ]


# ---- what the library ships


def embedded_code(library: bytes) -> Iterator[tuple[str, int]]:
    """(ptx or sm, compute capability times 10) of every piece of device code, read from nvcc's containers."""
    kinds = {1: "ptx", 2: "sm"}
    at = library.find(magic := struct.pack("<I", 0xBA55ED50))
    while at >= 0:
        _, _, header, size = struct.unpack_from("<IHHQ", library, at)
        entry, end = at + header, at + header + size
        while entry < end:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", library, entry)
            (architecture,) = struct.unpack_from("<I", library, entry + 28)
            yield kinds[kind], architecture
            entry += entry_header + entry_size
        at = library.find(magic, end)


@needs_cuda_build
def test_library_holds_machine_code_for_each_architecture_and_ptx_for_others() -> None:
    """PTX is what a GPU of compute capability 11.0 runs, or one that comes later; the driver compiles it at start."""
    numbers = [int(re.sub(r"\D", "", name)) for name in ARCHITECTURES]
    expected = {("sm", number) for number in numbers} | {("ptx", number) for number in {100, max(numbers)} & {*numbers}}
    assert set(embedded_code((PACKAGE / "liblstm_fused.so").read_bytes())) == expected
