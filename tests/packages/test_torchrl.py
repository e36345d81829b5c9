"""lstm_fused.torchrl.LSTMModule beside TorchRL's: single steps, resets, states at ends of episodes, environments."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.envs import InitTracker, TransformedEnv
from torchrl.modules import LSTM as PythonLSTM
from torchrl.modules import LSTMModule as TheirModule
from torchrl.modules import get_primers_from_module, set_recurrent_mode

import lstm_fused
from lstm_fused.torchrl import LSTMModule, convert, revert

pytestmark = pytest.mark.filterwarnings("ignore")  # TorchRL's, about its own

ROOT = Path(__file__).parents[2]
KEYS: dict[str, Any] = {"in_keys": ["x", "h", "c"], "out_keys": ["y", ("next", "h"), ("next", "c")]}
OUT = ("y", ("next", "h"), ("next", "c"))


def pair(**options: Any) -> tuple[TheirModule, LSTMModule]:
    theirs = TheirModule(5, 8, **KEYS, **options)
    return theirs, convert(copy.deepcopy(theirs))


def data(
    shape: tuple[int, ...], layers: int = 1, proj_size: int = 0, zero: bool = True, starts: float = 0.3
) -> TensorDict:
    """With the state of each row's first step, and those of later ones if not `zero`."""
    h, c = torch.randn(*shape, layers, proj_size or 8), torch.randn(*shape, layers, 8)
    if zero:
        h[..., 1:, :, :], c[..., 1:, :, :] = 0, 0
    is_init = torch.rand(*shape, 1) < starts
    return TensorDict({"x": torch.randn(*shape, 5), "h": h, "c": c, "is_init": is_init}, shape)


def results(module: nn.Module, td: TensorDict) -> list[Tensor]:
    """Outputs and the gradients of input, first states and parameters."""
    td = td.clone()
    leaves = [td[key].requires_grad_() for key in ("x",)]
    module.zero_grad()
    out = module(td)
    outputs = [out[key] for key in OUT]
    sum((o * o.detach().cos()).sum() for o in outputs).backward()
    return [o.detach() for o in outputs] + [leaf.grad for leaf in leaves] + [p.grad for p in module.parameters()]


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 3}, {"num_layers": 2, "bias": False}, {"num_layers": 2, "proj_size": 3}]
)
@pytest.mark.parametrize("shape", [(11,), (6, 11), (2, 3, 11), (4, 1)])
def test_recurrent_mode(shape: tuple[int, ...], options: dict[str, Any], zero: bool) -> None:
    theirs, ours = pair(default_recurrent_mode=True, **options)
    td = data(shape, options.get("num_layers", 1), options.get("proj_size", 0), zero)
    torch.testing.assert_close(results(ours, td), results(theirs, td))


def test_without_states() -> None:
    """Data need not have them: they are zero. What tells the starts of episodes it must have."""
    theirs, ours = pair(default_recurrent_mode=True, num_layers=2)
    td = data((6, 11)).exclude("h", "c")
    torch.testing.assert_close(results(ours, td), results(theirs, td))
    with pytest.raises(KeyError, match="is_init"):
        ours(td.exclude("is_init"))


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_scan_gives_the_same(recompute: str) -> None:
    options = {"recurrent_backend": "scan", "recurrent_recompute": recompute, "num_layers": 2}
    theirs, ours = pair(default_recurrent_mode=True, **options)
    td = data((6, 11), 2)
    torch.testing.assert_close(results(ours, td), results(theirs, td))


def test_one_call_of_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    lstm = lstm_fused.functional.lstm
    monkeypatch.setattr(lstm_fused.functional, "lstm", lambda *a, **k: calls.append(a[0].shape) or lstm(*a, **k))
    _, ours = pair(default_recurrent_mode=True, num_layers=2)
    ours(data((6, 11), 2))
    assert calls == [(6, 11, 5), (6, 11, 8)]


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (2, 3, 4)])
def test_single_steps(shape: tuple[int, ...]) -> None:
    theirs, ours = pair(num_layers=2)
    td = data((*shape, 1), 2).squeeze(-1)
    for key in OUT:
        torch.testing.assert_close(ours(td.clone())[key], theirs(td.clone())[key])


def test_steps_one_by_one_are_the_recurrent_mode() -> None:
    _, ours = pair(num_layers=2)
    td = data((6, 11), 2)
    td["is_init"][:, 0] = False
    with set_recurrent_mode(True):
        exact = ours(td.clone())["y"]
    state = {key: td[key][:, 0] for key in ("h", "c")}
    for step in range(11):
        out = ours(td[:, step].clone().update(state))
        torch.testing.assert_close(out["y"], exact[:, step])
        state = {key: out["next", key] for key in ("h", "c")}


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"python_based": True}])
def test_what_stays_as_it_is_in_torchrl(options: dict[str, Any]) -> None:
    theirs, ours = pair(default_recurrent_mode=True, num_layers=2, **options)
    assert isinstance(ours.lstm, PythonLSTM if "python_based" in options else lstm_fused.LSTM)
    td = data((6, 11), 4 if "bidirectional" in options else 2)
    torch.testing.assert_close(results(ours, td), results(theirs, td))


