"""docs/pytorch.md: its table says what happens. Each row is one trial, made with our LSTM and with torch's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import lstm_fused
import lstm_fused.onnx

PAGE = Path(__file__).parents[1] / "docs" / "pytorch.md"
MODULES = [lstm_fused.LSTM, nn.LSTM]  # in the order of the table's columns
STEPS, ROWS = Dim("T"), Dim("B")
Make = Callable[..., nn.Module]
TRIALS: dict[str, Callable[[Make], Any]] = {}


def trial(row: str) -> Callable[[Callable[[Make], Any]], Callable[[Make], Any]]:
    """Enters a function under the row's first cell. It raises where something does not work, or gives wrong numbers."""
    return lambda function: TRIALS.setdefault(row, function)


class Ragged(nn.Module):
    """Rows that end early, as each module wants them."""

    def __init__(self, make: Make):
        super().__init__()
        self.lstm = make(5, 7)

    def forward(self, input: Tensor, lengths: Tensor) -> Tensor:
        if isinstance(self.lstm, lstm_fused.LSTM):
            return self.lstm(input, lengths=lengths)[0]
        packed = pack_padded_sequence(input, lengths, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], total_length=input.size(0))[0]


def ragged(steps: int, batch: int) -> tuple[Tensor, Tensor]:
    return torch.randn(steps, batch, 5), torch.arange(batch) % steps + 1


def agree(module: Callable[..., Any], other: Callable[..., Any], *args: Any) -> None:
    torch.testing.assert_close(module(*args), other(*args))


@trial("`torch.compile(fullgraph=True)`")
def _(make: Make) -> None:
    lstm = make(5, 7)
    agree(torch.compile(lstm, fullgraph=True, backend="aot_eager"), lstm, torch.randn(6, 3, 5))


@trial("the same with `torch._dynamo.config.allow_rnn` (experimental), training")
def _(make: Make) -> None:
    lstm = make(5, 7)
    with torch._dynamo.config.patch(allow_rnn=True):
        agree(torch.compile(lstm, fullgraph=True, backend="aot_eager"), lstm, torch.randn(6, 3, 5))


@trial("the same, inference")
@torch.no_grad()
def _(make: Make) -> None:
    lstm = make(5, 7)
    with torch._dynamo.config.patch(allow_rnn=True):
        agree(torch.compile(lstm, fullgraph=True, backend="aot_eager"), lstm, torch.randn(6, 3, 5))


@trial("the same, inference, one compilation for every T")
@torch.no_grad()
def _(make: Make) -> None:
    lstm = make(5, 7)
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(lstm, fullgraph=True, backend="aot_eager", dynamic=True)
        agree(compiled, lstm, torch.randn(6, 3, 5))
        with torch.compiler.set_stance("fail_on_recompile"):
            agree(compiled, lstm, torch.randn(9, 3, 5))


@trial("`torch.compile`, rows that end early")
def _(make: Make) -> None:
    model = Ragged(make)
    agree(torch.compile(model, fullgraph=True, backend="aot_eager"), model, *ragged(6, 3))


@trial("`torch.compile`, `PackedSequence` in and out")
def _(make: Make) -> None:
    lstm = make(5, 7)
    packed = pack_sequence([torch.randn(length, 5) for length in (2, 4)], enforce_sorted=False)
    assert isinstance(lstm(packed)[0], PackedSequence)
    agree(torch.compile(lstm, fullgraph=True, backend="aot_eager"), lstm, packed)


@trial("`torch.export`, fixed sizes")
def _(make: Make) -> None:
    lstm, input = make(5, 7).eval(), torch.randn(6, 3, 5)
    agree(torch.export.export(lstm, (input,)).module(), lstm, input)


@trial("`torch.export`, any B")
def _(make: Make) -> None:
    lstm = make(5, 7).eval()
    program = torch.export.export(lstm, (torch.randn(6, 3, 5),), dynamic_shapes=({1: ROWS},))
    agree(program.module(), lstm, torch.randn(6, 9, 5))


@trial("`torch.export`, any T")
def _(make: Make) -> None:
    lstm = make(5, 7).eval()
    program = torch.export.export(lstm, (torch.randn(6, 3, 5),), dynamic_shapes=({0: STEPS},))
    agree(program.module(), lstm, torch.randn(9, 3, 5))


@trial("`torch.export`, rows that end early")
def _(make: Make) -> None:
    model = Ragged(make).eval()
    agree(torch.export.export(model, ragged(6, 3)).module(), model, *ragged(6, 3))


@trial("ONNX's LSTM operator (`dynamo=True`)")
def _(make: Make) -> None:
    lstm, args = make(5, 7).eval(), (torch.randn(6, 3, 5),)
    export = lstm_fused.onnx.export if make is lstm_fused.LSTM else torch.onnx.export
    program = export(lstm, args, verbose=False)
    assert "LSTM" in [node.op_type for node in program.model.graph]
    torch.testing.assert_close(program(*args)[0], lstm(*args)[0].detach())


@trial("the same operator, any T")
def _(make: Make) -> None:
    lstm, shapes = make(5, 7).eval(), ({0: STEPS},)
    export = lstm_fused.onnx.export if make is lstm_fused.LSTM else torch.onnx.export
    program = export(lstm, (torch.randn(6, 3, 5),), dynamic_shapes=shapes, verbose=False)
    longer = torch.randn(9, 3, 5)
    torch.testing.assert_close(program(longer)[0], lstm(longer)[0].detach())


@pytest.mark.slow  # all of it together
@pytest.mark.parametrize("column", [0, 1], ids=["lstm_fused", "torch"])
@pytest.mark.parametrize("row", TRIALS)
def test_the_table_says_what_happens(row: str, column: int) -> None:
    cells = {name: cells for name, *cells in map(split, PAGE.read_text().splitlines())}
    torch._dynamo.reset()
    try:
        TRIALS[row](MODULES[column])
    except Exception as error:
        assert cells[row][column].startswith("no"), error
    else:
        assert cells[row][column].startswith("yes")


def split(line: str) -> list[str]:
    """The cells of a table's line; of any other line something that is no row's name."""
    return [cell.strip() for cell in line.strip("|").split(" | ")]
