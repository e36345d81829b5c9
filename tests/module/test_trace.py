"""torch.jit.trace: one trace, saved and loaded, for every length and batch, with the numbers of the module."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import lstm_fused
from lstm_fused import _library

RICH = {"num_layers": 2, "bidirectional": True, "proj_size": 3}
EXTRAS = {"lengths", "reset", "return_cells"}
# Options of the module, and what the call has beside the input.
FORMS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "plain": ({}, set()),
    "no bias": ({"bias": False, "num_layers": 2}, {"hx"}),
    "batch_first": ({"batch_first": True, "bidirectional": True}, {"hx", *EXTRAS}),
    "rich": (RICH, {"hx", *EXTRAS}),
    "states of zeros": (RICH, {"lengths"}),
    "unbatched": (RICH, {"unbatched", "hx", *EXTRAS}),
    "unbatched, plain": ({}, {"unbatched"}),
    "packed": ({}, {"packed"}),
    "packed, in order": (RICH, {"packed", "in order"}),
    "packed, rich": (RICH, {"packed", "hx", "reset", "return_cells"}),
    "packed, in order, rich": (RICH | {"batch_first": True}, {"packed", "in order", "hx", "reset", "return_cells"}),
}
DEPRECATION = (DeprecationWarning, FutureWarning)  # of torch.jit, before torch 2.14 and since
SIZES = [(9, 2), (4, 7), (6, 1), (1, 5), (1, 1)]  # T, B; the trace is made of (5, 3), and of rows that are all full


class Model(nn.Module):
    def __init__(self, extras: set[str], options: dict[str, Any]):
        super().__init__()
        self.lstm = lstm_fused.LSTM(4, 7, **options)
        self.extras = extras

    def forward(self, input: Tensor, h_0: Tensor, c_0: Tensor, lengths: Tensor, reset: Tensor) -> tuple[Tensor, ...]:
        extras, batch_first = self.extras, self.lstm.batch_first
        call: dict[str, Any] = {"hx": (h_0, c_0)} if "hx" in extras else {}
        call |= {"return_cells": True} if "return_cells" in extras else {}
        call |= {"reset": reset} if "reset" in extras else {}
        if "packed" not in extras:
            call |= {"lengths": lengths} if "lengths" in extras else {}
            output, states, *cells = self.lstm(input, **call)
            return output, *states, *cells
        packed = pack_padded_sequence(input, lengths, batch_first, enforce_sorted="in order" in extras)
        output, states, *cells = self.lstm(packed, **call)
        return pad_packed_sequence(output)[0], *states, *(pad_packed_sequence(c)[0] for c in cells)


def arguments(model: Model, steps: int, batch: int, full: bool = False) -> tuple[Tensor, ...]:
    lstm = model.lstm
    states = lstm.num_layers * (2 if lstm.bidirectional else 1)
    input, reset = torch.randn(steps, batch, 4), torch.rand(steps, batch) < 0.3
    hx = torch.randn(states, batch, lstm.proj_size or 7), torch.randn(states, batch, 7)
    lengths = torch.full((batch,), steps) if full else steps - torch.arange(batch) % steps
    if "in order" in model.extras:
        lengths = lengths.sort(descending=True).values
    if "unbatched" in model.extras:
        return input[:, 0], hx[0][:, 0], hx[1][:, 0], lengths[0], reset[:, 0]
    if lstm.batch_first:
        input, reset = input.transpose(0, 1), reset.t()
    return input, *hx, lengths, reset


def saved_and_loaded(traced: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    return torch.jit.load(file)


def gradients(module: nn.Module, args: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Of the parameters, and of input and states where the call uses them."""
    args = tuple(t.detach().requires_grad_(t.is_floating_point()) for t in args)
    leaves = dict(module.named_parameters()) | {"input": args[0], "h_0": args[1], "c_0": args[2]}
    loss = sum(result.square().sum() for result in module(*args))
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(leaves, found, strict=True) if gradient is not None}


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with pytest.warns() as caught:
        yield
    assert not [str(w.message) for w in caught if not issubclass(w.category, DEPRECATION)]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_one_trace_for_all_sizes(form: str, grad: bool) -> None:
    options, extras = FORMS[form]
    model = Model(extras, options)
    with torch.set_grad_enabled(grad):
        traced = saved_and_loaded(torch.jit.trace(model, arguments(model, 5, 3, full=True), check_trace=True))
    for sizes in SIZES:
        args = arguments(model, *sizes)
        torch.testing.assert_close(traced(*args), model(*args))
        torch.testing.assert_close(gradients(traced, args), gradients(model, args))


