"""`python -m bench`: lstm_fused.LSTM against torch.nn.LSTM over a grid of shapes, in one process."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench import environment
from bench.cases import DEFAULT_DTYPES, DTYPES, GROUPS, MODES, Case, grid
from bench.pair import build, check_agreement
from bench.report import Report, Result, print_report, write
from bench.timing import BLOCK_S, MIN_REPETITIONS, Block, CudaBlock, cpu_block, interleave

BUDGET_S, QUICK_BUDGET_S = 0.75, 0.06  # measured time per case and side, unless MIN_REPETITIONS take longer
LIMIT_S, QUICK_LIMIT_S = 1800.0, 45.0
CALL_OVERHEAD_S = 2e-4
BUSY = 0.5  # load per core above which a run warns
WIDTH = 120  # of the tables where the output is no terminal


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a cut through the grid, under a minute on two cores")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--group", nargs="+", choices=GROUPS, default=GROUPS, help="default: all")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=MODES, help="default: both")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DEFAULT_DTYPES, help="default: float32 bfloat16")
    parser.add_argument("--filter", default="", metavar="REGEX", help="only cases whose name matches, as in 'T256 B1 '")
    parser.add_argument("--budget", type=float, metavar="S", help="seconds to measure each side of a case")
    parser.add_argument("--limit", type=float, metavar="S", help="seconds in all; what does not fit is listed instead")
    parser.add_argument("--clear-l2", action="store_true", help="CUDA: overwrite the L2 cache before every call")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: bench/results for the whole grid, else out")
    return parser.parse_args(arguments)


def run_case(case: Case, device: torch.device, block: Block, budget_s: float, block_s: float) -> Result:
    ours, theirs = build(case, device)
    difference = check_agreement(ours, theirs, case)
    calls = [side.train if case.mode == "training" else side.infer for side in (ours, theirs)]
    our_time, their_time = interleave(calls, block, budget_s, block_s=block_s)
    return Result(case, our_time, their_time, difference)


def training_rate(dtype: str, device: torch.device, block: Block) -> float:
    """Operations per second of torch.nn.LSTM at eight rows, from which the length of the run is estimated."""
    case = Case("sizes", "training", dtype, seq_len=16, batch=8, hidden_size=256)
    _, theirs = build(case, device)
    theirs.train()
    return case.flops / min(block(theirs.train, 1) for _ in range(8))


def estimate_s(case: Case, rate: float, budget_s: float) -> float:
    """Expected seconds for both sides of a case, where eight rows run at `rate` operations per second.

    Few rows make the products bound by memory: one row of a batch runs at about a quarter of the rate, 64 at twice.
    """
    call_s = CALL_OVERHEAD_S + case.flops / rate * (case.batch + 8) / (2 * case.batch)
    return 2 * (max(budget_s, MIN_REPETITIONS * call_s) + call_s)  # one call of each side is the agreement check


def main() -> None:
    started = time.monotonic()
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    block = CudaBlock(options.clear_l2) if device.type == "cuda" else cpu_block
    block_s = 0.0 if options.clear_l2 else BLOCK_S  # 0: one call per block, each with a cold cache
    budget_s = options.budget or (QUICK_BUDGET_S if options.quick else BUDGET_S)
    limit_s = options.limit or (QUICK_LIMIT_S if options.quick else LIMIT_S)

    cases = grid(options.group, options.mode, options.dtype, quick=options.quick, pattern=options.filter)
    if not cases:
        raise SystemExit("no case matches --group, --mode, --dtype and --filter")
    folder = options.out or (environment.ROOT / "bench" / "results" if cases == grid() else Path("out"))
    where = environment.describe(device)
    rates = {dtype: training_rate(dtype, device, block) for dtype in options.dtype}
    estimates = [estimate_s(case, rates[case.dtype], budget_s) for case in cases]

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(f"{len(cases)} cases on {where['device']}, about {min(sum(estimates), limit_s) / 60:.1f} min")
    if where["load"] > BUSY * where["cores"]:
        console.print(f"[yellow]The machine is busy (load {where['load']:.1f}): these times and ratios will mislead.")
    results: dict[Case, Result] = {}
    columns = (TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(BarColumn(), *columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=sum(estimates))
        # The cheapest first, so that a slow machine leaves out the fewest.
        for estimate, case in sorted(zip(estimates, cases, strict=True), key=lambda pair: pair[0]):
            progress.update(task, description=case.name)
            if estimate <= limit_s - (time.monotonic() - started):
                results[case] = run_case(case, device, block, budget_s, block_s)
            progress.advance(task, estimate)
    if not results:
        raise SystemExit(f"no case fits {limit_s:.0f} s; see --limit")

    settings = {"budget_s": budget_s, "limit_s": limit_s, "quick": options.quick, "clear_l2": options.clear_l2}
    left_out = [case.name for case in cases if case not in results]
    report = Report(where, settings, [results[case] for case in cases if case in results], left_out)
    print_report(report, console)
    for path in write(report, folder, environment.slug(where["device"])):
        console.print(f"wrote {path}", highlight=False)


if __name__ == "__main__":
    main()
