"""What char_lm.py needs around the training: its options with their checks, the table and the picture."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from matplotlib.figure import Figure
from rich.table import Table

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))  # torchrun sets them


@dataclass
class Record:
    """What one model's training leaves behind."""

    name: str
    losses: list[float] = field(default_factory=list)  # nats per byte, one a step
    seconds: list[float] = field(default_factory=list)  # one a step
    held_out_bits: float = math.nan  # per byte

    def smooth_losses(self, span: int) -> list[float]:
        """The mean of the last `span` losses, at every step."""
        return [statistics.fmean(self.losses[max(0, end - span) : end]) for end in range(1, len(self.losses) + 1)]


def results_table(plain: Record, fused: Record, bytes_per_step: int) -> Table:
    both = (plain, fused)
    median = [statistics.median(record.seconds) for record in both]
    last = min(20, len(plain.losses))
    differences = [abs(a - b) for a, b in zip(plain.losses, fused.losses, strict=True)]
    largest, early = max(differences), max(differences[:100])

    table = Table(title="Same initial weights, same batches", title_style="bold")
    table.add_column("")
    for record in both:
        table.add_column(record.name, justify="right")
    table.add_row("time per step (median)", *(f"{seconds * 1e3:.2f} ms" for seconds in median))
    table.add_row("tokens/s (a token is a byte)", *(f"{bytes_per_step / seconds:,.0f}" for seconds in median))
    table.add_row("training time", *(f"{sum(record.seconds):.1f} s" for record in both))
    table.add_row("speed-up", "1.00x", f"[bold]{median[0] / median[1]:.2f}x[/bold]", end_section=True)
    table.add_row("first loss (nats per byte)", *(f"{record.losses[0]:.6f}" for record in both))
    table.add_row(f"final loss (mean of {last} steps)", *(f"{record.smooth_losses(last)[-1]:.6f}" for record in both))
    table.add_row("held-out bits per byte", *(f"{record.held_out_bits:.4f}" for record in both))
    table.add_row("loss difference, first 100 steps", "", f"{early:.1e} (step {differences.index(early) + 1})")
    table.add_row("largest loss difference", "", f"{largest:.1e} (step {differences.index(largest) + 1})")
    return table


def draw(plain: Record, fused: Record, title: str, path: Path) -> None:
    """Loss against step, where the curves should lie on each other, and against seconds, where they need not."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    by_step, by_time = figure.subplots(1, 2, sharey=True)
    for record, colour, width in ((plain, "#f2a65a", 5), (fused, "#1f4e79", 1.6)):  # the first shows under the second
        losses = record.smooth_losses(10)
        seconds = list(itertools.accumulate(record.seconds))
        by_step.plot(range(1, len(losses) + 1), losses, color=colour, linewidth=width, label=record.name)
        by_time.plot(seconds, losses, color=colour, linewidth=2, label=f"{record.name}, {seconds[-1]:.1f} s")
    by_step.set(title="loss against step", xlabel="step", ylabel="loss (nats per byte, mean of 10 steps)")
    by_time.set(title="loss against time", xlabel="seconds of training", xlim=(0, None))
    for axes in (by_step, by_time):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def fail(message: str) -> NoReturn:
    if RANK == 0:
        print(f"char_lm.py: error: {message}", file=sys.stderr)
    sys.exit(2)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(message)


def whole(low: int, high: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text!r}")
        return int(text)

    return convert


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def parse_args(description: str) -> argparse.Namespace:
    parser = Parser("char_lm.py", description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add, size, count = parser.add_argument, whole(1, 2**16), whole(1, 10**9)
    add("--text", type=Path, metavar="FILE", help="train on this file instead of the standard library")
    add("--steps", type=count, default=800, metavar="N", help="training steps of each model, at most")
    add("--minutes", type=positive, default=2.0, metavar="X", help="of training, both models together, at most")
    add("--hidden", type=size, default=256, metavar="N", help="width of the LSTM")
    add("--layers", type=size, default=2, metavar="N", help="layers of the LSTM")
    add("--batch", type=size, default=16, metavar="N", help="streams of text side by side, all processes together")
    add("--window", type=size, default=64, metavar="N", help="bytes of each stream between two updates")
    add("--lr", type=positive, default=3e-3, metavar="X", help="highest learning rate of Adam")
    add("--dtype", choices=["float32", "float64"], default="float32", help="of weights and arithmetic")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda where lstm_fused can use it")
    add("--seed", type=whole(0, 2**63 - 1), default=0, metavar="N", help="of the initial weights and of the sample")
    add("--temperature", type=positive, default=0.6, metavar="X", help="of the sample: low is timid, high is wild")
    add("--sample", type=count, default=600, metavar="N", help="bytes in the sample")
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="where the picture goes")
    args = parser.parse_args()
    if args.batch % WORLD:
        fail(f"argument --batch: {args.batch} streams cannot be shared evenly by {WORLD} processes")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"argument --out: cannot make the folder {args.out}: {error.strerror}")
    return args
