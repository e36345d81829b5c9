"""`python -m bench.static`: instructions of a time step, counted where the kernels run as PTX."""

from __future__ import annotations

import json

import ptx
import pytest
from simulated import Simulator

from bench import static

pytestmark = pytest.mark.skipif(ptx.CUDA is None, reason="no CUDA toolkit found: nothing to compile PTX with")


def test_a_step_is_counted_exactly() -> None:
    """block, H = 64, I = 32: 16 tiles of 16 rows of W, each 4 products of h and 4 of x, whose K is padded to 64."""
    row = static.per_warp(Simulator(static.ARCHITECTURE), "block", 64, 8, "bfloat16", "inference")
    assert row["warps"] == 8
    assert row["step"]["mma"] == 16 * (4 + 4) / row["warps"]
    assert row["launch"]["mma"] == 0
    assert row["step"]["barriers"] == 1
    assert all(number >= 0 for number in row["step"].values())
    committed = json.loads(static.OUT.with_suffix(".json").read_text())
    assert committed["architecture"] == static.ARCHITECTURE
    if (committed["csrc"], committed["nvcc"]) == (static.source_hash(), ptx.CUDA.version):
        assert committed["cases"][0].items() >= row.items()


def test_the_page_is_that_of_the_figures() -> None:
    report = json.loads(static.OUT.with_suffix(".json").read_text())
    assert static.OUT.with_suffix(".md").read_text() == static.page(report)
    assert all(row["spilled_bytes"] == 0 < row["registers"] <= 255 for row in report["cases"])
