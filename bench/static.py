"""What can be said of the CUDA kernels' time steps without a GPU: instructions, counted, and cycles, modelled.

    python -m bench.static                               # every case, into bench/results
    python -m bench.static --filter 'block.*bfloat16'    # those whose name matches, on the screen alone
    python -m bench.static --case 'group 1024 64 tf32 backward'    # of other sizes
    python -m bench.static --case 'block 64 8 float32 training variant=1'    # a cell with zoneout, a clip and peepholes
    python -m bench.static --filter 'group 512' --save before.json
    python -m bench.static --filter 'group 512' --compare before.json    # without a file: with those of bench/results

Kernels run as PTX in the simulator of tests/sim. Instructions are those that threads execute. Cycles are the critical
path by a table of assumed latencies and rates (tests/sim/ptx/costs.cpp). Registers and spills are what nvcc reported
when the library was built. No time is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]

import ptx  # noqa: E402
import resources  # noqa: E402
import torch  # noqa: E402
from cases import Case, draw  # noqa: E402
from simulated import H100, Simulator  # noqa: E402

from bench.static_page import page, total  # noqa: E402

ARCHITECTURE = "sm_90a"
OUT = ROOT / "bench" / "results" / f"static-{ARCHITECTURE}"
TYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "tf32": torch.float32,
    "float32": torch.float32,
}
PASSES = ["inference", "training", "backward"]
# H and B. Of those behind the first, which take the simulator longer, bfloat16 alone; of the last of group, inference.
SHAPES = {
    "block": [(64, 8), (128, 8)],
    "cluster": [(256, 8), (256, 32)],
    "group": [(128, 8), (512, 16), (512, 64), (1024, 16)],
    "step": [(64, 8), (256, 16)],
}
INFERENCE_ALONE = [("group", 512, 64), ("group", 1024, 16)]
CLASSES = ["mma", "shared", "global", "special", "barriers", "other"]  # waits depend on the schedule
LENGTHS = 3, 7  # time steps: a step is a quarter of the difference, as every fourth of a group has a fence
WARP = 32


@dataclass(frozen=True)
class Run:
    kind: str
    hidden_size: int
    batch: int
    type: str
    what: str  # of PASSES
    input_size: int = 32
    num_layers: int = 1
    num_sms: int = 0  # of the GPU; 0: all of an H100
    variant: int = 0  # 1: of the cell, one with all options that persistent kinds have

    @staticmethod
    def of(name: str) -> Run:
        kind, hidden_size, batch, type, what, *options = name.split()
        numbers = {option: int(value) for option, value in (part.split("=") for part in options)}
        return replace(Run(kind, int(hidden_size), int(batch), type, what), **numbers)

    @property
    def options(self) -> dict[str, int]:
        """Those that are not the default."""
        named = ((field.name, field.default) for field in fields(self) if field.default is not MISSING)
        return {name: getattr(self, name) for name, default in named if getattr(self, name) != default}

    @property
    def name(self) -> str:
        sizes = f"{self.kind} {self.hidden_size} {self.batch} {self.type} {self.what}"
        return " ".join([sizes, *(f"{option}={value}" for option, value in self.options.items())])

    @property
    def source(self) -> Path:
        kind = self.kind if not self.variant else "variant" if self.kind == "step" else "variant_persistent"
        return next(path for path in ptx.KERNELS if path.stem == f"{kind}_{self.type.replace('tf32', 'float32')}")


RUNS = [
    Run(kind, *shape, type, what)
    for kind, shapes in SHAPES.items()
    for shape in shapes
    for type in (TYPES if shape == shapes[0] else ["bfloat16"])
    for what in (["inference"] if (kind, *shape) in INFERENCE_ALONE else PASSES)
]


def source_hash() -> str:
    """Of all that the PTX is made of."""
    content = hashlib.sha256()
    kernels = (path for path in (ptx.CSRC / "kernels").rglob("*") if path.suffix in (".h", ".cuh", ".cu"))
    for path in sorted([*ptx.CSRC.glob("*.h"), *kernels]):
        content.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return content.hexdigest()[:16]


def registers() -> dict[str, dict[str, int]]:
    """By kernel, of nvcc's report of the last build for this architecture."""
    folder = ROOT / "build" / "ninja" / "csrc" / "kernels"
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


def difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after}


@dataclass
class Launch:
    """Of a pass: instructions of all threads, cycles, the kernel that was launched most often, and its threads."""

    instructions: dict[str, int]
    cycles: dict[str, int]
    kernel: tuple[str, int]


