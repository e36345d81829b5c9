"""`python -m bench.keras`: train_on_batch and predict_on_batch of Keras models with keras.layers.LSTM and with ours.

Needs keras (requirements-packages.txt), on the torch backend.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch

from bench import beside
from bench.timing import Call
from lstm_fused.keras import convert

SIZES = ((32, 32, 64, 128), (128, 16, 256, 256))  # T, B, I, H
QUICK_SIZES = ((8, 4, 8, 16),)
LEGEND = (
    "Microseconds per call, minima of interleaved repetitions. keras: keras.layers.LSTM. Each model is Masking or "
    "nothing, the LSTM with return_sequences, one more LSTM of the same width, and Dense(1), in float32. fit: "
    "train_on_batch with SGD; predict: predict_on_batch. masked: rows of T/2 to T steps, padded on the right. Above 1 "
    "ours is faster."
)


def build(size: tuple[int, ...], bidirectional: bool, masked: bool) -> keras.Model:
    steps, _, width, units = size
    keras.utils.set_random_seed(0)
    wrap: Any = keras.layers.Bidirectional if bidirectional else lambda layer: layer
    layers = [keras.layers.Masking()] if masked else []
    layers += [wrap(keras.layers.LSTM(units, return_sequences=True)), wrap(keras.layers.LSTM(units))]
    model = keras.Sequential([keras.Input((steps, width)), *layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    return model


def make(size: tuple[int, ...], bidirectional: bool, masked: bool, mode: str) -> Callable[[str], Call]:
    steps, batch, width, _ = size
    draw = np.random.default_rng(0)
    x = draw.normal(size=(batch, steps, width)).astype("float32")
    if masked:
        x[np.arange(steps) >= draw.integers(steps // 2, steps + 1, (batch, 1))] = 0
    y = draw.normal(size=(batch, 1)).astype("float32")

    def of(side: str) -> Call:
        model = build(size, bidirectional, masked)
        if side == beside.OURS:
            convert(model)
        if mode == "predict":
            return lambda: [torch.as_tensor(model.predict_on_batch(x))]
        return lambda: [torch.as_tensor(model.train_on_batch(x, y))]

    return of


def rows(device: torch.device, quick: bool) -> list[beside.Row]:
    found = []
    grid = itertools.product(("predict", "fit"), QUICK_SIZES if quick else SIZES, (False, True), (False, True))
    for mode, size, bidirectional, masked in grid:
        steps, batch, width, units = size
        name = f"{mode} T{steps} B{batch} I{width} H{units}{' D2' * bidirectional}{' masked' * masked}"
        found.append(beside.Row(name, ["keras"], make(size, bidirectional, masked, mode)))
    return found


if __name__ == "__main__":
    sys.exit(beside.main("keras", __doc__, LEGEND, rows))
