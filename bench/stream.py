"""`python -m bench.stream`: LSTM inference step by step: how long a call takes, and how often it takes longer.

lstm_fused.Stream with weights of 32, 16 and 8 bit against our module, torch.nn.LSTM and LSTMCell, ONNX Runtime, and the
int8 LSTMs of torch and ONNX Runtime, in one process, taking turns. Each call is timed by itself. CPU only.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import itertools
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from bench import environment, floor, page, peer_onnxruntime
from bench.__main__ import BUSY, WIDTH
from bench.cases import Case
from bench.report import geometric_mean, headline
from bench.stream_peers import BYTES, SIDES, Call, asarray
from bench.tables import markdown_table, microseconds, rates_line
from bench.timing import BLOCK_S

STEPS, BATCHES, SIZES = (1, 4, 16), (1, 4, 16), (64, 256, 1024, 2048)
QUICK_SIZES = (64, 256)
BUDGET_S, QUICK_BUDGET_S = 1.0, 0.05  # of each side of a case
MIN_CALLS, MAX_CALLS = 5, 20_000
# Parts of the calls that are no slower than the times in a Distribution.
PARTS = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 1.0)
WIDTHS = {"float32": 4, "bfloat16": 2, "int8": 1, BYTES: 1}  # bytes of a weight


@dataclass(frozen=True)
class Distribution:
    """Seconds of a call, at each of PARTS."""

    calls: int
    times: list[float]

    @staticmethod
    def of(samples: Sequence[float]) -> Distribution:
        ordered = sorted(samples)
        at = [max(0, math.ceil(part * len(ordered)) - 1) for part in PARTS]
        return Distribution(len(ordered), [ordered[n] for n in at])

    def at(self, part: float) -> float | None:
        """None where so few calls were timed that the slowest one alone would decide."""
        if part < 1 and self.calls * (1 - part) < 1 - 1e-9:
            return None
        return self.times[PARTS.index(part)]

    @property
    def minimum(self) -> float:
        return self.times[0]


@dataclass(frozen=True)
class StreamResult:
    case: Case
    sides: dict[str, Distribution]
    differences: dict[str, float]  # of the first output, from float64's, as a part of its largest element

    def ratio(self, side: str, ours: str) -> float | None:
        """Of the minima."""
        if side not in self.sides or ours not in self.sides:
            return None
        return self.sides[side].minimum / self.sides[ours].minimum

    def likest(self, side: str) -> str | None:
        """The stream that the side is compared with."""
        return next((ours for ours in SIDES[side].ours if ours in self.sides), None)


@dataclass(frozen=True)
class StreamReport:
    environment: dict[str, Any]
    settings: dict[str, Any]
    results: list[StreamResult]
    rates: floor.Rates


def cases(quick: bool = False) -> list[Case]:
    sizes = QUICK_SIZES if quick else SIZES
    grid = itertools.product(STEPS, BATCHES, sizes)
    return [Case("stream", "inference", "float32", steps, batch, size) for steps, batch, size in grid]


def run_case(case: Case, names: Sequence[str], budget_s: float) -> StreamResult:
    torch.manual_seed(0)
    lstm = nn.LSTM(case.hidden_size, case.hidden_size).eval()
    x = torch.randn(case.seq_len, case.batch, case.hidden_size)
    with torch.inference_mode():
        exact = nn.LSTM(case.hidden_size, case.hidden_size).double()
        exact.load_state_dict(lstm.state_dict())
        expected = exact(x.double())[0].numpy().flatten()
        calls, differences = {}, {}
        for name in names:
            if SIDES[name].runs(case):
                calls[name] = SIDES[name].build(lstm, x)
                difference = np.abs(asarray(calls[name]()).flatten() - expected).max() / np.abs(expected).max()
                if not difference <= SIDES[name].tolerance:
                    raise SystemExit(f"{case.name}: {name} is {difference:.1e} off float64")
                differences[name] = float(difference)
        return StreamResult(case, time_calls(calls, budget_s), differences)


def time_calls(calls: dict[str, Call], budget_s: float) -> dict[str, Distribution]:
    """Rounds of blocks of about BLOCK_S, of each side in turn, each call timed by itself; the first round warms up."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    counts = dict.fromkeys(calls, 1)
    clock, spent = time.perf_counter, 0.0
    gc.collect()
    gc.disable()
    try:
        for turn in itertools.count():
            for name, call in calls.items():
                own = samples[name]
                for _ in range(counts[name]):
                    start = clock()
                    call()
                    own.append(clock() - start)
                counts[name] = max(1, min(1000, round(BLOCK_S / max(min(own), 1e-7))))
            if turn < 2:
                samples = {name: [] for name in calls}
                continue
            spent = sum(map(sum, samples.values()))
            enough = all(len(own) >= MIN_CALLS for own in samples.values())
            full = all(len(own) >= MAX_CALLS for own in samples.values())
            if enough and (full or spent >= budget_s * len(calls)):
                break
    finally:
        gc.enable()
    return {name: Distribution.of(own) for name, own in samples.items()}


