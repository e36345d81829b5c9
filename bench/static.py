"""`python -m bench.static`: what can be counted of the CUDA kernels without a GPU: the instructions of a time step.

Kernels run as PTX in the simulator of tests/sim, which counts what their threads execute; registers and spills are what
nvcc reported when the library was built. No time is measured.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]

import ptx  # noqa: E402
import resources  # noqa: E402
import torch  # noqa: E402
from cases import Case, draw  # noqa: E402
from simulated import Simulator  # noqa: E402

ARCHITECTURE = "sm_90a"
OUT = ROOT / "bench" / "results" / f"static-{ARCHITECTURE}"
SHAPES = [("block", 64, 8), ("cluster", 128, 8), ("group", 128, 8)]
TYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "tf32": torch.float32}
LENGTHS = 3, 13  # time steps: a step is a tenth of the difference
CLASSES = ["mma", "shared", "global", "special", "barriers", "other"]  # waits depend on the schedule
WARP = 32


def source_hash() -> str:
    """Of all that the PTX is made of."""
    content = hashlib.sha256()
    for path in sorted(path for path in ptx.CSRC.rglob("*") if path.suffix in (".h", ".cuh", ".cu")):
        content.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return content.hexdigest()[:16]


def registers() -> dict[str, dict[str, int]]:
    """By kernel, of nvcc's report of the last build for this architecture."""
    folder = ROOT / "build" / f"ninja-{sys.implementation.cache_tag}" / "csrc" / "kernels"
    found = [usage for path in sorted(folder.glob("*.resources")) for usage in resources.read_report(path.read_text())]
    found = [usage for usage in found if usage.registers is not None and usage.architecture == ARCHITECTURE]
    names = resources.demangle([usage.function for usage in found])
    return {
        without_parameters(name): {"registers": usage.registers or 0, "spilled_bytes": usage.spilled_bytes}
        for name, usage in zip(names, found)
    }


def without_parameters(function: str) -> str:
    """What stands before the last pair of parentheses."""
    depth = 0
    for at in range(len(function) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(function[at], 0)
        if depth == 0:
            return function[:at]
    return function


def count(simulator: Simulator, case: Case, kind: str, allow_tf32: bool, what: str) -> tuple[dict[str, int], str, int]:
    """Instructions of all threads in one launch, the kernel, and its threads."""
    leaves = draw(case).leaves
    weights = [tensor for name, tensor in leaves.items() if "_l" in name]
    args = leaves["input"], leaves["h_0"], leaves["c_0"], weights, False, None, None, None
    with simulator.running(kind, allow_tf32):
        before = simulator.executed()
        output, h_n, c_n, _, reserve = simulator.ops.forward(*args, what != "inference", False, allow_tf32)
        if what == "backward":
            before = simulator.executed()
            grads = *map(torch.ones_like, (output, h_n, c_n)), None
            simulator.ops.backward(*grads, *args, reserve, True, True, allow_tf32)
        after = simulator.executed()
        return {name: after[name] - before[name] for name in CLASSES}, *simulator.last_kernel()


def per_warp(simulator: Simulator, kind: str, hidden: int, batch: int, name: str, what: str) -> dict[str, Any]:
    """Instructions of one warp, on average over those of the grid: of a time step, and of a launch beside its steps."""
    cases = [Case(steps, batch, 32, hidden, dtype=TYPES[name]) for steps in LENGTHS]
    (few, kernel, threads), (many, *same) = (count(simulator, case, kind, name == "tf32", what) for case in cases)
    if same != [kernel, threads]:
        raise RuntimeError(f"other kernels or grids for other lengths: {kernel}, {same}")
    step = {of: (many[of] - few[of]) / (LENGTHS[1] - LENGTHS[0]) / threads for of in CLASSES}
    return {
        "kind": kind,
        "hidden_size": hidden,
        "batch": batch,
        "type": name,
        "pass": what,
        "kernel": kernel,
        "warps": threads // WARP,
        "step": {of: round(number, 2) for of, number in step.items()},
        "launch": {of: round(few[of] / threads - LENGTHS[0] * step[of], 2) for of in CLASSES},
    }


def table(report: dict[str, Any]) -> str:
    head = ["kind", "H, B", "type", "pass", "warps", *CLASSES, "all", "beside the steps", "registers", "spilled bytes"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in report["cases"]:
        step, launch = row["step"], row["launch"]
        cells = [row["kind"], f"{row['hidden_size']}, {row['batch']}", row["type"], row["pass"], str(row["warps"])]
        cells += [f"{step[of]:.0f}" for of in CLASSES]
        cells += [f"{sum(step.values()):.0f}", f"{sum(launch.values()):.0f}"]
        cells += [str(row["registers"]), str(row["spilled_bytes"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(report: dict[str, Any]) -> str:
    return f"""# Counted, not measured: the CUDA kernels as PTX for {report["architecture"]}

By `python -m bench.static`, without a GPU, of csrc {report["csrc"]} as nvcc {report["nvcc"]} compiles it.

PTX instructions that a warp executes in a time step, on average over the warps of the grid, and beside the steps of a
launch; looks at what is waited for are not counted. I = 32. Registers and spills are those of nvcc's report. Nothing
here says how long a step takes.

{table(report)}
"""


def main() -> None:
    simulator, usages = Simulator(ARCHITECTURE), registers()
    assert ptx.CUDA is not None
    report: dict[str, Any] = {
        "architecture": ARCHITECTURE,
        "nvcc": ptx.CUDA.version,
        "csrc": source_hash(),
        "cases": [],
    }
    for kind, hidden, batch in SHAPES:
        for name in TYPES:
            for what in ("inference", "training", "backward"):
                row = per_warp(simulator, kind, hidden, batch, name, what)
                report["cases"].append(row | usages[row["kernel"]])
    OUT.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(page(report))
    print(table(report))


if __name__ == "__main__":
    main()
