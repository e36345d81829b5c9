"""sb3-contrib's RecurrentPPO with one call of an LSTM for a batch of sequences: its episode starts become ``reset=``.

sb3-contrib calls the LSTM for one step after the other, and multiplies the state by 0 where an episode starts.
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor

from . import convert as convert_lstms
from . import modules
from . import revert as revert_lstms
from .forms import State

try:
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
except ImportError as error:
    raise ImportError("lstm_fused.sb3 needs sb3-contrib, which is not installed: pip install sb3-contrib") from error

Model = TypeVar("Model")


def convert(model: Model) -> Model:
    """Makes the LSTMs of a RecurrentPPO, or of its policy, ours, and its loop over time one call; in place.

    Parameters stay the objects that they are. A file of a model holds no classes: call it after ``load()`` as well.
    """
    policy = _policy(model)
    convert_lstms(policy)
    policy._process_sequence = process_sequence
    return model


def revert(model: Model) -> Model:
    """The inverse of :func:`convert`."""
    policy = _policy(model)
    revert_lstms(policy)
    vars(policy).pop("_process_sequence", None)
    return model


def process_sequence(
    features: Tensor, lstm_states: State, episode_starts: Tensor, lstm: modules.LSTM
) -> tuple[Tensor, State]:
    """(rows * steps, width) features and (rows * steps) starts, row by row; the same for the output."""
    rows = lstm_states[0].size(1)
    features, starts = (t.unflatten(0, (rows, -1)).transpose(0, 1) for t in (features, episode_starts))
    output, lstm_states = lstm(features, lstm_states, reset=starts != 0)
    return output.transpose(0, 1).flatten(0, 1), lstm_states


def _policy(model: Any) -> Any:
    policy = getattr(model, "policy", model)
    if not isinstance(policy, RecurrentActorCriticPolicy):
        raise TypeError(f"model: expected a RecurrentPPO or its policy, got {type(model).__name__}")
    return policy
