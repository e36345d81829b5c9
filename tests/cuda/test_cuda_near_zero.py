"""Cells near zero on the simulated GPU: relative accuracy, which one loses as the difference of numbers near one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from cases import Case, draw
from kernel_kinds import ARITHMETICS, KINDS
from numerics import expected, fused
from simulated import Simulator


@pytest.mark.compiled
@pytest.mark.parametrize("arithmetic", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_element_keeps_its_bits(simulator: Simulator, kind: str, arithmetic: str) -> None:
    """g, c and h all small and positive, so that no sum cancels: every element against its own size."""
    dtype = ARITHMETICS[arithmetic]
    problem = draw(Case(3, 8, 3, 17, return_cells=True, dtype=dtype))
    size = 2.0**-10 if dtype == torch.float16 else 2.0**-20  # of which float16 still has all of its bits
    leaves = dict(problem.leaves)
    for name, tensor in leaves.items():
        scale = size if name.startswith("weight") else 0 if name.startswith(("bias", "h_0", "c_0")) else 1
        leaves[name] = (tensor.abs().clamp(0.5, 2) * scale).to(dtype)
    problem = dataclasses.replace(problem, leaves=leaves)
    exact = expected(problem, torch.float64)
    plain = expected(problem, dtype)
    with simulator.running(kind):
        results = fused(problem)
    for name in ("output", "cells", "h_n", "c_n"):
        assert 0 < exact[name].min() and exact[name].max() < 64 * size
        ours, theirs = (((r[name].double() - exact[name]) / exact[name]).abs().max() for r in (results, plain))
        assert ours <= 2 * theirs + torch.finfo(dtype).eps / 2, name
