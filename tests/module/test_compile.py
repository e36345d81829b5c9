"""torch.compile: one graph, for every length and batch, with the results and gradients of the eager call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._inductor.config
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import lstm_fused

EVERYTHING = {"num_layers": 2, "bidirectional": True, "dropout": 0.5, "proj_size": 3}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch_first": {"batch_first": True},
    "everything": EVERYTHING,
    "packed": {},
    "packed, everything": EVERYTHING,
}
# T, B. Those of the first call are no size of the model: torch takes equal sizes for one and the same.
SIZES = [(9, 6), (13, 8), (12, 2), (2, 10), (3, 3)]


class Model(nn.Module):
    """A tagger, as LSTMs are found in models."""

    def __init__(self, **options: Any):
        super().__init__()
        self.embedding = nn.Embedding(11, 5)
        self.lstm = lstm_fused.LSTM(5, 7, **options)
        self.head = nn.Linear((2 if self.lstm.bidirectional else 1) * (self.lstm.proj_size or 7), 4)

    def forward(self, tokens: Tensor | PackedSequence, hx: Any = None, **extras: Any) -> tuple[Any, ...]:
        if isinstance(tokens, PackedSequence):
            embedded = PackedSequence(self.embedding(tokens.data), *tokens[1:])
            output, hx, *cells = self.lstm(embedded, hx, **extras)
            data, *layout = output  # Dynamo of torch 2.12 finds no field of it by name
            return PackedSequence(self.head(data), *layout), *hx, *cells
        output, hx, *cells = self.lstm(self.embedding(tokens), hx, **extras)
        return self.head(output), *hx, *cells


def call(form: str, steps: int, batch: int, device: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a model of this form, drawn at random."""
    lengths = torch.arange(batch) % steps + 1
    lengths[-1] = steps
    shape = (batch, steps) if form == "batch_first" else (steps, batch)
    tokens = torch.randint(0, 11, shape, device=device)
    reset = (torch.rand(shape) < 0.3).to(device)
    hx = torch.randn(4, batch, 3, device=device), torch.randn(4, batch, 7, device=device)
    if form == "plain":
        return (tokens,), {}
    if form == "batch_first":
        return (tokens,), {"lengths": lengths, "reset": reset, "return_cells": True}
    if form == "everything":
        return (tokens, hx), {"lengths": lengths, "reset": reset, "return_cells": True}
    packed = pack_padded_sequence(tokens, lengths, enforce_sorted=False)
    return ((packed,), {}) if form == "packed" else ((packed, hx), {"reset": reset, "return_cells": True})


def tensors(results: tuple[Any, ...]) -> list[Tensor]:
    assert all(isinstance(result, Tensor | PackedSequence) for result in results)
    return [result.data if isinstance(result, PackedSequence) else result for result in results]


def same(form: str, device: str, backend: str, training: bool, dynamic: bool | None = None) -> None:
    """A compiled model against itself: two compilations at most, none with `dynamic` after the first call."""
    model = Model(**FORMS[form]).to(device).train(training)
    compiled = torch.compile(model, fullgraph=True, backend=backend, dynamic=dynamic)
    for n, sizes in enumerate(SIZES):
        args, kwargs = call(form, *sizes, device)
        both = []
        for function in (model, compiled):
            may_compile = function is model or n < (1 if dynamic else 2)
            torch.manual_seed(0)
            with (
                torch.compiler.set_stance("default" if may_compile else "fail_on_recompile"),
                torch.set_grad_enabled(training),
            ):
                results = function(*args, **kwargs)
            gradients = []
            if training:
                loss = sum(result.square().sum() for result in tensors(results))
                gradients = torch.autograd.grad(loss, list(model.parameters()))
            both.append((results, gradients))
        (expected, gradients), (results, own_gradients) = both
        for a, b in zip(results, expected, strict=True):
            assert type(a) is type(b)
        torch.testing.assert_close(results, expected)
        torch.testing.assert_close(own_gradients, gradients)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == (1 if dynamic else 2)
    assert not counters["graph_break"]


