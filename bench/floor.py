"""The floor of a case on a CPU: the best that this machine could do, from what it does with large, simple operations.
What lies between the floor and a measured time is calls, packing, barriers, the cell's exponentials and imperfect
products.

    floor = max(flops / peak, once / rate(once) + again / rate(|W_hh|))

flops   `Case.flops`: matrix products only.
peak    FLOP/s of torch.mm or of oneDNN's product, in the case's dtype or in float32, to which 16-bit numbers can be
        widened: the best of them. (On an AMD CPU, MKL, which torch.mm calls, takes twice as long as oneDNN in float32.)
once    Bytes of all weights, of the input and of every layer's output, each read or written at least once. In training
        weights are read in both passes and their gradients written; input and outputs have their gradients too.
again   Bytes of W_hh of every layer and direction, times T - 1, twice that in training: as a step needs h of the step
        before it, each reads W_hh anew. (The registers of a CPU hold 2 KB.)
rate    Bytes/s at which torch.sum reads a buffer of that many bytes over and over, each thread a part of its own: a
        W_hh that fits a cache comes from there, a larger one from memory.

All in the case's dtype, with as many threads as the run has. Of two directions or layers each W_hh is taken alone: so
it has the most of the caches to itself. Rates are the best of a run's start and its end.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from bench.cases import DTYPES, Case

SIZES = tuple(2**exponent for exponent in range(16, 28))  # bytes: 64 KB, within L1 or L2, to 128 MB, beyond any cache
READ_BYTES = 2**25  # read by one call, so that a call's own cost does not count
MATRICES = (512, 1024)  # 3 or 12 MB: fit L2 or L3, and large enough for a product to run at its full rate
BUDGET_S, MIN_REPETITIONS = 0.03, 3  # of each rate: long enough to have a time slice of every core to itself


@dataclass(frozen=True)
class Rates:
    """What this machine does, with the number of threads of the run."""

    flops: dict[str, float]  # FLOP/s by dtype
    reading: dict[int, float]  # bytes/s by the size in bytes of what is read; never rising with the size

    def bytes_per_s(self, size: int) -> float:
        """Of the largest measured buffer that is no larger than `size`."""
        return self.reading[max((known for known in self.reading if known <= size), default=min(self.reading))]

    def best_of(self, other: Rates) -> Rates:
        def best(mine: dict, theirs: dict) -> dict:
            return {key: max(mine[key], theirs[key]) for key in mine}

        return Rates(best(self.flops, other.flops), best(self.reading, other.reading))


def measure(dtypes: Iterable[str]) -> Rates:
    """Takes about a second."""
    flops = {dtype: _product_rate(DTYPES[dtype]) for dtype in {*dtypes, "float32"}}
    for dtype in flops.keys() - {"float64"}:
        flops[dtype] = max(flops[dtype], flops["float32"])
    reading = {size: _read_rate(size) for size in SIZES}
    for size in SIZES:  # a larger buffer is no faster to read; where it was, the smaller one met a disturbance
        reading[size] = max(rate for other, rate in reading.items() if other >= size)
    return Rates(flops, reading)


def floor_s(case: Case, rates: Rates) -> float:
    """Seconds."""
    once, again, w_hh = traffic(case)
    memory = once / rates.bytes_per_s(once) + again / rates.bytes_per_s(w_hh)
    return max(case.flops / rates.flops[case.dtype], memory)


def traffic(case: Case) -> tuple[int, int, int]:
    """(once, again, |W_hh|) in bytes."""
    element, hidden, directions = DTYPES[case.dtype].itemsize, case.hidden_size, case.num_directions
    w_hh = element * 4 * hidden * hidden
    all_w_hh = w_hh * case.num_layers * directions
    weights = all_w_hh + sum(element * 4 * hidden * size * directions for size in case.input_sizes)
    activations = element * case.num_steps * (hidden + directions * hidden * case.num_layers)
    if case.mode == "training":
        return 3 * weights + 2 * activations, 2 * (case.seq_len - 1) * all_w_hh, w_hh
    return weights + activations, (case.seq_len - 1) * all_w_hh, w_hh


def _best_s(call: Callable[[], object]) -> float:
    call()
    samples: list[float] = []
    while len(samples) < MIN_REPETITIONS or sum(samples) < BUDGET_S:
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return min(samples)


def _product_rate(dtype: torch.dtype) -> float:
    rates = []
    for size in MATRICES:
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        for product in (torch.mm, _onednn_product):
            with contextlib.suppress(RuntimeError):  # not for this dtype, or not in this torch
                rates.append(2 * size**3 / _best_s(functools.partial(product, a, b)))
    return max(rates)


def _onednn_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b^T, as torch.compile calls it: eager torch asks MKL first, where it has that."""
    try:
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    except AttributeError as error:
        raise RuntimeError("this torch was built without oneDNN") from error


def _read_rate(size: int) -> float:
    threads, repeats = torch.get_num_threads(), max(1, READ_BYTES // size)
    parts = torch.ones(threads, 1, size // threads // 4).expand(-1, repeats, -1)
    return threads * repeats * (size // threads) / _best_s(lambda: parts.sum((1, 2)))