def reading_s(result: StreamResult, side: str, rates: floor.Rates) -> float | None:
    """What reading W_ih once and W_hh at every step takes, of our own sides."""
    if side not in WIDTHS:
        return None
    w_hh = 4 * result.case.hidden_size**2 * WIDTHS[side]
    return 2 * w_hh / rates.bytes_per_s(2 * w_hh) + (result.case.seq_len - 1) * w_hh / rates.bytes_per_s(w_hh)


# Tables

COLUMNS = ["case", "side", "calls", "min us", "p50 us", "p99 us", "p99.9 us", "min / ours", "reading us", "difference"]


def rows(report: StreamReport) -> list[list[str]]:
    found = []
    for result in report.results:
        for side, times in result.sides.items():
            shown = [times.minimum, *(times.at(part) for part in (0.5, 0.99, 0.999))]
            cells = ["" if seconds is None else microseconds(seconds) for seconds in shown]
            likest, reading = result.likest(side), reading_s(result, side, report.rates)
            ratio = likest and result.ratio(side, likest)
            cells += ["" if not ratio else f"{ratio:.2f}", "" if reading is None else microseconds(reading)]
            found.append([result.case.shape, side, str(times.calls), *cells, f"{result.differences[side]:.1e}"])
    return found


def summary(report: StreamReport) -> list[list[str]]:
    """Of each peer: its minimum over our Stream's of like weights."""
    found = []
    pairs = [(side, ours) for side, about in SIDES.items() for ours in about.ours]
    for (side, ours), (title, steps) in itertools.product(pairs, (("T = 1", (1,)), ("T = 4, 16", (4, 16)))):
        of_steps = [r for r in report.results if r.case.seq_len in steps and r.ratio(side, ours) is not None]
        if of_steps:
            ratios = [r.ratio(side, ours) or 0.0 for r in of_steps]
            worst = of_steps[ratios.index(min(ratios))].case.shape
            means = [f"{geometric_mean(ratios):.2f}", f"{min(ratios):.2f}"]
            found.append([side, ours, title, str(len(ratios)), *means, worst])
    return found


SUMMARY_COLUMNS = ["peer", "over our Stream in", "steps", "cases", "geometric mean", "worst", "worst case"]
LEGEND = (
    "float32, bfloat16, int8: lstm_fused.Stream with weights of that width; int8 x int8 with activations=torch.int8, "
    "which rounds activations too. module: lstm_fused.LSTM, torch: torch.nn.LSTM, both given their state and returning "
    "it; LSTMCell: torch's. ORT: ONNX Runtime, its state and output in memory bound beforehand. torch int8: "
    "quantize_dynamic; ORT int8: its DynamicQuantizeLSTM, a scale per row: both round activations to 8 bit too, and in "
    "the large table are compared with int8 x int8. Above 1 Stream is faster. A time holds the clock's own, about 0.05 "
    "us. A percentile that fewer calls than it takes were timed for is left out. reading: W_ih once and W_hh at every "
    "step, at the rates below. difference: largest, of the first output from float64's, as a part of the largest "
    "element."
)


def markdown(report: StreamReport) -> str:
    lines = [f"# Streams on {report.environment['device']}", "", headline(report.environment), "", LEGEND, ""]
    lines += [rates_line(report.rates), "", *markdown_table(SUMMARY_COLUMNS, summary(report)), ""]
    return "\n".join([*lines, *markdown_table(COLUMNS, rows(report))]) + "\n"


def to_json(report: StreamReport) -> str:
    return json.dumps(dataclasses.asdict(report) | {"parts": PARTS}, indent=1) + "\n"


def write(report: StreamReport, folder: Path) -> list[Path]:
    from bench.stream_plot import plot  # matplotlib takes a while to import

    folder.mkdir(parents=True, exist_ok=True)
    name = f"stream-{environment.slug(report.environment['device'])}"
    paths = [folder / f"{name}{suffix}" for suffix in (".json", ".md", ".png")]
    paths[0].write_text(to_json(report))
    paths[1].write_text(markdown(report))
    plot(report, paths[2])
    return paths


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.stream", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a cut through the grid, in about 15 seconds")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--side", nargs="+", choices=SIDES, default=list(SIDES), help="default: all")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only cases whose name has it, as in 'T1 B1 '")
    parser.add_argument("--budget", type=float, metavar="S", help="seconds to measure each side of a case")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: bench/results for all of it, else out")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    chosen = [case for case in cases(options.quick) if options.filter in case.name]
    if not chosen:
        raise SystemExit("no case matches --filter")
    whole = chosen == cases() and options.side == list(SIDES)
    where = environment.describe(torch.device("cpu")) | {"onnxruntime": peer_onnxruntime.version()}
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if where["load"] > BUSY * where["cores"]:
        console.print(f"[yellow]The machine is busy (load {where['load']:.1f}): these times and ratios will mislead.")
    budget_s = options.budget or (QUICK_BUDGET_S if options.quick else BUDGET_S)
    rates = floor.measure(["float32"])
    results = [run_case(case, options.side, budget_s) for case in track(chosen, console=console, transient=True)]
    rates = rates.best_of(floor.measure(["float32"]))
    report = StreamReport(where, {"budget_s": budget_s}, results, rates)
    console.print(markdown(report), highlight=False, markup=False, soft_wrap=True)
    for path in write(report, options.out or (page.RESULTS if whole else Path("out"))):
        console.print(f"wrote {path}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
