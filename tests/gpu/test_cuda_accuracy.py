"""The tolerance rule on a GPU: against torch.nn.LSTM on that GPU (cuDNN, mostly) and a float64 reference on the CPU.

The first case of each list runs on the CPU as well, so that these tests do something where there is no GPU.
"""

from __future__ import annotations

import pytest
import torch
from cases import DTYPES, OPTIONS, SIZES, Case, draw
from numerics import assert_accurate, fused

BLOCK_HIDDEN, BLOCK_BATCH = (1, 17, 64, 80, 96, 111, 128, 129), (1, 5, 9, 33)
EXTRAS: list[dict] = [
    {"lengths": True},
    {"reset": 0.3},
    {"return_cells": True},
    {"lengths": True, "reset": 0.3, "return_cells": True},
]
STACKS: list[dict] = [
    {},
    {"bidirectional": True, "num_layers": 2},
    {"bidirectional": True, "num_layers": 2, "proj_size": 5, "hx": False},
    {"batch_first": True, "contiguous": False, "bias": False},
    {"dropout": 0.5, "num_layers": 2, "bidirectional": True},
    {"dropout": 0.5, "num_layers": 3},
    {"hidden_size": 129, "batch": 9},
]


def on_gpu(cases: list[Case]) -> list:
    return [pytest.param(case.but(device="cuda"), marks=pytest.mark.gpu) for case in cases] + cases[:1]


@pytest.mark.parametrize("case", on_gpu(SIZES), ids=str)
def test_sizes(case: Case):
    assert_accurate(case)


@pytest.mark.parametrize("case", on_gpu(OPTIONS), ids=str)
def test_options(case: Case):
    assert_accurate(case)


BLOCK_SIZES = [
    Case(7, batch, input_size, hidden_size, dtype=dtype, bidirectional=batch == 9)
    for hidden_size in BLOCK_HIDDEN
    for batch in BLOCK_BATCH
    for input_size in ((16,) if batch > 5 else (1, 64, 200))  # fused into the kernel, at its limit, too wide for it
    for dtype in DTYPES
]


@pytest.mark.parametrize("case", on_gpu(BLOCK_SIZES), ids=str)
def test_sizes_around_the_limits_of_one_block(case: Case):
    assert_accurate(case, times=3)


@pytest.mark.parametrize(
    "case",
    on_gpu(
        [Case(9, 5, 4, 17, dtype=dtype).but(**stack, **extras)
         for extras in EXTRAS for stack in STACKS for dtype in DTYPES]
    ),
    ids=str,
)  # fmt: skip
def test_lengths_resets_and_cells(case: Case):
    assert_accurate(case, times=3)


LARGE = [(1024, 3, 64, 64), (300, 9, 128, 128), (64, 200, 32, 64), (12, 33, 300, 512), (3, 130, 72, 1027)]


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", LARGE, ids=str)
def test_large(sizes: tuple[int, ...], dtype: torch.dtype):
    assert_accurate(Case(*sizes, dtype=dtype, device="cuda"), times=1)


@pytest.mark.parametrize(
    "case",
    on_gpu([Case(9, batch, 64, hidden) for hidden in (17, 64, 96, 128, 256) for batch in (1, 8, 33)]),
    ids=str,
)
def test_tf32(case: Case, allow_tf32):
    """The switch of torch's RNN is for both sides."""
    allow_tf32(True, True)
    assert_accurate(case, times=3)


@pytest.mark.parametrize("case", on_gpu([Case(9, 8, 200, hidden) for hidden in (64, 256)]), ids=str)
def test_tf32_in_other_products_stays_out_of_the_lstm(case: Case, allow_tf32):
    """The switch of the RNN decides, though part of the work may be done by torch's own products."""
    allow_tf32(False, True)
    assert_accurate(case, times=3)


@pytest.mark.gpu
@pytest.mark.parametrize("hidden_size", [64, 256])
def test_the_tf32_switch_is_heard(hidden_size: int, allow_tf32):
    """Else the tests above would see one precision only."""
    problem = draw(Case(9, 8, 64, hidden_size, device="cuda"))
    results = []
    for in_rnn in (False, True):
        allow_tf32(in_rnn, False)
        results.append(fused(problem)["output"])
    assert not torch.equal(*results)
    torch.testing.assert_close(*results, rtol=0, atol=1e-2)
