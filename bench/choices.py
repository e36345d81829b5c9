"""`python -m bench.choices`: whether the planner takes the fastest CPU kernel: its choice beside each of them.

T steps of B rows, I = H, inference, one thread; minima of calls in turn, in one process. `lost` is the time of the
choice over that of the fastest kernel. Writes bench/results/choices-MACHINE.md.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator

import torch

import lstm_fused
from bench import environment, page
from bench.report import geometric_mean
from bench.tables import markdown_table, microseconds
from bench.timing import Call, cpu_block, interleave

STEPS, BATCHES, SIZES = (1, 2, 4, 16, 64), (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64), (16, 32, 64, 128, 256, 512, 1024)
MOST_ROWS, MOST_FLOPS = 256, 4e9  # of a case: those of more are not in question, packed is ahead
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
KERNELS = ("packed", "direct", "one_step")
VARIABLE = "LSTM_FUSED_KERNEL"
BUDGET_S, BLOCK_S = 0.02, 5e-4
WORTH_A_ROW = 1.1

Size = tuple[int, int, int]  # T, B, H


def sizes() -> Iterator[Size]:
    for seq_len, batch, hidden_size in itertools.product(STEPS, BATCHES, SIZES):
        rows = seq_len * batch
        if rows <= MOST_ROWS and 16 * rows * hidden_size**2 <= MOST_FLOPS:
            yield seq_len, batch, hidden_size


def measure(size: Size, dtype: torch.dtype) -> dict[str, float]:
    """Seconds of a call: by each kernel that can run it, and by the planner's choice, ``""``."""
    seq_len, batch, hidden_size = size
    lstm = lstm_fused.LSTM(hidden_size, hidden_size, dtype=dtype).eval()
    x = torch.randn(seq_len, batch, hidden_size, dtype=dtype)
    names = ["", *(KERNELS if seq_len == 1 else KERNELS[:2])]
    calls = {(lambda name=name: lstm(x)): name for name in names}  # type: ignore[misc]

    def block(call: Call, count: int) -> float:
        os.environ[VARIABLE] = calls[call]
        return cpu_block(call, count)

    with torch.inference_mode():
        timings = interleave(list(calls), block, BUDGET_S, block_s=BLOCK_S)
    del os.environ[VARIABLE]
    return {name: timing.minimum for name, timing in zip(names, timings, strict=True)}


def lost(seconds: dict[str, float]) -> float:
    return seconds[""] / min(seconds[name] for name in seconds if name)


def table(found: dict[Size, dict[str, float]]) -> list[str]:
    """The cases in which the choice loses a tenth or more, the worst first."""
    rows = []
    for size, seconds in sorted(found.items(), key=lambda item: -lost(item[1])):
        if lost(seconds) >= WORTH_A_ROW:
            times = [microseconds(seconds[name]) if name in seconds else "" for name in ("", *KERNELS)]
            rows.append([", ".join(map(str, size)), *times, f"{lost(seconds):.2f}"])
    return markdown_table(["T, B, H", "chosen, us", *KERNELS, "lost"], rows)


def main() -> int:
    torch.set_num_threads(1)
    where = environment.describe(torch.device("cpu"))
    isa = torch.ops.lstm_fused.cpu_isa()
    lines = ["# The planner's CPU kernels", "", *__doc__.split("\n\n")[1].splitlines(), ""]
    lines += [f"{where['device']}, {isa}, torch {where['torch']}, load {where['load']:.1f}.", ""]
    for dtype in DTYPES:
        found = {size: measure(size, dtype) for size in sizes()}
        ratios = [lost(seconds) for seconds in found.values()]
        mean = f"geometric mean of what is lost {geometric_mean(ratios):.3f}, worst {max(ratios):.2f}"
        title = f"{str(dtype).removeprefix('torch.')}, {len(found)} cases"
        lines += [f"## {title}", "", f"{mean.capitalize()}.", "", *table(found), ""]
        print(f"{title}: {mean}", flush=True)
    path = page.RESULTS / f"choices-{environment.slug(where['cpu'])}-{isa}.md"
    path.write_text("\n".join(lines))
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
