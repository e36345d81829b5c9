"""lstm_fused.Stream on a GPU: real graphs, CUDA streams, no waiting, no memory."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from cases import DTYPES, Case
from streams import BAD_ROWS, ROWS, check_accuracy, cut, drawn, make
from torch import Tensor

import lstm_fused
from lstm_fused.stream_cuda import MOST_CHUNKS

pytestmark = pytest.mark.gpu

# `block` with its input fused and with a product before it, a projection, H too large for one block or one cluster, and
# layers side by side; one row and one unit.
CASES = [
    Case(12, 9, 16, 64, num_layers=2),
    Case(12, 9, 200, 128),
    Case(12, 5, 16, 24, num_layers=2, proj_size=7, bias=False),
    Case(12, 3, 40, 300),
    Case(12, 9, 40, 600),
    Case(12, 9, 40, 300, num_layers=3),
    Case(12, 1, 1, 1),
    Case(12, 17, 111, 17),
]
CASE = Case(12, 9, 200, 128, num_layers=2, device="cuda")
LENGTHS = [1, 3, 2]
# Between two kernels, or two cuts: where there is a chunk's end the state is rounded to the dtype.
ATOL = {torch.float32: 2**-17, torch.bfloat16: 2**-4, torch.float16: 2**-7, torch.float64: 2**-45}
NAP_CYCLES = 400_000_000  # as in test_cuda_calls.py


def stream_and_x(case: Case = CASE) -> tuple[lstm_fused.Stream, Tensor]:
    return lstm_fused.Stream(make(case, device=case.device), case.rows), drawn(case)[0]


def allocations() -> int:
    return torch.cuda.memory_stats()["allocation.all.allocated"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_accuracy(case: Case, dtype: torch.dtype) -> None:
    check_accuracy(case.but(dtype=dtype, device="cuda"), LENGTHS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_cut_gives_the_same_bits(case: Case, dtype: torch.dtype) -> None:
    """Replayed for the first time or later, in this stream or another one."""
    stream, x = stream_and_x(case.but(dtype=dtype, device="cuda"))
    first = cut(stream, x, LENGTHS)
    for again in (stream, stream, lstm_fused.Stream(stream.lstm, case.rows)):
        again.reset()
        assert torch.equal(cut(again, x, LENGTHS), first)
    stream.reset()
    torch.testing.assert_close(stream(x), first, rtol=0, atol=ATOL[dtype])  # another cut


def test_more_lengths_than_are_kept() -> None:
    """Graphs share a pool, come and go, and leave each other's results alone."""
    stream, _ = stream_and_x()
    lengths = [*range(1, MOST_CHUNKS + 3), 1, 5, 2, 1]
    chunks = [torch.randn(length, 9, 200, device="cuda") for length in lengths]
    results = [stream(chunk) for chunk in chunks]
    assert len(stream._engine._chunks) == MOST_CHUNKS
    with torch.no_grad():
        expected, states = stream.lstm(torch.cat(chunks))
    for actual, wanted in zip((torch.cat(results), *stream.state), (expected, *states)):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=ATOL[torch.float32])


@pytest.mark.parametrize(("rows", "which"), ROWS, ids=str)
def test_reset_of_rows(rows: object, which: list[int]) -> None:
    stream, x = stream_and_x(CASE.but(batch=4))
    stream.state = drawn(CASE.but(batch=4))[1]
    first = cut(stream, x, LENGTHS)
    elsewhere = stream.state
    for on_gpu in (False, True):
        given = rows.to("cuda") if on_gpu and isinstance(rows, Tensor) else rows
        stream.reset()
        cut(stream, x, LENGTHS)
        stream.reset(given)
        others = [row for row in range(4) if row not in which]
        assert all(torch.equal(now[:, others], then[:, others]) for now, then in zip(stream.state, elsewhere))
        assert torch.equal(cut(stream, x, LENGTHS)[:, which], first[:, which])


def test_refresh() -> None:
    """Graphs that are there read the new weights, and no earlier."""
    stream, x = stream_and_x()
    first = cut(stream, x, LENGTHS)
    with torch.no_grad():
        for parameter in stream.lstm.parameters():
            parameter.mul_(0.5)
    assert stream.stale
    stream.reset()
    with pytest.warns(UserWarning, match="refresh"):
        assert torch.equal(cut(stream, x, LENGTHS), first)
    graphs = [chunk.graph for chunk in stream._engine._chunks.values()]
    stream.refresh()
    stream.reset()
    second = cut(stream, x, LENGTHS)
    assert torch.equal(second, cut(lstm_fused.Stream(stream.lstm, 9), x, LENGTHS)) and not torch.equal(second, first)
    assert {id(chunk.graph) for chunk in stream._engine._chunks.values()} == set(map(id, graphs))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_call_takes_no_memory_and_waits_for_nothing(case: Case) -> None:
    stream, x = stream_and_x(case.but(device="cuda"))
    step, chunk = x[0].clone(), x[:3].clone()
    out, outs = (torch.empty(*t.shape[:-1], case.width, device="cuda") for t in (step, chunk))
    mask = torch.arange(case.rows, device="cuda") % 2 == 0
    stream(step), stream(chunk), stream.reset(mask)
    torch.cuda.synchronize()
    before = allocations()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(NAP_CYCLES)
        for _ in range(3):
            stream(step, out=out)
            stream(chunk, out=outs)
        assert allocations() == before
        stream.reset(mask)
        assert not torch.cuda.current_stream().query(), "a call waited for the GPU, or NAP_CYCLES are too few"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()


