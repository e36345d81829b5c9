"""What lstm_fused.Stream refuses, and how it says so."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from cases import Case
from instruction_sets import needs_bytes
from streams import BAD_ROWS, BAD_STATES, BAD_X, make
from torch import nn

import lstm_fused
from lstm_fused import stream_weights


def of(**options) -> Callable[[], object]:
    """A stream of a module with these options."""
    stream = {name: options.pop(name) for name in ("batch", "weights", "activations") if name in options}
    return lambda: lstm_fused.Stream(lstm_fused.LSTM(5, 20, **options), **stream)


REFUSED = {
    "batch 0": (of(batch=0), ValueError, "batch: expected a whole number of at least 1, got 0"),
    "batch 1.0": (of(batch=1.0), ValueError, "batch: .* got 1.0"),
    "batch True": (of(batch=True), ValueError, "batch: .* got True"),
    "cell": (lambda: lstm_fused.Stream(lstm_fused.LSTMCell(5, 20)), TypeError, "lstm: expected .*, got LSTMCell"),
    "gru": (lambda: lstm_fused.Stream(nn.GRU(5, 20)), TypeError, "lstm: expected .*, got GRU"),
    "bidirectional": (of(bidirectional=True), ValueError, "lstm: expected one direction"),
    "dropout": (of(num_layers=2, dropout=0.5), ValueError, r"lstm: expected eval mode.* lstm.eval\(\)"),
    "bfloat16": (of(dtype=torch.bfloat16), ValueError, r"got torch.bfloat16; .* weights=torch.bfloat16"),
    "float16 weights": (of(weights=torch.float16), ValueError, "weights: expected None, .*int8 .* got torch.float16"),
    "float64 weights": (of(weights=torch.float64), ValueError, "weights: expected None, .* got torch.float64"),
    "int8 of float64": (
        of(weights=torch.int8, dtype=torch.float64),
        ValueError,
        "weights: expected None for .*float64",
    ),
    "int8 by float": (of(activations=torch.int8), ValueError, "activations: expected None, or .* got torch.int8"),
    "int8 by half": (of(weights=torch.int8, activations=torch.half), ValueError, "activations: .* got torch.float16"),
    "meta": (of(device="meta"), NotImplementedError, "lstm: a Stream is on the CPU or a GPU, and the module on meta"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:dropout")
def test_refused_when_made(name: str):
    make_it, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        make_it()


def test_numbers_that_int8_cannot_hold_are_refused():
    lstm = make(Case(1, 1, 5, 20))
    with torch.no_grad():
        lstm.weight_hh_l0[3, 4] = float("inf")
    lstm_fused.Stream(lstm, weights=torch.bfloat16)
    with pytest.raises(ValueError, match="weight_hh_l0 has numbers that are not finite"):
        lstm_fused.Stream(lstm, weights=torch.int8)


def test_products_of_bytes_need_their_instruction(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream_weights, "MULTIPLIES_BYTES", 0)
    with pytest.raises(ValueError, match=r"activations: torch.int8 needs a CPU with AVX2 or AVX512-VNNI"):
        of(weights=torch.int8, activations=torch.int8)()


@needs_bytes
def test_sums_of_bytes_are_bounded():
    long = lstm_fused.LSTM(2**16 + 1, 1)
    lstm_fused.Stream(long, weights=torch.int8)
    with pytest.raises(ValueError, match=r"activations: torch.int8 takes sizes up to 65536, got 65537"):
        lstm_fused.Stream(long, weights=torch.int8, activations=torch.int8)


@needs_bytes
def test_the_largest_sum_of_bytes_fits():
    """All weights and all activations at their ends: a sum of 65536 products, which saturates both gates."""
    lstm = lstm_fused.LSTM(2**16, 1, bias=False)
    with torch.no_grad():
        lstm.weight_ih_l0.fill_(1.0)
        lstm.weight_ih_l0[2].fill_(-1.0)
    stream = lstm_fused.Stream(lstm, 2, torch.int8, activations=torch.int8)
    x = torch.ones(2, 2**16)
    x[1] = -1
    stream(x)
    assert stream.state[1].flatten().tolist() == [-1.0, 0.0]  # c = i g: tanh(-65536), and a gate that is shut


def test_mixed_parameters_are_refused():
    lstm = make(Case(1, 1, 5, 20))
    lstm.weight_ih_l0 = nn.Parameter(lstm.weight_ih_l0.double())
    with pytest.raises(ValueError, match=r"got cpu, torch.float32, torch.float64"):
        lstm_fused.Stream(lstm)


@pytest.mark.parametrize("n", range(len(BAD_X)))
def test_bad_arguments_of_a_call(n: int):
    x, out, error, message = BAD_X[n]
    stream = lstm_fused.Stream(make(Case(1, 2, 5, 20)), 2)
    with pytest.raises(error, match=message):
        stream(x, out=out)
    assert not any(part.any() for part in stream.state)  # nothing ran


@pytest.mark.parametrize(("given", "error", "message"), BAD_STATES)
def test_bad_states(given: object, error: type[Exception], message: str):
    stream = lstm_fused.Stream(make(Case(1, 2, 5, 20)), 2)
    with pytest.raises(error, match=message):
        stream.state = given


@pytest.mark.parametrize(("rows", "error", "message"), BAD_ROWS)
def test_bad_rows(rows: object, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        lstm_fused.Stream(make(Case(1, 2, 5, 20)), 2).reset(rows)


def test_no_copies_no_pickles():
    stream = lstm_fused.Stream(make(Case(1, 2, 5, 20)))
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled: make another one"):
            attempt(stream)


def test_transforms_and_graphs_are_refused():
    stream = lstm_fused.Stream(make(Case(1, 1, 5, 20)))
    with pytest.raises(TypeError, match="not those of a transform"):
        torch.func.vmap(stream)(torch.zeros(3, 1, 5))


def test_a_compiled_function_calls_it_as_it_is():
    stream = lstm_fused.Stream(make(Case(1, 1, 5, 20)))
    x = torch.randn(3, 1, 5)
    expected = stream(x) + 1
    stream.reset()
    assert torch.equal(torch.compile(lambda x: stream(x) + 1, backend="eager")(x), expected)


def test_it_says_what_it_is():
    assert repr(of(weights=torch.int8, batch=2)()) == "Stream(LSTM(5, 20), batch=2, weights=torch.int8)"
