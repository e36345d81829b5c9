"""Trials of packages for reinforcement learning."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from trials import Step, trial, whole


def recurrent_ppo(**options: Any) -> Any:
    from sb3_contrib import RecurrentPPO

    options = {"n_steps": 64, "batch_size": 64, "n_epochs": 2, "seed": 0, "device": "cpu"} | options
    return RecurrentPPO("MlpLstmPolicy", "CartPole-v1", **options)


@trial("sb3-contrib", "RecurrentPPO's policy: evaluate_actions with episode starts")
def _() -> tuple[nn.Module, Step]:
    from sb3_contrib.common.recurrent.type_aliases import RNNStates

    rows, steps = 8, 64
    observations, actions = torch.randn(rows * steps, 4), torch.randint(2, (rows * steps,))
    starts = (torch.rand(rows * steps) < 0.05).float()
    states = torch.zeros(1, rows, 256), torch.zeros(1, rows, 256)
    step = lambda model: model.evaluate_actions(observations, actions, RNNStates(states, states), starts)  # noqa: E731
    return recurrent_ppo().policy, step


@whole("sb3-contrib", "RecurrentPPO, learn")
def _() -> Any:
    model = recurrent_ppo().learn(128)
    return [p.detach() for p in model.policy.parameters()]


def module_and_data(**options: Any) -> tuple[nn.Module, Any]:
    from tensordict import TensorDict
    from torchrl.modules import LSTMModule

    rows, steps = 8, 64
    model = LSTMModule(64, 128, in_keys=["seen", "h", "c"], out_keys=["out", ("next", "h"), ("next", "c")], **options)
    starts = torch.rand(rows, steps, 1) < 0.05
    data = {"seen": torch.randn(rows, steps, 64), "is_init": starts}
    data |= {"h": torch.zeros(rows, steps, 1, 128), "c": torch.zeros(rows, steps, 1, 128)}
    return model, TensorDict(data, [rows, steps])


@trial("torchrl", "LSTMModule, one trajectory a row")
def _() -> tuple[nn.Module, Step]:
    model, data = module_and_data(default_recurrent_mode=True)
    data["is_init"][:] = False
    return model, lambda model: model(data.clone())["out"]


@trial("torchrl", "LSTMModule, episodes that end inside", subclass=True)
def _() -> tuple[nn.Module, Step]:
    model, data = module_and_data(default_recurrent_mode=True)
    return model, lambda model: model(data.clone())["out"]
