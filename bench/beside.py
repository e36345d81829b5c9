"""Our layer in the place of another package's, whole calls of that package timed: bench.keras and bench.torchrl.

The sides of a row take turns in one process, after a check that all of them return the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from bench import environment, page
from bench.report import geometric_mean, headline
from bench.tables import markdown_table, microseconds
from bench.timing import CudaBlock, Timing, cpu_block, interleave

OURS = "ours"
TOLERANCE = 1e-4  # of the largest value, in float32


@dataclass(frozen=True)
class Row:
    """One line of a table. `make` gives the call of a side; all of them return like tensors."""

    name: str
    peers: Sequence[str]
    make: Callable[[str], Callable[[], Any]]


@dataclass(frozen=True)
class Measured:
    name: str
    times: dict[str, Timing]
    difference: float  # the largest of any peer's first results from ours

    def ratio(self, peer: str) -> float:
        return self.times[peer].minimum / self.times[OURS].minimum


def measure(row: Row, device: torch.device, budget_s: float) -> Measured:
    calls = {side: row.make(side) for side in (OURS, *row.peers)}
    first = {side: call() for side, call in calls.items()}
    difference = max(largest_difference(first[OURS], first[peer]) for peer in row.peers)
    if not difference < TOLERANCE:
        raise SystemExit(f"{row.name}: the results differ by {difference:.1e} of the largest value")
    block = CudaBlock() if device.type == "cuda" else cpu_block
    timings = interleave(list(calls.values()), block, budget_s)
    return Measured(row.name, dict(zip(calls, timings)), difference)


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Of all tensors, each relative to its own largest value."""
    pairs = zip(ours, theirs, strict=True)
    return max(float(((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).detach()) for a, b in pairs)


def markdown(title: str, legend: str, where: dict[str, Any], results: Sequence[Measured]) -> str:
    peers = list(dict.fromkeys(peer for r in results for peer in r.times if peer != OURS))
    columns = [
        "case",
        "ours us",
        *(f"{peer} us" for peer in peers),
        *(f"{peer} / ours" for peer in peers),
        "difference",
    ]
    rows = []
    for r in results:
        times = [microseconds(r.times[side].minimum) if side in r.times else "" for side in (OURS, *peers)]
        ratios = [f"{r.ratio(peer):.2f}" if peer in r.times else "" for peer in peers]
        rows.append([r.name, *times, *ratios, f"{r.difference:.0e}"])
    means = []
    for peer in peers:
        ratios = [r.ratio(peer) for r in results if peer in r.times]
        means.append(
            f"{peer}: geometric mean {geometric_mean(ratios):.2f}, worst {min(ratios):.2f}, {len(ratios)} cases."
        )
    lines = [f"# {title} on {where['device']}", "", headline(where), "", legend, "", *means, ""]
    return "\n".join([*lines, *markdown_table(columns, rows)]) + "\n"


def main(
    package: str,
    description: str,
    legend: str,
    rows: Callable[[torch.device, bool], list[Row]],
    arguments: Sequence[str] | None = None,
) -> int:
    """The command: `rows` are made for a device, all of them or a small cut."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{package}", description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes, little time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only rows whose name has it")
    parser.add_argument("--budget", type=float, metavar="S", help="seconds to measure each side of a row")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: bench/results for all of it, else out")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    chosen = [row for row in rows(device, options.quick) if options.filter in row.name]
    if not chosen:
        raise SystemExit("no row matches --filter")
    where = environment.describe(device) | {package: version(package)}
    budget_s = options.budget or (0.05 if options.quick else 3.0)
    console = Console()
    results = [measure(row, device, budget_s) for row in track(chosen, console=console, transient=True)]
    table = markdown(f"{package} {version(package)}", legend, where, results)
    console.print(table, highlight=False, markup=False, soft_wrap=True)
    folder = options.out or (Path("out") if options.quick or options.filter else page.RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{package}-{environment.slug(where['device'])}"
    report = {"environment": where, "budget_s": budget_s, "results": [dataclasses.asdict(r) for r in results]}
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / f"{name}.md").write_text(table)
    console.print(f"wrote {folder / name}.json and .md", highlight=False)
    return 0