def test_dropout() -> None:
    theirs, ours = pair(default_recurrent_mode=True, num_layers=2, dropout=0.5)
    td = data((6, 11), 2)
    torch.manual_seed(0)
    masked = ours(td.clone())["y"]
    torch.testing.assert_close(ours.eval()(td.clone())["y"], theirs.eval()(td.clone())["y"])
    assert (masked - ours(td.clone())["y"]).abs().max() > 1e-2


def test_python_and_back() -> None:
    _, ours = pair(default_recurrent_mode=True)
    td = data((6, 11))
    exact = ours(td.clone())["y"]
    torch.testing.assert_close(ours.make_python_based()(td.clone())["y"], exact)
    torch.testing.assert_close(ours.make_cudnn_based()(td.clone())["y"], exact)


def test_convert_and_revert() -> None:
    policy = TensorDictSequential(TheirModule(5, 8, **KEYS), TensorDictModule(nn.Linear(8, 2), ["y"], ["action"]))
    parameters = list(policy.parameters())
    assert convert(policy) is policy and type(policy[0]) is LSTMModule
    assert isinstance(policy[0].lstm, lstm_fused.LSTM)
    again = pickle.loads(pickle.dumps(policy))
    td = data((6, 1)).squeeze(-1)
    torch.testing.assert_close(again(td.clone())["action"], policy(td.clone())["action"])
    assert revert(policy) is policy and type(policy[0]) is TheirModule and type(policy[0].lstm) is nn.LSTM
    assert policy[0].recurrent_backend == "pad"
    assert all(a is b for a, b in zip(policy.parameters(), parameters, strict=True))


def test_made_of_an_lstm() -> None:
    lstm = nn.LSTM(5, 8, batch_first=True)
    module = LSTMModule(lstm=lstm, in_key="x", out_key="y", recurrent_backend="auto")
    assert all(a is b for a, b in zip(module.parameters(), lstm.parameters(), strict=True))
    assert module.in_keys == TheirModule(5, 8, in_key="x", out_key="y").in_keys
    with pytest.raises(ValueError, match="batch_first"):
        LSTMModule(5, 8, batch_first=False, **KEYS)
    with pytest.raises(ValueError, match="recurrent_backend"):
        LSTMModule(5, 8, recurrent_backend="other", **KEYS)


def test_the_page_has_what_was_measured() -> None:
    page = (ROOT / "docs" / "other-code.md").read_text()
    measured = (ROOT / "bench" / "results" / "torchrl-amd-epyc-1-thread.md").read_text()
    rows = re.findall(r"^\| (\w+) T128 B128 H256 L(\d) \| (.*) \| \S+ \|$", measured, re.M)
    assert len(rows) == 4
    for mode, layers, cells in rows:
        *times, first, second = cells.replace(",", "").split(" | ")
        shown = " | ".join([*(f"{float(time) / 1e3:,.0f}" for time in times), first, second])
        assert f"| {layers} | {mode} | {shown} |" in page


def test_in_an_environment() -> None:
    """A rollout with the primer, through ends of episodes, and then all of it in recurrent mode."""
    from torchrl.testing.mocking_classes import CountingEnv

    torch.manual_seed(0)
    lstm = LSTMModule(1, 8, num_layers=2, in_keys=["float", "h", "c"], out_keys=["y", ("next", "h"), ("next", "c")])
    policy = TensorDictSequential(
        TensorDictModule(lambda seen: seen.float(), ["observation"], ["float"]),
        lstm,
        TensorDictModule(lambda y: torch.ones_like(y[..., :1], dtype=torch.int32), ["y"], ["action"]),
    )
    env = TransformedEnv(CountingEnv(max_steps=4), InitTracker())
    env.append_transform(get_primers_from_module(policy))
    steps = env.rollout(40, policy, break_when_any_done=False)
    assert steps["is_init"].sum() > 3 and steps["h"].shape == (40, 2, 8)
    with set_recurrent_mode(True):
        again = lstm(steps.clone())
    torch.testing.assert_close(again["y"], steps["y"])
    ends = torch.cat([steps["is_init"][1:, 0], torch.ones(1, dtype=torch.bool)])
    torch.testing.assert_close(again["next", "c"][ends], steps["next", "c"][ends])


def test_the_example() -> None:
    options = "--updates 40 --rows 8 --length 32 --hidden 17".split()
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / "torchrl_recall.py"), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (first, last), (own_first, own_last) = (
        map(float, found) for found in re.findall(r"^\w+ +[\d.]+ +([\d.]+) +([\d.]+) +[\d.]+%$", done.stdout, re.M)
    )
    assert last < first and own_first == pytest.approx(first, abs=2e-6) and own_last == pytest.approx(last, abs=1e-3)
