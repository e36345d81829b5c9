"""What a stream looks at in its module: whether it can be computed, sizes, weights, and whether these have changed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.rnn import RNNBase

from .flat_weights import FlatWeights

State = tuple[Tensor, Tensor]


class Layout(NamedTuple):
    """What is computed, and in what."""

    input_size: int
    hidden_size: int
    width: int  # P
    num_layers: int
    dtype: torch.dtype
    device: torch.device

    def __str__(self) -> str:
        projection = f", projection {self.width}" if self.width != self.hidden_size else ""
        sizes = f"{self.num_layers} x LSTM({self.input_size}, {self.hidden_size}{projection})"
        return f"{sizes}, {self.dtype} on {self.device}"


def check(lstm: RNNBase) -> Layout:
    """Raises where there is no stream of the module on any device."""
    if not isinstance(lstm, RNNBase) or lstm.mode != "LSTM":
        raise TypeError(f"lstm: expected an lstm_fused.LSTM or torch.nn.LSTM, got {type(lstm).__name__}")
    if lstm.bidirectional:
        raise ValueError("lstm: expected one direction; the reverse one of a bidirectional LSTM starts at the end")
    if lstm.training and lstm.dropout and lstm.num_layers > 1:
        raise ValueError("lstm: expected eval mode, as a stream drops nothing out; call lstm.eval() before")
    if cell := getattr(lstm, "cell_options", None):
        raise ValueError(f"lstm: expected the plain cell, which is all that a stream computes, got {cell}")
    return layout_of(lstm)


def layout_of(lstm: RNNBase) -> Layout:
    """By its weights, whatever its attributes say."""
    weights = weights_of(lstm)
    w_ih, w_hh = weights[:2]
    dtypes, devices = {weight.dtype for weight in weights}, {device_of(weight) for weight in weights}
    if len(dtypes) > 1 or len(devices) > 1:
        places = ", ".join(sorted(map(str, dtypes | devices)))
        raise ValueError(f"lstm: expected parameters of one dtype on one device, got {places}")
    return Layout(w_ih.size(1), w_hh.size(0) // 4, w_hh.size(1), lstm.num_layers, w_ih.dtype, device_of(w_ih))


def device_of(tensor: Tensor) -> torch.device:
    """To torch cpu:0 is another one than cpu."""
    return torch.device("cpu") if tensor.device.type == "cpu" else tensor.device


def weights_of(lstm: RNNBase) -> list[Tensor]:
    """What the module computes with now."""
    if isinstance(lstm, FlatWeights) and lstm._flat_weight_refs:  # a list that somebody has asked for
        return lstm._handed_weights()
    return [getattr(lstm, name) for name in lstm._flat_weights_names]


Parameters = list[tuple[Any, str, Tensor]]
Version = list[tuple[int, int, int]]


def parameters_of(lstm: nn.Module) -> Parameters:
    """Where each parameter is looked up, and what is there now; those that others are computed from included."""
    owners = [module._parameters for module in lstm.modules()]
    return [(own, name, value) for own in owners for name, value in own.items() if value is not None]


def version_of(lstm: nn.Module) -> Version:
    """Another one after a parameter has changed: replaced, moved, or in place."""
    values = [value for _, _, value in parameters_of(lstm)]
    return [(id(v), v.data_ptr(), -1 if v.is_inference() else v._version) for v in values]
