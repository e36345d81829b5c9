"""lstm_fused.Stream of a module on a GPU, without one: its numbers, on the simulator, and its graphs, on tapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from cases import Case
from kernel_kinds import ARITHMETICS, HOW, fitted
from simulated import Simulator
from streams import check_accuracy, cut, drawn, make, stepwise
from tapes import Tape, Tapes, graphs_of, on_tapes
from torch import Tensor

import lstm_fused
from lstm_fused.stream_cuda import MOST_CHUNKS, Graphs

CASES = [
    Case(4, 1, 1, 1),
    Case(4, 9, 17, 17, num_layers=2),
    Case(4, 3, 111, 33, num_layers=3, bias=False),
    Case(4, 17, 5, 111),
    Case(4, 5, 9, 24, num_layers=2, proj_size=7),
]
SMALL = Case(1, 2, 5, 20)
LENGTHS = [1, 2]


# Numbers


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("how", [how for how in HOW if how[1] != "tf32"], ids="-".join)
def test_accuracy(simulator: Simulator, how: tuple[str, str], case: Case) -> None:
    with on_tapes(simulator, how[0]):
        check_accuracy(fitted(case, *how), LENGTHS)


@pytest.mark.compiled
@pytest.mark.parametrize("how", HOW, ids="-".join)
def test_what_the_module_computes(simulator: Simulator, how: tuple[str, str]) -> None:
    """Bit by bit, for the same cut, of every length for the first and for a later time."""
    case = fitted(Case(9, 3, 9, 17, num_layers=2), *how)
    lstm = make(case)
    x, hx = drawn(case)
    with on_tapes(simulator, how[0], allow_tf32=how[1] == "tf32"):
        stream = lstm_fused.Stream(lstm, case.rows)
        stream.state = hx
        actual = [cut(stream, x, LENGTHS), *stream.state]
        assert all(map(torch.equal, actual, stepwise(lstm, x, hx, LENGTHS)))


def test_every_arithmetic_is_a_dtype_that_streams_take(simulator: Simulator) -> None:
    with on_tapes(simulator):
        for dtype in set(ARITHMETICS.values()):
            assert f"weights={dtype}" in repr(lstm_fused.Stream(make(SMALL.but(dtype=dtype)), 2))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode, torch.autocast])
def test_in_every_mode(simulator: Simulator, mode: type) -> None:
    """No gradient flows, and autocast changes nothing."""
    lstm, x = make(SMALL), torch.randn(4, 2, 5)
    with on_tapes(simulator):
        expected = cut(lstm_fused.Stream(lstm, 2), x, [1])
        outside = lstm_fused.Stream(lstm, 2)
        with mode("cpu", torch.bfloat16) if mode is torch.autocast else mode():
            inside = lstm_fused.Stream(lstm, 2)
            for stream in (inside, outside):
                y = cut(stream, x.clone().requires_grad_(), [1])
                assert torch.equal(y, expected) and not y.requires_grad
                stream.state = stream.state
        for stream in (inside, outside):
            stream.reset([0, 1])
            stream.state = None
            y = cut(stream, x, [1])
            assert torch.equal(y, expected) and not y.is_inference()
            assert not any(part.is_inference() or part.requires_grad for part in stream.state)


# Graphs


def test_lengths_come_and_go(simulator: Simulator) -> None:
    """As many graphs as it says, those used last; and what is recorded anew is as right as before."""
    lstm = make(SMALL)
    with on_tapes(simulator):
        stream, state = lstm_fused.Stream(lstm, 2), None
        recorded = graphs_of(stream).recorded

        def call(length: int) -> bool:
            """Whether it was recorded."""
            nonlocal state
            before, x = len(recorded), torch.randn(length, 2, 5)
            with torch.no_grad():
                expected, state = lstm(x, state)
            assert torch.equal(stream(x), expected)
            return len(recorded) > before

        lengths = list(range(1, MOST_CHUNKS + 1))
        assert all(call(length) for length in lengths)
        assert not any(call(length) for length in [*lengths, 1])
        assert call(MOST_CHUNKS + 1)  # in the place of 2, as 1 came after it
        assert not call(1) and call(2)
        assert len(stream._engine._chunks) == MOST_CHUNKS
        assert all(map(torch.equal, stream.state, state))
        beside = graphs_of(stream).beside
        assert beside[0] is None and all(tape in recorded for tape in beside[1:])


def test_a_step_and_a_chunk_of_one_are_the_same_graph(simulator: Simulator) -> None:
    with on_tapes(simulator):
        stream, x = lstm_fused.Stream(make(SMALL), 2), torch.randn(1, 2, 5)
        first = stream(x)
        stream.reset()
        assert stream(x[0]).shape == (2, 20) and len(graphs_of(stream).recorded) == 1
        stream.reset()
        assert torch.equal(stream(x[0]), first[0])


def test_a_recording_that_fails_changes_nothing(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    with on_tapes(simulator):
        stream, x = lstm_fused.Stream(make(SMALL), 2), torch.randn(2, 2, 5)
        expected = cut(stream, x, [1])
        stream.reset()
        stream(x[0])
        before = stream.state
        with monkeypatch.context() as patch:
            patch.setattr(Tapes, "record", lambda *args: pytest.fail("no memory"))
            with pytest.raises(pytest.fail.Exception, match="no memory"):
                stream(torch.randn(3, 2, 5))
        assert all(map(torch.equal, stream.state, before))
        assert torch.equal(stream(x[1]), expected[1])


def test_in_a_graph_of_somebody_else(simulator: Simulator) -> None:
    """It becomes a part of that, state and all, and records none of its own."""
    lstm, x = make(SMALL), torch.randn(9, 2, 5)
    with on_tapes(simulator):
        expected = cut(lstm_fused.Stream(lstm, 2), x, [1])
        stream = lstm_fused.Stream(lstm, 2)
        given, out, results = x[:1].clone(), torch.empty(2, 20), []
        graphs_of(stream).captured = True
        tape = Tape(lambda: (results.append(stream(given)), stream(given[0] + 0, out=out)))
        graphs_of(stream).captured = False
        assert not any(part.any() for part in stream.state) and not graphs_of(stream).recorded
        for n in range(3):
            given.copy_(x[n])
            stream.reset()
            tape.replay()
            once = lstm_fused.Stream(lstm, 2)
            once(x[n])
            assert torch.equal(out, once(x[n])) and all(map(torch.equal, stream.state, once.state))
        stream.reset()
        assert torch.equal(cut(stream, x, [1]), expected)


# torch.cuda


class FakeStream:
    def __init__(self, name: object) -> None:
        self.name, self.waited_for = name, []

    def wait_stream(self, other: FakeStream) -> None:
        self.waited_for.append(other)


class FakeGraph:
    def __init__(self, log: list[object]) -> None:
        self._log = log

    def capture_begin(self, *pool: object, capture_error_mode: str, **others: object) -> None:
        self._log.append(("begin", pool, capture_error_mode))

    def capture_end(self) -> None:
        self._log.append("end")
        if "failed" in self._log:
            raise RuntimeError("invalidated")

    def pool(self) -> object:
        return self


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What torch.cuda is asked for; its own `graph` runs as it is."""
    log: list[object] = []

    @contextmanager
    def stream(stream: FakeStream) -> Iterator[None]:
        log.append(f"enter {stream.name}")
        try:
            yield
        finally:
            log.append(f"leave {stream.name}")

    fakes = {"Stream": FakeStream, "CUDAGraph": lambda: FakeGraph(log), "stream": stream}
    fakes |= dict.fromkeys(["synchronize", "empty_cache"], lambda: None)
    fakes |= {"current_stream": lambda device: log[0], "is_current_stream_capturing": lambda: False}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    return log