def test_torchs_current_stream_is_used() -> None:
    """x is late there, and results are read there."""
    stream, x = stream_and_x()
    expected = cut(stream, x, LENGTHS)
    side = torch.cuda.Stream()
    late = torch.zeros_like(x)
    torch.cuda.synchronize()
    stream.reset()
    with torch.cuda.stream(side):
        torch.cuda._sleep(NAP_CYCLES)
        late.copy_(x)
        done = cut(stream, late, LENGTHS).cpu()
    assert torch.equal(done, expected.cpu())


def test_cuda_streams_in_turn() -> None:
    """Each waits for the state that the one before leaves."""
    stream, x = stream_and_x()
    expected = cut(stream, x, [1])
    stream.reset()
    torch.cuda.synchronize()
    results = []
    for n, step in enumerate(x):
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(NAP_CYCLES // 20 * (n % 3))
            results.append(stream(step))
    torch.cuda.synchronize()
    assert torch.equal(torch.stack(results), expected)


def test_streams_side_by_side() -> None:
    """Of one module, on CUDA streams of their own."""
    lstm = make(CASE, device="cuda")
    x = torch.randn(4, 200, 9, 200, device="cuda")
    alone = [cut(lstm_fused.Stream(lstm, 9), x[n], [1]) for n in range(4)]
    streams, sides = [lstm_fused.Stream(lstm, 9) for _ in range(4)], [torch.cuda.Stream() for _ in range(4)]
    results: list[list[Tensor]] = [[] for _ in range(4)]
    torch.cuda.synchronize()
    for t in range(200):
        for n in range(4):
            with torch.cuda.stream(sides[n]):
                results[n].append(streams[n](x[n, t]))
    torch.cuda.synchronize()
    assert all(torch.equal(torch.stack(results[n]), alone[n]) for n in range(4))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_in_a_graph_of_somebody_else(dtype: torch.dtype) -> None:
    """A call is a part of it, whether the stream has a graph of that length or not."""
    stream, x = stream_and_x(CASE.but(dtype=dtype))
    expected = cut(stream, x, [2])
    given, out = x[:2].clone(), torch.empty_like(expected[:2])
    for used in (stream, lstm_fused.Stream(stream.lstm, 9)):
        used.reset()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            used(given, out=out)
        results = []
        for n in range(0, len(x), 2):
            given.copy_(x[n : n + 2])
            graph.replay()
            results.append(out.clone())
        torch.testing.assert_close(torch.cat(results), expected, rtol=0, atol=ATOL[dtype])
        used.reset()
        assert torch.equal(cut(used, x, [2]), expected)


def test_other_threads_may_use_the_gpu_while_graphs_are_recorded() -> None:
    stream, x = stream_and_x()
    expected = cut(stream, x, [1])
    begun, over, failures = threading.Event(), threading.Event(), []

    def work() -> None:
        try:
            while not over.is_set():
                size = int(torch.randint(1, 512, ()))
                matrix = torch.ones(size, size, device="cuda")
                failures.extend(() if (matrix @ matrix).sum().item() == size**3 else ["another sum"])
                begun.set()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        begun.wait(30)
        for _ in range(10):
            once = lstm_fused.Stream(stream.lstm, 9)
            assert torch.equal(cut(once, x, [1]), expected)
    finally:
        over.set()
        thread.join()
    assert not failures


def test_every_device_in_turn() -> None:
    """The module's device counts, not the current one."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    stream, x = stream_and_x(CASE.but(device="cuda:1"))
    with torch.cuda.device(0):
        outside = cut(stream, x, LENGTHS)
        assert torch.cuda.current_device() == 0 and outside.device == torch.device("cuda:1")
    stream.reset()
    with torch.cuda.device(1):
        assert torch.equal(cut(stream, x, LENGTHS), outside)
    with pytest.raises(ValueError, match="x: expected a tensor on cuda:1, got one on cuda:0"):
        stream(x.to("cuda:0"))


def test_everything_is_given_back() -> None:
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    stream, x = stream_and_x()
    cut(stream, x, LENGTHS)
    torch.cuda.synchronize()
    del stream, x
    torch._C._cuda_clearCublasWorkspaces()
    gc.collect()
    assert torch.cuda.memory_allocated() <= before


def test_refused() -> None:
    lstm = make(Case(1, 2, 5, 20), device="cuda")
    for dtype in (torch.bfloat16, torch.int8):
        with pytest.raises(ValueError, match="weights: expected None on a GPU"):
            lstm_fused.Stream(lstm, 2, dtype)
    stream = lstm_fused.Stream(lstm, 2)
    with pytest.raises(ValueError, match="x: expected a tensor on cuda:0, got one on cpu"):
        stream(torch.zeros(2, 5))
    with pytest.raises(TypeError, match=r"x: expected torch.float32, got torch.float16"):
        stream(torch.zeros(2, 5, device="cuda").half())
    with pytest.raises(ValueError, match="state: h: expected a tensor on cuda:0"):
        stream.state = torch.zeros(1, 2, 20), torch.zeros(1, 2, 20)
    for rows, error, message in BAD_ROWS:
        with pytest.raises(error, match=message):
            stream.reset(rows)
    assert not any(part.any() for part in stream.state)
    lstm.cpu()
    with pytest.raises(ValueError, match=r"on cuda:0, .* it is now .* on cpu"):
        stream(torch.zeros(2, 5, device="cuda"))
