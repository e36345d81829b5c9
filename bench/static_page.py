"""The page of what `python -m bench.static` found: bench/results/static-*.md."""

from __future__ import annotations

from typing import Any

from bench.report import markdown_table


def total(row: dict[str, Any], of: str, where: str) -> float:
    """Of instructions or cycles of a step or of what a launch has beside its steps."""
    return sum(row[of][where].values())


def head(row: dict[str, Any]) -> list[str]:
    return [row["kind"], f"{row['hidden_size']}, {row['batch']}", row["type"], row["pass"]]


def cycles_table(report: dict[str, Any]) -> str:
    parts = list(report["cases"][0]["cycles"]["step"])
    rows = []
    for row in report["cases"]:
        step = row["cycles"]["step"]
        numbers = [total(row, "cycles", "step"), *(step[part] for part in parts), total(row, "cycles", "launch")]
        us = numbers[0] / report["clock_mhz"]
        rows.append([*head(row), f"{us:.2f}", *(f"{number:.0f}" for number in numbers)])
    return "\n".join(markdown_table(["kind", "H, B", "type", "pass", "us", "a step", *parts, "beside the steps"], rows))


def instructions_table(report: dict[str, Any]) -> str:
    classes = list(report["cases"][0]["instructions"]["step"])
    rows = []
    for row in report["cases"]:
        step = row["instructions"]["step"]
        numbers = [step[of] for of in classes] + [total(row, "instructions", of) for of in ("step", "launch")]
        usage = [str(row["registers"]), str(row["spilled_bytes"])]
        rows.append([*head(row), str(row["warps"]), *(f"{number:.0f}" for number in numbers), *usage])
    titles = [
        "kind",
        "H, B",
        "type",
        "pass",
        "warps",
        *classes,
        "all",
        "beside the steps",
        "registers",
        "spilled bytes",
    ]
    return "\n".join(markdown_table(titles, rows))


def assumptions(report: dict[str, Any]) -> str:
    rows = [[str(cell) for cell in row] for row in report["costs"]]
    return "\n".join(markdown_table(["what", "slots", "rate", "latency", "from"], rows))


def page(report: dict[str, Any]) -> str:
    return f"""# Counted and modelled, not measured: the CUDA kernels as PTX for {report["architecture"]}

By `python -m bench.static`, without a GPU, of csrc {report["csrc"]} as nvcc {report["nvcc"]} compiles it.
I = {report["input_size"]}. **Nothing here was measured on a GPU.** [simulator.md](../../docs/simulator.md) says what
the model leaves out.

## Cycles of a time step, modelled

The critical path of a launch by the table of assumptions below: of a time step, what it consists of, and what a launch
has beside its steps; us at {report["clock_mhz"]} MHz.

{cycles_table(report)}

## Instructions of a time step, counted

PTX instructions that a warp executes in a time step, on average over the warps of the grid, and beside the steps of a
launch; looks at what is waited for are not counted. Registers and spills are those of nvcc's report.

{instructions_table(report)}

## What the model assumes

Slots of a scheduler, cycles for which the instruction's pipe is busy, and the latency until there is a result, all in
cycles. From tests/sim/ptx/costs.cpp.

{assumptions(report)}
"""
