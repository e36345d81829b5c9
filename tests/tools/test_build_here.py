"""A build for this machine alone: LSTM_FUSED_CPU=here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import setup_file
import toolchain
from places import ROOT

# The sets' tables: with a name, and without kernels.
TABLES = """
#include <cstdio>
#include <exception>
#include "cpu/kernels.h"
#define BUILT(isa) namespace lstm_fused::isa { const InstructionSet kInstructionSet = {.name = #isa}; }
%s
int main() try {
  std::puts(lstm_fused::instruction_set().name);
} catch (const std::exception& error) {
  std::puts(error.what());
}
"""


def build_with(folder: Path, *sets: str) -> Path:
    """A program that prints which of these sets it chose, or why none."""
    source, program = folder / "tables.cpp", folder / "tables"
    source.write_text(TABLES % "\n".join(f"BUILT({isa})" for isa in sets))
    command = [*toolchain.find_compiler(), "-std=c++20", "-fPIC", "-Icsrc", source, "csrc/cpu/instruction_set.cpp"]
    subprocess.run([*command, "-o", program], cwd=ROOT, check=True)
    return program


def chosen(program: Path, forced: str | None = None) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "LSTM_FUSED_CPU_ISA"}
    environment |= {"LSTM_FUSED_CPU_ISA": forced} if forced else {}
    return subprocess.run([program], env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_the_widest_that_was_built(tmp_path: Path) -> None:
    every = list(setup_file.load().instruction_sets())
    widest = chosen(build_with(tmp_path, *every))
    runs_here = every[: every.index(widest) + 1]
    for isa in runs_here:
        program = build_with(tmp_path, isa)
        assert chosen(program) == isa
        assert chosen(program, widest) == isa
        for narrower in runs_here[: runs_here.index(isa)]:
            message = f"built for {isa}, and this machine has none of that within LSTM_FUSED_CPU_ISA={narrower}: build"
            assert message in chosen(program, narrower)
    for wider in every[len(runs_here) :]:
        message = f"built for {wider}, and this machine has none of that: build it here"
        assert message in chosen(build_with(tmp_path, wider))
    assert "within LSTM_FUSED_CPU_ISA=sse9: " in chosen(build_with(tmp_path, *every), "sse9")


def test_what_this_machine_has_no_better_than(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setup = setup_file.load()
    every, built = setup.instruction_sets(), tmp_path / "_build.json"
    monkeypatch.setattr(toolchain, "BUILD_INFO", built)
    monkeypatch.setenv("LSTM_FUSED_CPU", "here")
    ask = "import torch, lstm_fused; print(torch.ops.lstm_fused.cpu_isa())"
    environment = {key: value for key, value in os.environ.items() if key != "LSTM_FUSED_CPU_ISA"}
    widest = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True)
    here = setup.instruction_sets()
    assert list(here)[-1] == widest.stdout.strip()
    assert here == {isa: every[isa] for isa in here}
    assert len(here) <= 2
    built.write_text(json.dumps({"instruction_sets": list(here)}))
    assert setup.instruction_sets() == here
    built.write_text(json.dumps({"instruction_sets": list(every)}))  # nothing that was built is taken away
    assert setup.instruction_sets() == every


@pytest.mark.parametrize(
    ("machine", "has", "sets"),
    [
        ("x86_64", "", ["baseline"]),
        ("x86_64", "avx2", ["baseline"]),
        ("x86_64", "avx2 fma f16c", ["avx2"]),
        ("x86_64", "avx2 fma f16c avx512f avx512dq avx512bw avx512vl", ["avx512"]),
        ("x86_64", "avx2 fma f16c avx512f avx512dq avx512bw avx512vl avx512bf16", ["avx512", "avx512_bf16"]),
        ("aarch64", "arm_neon", ["neon"]),
        ("riscv64", "", ["baseline"]),
    ],
)
def test_sets_of_machines(
    machine: str, has: str, sets: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    setup = setup_file.load()
    monkeypatch.setattr(toolchain, "find_machine", lambda: machine)
    monkeypatch.setattr(toolchain, "BUILD_INFO", tmp_path / "_build.json")
    monkeypatch.setattr(toolchain, "macros", lambda *flags: {f"__{name.upper()}__" for name in has.split()})
    monkeypatch.setenv("LSTM_FUSED_CPU", "here")
    assert list(setup.instruction_sets()) == sets
    monkeypatch.delenv("LSTM_FUSED_CPU")
    assert setup.instruction_sets() == setup.INSTRUCTION_SETS.get(machine, {"baseline": ""})


def test_an_unknown_set_is_an_error_that_says_so() -> None:
    environment = os.environ | {"LSTM_FUSED_CPU_ISA": "sse9"}
    done = subprocess.run([sys.executable, "-c", "import lstm_fused"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(r"RuntimeError: lstm_fused was built for .* has none of that within .*=sse9: ", done.stderr)
