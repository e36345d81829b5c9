"""`python -m bench.widths`: what weights of fewer bits cost in accuracy: the error of a Stream's output.

Both hold the same module (I = H, torch's initial weights) and read the same random input, four rows of it. Errors are
parts of the largest element of all outputs up to T. int8 x int8 rounds activations too (activations=torch.int8), as
torch int8 (quantize_dynamic) does. Writes bench/results/stream-widths.md.
"""

from __future__ import annotations

import sys
import warnings

import torch
from torch import Tensor, nn

import lstm_fused
from bench import page
from bench.tables import markdown_table

SIZES, STEPS, ROWS = (64, 256, 1024), (1, 16, 256), 4
# Dtypes of weights and, where they are rounded, of activations.
WIDTHS = {"bfloat16": (torch.bfloat16, None), "int8": (torch.int8, None), "int8 x int8": (torch.int8, torch.int8)}
COLUMNS = ["H", "T", *(f"{name}: {norm}" for name in (*WIDTHS, "torch int8") for norm in ("largest", "rms"))]


def outputs(hidden_size: int) -> dict[str, Tensor]:
    """Of each width, and of torch's int8, after every step."""
    torch.manual_seed(0)
    lstm = nn.LSTM(hidden_size, hidden_size).eval()
    x = torch.randn(max(STEPS), ROWS, hidden_size)
    found = {"float32": lstm_fused.Stream(lstm, ROWS)(x)}
    for name, (weights, activations) in WIDTHS.items():
        found[name] = lstm_fused.Stream(lstm, ROWS, weights, activations=activations)(x)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(lstm), {nn.LSTM}, torch.qint8)
        return found | {"torch int8": quantized[0](x)[0]}


def errors(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    difference = (actual.double() - expected.double()) / expected.abs().max().item()
    return difference.abs().max().item(), difference.square().mean().sqrt().item()


def table() -> list[str]:
    rows = []
    for hidden_size in SIZES:
        found = outputs(hidden_size)
        expected = found.pop("float32")
        for steps in STEPS:
            pairs = [errors(output[:steps], expected[:steps]) for output in found.values()]
            rows.append([str(hidden_size), str(steps), *(f"{error:.1e}" for pair in pairs for error in pair)])
    return markdown_table(COLUMNS, rows)


def main() -> int:
    text = "\n".join(["# Weights of fewer bits", "", *__doc__.split("\n\n")[1].splitlines(), "", *table()]) + "\n"
    path = page.RESULTS / "stream-widths.md"
    path.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
