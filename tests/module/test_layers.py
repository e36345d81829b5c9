"""The include rule: who under csrc may include whom. Read from every #include; the reading is tested on bad trees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from places import ROOT

CSRC = ROOT / "csrc"
SOURCES = (".h", ".cuh", ".cpp", ".cu")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.MULTILINE)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
STANDARD = re.compile(r"[a-z_0-9]+")  # <cstdint>, <vector>: no slash, no dot

# Folder of csrc ("" is csrc itself, the shared headers) -> folders it may include, and headers of others as patterns.
RULES: dict[str, tuple[set[str], str]] = {
    "": ({""}, r"cuda_(bf16|fp16)\.h"),
    "plan": ({"", "plan"}, r"(?!)"),
    "kernels": ({"", "kernels"}, r"cuda[a-z_0-9]*\.h|cuda/.*|cooperative_groups.*|mma\.h"),
    "cpu": ({"", "cpu"}, r"(imm|x86|cpu)intrin\.h|cpuid\.h|arm_neon\.h|unistd\.h|sys/mman\.h"),
    "python": ({"", "python", "plan", "cpu"}, r"pybind11/.*"),
    "torch": ({"", "torch", "plan", "kernels", "cpu"}, r"torch/(csrc/stable|headeronly)/.*|dlfcn\.h"),
}
# The single headers with a narrower rule than their folder's.
NARROW = {"params.h": r"cstdint", "device_facts.h": r"cstdint", "tiles.h": r"cstdint|string|params\.h"}


def violations(csrc: Path) -> list[str]:
    """Every line that breaks a rule, as "file: what"."""
    found = []
    for path in sorted(path for path in csrc.rglob("*") if path.suffix in SOURCES):
        name = path.relative_to(csrc).as_posix()
        folder = name.split("/")[0] if "/" in name else ""
        code = COMMENT.sub("", path.read_text())
        if folder not in RULES:
            found.append(f"{name}: no rule for folder {folder}")
            continue
        folders, outside = RULES[folder]
        for quote, header in INCLUDE.findall(code):
            if name in NARROW:
                allowed = re.fullmatch(NARROW[name], header)
            elif quote == '"':
                allowed = (csrc / header).is_file() and (header.split("/")[0] if "/" in header else "") in folders
            else:
                allowed = re.fullmatch(f"{STANDARD.pattern}|{outside}", header)
            if not allowed:
                found.append(f"{name}: includes {header}")
        if "<<<" in code:
            found.append(f"{name}: a launch outside the launch function")
        if folder == "kernels":
            found += [
                f"{name}: static __shared__" for _ in re.findall(r"^(?!.*\bextern\b).*\b__shared__\b", code, re.M)
            ]
    return found


def test_csrc_keeps_the_rules() -> None:
    assert violations(CSRC) == []


def test_every_folder_is_there() -> None:
    seen = {
        path.relative_to(CSRC).parts[0] for path in CSRC.rglob("*") if path.suffix in SOURCES and path.parent != CSRC
    }
    assert seen == set(RULES) - {""}


@pytest.mark.parametrize(
    ("name", "line", "what"),
    [
        ("params.h", "#include <vector>", "includes vector"),
        ("cell.h", '#include "plan/planner.h"', "includes plan/planner.h"),
        ("plan/a.cpp", '#include "kernels/table.h"', "includes kernels/table.h"),
        ("plan/a.cpp", "#include <torch/csrc/stable/tensor.h>", "includes torch/csrc/stable/tensor.h"),
        ("plan/a.cpp", "#include <pybind11/pybind11.h>", "includes pybind11/pybind11.h"),
        ("plan/a.cpp", "#  include <cuda_runtime.h>", "includes cuda_runtime.h"),
        ("kernels/a.cu", '#include "plan/planner.h"', "includes plan/planner.h"),
        ("kernels/a.cuh", '#include "../plan/planner.h"', "includes ../plan/planner.h"),
        ("kernels/a.cu", "#include <torch/headeronly/util/Half.h>", "includes torch/headeronly/util/Half.h"),
        ("kernels/a.cu", "kernel<<<1, 2>>>(x);", "a launch outside the launch function"),
        ("kernels/a.cu", "  __shared__ float tile[8];", "static __shared__"),
        ("cpu/a.cpp", '#include "plan/planner.h"', "includes plan/planner.h"),
        ("cpu/isa/a.cpp", '#include "torch/checks.h"', "includes torch/checks.h"),
        ("torch/a.cpp", "#include <torch/extension.h>", "includes torch/extension.h"),
        ("torch/a.cpp", "#include <ATen/ATen.h>", "includes ATen/ATen.h"),
        ("torch/a.cpp", '#include "nowhere.h"', "includes nowhere.h"),
        ("extra/a.cpp", "", "no rule for folder extra"),
    ],
)
def test_a_bad_tree_is_found(tmp_path: Path, name: str, line: str, what: str) -> None:
    for good in ("params.h", "plan/planner.h", "kernels/table.h", "torch/checks.h"):
        (tmp_path / good).parent.mkdir(exist_ok=True)
        (tmp_path / good).write_text("#pragma once\n")
    assert violations(tmp_path) == []
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(f"// a comment\n{line}\n")
    assert violations(tmp_path) == [f"{name}: {what}"]


def test_a_good_tree_passes(tmp_path: Path) -> None:
    tree = {
        "params.h": "#include <cstdint>",
        "plan/planner.h": '#include <string>\n#include "params.h"',
        "python/plan.cpp": '#include <pybind11/stl.h>\n#include "plan/planner.h"',
        "kernels/a.cu": '#include <cuda_runtime.h>\n#include "params.h"\nextern __shared__ char bytes[];',
        "kernels/b.cu": "// kernel<<<1, 2>>>() and __shared__ are not used here\n",
        "torch/ops.cpp": '#include <torch/csrc/stable/library.h>\n#include "plan/planner.h"',
    }
    for name, code in tree.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    assert violations(tmp_path) == []
