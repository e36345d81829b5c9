"""Tiny calls of every kernel, for NVIDIA's compute-sanitizer: forward, backward and inference, in every dtype.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool racecheck --kernel-name kns=lstm_ --error-exitcode 9 \\
        python tests/gpu/sanitize.py

Without torch's cache each tensor is an allocation of its own, so that memcheck sees where it ends. initcheck has to see
who wrote a tensor, torch's own kernels included: run it without --kernel-name.
"""

from __future__ import annotations

import sys

import torch

import lstm_fused

# T, B, I, H, options: `block` with the input fused and without, partial tiles, a projection, `step`, and a `group`, of
# one layer and of three side by side; cells beyond the plain one, whose masks would be others on another device.
CALLS: list[tuple[int, int, int, int, dict]] = [
    (3, 9, 5, 17, {"bidirectional": True}),
    (2, 3, 100, 128, {}),
    (2, 9, 40, 136, {"num_layers": 2}),
    (2, 3, 5, 24, {"proj_size": 7}),
    (2, 9, 40, 600, {}),
    (4, 9, 40, 300, {"num_layers": 3}),
    (3, 9, 5, 32, {"peephole": True, "cell_clip": 0.5}),
    (3, 9, 5, 130, {"peephole": True, "cell_clip": 0.5}),
    (3, 9, 5, 300, {"peephole": True, "cell_clip": 0.5}),
    (3, 9, 5, 17, {"peephole": True, "layer_norm": True, "proj_size": 9}),
]
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def call(sizes: tuple[int, int, int, int], options: dict, dtype: torch.dtype, device: str) -> list[torch.Tensor]:
    """Results and gradients, drawn on the CPU from one seed: the same numbers on every device."""
    steps, rows, input_size, hidden_size = sizes
    torch.manual_seed(0)
    module = lstm_fused.LSTM(input_size, hidden_size, dtype=dtype, **options).to(device)
    input = torch.randn(steps, rows, input_size, dtype=dtype).to(device).requires_grad_()
    lengths = torch.randint(1, steps + 1, (rows,)).to(device)
    reset = (torch.rand(steps, rows) < 0.3).to(device)
    results = []
    for extras in ({}, {"lengths": lengths, "reset": reset, "return_cells": True}):
        output, (h_n, c_n), *cells = module(input, **extras)
        results += [output, h_n, c_n, *cells]
    cotangents = [torch.randn(result.shape, dtype=dtype).to(device) for result in results]
    gradients = torch.autograd.grad(results, [input, *module.parameters()], cotangents)
    with torch.no_grad():
        results += [module(input)[0]]
    return [tensor.detach().cpu() for tensor in (*results, *gradients)]


def main(device: str) -> None:
    for dtype in DTYPES:
        for allow_tf32 in (False, True) if dtype == torch.float32 else (False,):
            torch.backends.cudnn.allow_tf32 = allow_tf32
            tolerance = 1e-10 if dtype == torch.float64 else 1e-4 if dtype == torch.float32 and not allow_tf32 else 5e-2
            for *sizes, options in CALLS:
                for ours, exact in zip(
                    call(sizes, options, dtype, device), call(sizes, options, dtype, "cpu"), strict=True
                ):
                    torch.testing.assert_close(ours, exact, rtol=tolerance, atol=tolerance * float(exact.abs().max()))
            print(f"{device} {dtype}{' with TF32' if allow_tf32 else ''}: {len(CALLS)} calls, results as on the CPU")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cuda")