@pytest.fixture(autouse=True)
def start_anew() -> Iterator[None]:
    """Nothing compiled before counts, and dropout draws as in eager mode."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._inductor.config.patch(fallback_random=True):
        yield


FULL = ("everything", "packed, everything")


def is_quick(form: str, backend: str, training: bool) -> bool:
    """The other cases are slow together, inductor's each for itself."""
    return (backend, training) == ("eager", False) or (form in FULL and (backend, training) == ("aot_eager", True))


CASES = [
    pytest.param(form, backend, training, marks=() if is_quick(form, backend, training) else pytest.mark.slow)
    for form in FORMS
    for backend in ("eager", "aot_eager", "inductor")
    for training in (True, False)
    if backend != "inductor" or form in ("batch_first", *FULL)
]


@pytest.mark.parametrize(("form", "backend", "training"), CASES)
def test_one_graph_for_all_sizes(form: str, backend: str, training: bool, device: str) -> None:
    same(form, device, backend, training, dynamic=backend == "inductor" or None)


def test_inductor(device: str) -> None:
    """One of the above that is not slow."""
    same("plain", device, "inductor", training=True, dynamic=True)


@pytest.mark.parametrize(
    "backend", ["eager", *(pytest.param(b, marks=pytest.mark.slow) for b in ("aot_eager", "inductor"))]
)
def test_states_of_another_batch_than_the_packed_one(backend: str, device: str) -> None:
    """Only the data tell how many rows a PackedSequence has: what is compiled looks at each call, too."""
    lstm = lstm_fused.LSTM(5, 7, device=device)
    compiled = torch.compile(lstm, fullgraph=True, backend=backend, dynamic=True)
    packed = pack_sequence([torch.randn(length, 5, device=device) for length in (4, 2, 1)])

    def states(batch: int) -> tuple[Tensor, Tensor]:
        return torch.randn(1, batch, 7, device=device), torch.randn(1, batch, 7, device=device)

    hx = states(3)
    torch.testing.assert_close(compiled(packed, hx), lstm(packed, hx))
    for batch in (2, 4):
        with pytest.raises(RuntimeError):
            compiled(packed, states(batch))


def test_errors_are_those_of_the_eager_call(device: str) -> None:
    compiled = torch.compile(lstm_fused.LSTM(5, 7, device=device), backend="eager")
    input = torch.randn(4, 3, 5, device=device)
    for args, kwargs, says in [
        ((input[..., :4],), {}, "input.size"),
        ((input.double(),), {}, "dtype"),
        ((input,), {"lengths": torch.ones(2, dtype=torch.int64)}, "lengths: expected size"),
        ((input,), {"reset": torch.zeros(4, 3)}, "reset: expected a bool tensor"),
    ]:
        with pytest.raises((RuntimeError, ValueError, TypeError), match=says):
            compiled(*args, **kwargs)


def test_values_of_lengths_are_checked() -> None:
    """By the operator, on the CPU; a GPU clamps them, compiled or not."""
    compiled = torch.compile(lstm_fused.LSTM(5, 7), fullgraph=True, backend="aot_eager")
    input = torch.randn(4, 3, 5)
    for wrong in (-1, 5):
        with pytest.raises(RuntimeError, match=f"lengths must lie in .*got {wrong}"):
            compiled(input, lengths=torch.tensor([1, wrong, 4]))


def test_a_cell(device: str) -> None:
    cell = lstm_fused.LSTMCell(5, 7, device=device)
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (3, 5, 2):
        input = torch.randn(batch, 5, device=device)
        states = cell(input)
        torch.testing.assert_close(compiled(input), states)
        torch.testing.assert_close(compiled(input, states), cell(input, states))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # without states, with them


@pytest.mark.parametrize("form", ["plain", "everything"])
def test_a_training_step_computes_forward_once(form: str) -> None:
    """It keeps what backward needs, unlike an exported program, which is seldom trained: torch may confuse the two."""
    compiled = torch.compile(Model(**FORMS[form]), fullgraph=True, backend="aot_eager")
    args, kwargs = call(form, 9, 6, "cpu")
    compiled(*args, **kwargs)
    with torch.autograd.profiler.profile() as profile:
        compiled(*args, **kwargs)[0].sum().backward()
    names = [event.name for event in profile.function_events]
    assert [names.count(f"lstm_fused::{op}") for op in ("forward", "backward")] == [1, 1]
