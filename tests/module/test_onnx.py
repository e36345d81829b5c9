"""Export to ONNX: the standard LSTM operator, and in onnxruntime the numbers of the module."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import lstm_fused.onnx

# The hidden size is such that the weights exceed what exporters fold into constants by themselves.
FORMS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "plain": ({}, set()),
    "no bias": ({"bias": False, "hidden_size": 3}, {"hx"}),
    "stack": ({"num_layers": 3, "bidirectional": True, "dropout": 0.5}, {"hx", "lengths"}),
    "batch_first": ({"batch_first": True, "bidirectional": True}, {"lengths"}),
    "peephole": ({"peephole": True}, {"hx"}),
    "peephole stack": ({"peephole": True, "num_layers": 2, "bidirectional": True}, {"hx", "lengths"}),
    "off in inference": ({"recurrent_dropout": 0.5, "weight_dropout": 0.5}, set()),
}


class Model(nn.Module):
    def __init__(self, extras: set[str], **options: Any):
        super().__init__()
        self.lstm = lstm_fused.LSTM(5, **{"hidden_size": 70, **options})
        self.extras = extras

    def forward(self, input: Tensor, lengths: Tensor, h_0: Tensor, c_0: Tensor) -> tuple[Tensor, ...]:
        hx = (h_0, c_0) if "hx" in self.extras else None
        lengths_or_none = lengths if "lengths" in self.extras else None
        output, states = self.lstm(input, hx, lengths=lengths_or_none)
        return output, *states


def arguments(model: Model, steps: int, batch: int) -> tuple[Tensor, ...]:
    lstm = model.lstm
    states = lstm.num_layers * (2 if lstm.bidirectional else 1), batch, lstm.hidden_size
    shape = (batch, steps, 5) if lstm.batch_first else (steps, batch, 5)
    return torch.randn(shape), torch.arange(batch) % steps + 1, torch.randn(states), torch.randn(states)


@pytest.mark.parametrize("form", FORMS)
def test_onnxruntime_computes_the_same(form: str, tmp_path: Path) -> None:
    options, extras = FORMS[form]
    model = Model(extras, **options).eval()
    steps, batch = Dim("T"), Dim("B")
    input = {0: batch, 1: steps} if model.lstm.batch_first else {0: steps, 1: batch}
    shapes = (input, {0: batch}, {1: batch}, {1: batch})
    path = tmp_path / "model.onnx"
    lstm_fused.onnx.export(model, arguments(model, 6, 4), path, dynamic_shapes=shapes, verbose=False)

    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    operators = [node for node in graph.graph.node if node.op_type == "LSTM"]
    own_direction = 2 if model.lstm.bidirectional and "peephole" in options else 1  # an operator for each direction
    assert len(operators) == model.lstm.num_layers * own_direction
    constants = {constant.name: constant.dims for constant in graph.graph.initializer}
    for node in operators:
        assert all(name in constants for name in [*node.input[1:4], *node.input[7:]] if name), (
            "weights are to be constants"
        )
        assert bool(node.input[4]) == ("lengths" in extras)
    weights = sum(p.numel() for p in model.parameters())
    assert sum(np.prod(dims, dtype=int) for dims in constants.values()) < weights + 100, "weights twice in the file"

    session = onnxruntime.InferenceSession(path)
    names = {value.name for value in session.get_inputs()}
    for sizes in [(6, 4), (9, 2), (3, 7), (1, 3), (4, 1), (1, 1)]:
        args = arguments(model, *sizes)
        given = zip(["input", "lengths", "h_0", "c_0"], args, strict=True)
        results = session.run(None, {name: value.numpy() for name, value in given if name in names})
        for result, expected in zip(results, model(*args), strict=True):
            torch.testing.assert_close(torch.from_numpy(result), expected.detach())


def test_a_model_that_was_exported_before() -> None:
    """By torch.onnx.export with our table, which is what lstm_fused.onnx.export adds to it."""
    model = Model(set()).eval()
    args = arguments(model, 6, 4)
    program = torch.export.export(model, args)
    for exported in (
        lstm_fused.onnx.export(program, verbose=False),
        torch.onnx.export(program, custom_translation_table=lstm_fused.onnx.translation_table(), verbose=False),
    ):
        assert [node.op_type for node in exported.model.graph].count("LSTM") == 1
        for result, expected in zip(exported(*args), model(*args), strict=True):
            torch.testing.assert_close(result, expected.detach())


@pytest.mark.parametrize(
    ("options", "extras", "says"),
    [
        ({}, {"reset": torch.zeros(6, 4, dtype=torch.bool)}, "has no `reset`"),
        ({}, {"return_cells": True}, "has no `return_cells`"),
        ({"proj_size": 3}, {}, "has no `proj_size`"),
        ({"num_layers": 2, "dropout": 0.5}, {}, "has no dropout in training"),
        ({"peephole": True}, {"reset": torch.zeros(6, 4, dtype=torch.bool)}, "has no `reset`"),
        ({"peephole": True}, {"return_cells": True}, "has no `return_cells`"),
        ({"peephole": True, "proj_size": 3}, {}, "has no `proj_size`"),
        ({"zoneout": 0.1}, {}, "has no `zoneout`"),
        ({"cell_clip": 1.0}, {}, "has no `cell_clip`"),
        ({"layer_norm": True, "peephole": True}, {}, "has no `layer_norm`"),
    ],
    ids=lambda value: "",
)
def test_what_the_operator_cannot_say(options: dict[str, Any], extras: dict[str, Any], says: str) -> None:
    model = lstm_fused.LSTM(5, 7, **options).train("dropout" in options)
    with pytest.raises(NotImplementedError, match=says):
        lstm_fused.onnx.export(model, (torch.randn(6, 4, 5),), kwargs=extras, verbose=False)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(torch.onnx.OnnxExporterError):
        lstm_fused.onnx.export(lstm_fused.LSTM(5, 7), (torch.randn(6, 4, 6),), verbose=False)


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("form", [lstm_fused.LSTM, lstm_fused.LSTMCell])
@pytest.mark.parametrize("alone", [True, False])
def test_torchs_own_export_names_ours(form: type, alone: bool, dynamo: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where lstm_fused.onnx was never imported; who has imported it may have passed its table."""
    monkeypatch.delitem(sys.modules, "lstm_fused.onnx")
    module = form(4, 7).eval()
    input = torch.randn(3, 4) if form is lstm_fused.LSTMCell else torch.randn(5, 3, 4)
    with pytest.raises((NotImplementedError, torch.onnx.OnnxExporterError), match=r"lstm_fused\.onnx\.export"):
        torch.onnx.export(module if alone else nn.Sequential(module), (input,), io.BytesIO(), dynamo=dynamo)
