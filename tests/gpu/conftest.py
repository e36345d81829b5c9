"""Set-up of the GPU tests: float32 is float32 unless a test says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def allow_tf32() -> Iterator[Callable[[bool, bool], None]]:
    """Sets torch's switches for TF32 in its RNN and in other products; both are off when a test starts."""
    rnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = rnn.allow_tf32, products.allow_tf32

    def switch(in_rnn: bool, in_products: bool) -> None:
        rnn.allow_tf32, products.allow_tf32 = in_rnn, in_products

    switch(False, False)
    yield switch
    switch(*before)
