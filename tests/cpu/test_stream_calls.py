"""A call of lstm_fused.Stream: its buffers, weights that change, and threads."""

from __future__ import annotations

import warnings

import pytest
import torch
from cases import Case
from python_lock import lets_python_run
from streams import CHANGES, cut, make
from test_cpu import at_once
from test_stream import BYTES, WIDTHS, stream_of
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import lstm_fused

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
    assert a._engine.packed is b._engine.packed and a._engine.packed is not c._engine.packed
    with torch.no_grad():
        lstm.weight_hh_l0.add_(1)
    b.refresh()
    assert a._engine.packed is not b._engine.packed and a.stale and not b.stale


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

    with stream._engine.turn():
        assert all("another thread is using it" in text for text in at_once(5, use))
    assert torch.equal(stream(x[4:]), expected[4:])


def test_python_runs_while_a_long_call_does():
    lstm, x = make(Case(1, 1, 8, 512)), torch.randn(500, 1, 8)
    stream = lstm_fused.Stream(lstm)
    assert lets_python_run(lambda: stream(x))
