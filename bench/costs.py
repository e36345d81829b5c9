"""The constants of the planner's estimates (csrc/plan/cost.cpp) from the simulator's model cycles.

    python -m bench.costs          # runs all sizes below, writes bench/results/costs-sm_90a.json and cost.cpp: minutes
    python -m bench.costs --fit    # from the cycles in that file, with the parts that cost.cpp, as built, counts now

cost.cpp says of which parts a time step consists, and how often each occurs; here are the cycles of each part: those
whose sum is closest to what the model says of all sizes, by the least squares of the relative error. No time is
measured. Build afterwards, and run again if the planner then takes other launches.
"""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

import torch

from bench import static
from bench.static import ARCHITECTURE, H100, ROOT, Run, Simulator
from bench.static_page import total
from lstm_fused import _plan

OUT = ROOT / "bench" / "results" / f"costs-{ARCHITECTURE}.json"
COST = ROOT / "csrc" / "plan" / "cost.cpp"
COLUMNS = ["bfloat16", "tf32", "float32"]  # float16 takes what bfloat16 does
# H, B, and what is not the default: in every type, and in bfloat16 alone. On few SMs clusters have fewer
# blocks, and groups more turns.
SIZES = {
    "block inference": (
        ["16 8", "32 8", "48 8", "64 8", "32 8 input_size=128", "64 8 input_size=128"],
        ["80 8", "96 8", "112 8", "128 8"],
    ),
    "cluster inference": (
        ["64 8 num_sms=2", "128 8 num_sms=2", "128 8", "192 8", "256 8 num_sms=8", "256 8"],
        ["256 8 num_sms=4", "320 8", "512 8"],
    ),
    "group inference": (
        [
            "128 8",
            "256 8",
            "512 8",
            "128 16 num_sms=8",
            "128 32 num_sms=8",
            "64 8 num_layers=2",
            "128 8 num_layers=2",
            "256 8 num_layers=2",
        ],
        [
            "512 16",
            "512 64",
            "1024 8",
            "256 16 num_sms=16",
            "256 32 num_sms=16",
            "256 64 num_sms=16",
            "128 40 num_sms=8",
            "256 40 num_sms=16",
            "512 40 num_sms=32",
            "1024 32 num_sms=64",
            "1024 64 num_sms=64",
            "512 8 num_layers=2",
            "768 8 num_layers=2",
            "1024 8 num_layers=2",
        ],
    ),
    "group backward": (
        [
            "128 8",
            "256 8",
            "128 16 num_sms=8",
            "64 32 num_sms=4",
            "64 8 num_layers=2",
            "128 8 num_layers=2",
            "256 8 num_layers=2",
        ],
        ["512 8", "128 32 num_sms=8", "512 8 num_layers=2"],
    ),
    "step inference": (["64 8", "128 8", "256 8"], ["256 16", "256 32", "512 8"]),
}
RUNS = [
    Run.of(f"{kind} {h} {b} {type} {what} {' '.join(options)}")
    for (kind, what), sizes in ((name.split(), sizes) for name, sizes in SIZES.items())
    for type in COLUMNS
    for h, b, *options in (size.split() for size in sizes[0] + (sizes[1] if type == "bfloat16" else []))
]


def problem_of(run: Run) -> _plan.Problem:
    return _plan.Problem(
        seq_len=static.LENGTHS[0],
        batch=run.batch,
        input_size=run.input_size,
        hidden_size=run.hidden_size,
        num_layers=run.num_layers,
        dtype=run.type.replace("tf32", "float32"),
        allow_tf32=run.type == "tf32",
        training=run.what != "inference",
    )


def parts(run: Run) -> dict[str, float]:
    """How often each part of cost.cpp occurs in a step of this run."""
    names = "shared_bytes_per_block shared_bytes_per_sm registers_per_sm l2_bytes max_cluster_size".split()
    names += ["clock_mhz", "memory_gb_per_s"]
    facts = [H100.compute_capability, run.num_sms or H100.num_sms, *(getattr(H100, name) for name in names)]
    device = _plan.cuda_device("simulated", [*facts, *H100.resident_clusters])
    return _plan.step_parts(problem_of(run), device, run.kind, backward=run.what == "backward")


def fit(rows: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Cycles by name of the part, of each column."""
    cycles: dict[str, list[int]] = {}
    for name in SIZES:
        for column, type in enumerate(COLUMNS):
            of_type = [row for row in rows if is_of(row, name, type)]
            names = list(dict.fromkeys(part for row in of_type for part, count in row["parts"].items() if count))
            counts = torch.tensor([[row["parts"].get(part, 0) / row["cycles"] for part in names] for row in of_type])
            # Of the least norm, should sizes not tell parts apart. One that does not occur in a type has no cost.
            found = torch.linalg.lstsq(counts.double(), torch.ones(len(of_type), 1).double(), driver="gelsd").solution
            for part, value in zip(names, found[:, 0].tolist()):
                cycles.setdefault(part, [0] * len(COLUMNS))[column] = round(value)
    return cycles


def is_of(row: dict[str, Any], name: str, type: str) -> bool:
    run = Run.of(row["run"])
    return (f"{run.kind} {run.what}", run.type) == (name, type)


def filled(text: str, cycles: dict[str, list[int]]) -> str:
    """cost.cpp with these numbers."""
    for name, values in cycles.items():
        numbers = ", ".join(map(str, values))
        text, places = re.subn(rf'(\{{"{name}", \{{)[^}}]*\}}', rf"\g<1>{numbers}}}", text)
        if places != 1:
            raise KeyError(f"cost.cpp names {name!r} {places} times")
    return text


def reckoned(row: dict[str, Any], cycles: dict[str, list[int]]) -> float:
    column = COLUMNS.index(Run.of(row["run"]).type)
    return sum(cycles[name][column] * count for name, count in row["parts"].items())


def measure() -> list[dict[str, Any]]:
    simulator = Simulator(ARCHITECTURE, kernels=sorted({run.source for run in RUNS}))
    rows = []
    for run in RUNS:
        row = static.measure(simulator, run)
        print(static.line(row, None), flush=True)
        rows.append({"run": run.name, "cycles": round(total(row, "cycles", "step")), "parts": parts(run)})
    return rows


def save(rows: list[dict[str, Any]], csrc: str) -> None:
    """A line for each case."""
    cases = ",\n".join(map(json.dumps, rows))
    OUT.write_text(f'{{"csrc": "{csrc}", "cases": [\n{cases}\n]}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.costs")
    parser.add_argument("--fit", action="store_true", help="from the committed cycles, without the simulator")
    if parser.parse_args().fit:
        known = json.loads(OUT.read_text())
        rows, csrc = [row | {"parts": parts(Run.of(row["run"]))} for row in known["cases"]], known["csrc"]
    else:
        rows, csrc = measure(), static.source_hash()
    save(rows, csrc)
    cycles = fit(rows)
    for row in rows:
        found = reckoned(row, cycles)
        print(f"{row['run']:46} {row['cycles']:6} reckoned {found:6.0f}, {found / row['cycles'] - 1:+4.0%}")
    COST.write_text(filled(COST.read_text(), cycles))


if __name__ == "__main__":
    main()
