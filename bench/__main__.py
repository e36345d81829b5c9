"""`python -m bench`: lstm_fused.LSTM against torch.nn.LSTM over a grid of shapes, in one process; on a CPU also against
ONNX Runtime, and against the best that the machine could do."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench import environment, floor, page, peer_onnxruntime
from bench.cases import DTYPES, GRIDS, MODES, Case
from bench.pair import Disagreement, Side, build, check_agreement, precision
from bench.report import Report, Result
from bench.tables import print_report, write
from bench.timing import BLOCK_S, MIN_REPETITIONS, Block, Call, CudaBlock, cpu_block, graphed, interleave

BUDGET_S = {"cpu": 0.75, "cuda": 0.08}  # measured time per case and side, unless MIN_REPETITIONS take longer
LIMIT_S = {"cpu": 1800.0, "cuda": 600.0}
QUICK_BUDGET_S, QUICK_LIMIT_S = 0.06, 45.0
CALL_OVERHEAD_S = 2e-4
GPU_FLOPS = 1e13  # a low guess, for estimates of how long a run takes
WARM_UP_S = 1.0  # of a GPU: its clock rises under load
BUSY = 0.5  # load per core above which a run warns
WIDTH = 140  # of the tables where the output is no terminal


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a cut through the grid, under a minute on two cores")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where this build has kernels for one)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    groups = dict.fromkeys(group for grid in GRIDS.values() for group in grid.groups)
    parser.add_argument("--group", nargs="+", choices=groups, help="default: all of the device")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=MODES, help="default: both")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, help="default: float32 bfloat16, on CUDA all but float64")
    parser.add_argument("--filter", default="", metavar="REGEX", help="only cases whose name matches, as in 'T256 B1 '")
    parser.add_argument("--budget", type=float, metavar="S", help="seconds to measure each side of a case")
    parser.add_argument("--limit", type=float, metavar="S", help="seconds in all; what does not fit is listed instead")
    parser.add_argument("--clear-l2", action="store_true", help="CUDA: overwrite the L2 cache before every call")
    parser.add_argument("--graph", action="store_true", help="CUDA: time both sides as CUDA graphs, without the host")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: bench/results for the whole grid, else out")
    return parser.parse_args(arguments)


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() and torch.ops.lstm_fused.kernels() else "cpu"


def run_case(
    case: Case,
    device: torch.device,
    block: Block,
    budget_s: float,
    block_s: float,
    as_graphs: bool = False,
) -> Result:
    """Raises Disagreement where a side differs from ours."""

    def call(side: Side) -> Call:
        plain = side.train if case.mode == "training" else side.infer
        return graphed(plain) if as_graphs else plain

    with precision(case.dtype):
        ours, theirs = build(case, device)
        sides, peers = {"ours": ours, "theirs": theirs}, {"torch": theirs}
        if peer_onnxruntime.runs(case, device):
            sides["onnxruntime"] = peers["ORT"] = peer_onnxruntime.build(case, theirs)
        if device.type == "cuda" and case.dtype == "bfloat16":
            sides["float16"] = build(replace(case, dtype="float16"), device)[1]
        difference = check_agreement(case, ours, **peers)
        with torch.inference_mode(case.mode == "inference"):  # once for all calls, as around a loop that serves
            calls = [call(side) for side in sides.values()]
            if "float16" in sides:
                calls[-1]()
            timings = interleave(calls, block, budget_s, block_s=block_s)
        return Result(case, difference=difference, **dict(zip(sides, timings, strict=True)))


def call_estimate(device: torch.device, dtype: str, block: Block) -> Callable[[Case], float]:
    """How to estimate the seconds of a call, from torch.nn.LSTM at eight rows.

    On the CPU few rows make the products bound by memory: one row of a batch runs at about a quarter of the rate of
    eight, 64 at twice. On a GPU each step takes its time whatever its size, until the products fill the device.
    """
    case = Case("", "training", dtype, seq_len=16, batch=8, hidden_size=256)
    with precision(dtype):
        _, theirs = build(case, device)
        theirs.train()
        seconds = min(block(theirs.train, 1) for _ in range(8))

    def on_cpu(other: Case) -> float:
        return other.flops * seconds / case.flops * (other.batch + 8) / (2 * other.batch)

    def on_gpu(other: Case) -> float:
        steps = other.seq_len * other.num_layers * other.num_directions
        return steps * seconds / case.seq_len + other.flops / GPU_FLOPS

    estimate = on_gpu if device.type == "cuda" else on_cpu
    return lambda other: CALL_OVERHEAD_S + estimate(other)


def estimate_s(call_s: float, budget_s: float, num_sides: int = 2) -> float:
    """Expected seconds for all sides of a case; one call of each side is the agreement check."""
    return num_sides * (max(budget_s, MIN_REPETITIONS * call_s) + call_s)


def warm_up(device: torch.device, seconds: float) -> None:
    matrix = torch.randn(4096, 4096, device=device)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        matrix @ matrix
        torch.cuda.synchronize(device)


def main() -> int:
    started = time.monotonic()
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device or default_device())
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
        warm_up(device, WARM_UP_S)
    block = CudaBlock(options.clear_l2) if device.type == "cuda" else cpu_block
    block_s = 0.0 if options.clear_l2 else BLOCK_S  # 0: one call per block, each with a cold cache
    budget_s = options.budget or (QUICK_BUDGET_S if options.quick else BUDGET_S[device.type])
    limit_s = options.limit or (QUICK_LIMIT_S if options.quick else LIMIT_S[device.type])

    grid = GRIDS[device.type]
    cases = grid.cases(options.group, options.mode, options.dtype, quick=options.quick, pattern=options.filter)
    if not cases:
        raise SystemExit("no case matches --group, --mode, --dtype and --filter")
    folder = options.out or (page.RESULTS if cases == grid.cases() else Path("out"))
    dtypes = {case.dtype for case in cases}
    where = environment.describe(device) | {"onnxruntime": peer_onnxruntime.version()}
    call_s = {dtype: call_estimate(device, dtype, block) for dtype in dtypes}
    estimates = [
        estimate_s(call_s[case.dtype](case), budget_s, 2 + peer_onnxruntime.runs(case, device)) for case in cases
    ]

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(f"{len(cases)} cases on {where['device']}, about {min(sum(estimates), limit_s) / 60:.1f} min")
    if where["load"] > BUSY * where["cores"]:
        console.print(f"[yellow]The machine is busy (load {where['load']:.1f}): these times and ratios will mislead.")
    if device.type == "cpu" and not peer_onnxruntime.version():
        console.print("onnxruntime or onnx is not installed: torch.nn.LSTM is the only peer.")
    rates = None
    if device.type == "cpu":
        rates = floor.measure(dtypes)
    results: dict[Case, Result] = {}
    failed: dict[Case, str] = {}
    columns = (TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(BarColumn(), *columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=sum(estimates))
        # The cheapest first, so that a slow machine leaves out the fewest.
        for estimate, case in sorted(zip(estimates, cases, strict=True), key=lambda pair: pair[0]):
            progress.update(task, description=case.name)
            if estimate <= limit_s - (time.monotonic() - started):
                try:
                    results[case] = run_case(case, device, block, budget_s, block_s, options.graph)
                except (Disagreement, RuntimeError) as error:  # the others may still be right
                    failed[case] = str(error).splitlines()[0]
            progress.advance(task, estimate)
    for case, error in failed.items():
        console.print(f"FAILED {case.name}: {error}", highlight=False, markup=False)
    if not results:
        raise SystemExit(f"no case was measured within {limit_s:.0f} s; see --limit")

    if rates:
        rates = rates.best_of(floor.measure(dtypes))
        results = {case: replace(result, floor=floor.floor_s(case, rates)) for case, result in results.items()}
    settings = {"budget_s": budget_s, "limit_s": limit_s, "quick": options.quick}
    settings |= {"clear_l2": options.clear_l2, "graph": options.graph}
    left_out = [case.name for case in cases if case not in results and case not in failed]
    of_failed = [f"{case.name}: {error}" for case, error in failed.items()]
    report = Report(where, settings, [results[case] for case in cases if case in results], left_out, of_failed, rates)
    print_report(report, console)
    name = environment.slug(where["device"]) + ("-graph" if options.graph else "")
    for path in write(report, folder, name):
        console.print(f"wrote {path}", highlight=False)
    if folder == page.RESULTS:
        page.refresh()
        console.print(f"wrote {page.PAGE}", highlight=False)
    for row in report.summary():
        if row["group"] == "all":
            means = f"geometric mean {row['geometric mean']}, worst {row['worst']} ({row['worst case']})"
            console.print(f"{row['peer']}/ours: {row['cases']} cases, {means}", highlight=False)
    console.print(f"{len(failed)} failed, {len(left_out)} left out", highlight=False)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
