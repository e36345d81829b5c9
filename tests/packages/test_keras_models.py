"""lstm_fused.keras in models: fit, files, convert and revert, what runs in Keras's own loop, and Keras's own tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras_results import compute, make_mask, pair

import lstm_fused
from lstm_fused.keras import LSTM, convert, revert, weights_from_keras, weights_to_keras

ROOT = Path(__file__).parents[2]


def text_model(lstm: type = keras.layers.LSTM, **options: Any) -> keras.Model:
    """As the lessons on text build it: padding is masked, two directions, then one."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Embedding(20, 8, mask_zero=True),
        keras.layers.Bidirectional(lstm(6, return_sequences=True, dropout=0.2, seed=1)),
        lstm(5, seed=2, **options),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
    model = keras.Sequential([keras.Input((None,)), *layers])
    model.compile("adam", "binary_crossentropy")
    return model


def texts() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    words = draw.integers(1, 20, (48, 11))
    words[np.arange(11) < draw.integers(0, 9, (48, 1))] = 0  # padded on the left, as pad_sequences does
    return words, (words.sum(1) > 70).astype("float32")


def losses(model: keras.Model) -> list[float]:
    keras.utils.set_random_seed(1)
    return model.fit(*texts(), epochs=3, batch_size=16, verbose=0).history["loss"]


def lstms(model: keras.Model) -> list[type]:
    return [type(layer) for layer in model._flatten_layers() if isinstance(layer, keras.layers.LSTM)]


def test_fit_learns_the_same() -> None:
    exact = losses(text_model())
    assert exact[-1] < exact[0]
    ours, converted = text_model(LSTM), convert(text_model())
    assert lstms(ours) == lstms(converted) == [LSTM] * 3
    for model in (ours, converted):
        assert losses(model) == pytest.approx(exact, rel=1e-5)


def test_convert_and_revert_keep_all_else() -> None:
    model = text_model()
    losses(model)  # compiled and built, with an optimizer that has state
    variables, words = model.variables, texts()[0]
    before = model.predict(words, verbose=0)
    assert convert(model) is model and lstms(model) == [LSTM] * 3
    assert all(a is b for a, b in zip(model.variables, variables, strict=True))
    np.testing.assert_allclose(model.predict(words, verbose=0), before, rtol=1e-5)
    losses(model)
    assert revert(model) is model and lstms(model) == [keras.layers.LSTM] * 3
    losses(model)
    assert convert(keras.layers.LSTM(3)).use_cudnn is False
    assert revert(convert(keras.layers.LSTM(3, use_cudnn=True))).use_cudnn is True
    assert revert(keras.layers.Bidirectional(LSTM(3))).forward_layer.use_cudnn == "auto"


class Named(keras.layers.LSTM):
    pass


def test_convert_names_what_it_leaves() -> None:
    model = keras.Sequential([keras.Input((None, 3)), Named(4, name="inner", return_sequences=True), LSTM(4)])
    with pytest.warns(UserWarning, match=re.escape("left as they are: inner (Named)")):
        convert(model)
    with pytest.raises(TypeError, match="model: expected a Keras model or layer, got LSTM"):
        convert(lstm_fused.LSTM(3, 4))


WITHOUT_US = """
import sys

import keras
import numpy as np

model = keras.models.load_model("ours.keras", custom_objects={"lstm_fused>LSTM": keras.layers.LSTM})
np.save("predicted.npy", model.predict(np.load("words.npy"), verbose=0))
assert "lstm_fused" not in sys.modules
"""


def test_files_both_ways(tmp_path: Path) -> None:
    model, words = text_model(), texts()[0]
    expected = model.predict(words, verbose=0)
    model.save(tmp_path / "keras.keras")
    loaded = convert(keras.models.load_model(tmp_path / "keras.keras"))
    assert lstms(loaded) == [LSTM] * 3
    loaded.save(tmp_path / "ours.keras")
    again = keras.models.load_model(tmp_path / "ours.keras")  # lstm_fused.keras was imported: it registers its layer
    assert lstms(again) == [LSTM] * 3
    loaded.save_weights(tmp_path / "ours.weights.h5")
    fresh = text_model()
    fresh.load_weights(tmp_path / "ours.weights.h5")
    for other in (loaded, again, fresh):
        np.testing.assert_allclose(other.predict(words, verbose=0), expected, rtol=1e-5)
    np.save(tmp_path / "words.npy", words)
    subprocess.run([sys.executable, "-c", WITHOUT_US], cwd=tmp_path, check=True, timeout=120)
    np.testing.assert_allclose(np.load(tmp_path / "predicted.npy"), expected, rtol=1e-5)
    revert(loaded).save(tmp_path / "reverted.keras")
    with zipfile.ZipFile(tmp_path / "reverted.keras") as file:
        assert b"lstm_fused" not in file.read("config.json")


def test_config() -> None:
    options = {"return_sequences": True, "go_backwards": True, "zero_output_for_mask": True, "dropout": 0.1, "seed": 3}
    theirs, ours = (cls(4, name="lstm", unroll=True, **options).get_config() for cls in (keras.layers.LSTM, LSTM))
    assert ours == theirs and LSTM.from_config(theirs).get_config() == theirs


