"""What tests of loops of single steps share."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from lstm_fused import cell_loop


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each product of cell_loop.py has had."""
    rows: list[int] = []
    product = cell_loop._WEIGHT_GRADS

    def counted(grad_gates: Tensor, *args: Any) -> list[Tensor]:
        rows.append(grad_gates.size(0))
        return product(grad_gates, *args)

    monkeypatch.setattr(cell_loop, "_WEIGHT_GRADS", counted)
    return rows
