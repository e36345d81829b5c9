"""bench.choices: what it measures, and what it makes of it."""

from __future__ import annotations

import os

import torch

from bench import choices


def test_sizes_are_where_kernels_compete() -> None:
    found = list(choices.sizes())
    assert len(set(found)) == len(found) > 200
    assert all(seq_len * batch <= choices.MOST_ROWS for seq_len, batch, _ in found)
    assert {seq_len for seq_len, _, _ in found} == set(choices.STEPS)


def test_every_kernel_that_can_run_is_timed(monkeypatch) -> None:
    monkeypatch.setattr(choices, "BUDGET_S", 1e-4)
    assert list(choices.measure((1, 2, 8), torch.float32)) == ["", "packed", "direct", "one_step"]
    assert list(choices.measure((2, 2, 8), torch.float32)) == ["", "packed", "direct"]
    assert choices.VARIABLE not in os.environ


def test_what_is_lost_and_told() -> None:
    even = {"": 1.0, "packed": 1.0, "direct": 2.0}
    behind = {"": 3.0, "packed": 3.0, "direct": 2.0}
    assert choices.lost(even) == 1 and choices.lost(behind) == 1.5
    rows = choices.table({(2, 1, 8): even, (2, 3, 8): behind})[2:]
    assert rows == ["| 2, 3, 8 | 3,000,000 | 3,000,000 | 2,000,000 |  | 1.50 |"]