def test_recording(log: list[object]) -> None:
    """In a CUDA stream of its own, undisturbed by other threads, and with the memory of the graph beside it."""
    log.append(FakeStream("current"))
    graphs = Graphs(torch.device("meta"))
    del log[:]
    first = graphs.record(lambda: log.append("run"), None)
    recorded = ["enter meta", "enter meta", ("begin", (), "thread_local"), "run", "end", "leave meta", "leave meta"]
    assert log == recorded
    del log[:]
    graphs.record(lambda: None, first)
    assert log[2] == ("begin", (first,), "thread_local")
    del log[:]
    with pytest.raises(RuntimeError, match="invalidated"):
        graphs.record(lambda: (log.append("failed"), [][0]), first)
    assert log[-1] == "leave meta"
    graphs.record(log.clear, first)  # nothing is locked


def test_another_cuda_stream_waits_for_the_one_before(log: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = FakeStream("first"), FakeStream("second")
    log.append(first)
    graphs = Graphs(torch.device("meta"))
    kept: list[tuple[Tensor, FakeStream]] = []
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: kept.append((tensor, stream)))
    memory = [torch.zeros(1), torch.zeros(2)]
    graphs.follow(lambda: memory)
    assert not first.waited_for and not kept
    log[0] = second
    with monkeypatch.context() as patch:  # a graph is ordered by who replays it
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        graphs.follow(lambda: memory)
        assert not second.waited_for
    for _ in range(2):
        graphs.follow(lambda: memory)
        assert second.waited_for == [first] and kept == [(tensor, second) for tensor in memory]
    log[0] = first
    graphs.follow(lambda: memory)
    assert first.waited_for == [second]
