"""sb3-contrib: its own tests of RecurrentPPO with our classes, models saved and loaded, and the example."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import control
import pytest
import torch
from sb3_contrib import RecurrentPPO

import lstm_fused.sb3

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_their_tests(tmp_path: Path) -> None:
    """Of the source distribution, which `make test-packages` fetches, but for what is marked slow."""
    (archive,) = Path(sys.prefix, "sdist").glob("sb3_contrib-*.tar.gz")
    with tarfile.open(archive) as files:
        (name,) = (name for name in files.getnames() if name.endswith("/tests/test_lstm.py"))
        source = files.extractfile(name)
        assert source is not None
        (tmp_path / "test_lstm.py").write_bytes(source.read())
    (tmp_path / "conftest.py").write_text("import lstm_fused\n\nlstm_fused.in_place_of_torch().__enter__()\n")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-W", "ignore", "test_lstm.py"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=500)
    assert re.search(r"^20 passed, 1 deselected", done.stdout, re.M), done.stdout


def test_saved_and_loaded(tmp_path: Path) -> None:
    """A file holds weights, no classes: what load() builds is torch's, and is converted as the first one was."""
    model = lstm_fused.sb3.convert(control.recurrent_ppo())
    model.learn(128)
    model.save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model", device="cpu")
    assert type(loaded.policy.lstm_actor) is torch.nn.LSTM
    lstm_fused.sb3.convert(loaded)
    assert type(loaded.policy.lstm_actor) is lstm_fused.LSTM
    observation = model.observation_space.sample()
    for a, b in zip(model.predict(observation)[1], loaded.predict(observation)[1], strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("layers", [1, 2])
def test_the_example(layers: int) -> None:
    sizes = {"layers": layers, "hidden": 17, "rows": 3, "steps": 11, "timesteps": 256, "seconds": 0.1}
    options = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, str(ROOT / "examples" / "recurrent_ppo.py"), *options]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"largest difference (\S+)", done.stdout)
    assert len(found) == 2 and all(float(difference) < 1e-4 for difference in found)  # of a batch, and after learning
    assert len(re.findall(r"ms +\d+\.\d\dx$", done.stdout, re.M)) == 2


def test_one_call_gives_the_same() -> None:
    theirs, ours = control.recurrent_ppo(), lstm_fused.sb3.convert(control.recurrent_ppo())
    for model in (theirs, ours):
        model.set_random_seed(0)
        model.learn(256)  # 64 steps at a time, with ends of episodes inside
    for a, b in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_convert_and_revert() -> None:
    model = control.recurrent_ppo()
    parameters, method = list(model.policy.parameters()), model.policy._process_sequence
    assert lstm_fused.sb3.convert(model) is model and lstm_fused.sb3.convert(model.policy) is model.policy
    assert type(model.policy.lstm_actor) is lstm_fused.LSTM
    assert model.policy._process_sequence is lstm_fused.sb3.process_sequence
    assert lstm_fused.sb3.revert(model) is model
    assert type(model.policy.lstm_actor) is torch.nn.LSTM and model.policy._process_sequence is method
    assert all(a is b for a, b in zip(model.policy.parameters(), parameters, strict=True))
    with pytest.raises(TypeError, match="model: expected a RecurrentPPO or its policy, got Linear"):
        lstm_fused.sb3.convert(torch.nn.Linear(1, 1))


def test_the_page_shows_how() -> None:
    shown = re.search(r"```\n(from sb3_contrib.*?)```", (ROOT / "docs" / "other-code.md").read_text(), re.S)
    names: dict[str, object] = {}
    exec(shown[1], names)
    assert type(names["model"].policy.lstm_actor) is lstm_fused.LSTM
