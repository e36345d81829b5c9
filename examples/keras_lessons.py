"""Two lessons of Keras as its documentation builds them, with keras.layers.LSTM and with the layers converted.

The first reads texts of any length: Embedding with a mask, two bidirectional LSTMs, one unit. The second forecasts a
series, as of the weather: an LSTM over a window of several measurements, one unit. The data is made here. Both models
of a lesson start from the same weights and see the same batches; their losses and times stand side by side.

    pip install keras
    python examples/keras_lessons.py                  # about a minute on two CPU cores
    python examples/keras_lessons.py --units 128 --epochs 1
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from char_lm_cli import whole
from rich.console import Console
from rich.table import Table

if find_spec("keras") is None:
    sys.exit("keras_lessons.py: error: the package keras is missing: pip install keras")
os.environ["KERAS_BACKEND"] = "torch"

import keras

import lstm_fused.keras

WORDS, LONGEST, WINDOW, MEASURED = 400, 80, 60, 5
Data = tuple[np.ndarray, np.ndarray]


@dataclass
class Trained:
    name: str
    losses: list[float]  # one an epoch
    seconds: float  # of the fastest epoch
    predicting: float  # seconds of predict()
    forecasts: np.ndarray


def texts(count: int, seed: int) -> Data:
    """Word numbers, padded on the left with 0 as keras.utils.pad_sequences does; 1 for a text that likes its subject.

    One word in four tells: 1 to 100 are good words, 101 to 200 bad ones, and three in four of them fit the text.
    """
    draw = np.random.default_rng(seed)
    likes = draw.random((count, 1)) < 0.5
    words = draw.integers(201, WORDS, (count, LONGEST))
    good = (draw.random(words.shape) < 0.75) == likes
    words = np.where(draw.random(words.shape) < 0.25, draw.integers(1, 101, words.shape) + 100 * ~good, words)
    words[np.arange(LONGEST) < LONGEST - draw.integers(20, LONGEST + 1, (count, 1))] = 0
    return words, likes[:, 0].astype("float32")


def weather(count: int, seed: int) -> Data:
    """Windows of a few measurements, hourly, and the first one 12 hours later."""
    draw = np.random.default_rng(seed)
    hours = np.arange(count + WINDOW + 12)
    day, season = np.sin(2 * np.pi * hours / 24), np.sin(2 * np.pi * hours / 2000)
    drift = np.convolve(draw.normal(size=len(hours)), np.ones(48) / 48, "same")
    series = np.stack([day + season + 3 * drift, drift, day, season, draw.normal(size=len(hours)) * 0.3], 1)
    series = series.astype("float32")
    windows = np.lib.stride_tricks.sliding_window_view(series, WINDOW, axis=0)[:count].transpose(0, 2, 1)
    return np.ascontiguousarray(windows), series[WINDOW + 11 : WINDOW + 11 + count, :1]


def reader(units: int) -> keras.Model:
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(WORDS, 64, mask_zero=True)(inputs)
    x = keras.layers.Bidirectional(keras.layers.LSTM(units, return_sequences=True))(x)
    x = keras.layers.Bidirectional(keras.layers.LSTM(units))(x)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile("adam", "binary_crossentropy")
    return model


def forecaster(units: int) -> keras.Model:
    inputs = keras.Input((WINDOW, MEASURED))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.LSTM(units)(inputs)))
    model.compile(keras.optimizers.Adam(2e-3), "mse")
    return model


def train(name: str, model: keras.Model, data: Data, unseen: np.ndarray, epochs: int) -> Trained:
    losses, seconds = [], []
    keras.utils.set_random_seed(1)  # of the order of batches
    for _ in range(epochs):
        begin = time.perf_counter()
        losses += model.fit(*data, batch_size=32, verbose=0).history["loss"]
        seconds.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    forecasts = model.predict(unseen, verbose=0)
    return Trained(name, losses, min(seconds), time.perf_counter() - begin, forecasts)


def main() -> None:
    parser = argparse.ArgumentParser("keras_lessons.py", description=__doc__.split("\n\n")[0])
    add, count = parser.add_argument, whole(1, 10**6)
    add("--units", type=whole(1, 2**16), default=64, metavar="N", help="of the LSTMs (64)")
    add("--samples", type=count, default=1000, metavar="N", help="to train with (1000)")
    add("--epochs", type=count, default=3, metavar="N", help="(3)")
    args, console = parser.parse_args(), Console()

    table = Table(title="keras.layers.LSTM, and the same converted", title_style="bold")
    for title in ("lesson", "LSTM", "loss by epoch", "s per epoch", "s to predict"):
        table.add_column(title, justify="left" if title in ("lesson", "LSTM") else "right", no_wrap=True)
    difference = 0.0
    for lesson, build, make in (("texts, masked", reader, texts), ("a series", forecaster, weather)):
        data, (unseen, truth) = make(args.samples, 0), make(500, 1)
        models = []
        for _ in range(2):
            keras.utils.set_random_seed(0)
            models.append(build(args.units))
        lstm_fused.keras.convert(models[1])
        pair = []
        for name, model in zip(("Keras's", "converted"), models):
            with console.status(f"{lesson}: {name}"):
                pair.append(train(name, model, data, unseen, args.epochs))
        for side in pair:
            losses = " ".join(f"{loss:.4f}" for loss in side.losses)
            cells = [side.name, losses, f"{side.seconds:.2f}", f"{side.predicting:.2f}"]
            table.add_row(lesson, *cells, end_section=side is pair[1])
        difference = max(difference, abs(pair[0].losses[0] / pair[1].losses[0] - 1))
        if lesson.startswith("texts"):
            right = ((pair[1].forecasts[:, 0] > 0.5) == (truth > 0.5)).mean()
            console.print(f"{lesson}: {right:.1%} of 500 new ones right", highlight=False)
        else:
            error = np.square(pair[1].forecasts - truth).mean() / truth.var()
            console.print(f"{lesson}: squared error {error:.3f} of the variance", highlight=False)
    console.print(table)
    console.print(f"loss of the first epoch: largest difference {difference:.1e}", highlight=False)
    if not difference < 1e-3:
        sys.exit("keras_lessons.py: error: the models disagree")


if __name__ == "__main__":
    main()
