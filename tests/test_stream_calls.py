"""A call of lstm_fused.Stream: its buffers, weights that change, threads, and what it refuses."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from cases import Case
from test_cpu import at_once
from test_stream import BYTES, WIDTHS, cut, make, needs_bytes, stream_of
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import lstm_fused
from lstm_fused import stream_weights

# Buffers


def test_out_is_written_and_returned():
    lstm, x = make(Case(1, 2, 5, 20)), torch.randn(3, 2, 5)
    expected = lstm_fused.Stream(lstm, 2)(x)
    stream, chunk, step = lstm_fused.Stream(lstm, 2), torch.full((2, 2, 20), 7.0), torch.full((2, 20), 7.0)
    version = chunk._version
    assert stream(x[:2], out=chunk) is chunk and torch.equal(chunk, expected[:2])
    assert chunk._version > version
    assert stream(x[2], out=step) is step and torch.equal(step, expected[2])
    kept = stream(x[2])
    before = kept.clone()
    stream(x[1])
    assert torch.equal(kept, before)  # a result that is not `out` is the caller's


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_out_may_overlap_x(shift: int):
    """At the same place, as of a map from H to H whose output is its next input, or at another one."""
    lstm, memory = make(Case(1, 1, 20, 20)), torch.randn(50, 1, 20)
    x, out = memory[1:49], memory[1 + shift : 49 + shift]
    expected = lstm_fused.Stream(lstm)(x.clone())
    assert torch.equal(lstm_fused.Stream(lstm)(x, out=out), expected)


def test_x_of_any_form():
    """In any memory order, negated, of a subclass, requiring gradients, in inference mode."""
    lstm, x = make(Case(1, 3, 4, 20)), torch.randn(5, 3, 4)
    expected = lstm_fused.Stream(lstm, 3)(x)

    class Marked(Tensor):
        pass

    forms = [
        x.transpose(0, 1).contiguous().transpose(0, 1),
        torch.cat([x, x], -1)[..., :4],
        torch.stack([x, x], -1)[..., 0],
        torch.conj(torch.complex(x, -x)).imag,
        x.as_subclass(Marked),
        nn.Parameter(x),
        x.clone().requires_grad_() * 1,
    ]
    with torch.inference_mode():
        forms.append(x.clone())
        assert torch.equal(lstm_fused.Stream(lstm, 3)(x), expected)
    for form in forms:
        result = lstm_fused.Stream(lstm, 3)(form)
        assert torch.equal(result, expected) and not result.requires_grad
    one = make(Case(1, 1, 1, 20))
    negated = torch.conj(torch.complex(torch.zeros(1, 1), torch.ones(1, 1))).imag
    assert negated.is_neg()
    assert torch.equal(lstm_fused.Stream(one)(negated), lstm_fused.Stream(one)(-torch.ones(1, 1)))


# Weights that change


def test_changed_weights_are_noticed_once_and_taken_by_refresh():
    lstm, x = make(Case(1, 1, 5, 20)), torch.randn(1, 5)
    stream = lstm_fused.Stream(lstm)
    first = stream(x)
    assert not stream.stale
    with torch.no_grad():
        lstm.weight_hh_l0.mul_(2)
        lstm.bias_ih_l0.add_(1)
    assert stream.stale
    stream.reset()
    with pytest.warns(UserWarning, match="parameters have changed since they were packed"):
        assert torch.equal(stream(x), first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream(x)
        with torch.no_grad():
            lstm.weight_hh_l0.mul_(2)
        stream(x)
        state = stream.state
        stream.refresh()
        assert not stream.stale and all(map(torch.equal, stream.state, state))
        stream.reset()
        second = stream(x)
    with torch.no_grad():
        torch.testing.assert_close(second, lstm(x.unsqueeze(0))[0][0])
    with torch.no_grad():
        lstm.weight_ih_l0.zero_()
    with pytest.warns(UserWarning, match="refresh"):
        stream(x)


CHANGES: dict[str, Callable[[nn.LSTM], object]] = {
    "in place": lambda lstm: lstm.weight_ih_l0.detach().add_(1),
    "replaced": lambda lstm: setattr(lstm, "weight_ih_l0", nn.Parameter(lstm.weight_ih_l0.detach() + 1)),
    "moved": lambda lstm: setattr(lstm.weight_ih_l0, "data", lstm.weight_ih_l0.data + 1),
    "loaded": lambda lstm: lstm.load_state_dict({n: w + 1 for n, w in lstm.state_dict().items()}),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cls", [lstm_fused.LSTM, nn.LSTM])
def test_every_way_to_change_a_weight_is_noticed(cls: type, change: str):
    lstm, x = cls(5, 20), torch.randn(1, 5)
    stream = lstm_fused.Stream(lstm)
    stream(x)
    CHANGES[change](lstm)
    assert stream.stale
    with pytest.warns(UserWarning, match="refresh"):
        stream(x)
    stream.refresh()
    stream.reset()
    with torch.no_grad():
        torch.testing.assert_close(stream(x), lstm(x.unsqueeze(0))[0][0])


def test_computed_weights():
    """Of a parametrized module, what they are computed from is watched."""
    lstm, x = weight_norm(make(Case(1, 1, 5, 20)), "weight_hh_l0"), torch.randn(3, 1, 5)
    stream = lstm_fused.Stream(lstm)
    with torch.no_grad():
        torch.testing.assert_close(stream(x), lstm(x)[0])
        lstm.parametrizations.weight_hh_l0.original0.mul_(2)
        stream.refresh()
        stream.reset()
        torch.testing.assert_close(stream(x), lstm(x)[0])


def test_a_module_that_has_become_another_one():
    lstm, x = make(Case(1, 1, 5, 20)), torch.randn(1, 5)
    stream = lstm_fused.Stream(lstm)
    lstm.double()
    for call in (lambda: stream(x), stream.refresh):
        with pytest.raises(ValueError, match=r"lstm: expected .*float32.* it is now .*float64"):
            call()
    lstm.float()
    lstm.weight_ih_l0 = nn.Parameter(torch.zeros(80, 6))
    with pytest.raises(ValueError, match=r"LSTM\(5, 20\).* now .*LSTM\(6, 20\)"):
        stream(x)
    lstm.to("meta")
    with pytest.raises(ValueError, match=r"now .* on meta"):
        stream(x)


def test_streams_of_a_module_share_its_weights():
    lstm = make(Case(1, 1, 5, 20))
    a, b, c = (lstm_fused.Stream(lstm, batch, dtype) for batch, dtype in ((1, None), (3, None), (1, torch.int8)))
    assert a._packed is b._packed and a._packed is not c._packed
    with torch.no_grad():
        lstm.weight_hh_l0.add_(1)
    b.refresh()
    assert a._packed is not b._packed and a.stale and not b.stale


# Threads


@pytest.mark.parametrize("number_of_threads", [1, 2])
@pytest.mark.parametrize("width", [*WIDTHS, BYTES], ids=str)
def test_threads_with_streams_of_their_own(width: torch.dtype | str | None, number_of_threads: int, threads):
    threads(number_of_threads)
    lstm, x = make(Case(1, 1, 24, 196, num_layers=2)), torch.randn(8, 30, 1, 24)
    alone = [stream_of(lstm, 1, width)(x[n]) for n in range(8)]

    def run(n: int) -> Tensor:
        torch.set_num_threads(number_of_threads)
        return cut(stream_of(lstm, 1, width), x[n], [1, 4])

    assert all(map(torch.equal, at_once(8, run), alone))


def test_one_stream_serves_one_thread_at_a_time():
    """Whoever comes while another is inside is told so, and disturbs nothing."""
    lstm, x = make(Case(1, 1, 8, 40)), torch.randn(9, 1, 8)
    stream = lstm_fused.Stream(lstm)
    expected = stream(x)
    stream.reset()
    stream(x[:4])

    def use(n: int) -> str:
        uses = [lambda: stream(x), stream.reset, lambda: stream.state, lambda: setattr(stream, "state", None)]
        with pytest.raises(RuntimeError) as caught:
            [*uses, stream.refresh][n]()
        return str(caught.value)

    with stream._turn():
        assert all("another thread is using it" in text for text in at_once(5, use))
    assert torch.equal(stream(x[4:]), expected[4:])


def test_python_runs_while_a_long_call_does():
    """As in test_cpu.py."""
    lstm, x = make(Case(1, 1, 8, 512)), torch.randn(500, 1, 8)
    stream = lstm_fused.Stream(lstm)

    def looks_into() -> bool:
        begun, ended = threading.Event(), False

        def caller() -> None:
            nonlocal ended
            begun.set()
            stream(x)
            ended = True

        thread = threading.Thread(target=caller)
        thread.start()
        begun.wait()
        inside = not ended
        thread.join()
        return inside

    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        assert sum(looks_into() for _ in range(20)) > 10  # a few might happen before the call
    finally:
        sys.setswitchinterval(before)


# Bad input


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
