"""What lstm_fused.Stream refuses, and how it says so."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from cases import Case
from instruction_sets import needs_bytes
from test_stream import make
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
    "meta": (of(device="meta"), NotImplementedError, "lstm: a Stream is on the CPU, and the module on meta"),
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
    with pytest.raises(ValueError, match=r"activations: torch.int8 needs a CPU with AVX512-VNNI"):
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


BAD_X = [
    ([[0.0] * 5] * 2, None, TypeError, "x: expected a torch.Tensor, got list"),
    (torch.zeros(2, 5, dtype=torch.float64), None, TypeError, "x: expected torch.float32, got torch.float64"),
    (torch.zeros(2, 5, device="meta"), None, ValueError, "x: expected a tensor on the CPU, got one on meta"),
    (torch.zeros(2, 5).to_sparse(), None, TypeError, "x: expected a dense tensor, got torch.sparse_coo"),
    (torch.zeros(5), None, ValueError, r"x: expected shape \(2, 5\) or \(T, 2, 5\), got \(5,\)"),
    (torch.zeros(1, 1, 2, 5), None, ValueError, "x: expected shape"),
    (torch.zeros(3, 5), None, ValueError, r"x: .* got \(3, 5\)"),
    (torch.zeros(2, 6), None, ValueError, r"x: .* got \(2, 6\)"),
    (torch.zeros(2, 3, 5), None, ValueError, r"x: .* got \(2, 3, 5\)"),
    (torch.zeros(0, 2, 5), None, ValueError, "x: expected at least one step"),
    (torch.zeros(2, 5), torch.zeros(2, 5), ValueError, r"out: expected shape \(2, 20\), got \(2, 5\)"),
    (torch.zeros(3, 2, 5), torch.zeros(2, 20), ValueError, r"out: expected shape \(3, 2, 20\)"),
    (torch.zeros(3, 2, 5), torch.zeros(4, 2, 20), ValueError, r"out: expected shape \(3, 2, 20\)"),
    (torch.zeros(2, 5), torch.zeros(2, 20, dtype=torch.float64), TypeError, "out: expected torch.float32"),
    (torch.zeros(2, 5), torch.zeros(20, 2).t(), ValueError, "out: expected a contiguous tensor, got strides"),
    (torch.zeros(2, 5), torch.zeros(2, 20, device="meta"), ValueError, "out: expected a tensor on the CPU"),
    (torch.zeros(2, 5), [0], TypeError, "out: expected a torch.Tensor, got list"),
]


@pytest.mark.parametrize("n", range(len(BAD_X)))
def test_bad_arguments_of_a_call(n: int):
    x, out, error, message = BAD_X[n]
    stream = lstm_fused.Stream(make(Case(1, 2, 5, 20)), 2)
    with pytest.raises(error, match=message):
        stream(x, out=out)
    assert not any(part.any() for part in stream.state)  # nothing ran


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (torch.zeros(1, 2, 20), TypeError, r"state: expected \(h, c\) or None, got Tensor"),
        ((torch.zeros(1, 2, 20),), TypeError, "state: expected"),
        ((torch.zeros(1, 2, 20), None), TypeError, "state: c: expected a torch.Tensor, got NoneType"),
        ((torch.zeros(2, 20), torch.zeros(2, 20)), ValueError, r"state: h: expected shape \(1, 2, 20\)"),
        ((torch.zeros(1, 2, 20), torch.zeros(1, 2, 20).double()), TypeError, "state: c: expected torch.float32"),
    ],
)
def test_bad_states(given: object, error: type[Exception], message: str):
    stream = lstm_fused.Stream(make(Case(1, 2, 5, 20)), 2)
    with pytest.raises(error, match=message):
        stream.state = given


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (2, ValueError, "rows: expected numbers from 0 to 1, got"),
        ([-1], ValueError, "rows: expected numbers from 0 to 1"),
        ([True], ValueError, r"rows: expected a mask of shape \(2,\), got \(1,\)"),
        (torch.ones(1, 2, dtype=torch.bool), ValueError, "rows: expected a mask"),
        ([0.5], TypeError, "rows: expected a bool mask or whole numbers"),
    ],
)
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
