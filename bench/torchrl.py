"""`python -m bench.torchrl`: LSTMModule in recurrent mode with episodes that end inside, TorchRL's backends and ours.

The sizes are those of TorchRL's own benchmark of resets: B = T = 128, 256 units, 3 % of the steps start an episode.
Needs torchrl, and hoptorch for its "scan" (requirements-packages.txt). Its "triton" runs on a GPU only.
"""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Callable
from importlib.util import find_spec

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.modules import LSTMModule

from bench import beside
from bench.timing import Call
from lstm_fused.torchrl import convert

SIZES, QUICK_SIZES = ((128, 128, 256),), ((16, 8, 32),)  # T, B, H
LAYERS, RESETS = (1, 2), 0.03
LEGEND = (
    "Microseconds per call of the module, minima of interleaved repetitions, float32; I = H. training: forward and "
    "backward of a sum of squares, gradients of weights and input. 3 % of the steps start an episode. pad, scan, "
    "triton: TorchRL's recurrent_backend. Above 1 ours is faster."
)


def make(size: tuple[int, int, int], layers: int, training: bool, device: torch.device) -> Callable[[str], Call]:
    steps, batch, width = size
    torch.manual_seed(0)
    keys = {"in_keys": ["x", "h", "c"], "out_keys": ["y", ("next", "h"), ("next", "c")]}
    built = LSTMModule(width, width, layers, default_recurrent_mode=True, **keys).to(device)
    zeros = torch.zeros(batch, steps, layers, width)
    tensors = {"x": torch.randn(batch, steps, width), "h": zeros, "c": zeros}
    tensors["is_init"] = torch.rand(batch, steps, 1) < RESETS
    data = TensorDict(tensors, [batch, steps]).to(device)

    def of(side: str) -> Call:
        module = copy.deepcopy(built)
        if side == beside.OURS:
            convert(module)
        else:
            module.recurrent_backend = side

        def infer() -> list[Tensor]:
            with torch.no_grad():
                return [module(data.copy())["y"]]

        def train() -> list[Tensor]:
            module.zero_grad()
            x = data["x"].detach().requires_grad_()
            output = module(data.copy().set("x", x))["y"]
            output.square().sum().backward()
            return [output, x.grad, *(p.grad for p in module.parameters())]

        return train if training else infer

    return of


def rows(device: torch.device, quick: bool) -> list[beside.Row]:
    peers = ["pad"]
    peers += ["scan"] if find_spec("hoptorch") else []
    peers += ["triton"] if device.type == "cuda" and find_spec("triton") else []
    found = []
    for size, layers, training in itertools.product(QUICK_SIZES if quick else SIZES, LAYERS, (False, True)):
        steps, batch, width = size
        name = f"{'training' if training else 'inference'} T{steps} B{batch} H{width} L{layers}"
        found.append(beside.Row(name, peers, make(size, layers, training, device)))
    return found


if __name__ == "__main__":
    sys.exit(beside.main("torchrl", __doc__, LEGEND, rows))