@pytest.mark.parametrize("form", ["rich", "packed, rich"])
def test_frozen(form: str) -> None:
    """Weights that are not trained, and weights that have become constants."""
    options, extras = FORMS[form]
    model = Model(extras, options).eval().requires_grad_(False)
    traced = torch.jit.trace(model, arguments(model, 5, 3, full=True))
    frozen = saved_and_loaded(torch.jit.freeze(traced))
    assert not list(frozen.named_parameters())
    for sizes in SIZES:
        args = arguments(model, *sizes)
        for ours in (traced, frozen):
            torch.testing.assert_close(ours(*args), model(*args))


def test_dropout_is_drawn_anew() -> None:
    model = Model({"packed"}, RICH | {"dropout": 0.5})
    traced = torch.jit.trace(model, arguments(model, 5, 3, full=True), check_trace=False)
    args = arguments(model, 9, 4)
    results = []
    for module, seed in ((model, 1), (traced, 1), (traced, 2)):
        torch.manual_seed(seed)
        results.append(module(*args))
    torch.testing.assert_close(results[1], results[0])
    assert not torch.equal(results[2][0], results[1][0])


def test_under_another_default_device() -> None:
    options, extras = FORMS["packed, rich"]
    model = Model(extras, options)
    args = arguments(model, 6, 4)
    with torch.device("meta"):
        traced = torch.jit.trace(model, tuple(arg.clone() for arg in args))
        torch.testing.assert_close(traced(*args), model(*args))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_a_cell(batched: bool, grad: bool) -> None:
    cell = lstm_fused.LSTMCell(4, 7)

    def call(batch: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        rows = (batch,) if batched else ()
        return torch.randn(*rows, 4), (torch.randn(*rows, 7), torch.randn(*rows, 7))

    with torch.set_grad_enabled(grad):
        for with_states in (True, False):
            traced = saved_and_loaded(torch.jit.trace(cell, call(3) if with_states else call(3)[:1]))
            for batch in (1, 5):
                args = call(batch) if with_states else call(batch)[:1]
                torch.testing.assert_close(traced(*args), cell(*args))
    (gradient,) = torch.autograd.grad(traced(*args)[0].sum(), traced.weight_ih)
    torch.testing.assert_close(gradient, torch.autograd.grad(cell(*args)[0].sum(), cell.weight_ih)[0])


class OfTensors(nn.Module):
    """A PackedSequence is no argument of a trace; its tensors are."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = lstm_fused.LSTM(4, 7)

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.lstm(PackedSequence(*tensors))[0].data


@pytest.mark.parametrize("batch_sizes", [[3, 1, 3], [4, 3, 0], [4, 4, -1], [3, 3], [3, 3, 3]], ids=str)
def test_malformed_packed_rows(batch_sizes: list[int]) -> None:
    """When it runs; the trace was made of good ones."""
    traced = torch.jit.trace(OfTensors(), (torch.randn(6, 4), torch.tensor([3, 2, 1])))
    traced(torch.randn(7, 4), torch.tensor([4, 2, 1]))
    with pytest.raises(RuntimeError, match="batch_sizes do not fit"):
        traced(torch.randn(7, 4), torch.tensor(batch_sizes))


def test_bad_lengths() -> None:
    model = Model(*FORMS["rich"][::-1])
    traced = torch.jit.trace(model, arguments(model, 5, 3, full=True))
    input, h_0, c_0, lengths, reset = arguments(model, 5, 3)
    for wrong in (lengths + 1, lengths - 6):
        with pytest.raises(RuntimeError, match="lengths must lie in"):
            traced(input, h_0, c_0, wrong, reset)


ALONE = """
import sys, torch
library, *files = sys.argv[1:]
torch.ops.load_library(library)
for file in files:
    traced, (args, expected) = torch.jit.load(file), torch.load(file + ".tensors")
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(traced(*args), expected)
assert "lstm_fused" not in sys.modules
print("ran", len(files))
"""


def test_with_the_library_alone(tmp_path: Path) -> None:
    """All that a C++ program has: no Python of ours."""
    files = []
    for n, form in enumerate(("rich", "packed, rich", "states of zeros")):
        options, extras = FORMS[form]
        model = Model(extras, options)
        args = arguments(model, 6, 4)
        file = str(tmp_path / f"{n}.pt")
        torch.jit.trace(model, arguments(model, 5, 3, full=True)).save(file)
        torch.save((args, tuple(t.detach() for t in model(*args))), file + ".tensors")
        files.append(file)
    command = [sys.executable, "-c", ALONE, str(_library.PATH), *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "ran 3\n", done.stderr
