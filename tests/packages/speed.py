"""Prints the rows of docs/other-code.md's table of packages, timed; with words, only the rows that have them."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path

sys.path += [str(Path(__file__).parents[n]) for n in (1, 2)]

import control  # noqa: F401
import series  # noqa: F401
import speech  # noqa: F401
import text  # noqa: F401
import torch
from trials import TRIALS, difference

from bench.timing import Call, interleave

SECONDS = 2.0  # for each side of a row


def seconds(call: Call, count: int) -> float:
    """Of the processor, not of the clock: with one thread they are the same, but for what else the machine is doing."""
    start = time.process_time()
    for _ in range(count):
        call()
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    for name, trial in TRIALS.items():
        if any(word not in name for word in sys.argv[1:]):
            continue
        theirs, ours = trial.prepare(False), trial.prepare(True)
        largest = difference(ours(), theirs())
        slow, fast = interleave([theirs, ours], seconds, SECONDS)
        cells = (f"{trial.package} {trial.version()}", trial.what, trial.way, f"{largest:.0e}")
        print("|", " | ".join(cells), f"| {slow.minimum / fast.minimum:.2f} |", flush=True)


if __name__ == "__main__":
    main()
