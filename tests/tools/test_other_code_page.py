"""docs/other-code.md: its table says what happens. Each row is one trial, made with ours, with ours as a subclass of
torch.nn.LSTM, and after revert. What it says of packages is tried by tests/packages."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from places import ROOT
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.flop_counter import FlopCounterMode

import lstm_fused

PAGE = ROOT / "docs" / "other-code.md"
HEAD = "| your code does this with the model | `convert(model)` | with `subclass=True` | after `revert(model)` |"
CHANGES: list[Callable[[nn.Module], nn.Module]] = [
    lstm_fused.convert,
    lambda model: lstm_fused.convert(model, subclass=True),
    lambda model: lstm_fused.revert(lstm_fused.convert(model)),
]
TRIALS: dict[str, Callable[[nn.Module], Any]] = {}


def trial(row: str) -> Callable[[Callable[[nn.Module], Any]], Callable[[nn.Module], Any]]:
    """Enters a function under the row's first cell. It raises where something does not work, or gives wrong numbers."""
    return lambda function: TRIALS.setdefault(row, function)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, num_layers=2, bidirectional=True)
        self.cell = nn.LSTMCell(12, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, input: Tensor) -> Tensor:
        output, _ = self.lstm(input)
        return self.head(self.cell(output[-1])[0])


class Single(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6)

    def forward(self, input: Tensor) -> Tensor:
        return self.lstm(input)[0]


def single(model: nn.Module) -> nn.Module:
    """A model of one LSTM, changed in the way that `model` was."""
    made = Single()
    made.lstm.__class__ = type(model.lstm)
    return made


def same(a: Callable[..., Any], b: Callable[..., Any], *sizes: tuple[int, int]) -> None:
    for steps, batch in sizes or ((5, 3), (7, 2)):
        input = torch.randn(steps, batch, 4)
        torch.testing.assert_close(a(input), b(input))


@trial("`isinstance(module, nn.LSTM)`, as in `model.apply(init)`")
def _(model: nn.Module) -> None:
    def init(module: nn.Module) -> None:
        if isinstance(module, (nn.LSTM, nn.LSTMCell)):
            for parameter in module.parameters():
                nn.init.constant_(parameter, 0.5)

    model.apply(init)
    assert all((p == 0.5).all() for part in (model.lstm, model.cell) for p in part.parameters())


@trial("`isinstance(module, nn.RNNBase)`")
def _(model: nn.Module) -> None:
    assert isinstance(model.lstm, nn.RNNBase)


@trial("`type(module) is nn.LSTM`, or a table with `nn.LSTM` as the key")
def _(model: nn.Module) -> None:
    assert {nn.LSTM: "found"}[type(model.lstm)]


@trial("`torch.compile(fullgraph=True)`")
def _(model: nn.Module) -> None:
    same(torch.compile(model, fullgraph=True, backend="aot_eager"), model)


@trial("`torch.jit.trace`, other T and B than those of the example")
def _(model: nn.Module) -> None:
    same(torch.jit.trace(model, torch.randn(5, 3, 4)), model)


@trial("`torch.jit.script`")
def _(model: nn.Module) -> None:
    same(torch.jit.script(model), model)


@trial("`torch.fx.symbolic_trace`")
def _(model: nn.Module) -> None:
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["lstm", "cell", "head"]
    same(traced, model)


@trial("`torch.ao.quantization.quantize_dynamic(model, {nn.LSTM})`")
def _(model: nn.Module) -> None:
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM})
    assert "quantized" in type(quantized.lstm).__module__
    torch.testing.assert_close(quantized(torch.ones(5, 3, 4)), model(torch.ones(5, 3, 4)), rtol=0.1, atol=0.05)


@trial("`torch.onnx.export(dynamo=True)`")
def _(model: nn.Module) -> None:
    model, input = single(model).eval(), torch.randn(5, 3, 4)
    program = torch.onnx.export(model, (input,), dynamo=True, verbose=False)
    torch.testing.assert_close(program(input)[0], model(input).detach())


