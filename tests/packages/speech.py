"""Trials of packages for sound."""

from __future__ import annotations

import torch
from torch import nn
from trials import Step, trial


@trial("speechbrain", "nnet.RNN.LSTM (both directions)")
def _() -> tuple[nn.Module, Step]:
    from speechbrain.nnet.RNN import LSTM

    sound = torch.randn(8, 100, 80)
    model = LSTM(hidden_size=256, input_shape=sound.shape, num_layers=2, bidirectional=True, dropout=0.15)
    return model, lambda model: model(sound)


@trial("speechbrain", "nnet.RNN.LSTM with lengths (packed)")
def _() -> tuple[nn.Module, Step]:
    from speechbrain.nnet.RNN import LSTM

    sound, lengths = torch.randn(8, 100, 80), torch.linspace(1, 0.4, 8)
    model = LSTM(hidden_size=256, input_shape=sound.shape, num_layers=2, bidirectional=True, dropout=0.15)
    return model, lambda model: model(sound, lengths=lengths)


@trial("speechbrain", "AttentionalRNNDecoder (LSTMCell)")
def _() -> tuple[nn.Module, Step]:
    from speechbrain.nnet.RNN import AttentionalRNNDecoder

    sizes = {"hidden_size": 256, "attn_dim": 128, "num_layers": 1, "enc_dim": 256, "input_size": 128}
    model = AttentionalRNNDecoder("lstm", "location", **sizes, channels=10, kernel_size=15)
    tokens, states, lengths = torch.randn(8, 30, 128), torch.randn(8, 60, 256), torch.linspace(1, 0.5, 8)
    return model, lambda model: model(tokens, states, lengths)


@trial("asteroid", "DPRNNTasNet (dual-path)")
def _() -> tuple[nn.Module, Step]:
    from asteroid.models import DPRNNTasNet

    sound = torch.randn(1, 4000)
    return DPRNNTasNet(n_src=2, n_repeats=2), lambda model: model(sound)


@trial("asteroid", "LSTMTasNet")
def _() -> tuple[nn.Module, Step]:
    from asteroid.models import LSTMTasNet

    sound = torch.randn(2, 2000)
    return LSTMTasNet(n_src=2, hid_size=128, n_layers=2), lambda model: model(sound)
