"""What a Keras layer computes, with all gradients: for tests that compare keras.layers.LSTM with ours."""

from __future__ import annotations

from typing import Any

import keras
import torch
from torch import Tensor

from lstm_fused.keras import LSTM

Results = dict[str, Tensor]
MASKS = ("none", "full", "right", "left", "holes", "empty rows", "nothing")


def pair(units: int, shape: tuple[int, ...], wrap: Any = None, **options: Any) -> list[Any]:
    """Keras's layer and ours with the same weights and seeds, built; `wrap` makes another layer of each."""
    layers = []
    for cls in (keras.layers.LSTM, LSTM):
        keras.utils.set_random_seed(3)
        layer = cls(units, seed=11, name="lstm", **options)
        layers.append(layer if wrap is None else wrap(layer))
        layers[-1].build(shape)
    values = [torch.randn(w.shape, generator=torch.Generator().manual_seed(7)) * 0.4 for w in layers[0].weights]
    for layer in layers:
        layer.set_weights(values)
    return layers


def make_mask(kind: str, batch: int, steps: int) -> Tensor | None:
    """(B, T) bool, drawn from torch's generator."""
    if kind == "none":
        return None
    lengths = torch.randint(1, steps + 1, (batch, 1))
    holes = torch.rand(batch, steps) < 0.6
    return {
        "full": torch.ones(batch, steps, dtype=torch.bool),
        "right": torch.arange(steps) < lengths,
        "left": torch.arange(steps) >= steps - lengths,
        "holes": holes,
        "empty rows": holes & (torch.arange(batch) % 2 == 1).unsqueeze(1),
        "nothing": torch.zeros(batch, steps, dtype=torch.bool),
    }[kind]


def compute(layer: Any, x: Tensor, states: list[Tensor] | None = None, **call: Any) -> Results:
    """Every output, and the gradients of the input, the initial states and the weights for fixed cotangents."""
    x = x.clone().requires_grad_()
    states = None if states is None else [s.clone().requires_grad_() for s in states]
    weights = {w.path.split("/", 1)[1]: w.value for w in layer.trainable_weights}
    outputs = layer(x, **({} if states is None else {"initial_state": states}), **call)
    outputs = [*keras.tree.flatten(outputs)]
    draw = torch.Generator().manual_seed(5)
    cotangents = [torch.randn(o.shape, generator=draw, dtype=torch.float64).to(o.dtype) for o in outputs]
    leaves = {"x": x, **weights} | {f"state {n}": s for n, s in enumerate(states or ())}
    wanted = [o.requires_grad for o in outputs]
    gradients = torch.autograd.grad(
        [o for o, w in zip(outputs, wanted) if w], list(leaves.values()),
        [c for c, w in zip(cotangents, wanted) if w], allow_unused=True, materialize_grads=True,
    )  # fmt: skip
    results = {f"output {n}": o.detach() for n, o in enumerate(outputs)}
    return results | {f"grad {name}": g for name, g in zip(leaves, gradients, strict=True)}
