"""lstm_fused.Stream of a module on a GPU, without one: a call, its state, weights that change, and what it refuses."""

from __future__ import annotations

import copy
import gc
import operator
import pickle
import threading
import warnings
import weakref
from collections.abc import Callable

import pytest
import torch
from cases import Case
from simulated import Simulator
from streams import BAD_ROWS, BAD_STATES, BAD_X, CHANGES, ROWS, cut, make
from tapes import graphs_of, on_tapes
from torch import Tensor, nn

import lstm_fused
from lstm_fused import ops

SMALL = Case(1, 2, 5, 20)

# State


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(("rows", "which"), ROWS, ids=str)
def test_reset_of_rows(simulator: Simulator, rows: object, which: list[int], given: bool) -> None:
    lstm, x = make(Case(4, 4, 5, 20, num_layers=2)), torch.randn(3, 4, 5)
    start = torch.randn(2, 4, 20).clamp(-1, 1), torch.randn(2, 4, 20)
    with on_tapes(simulator):
        stream = lstm_fused.Stream(lstm, 4)
        if given:
            stream.state = start
        first = stream(x)
        stream(x[:2])  # somewhere else
        elsewhere = stream.state
        stream.reset(rows)
        others = [row for row in range(4) if row not in which]
        for now, then in zip(stream.state, elsewhere):
            assert torch.equal(now[:, others], then[:, others])
        assert torch.equal(stream(x)[:, which], first[:, which])
        stream.state = None
        assert not any(part.any() for part in stream.state)
        stream(x)
        stream.reset()
        assert not any(part.any() for part in stream.state)


def test_state_is_a_copy_and_assignable(simulator: Simulator) -> None:
    lstm, x = make(Case(4, 3, 5, 20, num_layers=2, proj_size=6)), torch.randn(8, 3, 5)
    with on_tapes(simulator):
        stream = lstm_fused.Stream(lstm, 3)
        stream(x[:4])
        h, c = stream.state
        assert h.shape == (2, 3, 6) and c.shape == (2, 3, 20)
        expected = stream(x[4:])
        stream.state = h, c
        h.fill_(7), c.fill_(7)
        stream.state[0].fill_(7)
        assert torch.equal(stream(x[4:]), expected)


# Weights


def test_changed_weights_are_noticed_once_and_taken_by_refresh(simulator: Simulator) -> None:
    lstm, x = make(SMALL), torch.randn(3, 2, 5)
    with on_tapes(simulator):
        stream = lstm_fused.Stream(lstm, 2)
        first = cut(stream, x, [1])
        with torch.no_grad():
            lstm.weight_hh_l0.mul_(2)
            lstm.bias_ih_l0.add_(1)
        assert stream.stale
        stream.reset()
        with pytest.warns(UserWarning, match="parameters have changed since they were packed"):
            assert torch.equal(stream(x[0]), first[0])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(stream(x[1]), first[1])
            state = stream.state
            stream.refresh()
            assert not stream.stale and all(map(torch.equal, stream.state, state))
            stream.reset()
            second = cut(stream, x, [1])
        with torch.no_grad():
            torch.testing.assert_close(second, lstm(x)[0])
            lstm.weight_ih_l0.zero_()
        assert len(graphs_of(stream).recorded) == 1  # graphs read the new ones where the old ones were
        with pytest.warns(UserWarning, match="refresh"):
            stream(x[0])


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cls", [lstm_fused.LSTM, nn.LSTM])
def test_every_way_to_change_a_weight_is_noticed(simulator: Simulator, cls: type, change: str) -> None:
    lstm, x = cls(5, 20), torch.randn(1, 5)
    with on_tapes(simulator):
        stream = lstm_fused.Stream(lstm)
        first = stream(x)
        CHANGES[change](lstm)
        assert stream.stale
        stream.reset()
        with pytest.warns(UserWarning, match="refresh"):
            assert torch.equal(stream(x), first)
        stream.refresh()
        stream.reset()
        with torch.no_grad():
            torch.testing.assert_close(stream(x), lstm(x.unsqueeze(0))[0][0])


def test_a_module_that_has_become_another_one(simulator: Simulator) -> None:
    lstm, x = make(SMALL), torch.randn(2, 5)
    with on_tapes(simulator):
        stream = lstm_fused.Stream(lstm, 2)
        lstm.double()
        for call in (lambda: stream(x), stream.refresh):
            with pytest.raises(ValueError, match=r"lstm: expected .*float32.* it is now .*float64"):
                call()


# Arguments


def test_out_is_written_and_returned(simulator: Simulator) -> None:
    lstm, x = make(SMALL), torch.randn(3, 2, 5)
    with on_tapes(simulator):
        expected = cut(lstm_fused.Stream(lstm, 2), x, [2, 1])
        stream, chunk, step = lstm_fused.Stream(lstm, 2), torch.full((2, 2, 20), 7.0), torch.full((2, 20), 7.0)
        version = chunk._version
        assert stream(x[:2], out=chunk) is chunk and torch.equal(chunk, expected[:2])
        assert chunk._version > version
        assert stream(x[2], out=step) is step and torch.equal(step, expected[2])
        kept = stream(x[2])
        before = kept.clone()
        stream(x[1])
        assert torch.equal(kept, before)


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_out_may_overlap_x(simulator: Simulator, shift: int) -> None:
    lstm, memory = make(Case(1, 1, 20, 20)), torch.randn(8, 1, 20)
    x, out = memory[1:7], memory[1 + shift : 7 + shift]
    with on_tapes(simulator):
        expected = lstm_fused.Stream(lstm)(x.clone())
        assert torch.equal(lstm_fused.Stream(lstm)(x, out=out), expected)