def passes(simulator: Simulator, run: Run, num_steps: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """forward() and backward(of what forward returned), as functions."""
    case = Case(num_steps, run.batch, run.input_size, run.hidden_size, run.num_layers, dtype=TYPES[run.type])
    leaves = draw(case).leaves
    weights = [tensor for name, tensor in leaves.items() if "_l" in name]
    args: tuple[Any, ...] = leaves["input"], leaves["h_0"], leaves["c_0"], weights, False, None, None, None
    training, allow_tf32 = run.what != "inference", run.type == "tf32"
    if not run.variant:
        return (
            lambda: simulator.ops.forward(*args, training, False, allow_tf32),
            lambda output, h_n, c_n, _, reserve: simulator.ops.backward(
                *map(torch.ones_like, (output, h_n, c_n)), None, *args, reserve, True, True, allow_tf32
            ),
        )
    x, h_0, c_0 = leaves["input"], leaves["h_0"][0], leaves["c_0"][0]
    kept = torch.randint(0, 2, (num_steps, *c_0.shape)).to(x.dtype)
    weights = [*weights, torch.randn(3, run.hidden_size)]  # peepholes
    args = x, h_0, c_0, weights, False, None, None, kept, kept, torch.ones_like(h_0), 0.0, 0.0, 1.0, True, False
    return (
        lambda: simulator.ops.variant(*args, training, allow_tf32),
        lambda h, cells, h_n, c_n, reserve: simulator.ops.variant_backward(
            torch.ones_like(h), None, *map(torch.ones_like, (h_n, c_n)), *args, reserve, True, True, allow_tf32
        ),
    )


def launch(simulator: Simulator, run: Run, num_steps: int, seed: int = 0) -> Launch:
    forward, backward = passes(simulator, run, num_steps)

    kind = "group_stack" if run.kind == "group" and run.num_layers > 1 else run.kind  # layers side by side
    with simulator.running(kind, run.type == "tf32", seed, num_sms=run.num_sms or H100.num_sms):
        if run.what == "backward":
            results = forward()
        with simulator.timed():
            counted, cycles, launched = simulator.executed(), simulator.cycles(), len(simulator.launched())
            if run.what == "backward":
                backward(*results)
            else:
                forward()
        return Launch(
            difference(simulator.executed(), counted),
            difference(simulator.cycles(), cycles),
            Counter(simulator.launched()[launched:]).most_common(1)[0][0],
        )


def per_step(few: dict[str, int], many: dict[str, int], share: int = 1) -> dict[str, dict[str, float]]:
    """Of a time step, and of a launch beside its steps."""
    step = {name: (many[name] - few[name]) / (LENGTHS[1] - LENGTHS[0]) / share for name in few}
    return {
        "step": {name: round(number, 2) for name, number in step.items()},
        "launch": {name: round(few[name] / share - LENGTHS[0] * step[name], 2) for name in few},
    }


def measure(simulator: Simulator, run: Run) -> dict[str, Any]:
    """Instructions of one warp, on average over those of the grid, and cycles of the critical path."""
    few, many = (launch(simulator, run, num_steps) for num_steps in LENGTHS)
    if few.kernel != many.kernel:
        raise RuntimeError(f"other kernels or grids for other lengths: {few.kernel}, {many.kernel}")
    kernel, threads = few.kernel
    counts = ({name: one.instructions[name] for name in CLASSES} for one in (few, many))
    return {
        "kind": run.kind,
        "hidden_size": run.hidden_size,
        "batch": run.batch,
        "type": run.type,
        "pass": run.what,
        **run.options,
        "kernel": kernel,
        "warps": threads // WARP,
        "instructions": per_step(*counts, threads),
        "cycles": per_step(few.cycles, many.cycles),
    }


def run_of(row: dict[str, Any]) -> Run:
    return Run(what=row["pass"], **{field.name: row[field.name] for field in fields(Run) if field.name in row})


def name_of(row: dict[str, Any]) -> str:
    return run_of(row).name


def line(row: dict[str, Any], before: dict[str, Any] | None) -> str:
    """For the screen: cycles of a step and beside the steps, what a step's consist of, instructions of a warp."""
    cycles, instructions = total(row, "cycles", "step"), total(row, "instructions", "step")
    parts = " ".join(f"{part} {number:.0f}" for part, number in row["cycles"]["step"].items() if number >= 0.5)
    text = f"{name_of(row):36} step {cycles:6.0f}, beside {total(row, 'cycles', 'launch'):6.0f}"
    text += f"; instructions {instructions:5.0f}; {parts}"
    if before:
        was, counted = total(before, "cycles", "step"), total(before, "instructions", "step")
        text += f"\n{'':36}  was {was:6.0f} ({was / cycles:.2f} times), instructions {counted:5.0f}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.static")
    parser.add_argument(
        "--filter", help="a regular expression, of '<kind> <H> <B> <type> <pass>'; bench/results stays as it is"
    )
    parser.add_argument(
        "--case",
        action="append",
        metavar="NAME",
        help="one more, of any sizes: 'group 1024 64 tf32 backward num_layers=2'",
    )
    parser.add_argument("--save", type=Path, help="a file to write what was found to")
    parser.add_argument("--compare", nargs="?", const=OUT.with_suffix(".json"), type=Path, help="a file of results")
    options = parser.parse_args()
    assert ptx.CUDA is not None
    runs = [Run.of(name) for name in options.case or []]
    runs += [run for run in RUNS if re.search(options.filter or "", run.name) and (options.filter or not runs)]
    if not runs:
        parser.error(f"no case matches {options.filter!r}; there are:\n" + "\n".join(run.name for run in RUNS))
    before = {}
    if options.compare:
        before = {name_of(row): row for row in json.loads(options.compare.read_text())["cases"]}
    chosen = sorted({run.source for run in runs})
    simulator = Simulator(ARCHITECTURE, kernels=chosen if len(runs) < len(RUNS) else ptx.KERNELS)
    rows = []
    for run in runs:
        rows.append(measure(simulator, run))
        print(line(rows[-1], before.get(run.name)), flush=True)
    if options.save:
        options.save.write_text(json.dumps({"cases": rows}, indent=1) + "\n")
    if options.filter or options.case:
        return
    usages = registers()
    report = {
        "architecture": ARCHITECTURE,
        "nvcc": ptx.CUDA.version,
        "csrc": source_hash(),
        "input_size": Run.input_size,
        "clock_mhz": H100.clock_mhz,
        "costs": simulator.costs(),
        "cases": [row | usages[row["kernel"]] for row in rows],
    }
    OUT.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
