"""Memory of the device comes from torch alone. Run by itself: another program on the same GPU would be counted too."""

from __future__ import annotations

import gc
import os

import pytest
import torch

import lstm_fused

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="runs in one process: memory of all is counted"),
]
SIZES = [(64, 8, 16, 64), (64, 8, 200, 128), (16, 8, 64, 300)]  # T, B, I, H


def step(module: lstm_fused.LSTM, input: torch.Tensor) -> None:
    module(input)[0].float().square().sum().backward()
    with torch.no_grad():
        module(input)
    torch.cuda.synchronize()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_no_memory_but_torchs(sizes: tuple[int, ...], dtype: torch.dtype):
    steps, batch, input_size, hidden_size = sizes
    module = lstm_fused.LSTM(input_size, hidden_size, num_layers=2, device="cuda", dtype=dtype)
    input = torch.randn(steps, batch, input_size, device="cuda", dtype=dtype, requires_grad=True)
    for _ in range(3):  # kernels are loaded, libraries of torch get their workspaces, gradients their place
        step(module, input)
    free, reserved, allocated = (
        torch.cuda.mem_get_info()[0],
        torch.cuda.memory_reserved(),
        torch.cuda.memory_allocated(),
    )
    for _ in range(20):
        step(module, input)
    assert torch.cuda.memory_allocated() == allocated, "a call keeps memory"
    assert torch.cuda.memory_reserved() == reserved
    assert torch.cuda.mem_get_info()[0] == free, "memory was taken behind torch's back"


def test_everything_is_given_back():
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    module = lstm_fused.LSTM(64, 128, num_layers=2, bidirectional=True, device="cuda")
    step(module, torch.randn(64, 8, 64, device="cuda", requires_grad=True))
    module.zero_grad()
    del module
    gc.collect()
    # cuBLAS keeps a workspace from torch's allocator for each handle.
    torch._C._cuda_clearCublasWorkspaces()
    assert torch.cuda.memory_allocated() <= before


def test_inference_keeps_no_reserve():
    """Four gates and a cell of every step are what training keeps; inference needs little beside its output."""
    steps, batch, hidden = 512, 64, 128
    module = lstm_fused.LSTM(16, hidden, device="cuda", dtype=torch.bfloat16)
    input = torch.randn(steps, batch, 16, device="cuda", dtype=torch.bfloat16)

    def peak(grad: bool) -> int:
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        with torch.set_grad_enabled(grad):
            module(input)
        return torch.cuda.max_memory_allocated() - start

    output_bytes = steps * batch * hidden * 2
    assert peak(grad=True) > 4 * output_bytes
    assert peak(grad=False) < peak(grad=True)