@trial("`torch.onnx.export(dynamo=False)`")
def _(model: nn.Module) -> None:
    torch.onnx.export(single(model).eval(), (torch.randn(5, 3, 4),), io.BytesIO(), dynamo=False)


@trial("forward, pre-forward and full backward hooks")
def _(model: nn.Module) -> None:
    calls = []
    model.lstm.register_forward_pre_hook(lambda *_: calls.append("pre"))
    model.lstm.register_forward_hook(lambda *_: calls.append("forward"))
    model.lstm.register_full_backward_hook(lambda *_: calls.append("backward"))
    model(torch.randn(5, 3, 4, requires_grad=True)).sum().backward()
    assert calls == ["pre", "forward", "backward"]


@trial("`copy.deepcopy`, `AveragedModel`")
def _(model: nn.Module) -> None:
    same(copy.deepcopy(model), model)
    same(AveragedModel(model), model)


@trial("a checkpoint (`state_dict`) for `torch.nn.LSTM`, and one of it")
def _(model: nn.Module) -> None:
    plain = Tagger()
    plain.load_state_dict(model.state_dict())
    same(plain, model)
    model.load_state_dict(Tagger().state_dict())


def pickled(model: nn.Module) -> bytes:
    return pickle.dumps(model.lstm)


@trial("`pickle`, `torch.save(model)`, loaded where lstm_fused is installed")
def _(model: nn.Module) -> None:
    same(lambda x: pickle.loads(pickled(model))(x)[0], lambda x: model.lstm(x)[0])


@trial("the same, loaded where it is not")
def _(model: nn.Module) -> None:
    code = "import sys, pickle; sys.modules['lstm_fused'] = None; pickle.load(sys.stdin.buffer)"
    done = subprocess.run([sys.executable, "-c", code], input=pickled(model), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()


@trial("`nn.DataParallel`'s copies of a module")
def _(model: nn.Module) -> None:
    """As torch.nn.parallel.replicate makes them, which itself wants GPUs."""
    replica = model.lstm._replicate_for_data_parallel()
    for name, parameter in model.lstm.named_parameters():
        setattr(replica, name, parameter * 1)  # a copy that autograd knows
    output = replica(torch.randn(5, 3, 4))[0]
    output.sum().backward()
    assert all(p.grad is not None for p in model.lstm.parameters())


@trial("`module._flat_weights = ...`, as in meta-learning")
def _(model: nn.Module) -> None:
    weights = [(p * 2).detach() for p in model.lstm.parameters()]
    other = nn.LSTM(4, 6, num_layers=2, bidirectional=True)
    for parameter, weight in zip(other.parameters(), weights, strict=True):
        parameter.data = weight
    model.lstm._flat_weights = weights
    same(lambda x: model.lstm(x)[0], lambda x: other(x)[0])


@trial("`torch.utils.flop_counter.FlopCounterMode` counts the LSTM")
def _(model: nn.Module) -> None:
    with FlopCounterMode(display=False) as counter:
        single(model)(torch.randn(5, 3, 4))
    assert counter.get_total_flops() >= 2 * 5 * 3 * 24 * 10


@pytest.mark.filterwarnings("ignore")  # torch's about its own deprecations
@pytest.mark.parametrize("column", range(3), ids=["convert", "subclass", "revert"])
@pytest.mark.parametrize("row", TRIALS)
def test_the_table_says_what_happens(row: str, column: int) -> None:
    cells = {name: cells for name, *cells in rows(HEAD)}
    torch._dynamo.reset()
    try:
        TRIALS[row](CHANGES[column](Tagger()))
    except Exception as error:
        assert cells[row][column].startswith("no"), error
        assert ("what to do" in cells[row][column]) <= ("lstm_fused." in str(error)), error
    else:
        assert cells[row][column].startswith("yes")


def test_every_row_is_tried() -> None:
    assert [name for name, *_ in rows(HEAD)] == list(TRIALS)


def rows(head: str) -> list[list[str]]:
    """The cells of the lines below a table's head."""
    lines = PAGE.read_text().splitlines()
    begin = lines.index(head) + 2
    found = itertools.takewhile(lambda line: line.startswith("|"), lines[begin:])
    return [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in found]
