"""Interleaved timing of two or more calls: A B A B ..., so that a disturbance of the machine meets all of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Call = Callable[[], object]
Block = Callable[[Call, int], float]  # runs the call that many times, returns seconds in all

MIN_REPETITIONS = 3
MAX_REPETITIONS = 1000
BLOCK_S = 2e-3  # short calls are timed in blocks of about this long, far above the resolution of either clock


@dataclass(frozen=True)
class Timing:
    """Seconds per call over a number of repetitions, each the mean of a block of `calls` calls."""

    minimum: float
    median: float
    repetitions: int
    calls: int


def cpu_block(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


class CudaBlock:
    """Times by CUDA events on the current stream; with `clear_l2` the L2 cache is overwritten before each block."""

    def __init__(self, clear_l2: bool = False) -> None:
        bytes_of_l2 = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self.filler = torch.empty(4 * bytes_of_l2, dtype=torch.uint8, device="cuda") if clear_l2 else None

    def __call__(self, call: Call, count: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        if self.filler is not None:
            self.filler.zero_()
        torch.cuda.synchronize()
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3


def graphed(call: Call) -> Call:
    """The call as a CUDA graph: what it costs without the host's part."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def interleave(
    calls: Sequence[Call],
    block: Block,
    budget_s: float,
    *,
    block_s: float = BLOCK_S,
    min_repetitions: int = MIN_REPETITIONS,
) -> list[Timing]:
    """Times each call in turn, round after round, until the rounds took budget_s per call on average.

    The calls must have run before (the agreement check warms them up). A round of single calls and one of blocks size
    the blocks: each holds as many calls as fit block_s, at least one. A call alone, after all the others, finds its
    code and data in no cache, and would make the blocks of short calls too short. Where no block holds more than one
    call, the first round counts. At least `min_repetitions` rounds are kept, at most MAX_REPETITIONS. The garbage
    collector is off meanwhile.
    """

    def run(counts: list[int]) -> list[float]:
        return [block(call, count) for call, count in zip(calls, counts, strict=True)]

    def sized(counts: list[int], seconds: list[float]) -> list[int]:
        return [max(1, round(block_s * count / max(own, 1e-9))) for count, own in zip(counts, seconds, strict=True)]

    gc.collect()
    gc.disable()
    try:
        counts = [1] * len(calls)
        rounds = [run(counts)]
        larger = sized(counts, rounds[0])
        if larger != counts:
            counts, rounds = sized(larger, run(larger)), []
        while len(rounds) < min_repetitions or (
            len(rounds) < MAX_REPETITIONS and sum(map(sum, rounds)) < budget_s * len(calls)
        ):
            rounds.append(run(counts))
    finally:
        gc.enable()
    samples = [[seconds / count for seconds in own] for own, count in zip(zip(*rounds), counts, strict=True)]
    return [Timing(min(own), statistics.median(own), len(own), count) for own, count in zip(samples, counts)]