def test_x_of_any_form(simulator: Simulator) -> None:
    lstm, x = make(SMALL), torch.randn(5, 2, 5)

    class Marked(Tensor):
        pass

    forms = [
        x.transpose(0, 1).contiguous().transpose(0, 1),
        torch.stack([x, x], -1)[..., 0],
        torch.conj(torch.complex(x, -x)).imag,
        x.as_subclass(Marked),
        nn.Parameter(x),
    ]
    with torch.inference_mode():
        forms.append(x.clone())
    with on_tapes(simulator):
        expected = lstm_fused.Stream(lstm, 2)(x)
        for captured in (False, True):
            for form in forms:
                stream = lstm_fused.Stream(lstm, 2)
                graphs_of(stream).captured = captured
                result = stream(form)
                assert type(result) is Tensor and torch.equal(result, expected) and not result.requires_grad


@pytest.mark.parametrize("n", range(len(BAD_X)))
def test_bad_arguments_of_a_call(simulator: Simulator, n: int) -> None:
    x, out, error, message = BAD_X[n]
    with on_tapes(simulator):
        stream = lstm_fused.Stream(make(SMALL), 2)
        with pytest.raises(error, match=message):
            stream(x, out=out)
        assert not any(part.any() for part in stream.state) and not graphs_of(stream).recorded


def test_bad_states_and_rows(simulator: Simulator) -> None:
    with on_tapes(simulator):
        stream = lstm_fused.Stream(make(SMALL), 2)
        for state, error, message in BAD_STATES:
            with pytest.raises(error, match=message):
                stream.state = state
        for rows, error, message in BAD_ROWS:
            with pytest.raises(error, match=message):
                stream.reset(rows)


def test_transforms_are_refused_and_compilers_leave_it_as_it_is(simulator: Simulator) -> None:
    lstm, x = make(SMALL), torch.randn(3, 2, 5)
    with on_tapes(simulator):
        stream = lstm_fused.Stream(lstm, 2)
        with pytest.raises(TypeError, match="not those of a transform"):
            torch.func.vmap(stream)(torch.zeros(3, 2, 5))
        expected = cut(stream, x, [1]) + 1
        stream.reset()
        traced: list[object] = []

        def backend(module: torch.fx.GraphModule, inputs: object) -> Callable:
            traced.extend(node.target for node in module.graph.nodes if node.op.startswith("call_"))
            return module.forward

        compiled = torch.compile(lambda x: stream(x) + 1, backend=backend)
        assert torch.equal(torch.stack([compiled(step) for step in x]), expected)
        assert set(traced) == {operator.add}


# Who may use it


REFUSED = {
    "bfloat16 weights": ({"weights": torch.bfloat16}, {}, ValueError, r"weights: expected None .* got torch.bfloat16"),
    "int8 weights": ({"weights": torch.int8}, {}, ValueError, r"weights: expected None .*float32.* got torch.int8"),
    "activations": ({"activations": torch.int8}, {}, ValueError, r"activations: expected None .* got torch.int8"),
    "bidirectional": ({}, {"bidirectional": True}, ValueError, "lstm: expected one direction"),
    "dropout": ({}, {"num_layers": 2, "dropout": 0.5}, ValueError, r"lstm: expected eval mode"),
    "cell": ({}, {"peephole": True}, ValueError, r"lstm: expected the plain cell"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_when_made(simulator: Simulator, name: str) -> None:
    options, of_module, error, message = REFUSED[name]
    with on_tapes(simulator), pytest.raises(error, match=message):
        lstm_fused.Stream(lstm_fused.LSTM(5, 20, **of_module), **options)


def test_a_build_without_kernels(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "DEVICE_TYPES", ("meta",))
    with on_tapes(simulator), pytest.raises(NotImplementedError, match=r"lstm: expected a build .* kernels for cpu"):
        lstm_fused.Stream(lstm_fused.LSTM(5, 20))


def test_one_thread_at_a_time_and_no_copies(simulator: Simulator) -> None:
    lstm, x = make(SMALL), torch.randn(3, 2, 5)
    errors: list[str] = []
    with on_tapes(simulator):
        stream = lstm_fused.Stream(lstm, 2)
        expected = cut(stream, x, [1])
        stream.reset()
        stream(x[0])

        def use() -> None:
            uses = [lambda: stream(x[1]), stream.reset, lambda: stream.state, lambda: setattr(stream, "state", None)]
            for one in [*uses, stream.refresh]:
                with pytest.raises(RuntimeError, match="another thread is using it") as caught:
                    one()
                errors.append(str(caught.value))

        with stream._engine.turn():
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
        assert len(errors) == 5 and torch.equal(stream(x[1]), expected[1])
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be copied or pickled: make another one"):
                attempt(stream)


def test_memory_goes_with_the_stream(simulator: Simulator) -> None:
    """Without a garbage collector's help, which knows nothing of a GPU that is full."""
    with on_tapes(simulator):
        stream = lstm_fused.Stream(make(SMALL), 2)
        stream(torch.randn(2, 5))
        alive = [weakref.ref(tensor) for tensor in stream._engine._memory()]
        gc.disable()
        try:
            del stream
            assert not any(ref() is not None for ref in alive)
        finally:
            gc.enable()