@pytest.mark.parametrize(
    ("options", "training", "reason"),
    [
        ({"activation": "relu"}, False, "activation=relu"),
        ({"recurrent_activation": "hard_sigmoid"}, False, "recurrent_activation=hard_sigmoid"),
        ({"recurrent_dropout": 0.3}, True, "recurrent_dropout=0.3 in training"),
        ({"dropout": 0.3, "recurrent_dropout": 0.3}, True, "recurrent_dropout=0.3 in training"),
        # without use_cudnn=False Keras itself fails here
        (
            {"dropout": 0.3, "implementation": 1, "use_cudnn": False},
            True,
            "dropout=0.3 with implementation=1 in training",
        ),
    ],
)
def test_keras_loop_and_one_warning(options: dict[str, Any], training: bool, reason: str) -> None:
    x, call = torch.randn(4, 6, 3), {"training": training, "mask": make_mask("holes", 4, 6)}
    theirs, ours = pair(5, x.shape, return_sequences=True, **options)
    expected = compute(theirs, x, **call)
    with pytest.warns(UserWarning, match=re.escape(f"lstm runs in Keras's own loop: {reason}")):
        results = compute(ours, x, **call)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ours(x, **call)
    for name, value in expected.items():
        torch.testing.assert_close(results[name], value, rtol=0, atol=0)


def test_no_warning_where_dropout_is_off() -> None:
    x = torch.randn(4, 6, 3)
    theirs, ours = pair(5, x.shape, recurrent_dropout=0.3, dropout=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("bias", [True, False])
def test_weights_of_a_stack(bias: bool) -> None:
    """Two layers in two directions of Keras are one lstm_fused.LSTM, and back."""
    make = lambda: keras.layers.Bidirectional(keras.layers.LSTM(5, return_sequences=True, use_bias=bias))  # noqa: E731
    model = keras.Sequential([keras.Input((None, 3)), make(), make()])
    lstm = lstm_fused.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True, bias=bias)
    lstm.load_state_dict(weights_from_keras(model.get_weights(), bidirectional=True))
    x = torch.randn(4, 6, 3)
    torch.testing.assert_close(lstm(x)[0], model(x))
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.normal_(0, 0.3)
    model.set_weights(weights_to_keras(lstm))
    torch.testing.assert_close(lstm(x)[0], model(x))


def test_bad_weights() -> None:
    good = keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(5)]).get_weights()
    with pytest.raises(ValueError, match="expected kernel, recurrent_kernel, bias for each layer and direction, got 3"):
        weights_from_keras(good, bidirectional=True)
    with pytest.raises(ValueError, match=re.escape("weights[0:3]: expected (I, 4H), (H, 4H), (4H,), got [(20, 3)")):
        weights_from_keras([good[0].T, *good[1:]])
    with pytest.raises(ValueError, match="got proj_size=2"):
        weights_to_keras(lstm_fused.LSTM(3, 5, proj_size=2))
    with pytest.raises(ValueError, match="lstm: expected the plain cell, which is Keras's; got peephole=True"):
        weights_to_keras(lstm_fused.LSTM(3, 5, peephole=True))


# Of Keras: what it says about an attribute of cuDNN, which is False where our kernels compute.
LISTED = ("test_keeps_use_cudnn", "test_fused_lstm_eligibility")
MODULES = (
    "rnn.lstm_test", "rnn.bidirectional_test", "rnn.rnn_test", "rnn.stacked_rnn_cells_test",
    "rnn.time_distributed_test", "rnn.dropout_rnn_cell_test", "core.masking_test",
)  # fmt: skip
PLUGIN = """
import keras
from lstm_fused.keras import LSTM

keras.layers.LSTM = keras.src.layers.LSTM = LSTM
"""


def test_their_tests(tmp_path: Path) -> None:
    """Which the wheel holds, with the class replaced: all pass but those listed."""
    (tmp_path / "with_ours.py").write_text(PLUGIN)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-p", "with_ours", "-p", "no:cacheprovider"]
    command += ["--pyargs", *(f"keras.src.layers.{module}" for module in MODULES)]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    failed = re.findall(r"^FAILED .*::(\w+)", done.stdout, re.M)
    assert sorted(failed) == sorted(LISTED), done.stdout
    assert re.search(r"^2 failed, 53 passed, 1 skipped", done.stdout, re.M), done.stdout


def test_the_example() -> None:
    sizes = "--units 16 --samples 96 --epochs 2".split()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "110"}
    command = [sys.executable, str(ROOT / "examples" / "keras_lessons.py"), *sizes]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in done.stdout.splitlines() if "│" in line]
    assert [row[:2] for row in rows] == [
        [w, s] for w in ("texts, masked", "a series") for s in ("Keras's", "converted")
    ]
    for theirs, ours in zip(rows[::2], rows[1::2]):
        assert [float(x) for x in ours[2].split()] == pytest.approx([float(x) for x in theirs[2].split()], abs=2e-3)
    assert float(re.search(r"largest difference (\S+)", done.stdout)[1]) < 1e-4


def test_the_page() -> None:
    """docs/keras.md: what it shows runs, and its numbers are those of bench/results."""
    page = (ROOT / "docs" / "keras.md").read_text()
    names: dict[str, Any] = {}
    exec(re.search(r"```\n(import os.*?)```", page, re.S)[1], names)
    assert lstms(names["model"]) == [LSTM] * 2
    measured = (ROOT / "bench" / "results" / "keras-amd-epyc-1-thread.md").read_text()
    ratios = re.findall(r"^\| (?:predict|fit) .*\| ([\d.]+) \| \S+ \|$", measured, re.M)
    shown = re.findall(r"^\| \d+, \d+, \d+, \d+ \| \w+ \| (.*) \|$", page, re.M)
    assert sorted(ratio for row in shown for ratio in row.split(" | ")) == sorted(ratios) and len(ratios) == 16
    assert "geometric mean 2.73" in measured and "The geometric mean is 2.73" in page
