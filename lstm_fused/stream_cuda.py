"""A stream on a GPU: a CUDA graph for each number of steps, on memory that stays where it is."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.rnn import RNNBase

from . import _plan, autograd, ops, stream_module
from .stream_module import State

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
MOST_CHUNKS = 8  # graphs of so many lengths are kept

_recording = threading.Lock()  # torch records one graph at a time


class Graphs:
    """All that a stream needs of torch.cuda: recording of what is queued, and an order between CUDA streams."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # A CUDA stream of its own: cuBLAS has a workspace for each, and graphs recorded on one share it, though streams
        # may replay theirs side by side.
        self._side = torch.cuda.Stream(device)
        self._last = torch.cuda.current_stream(device)

    def on_device(self) -> contextlib.AbstractContextManager[Any]:
        return torch.cuda.device(self._device)

    def is_captured(self) -> bool:
        """Whether somebody records what the current CUDA stream is given."""
        return torch.cuda.is_current_stream_capturing()

    def follow(self, memory: Callable[[], Iterable[Tensor]]) -> None:
        """Lets the current CUDA stream wait for the one used last, and keep the memory for as long as it needs it."""
        current = torch.cuda.current_stream(self._device)
        if current == self._last or self.is_captured():  # a graph is ordered by who replays it
            return
        current.wait_stream(self._last)
        for tensor in memory():
            tensor.record_stream(current)
        self._last = current

    def record(self, run: Callable[[], None], beside: Any) -> torch.cuda.CUDAGraph:
        """A graph of what `run` queues, with temporary memory from the pool of a graph that is never replayed at the
        same time."""
        graph = torch.cuda.CUDAGraph()
        with (
            _recording,
            torch.cuda.stream(self._side),  # left again even where ending a capture raises
            torch.cuda.graph(
                graph,
                pool=None if beside is None else beside.pool(),
                stream=self._side,
                capture_error_mode="thread_local",  # other threads may use the GPU
            ),
        ):
            run()
        return graph


class Chunk(NamedTuple):
    """A call with some number of steps, recorded."""

    x: Tensor  # (T, B, I), what the graph reads
    y: Tensor  # (T, B, P), what it writes
    graph: Any


class CudaEngine:
    """What :class:`lstm_fused.stream.Engine` asks for."""

    activations: torch.dtype | None = None

    def __init__(
        self,
        lstm: RNNBase,
        batch: int,
        weights: torch.dtype | None,
        activations: torch.dtype | None,
        *,
        graphs: Callable[[torch.device], Any] = Graphs,
    ) -> None:
        layout = self.layout = stream_module.layout_of(lstm)
        _check(layout, weights, activations)
        self._batch, self.stored_as = batch, layout.dtype
        self.guard = _plan.StreamGuard(Tensor)
        self._chunks: dict[int, Chunk] = {}  # by T, the one used last at the end
        with torch.inference_mode(False):  # wherever it is made
            self.state, self.start = self._new_state(), self._new_state()
            self._weights = [self._zeros(*weight.shape) for weight in stream_module.weights_of(lstm)]
        self._graphs = graphs(layout.device)
        self.refresh(lstm)

    def refresh(self, lstm: RNNBase) -> None:
        """In place, where graphs read them."""
        self.version = stream_module.version_of(lstm)
        for own, weight in zip(self._weights, stream_module.weights_of(lstm), strict=True):
            own.copy_(weight.detach())

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        with self.guard, self._graphs.on_device():
            self._graphs.follow(self._memory)
            yield

    @property
    def step(self) -> Callable[[Any, Any], Tensor | None]:
        return torch.compiler.disable(self._step)  # nor are graphs recorded of what a compiler makes of it

    def _step(self, x: Any, out: Any) -> Tensor | None:
        """y, or None where an argument is not plainly what is expected, or a parameter has changed."""
        layout = self.layout
        if autograd.transforms_are_active() or not self.guard.unchanged() or not self._is_plain(x, layout.input_size):
            return None
        if out is None:
            y = torch.empty((*x.shape[:-1], layout.width), dtype=layout.dtype, device=layout.device)
        elif self._is_plain(out, layout.width) and out.shape[:-1] == x.shape[:-1] and out.is_contiguous():
            y = out
        else:
            return None
        with self.turn(), torch.inference_mode():
            steps, results = (t if t.dim() == 3 else t.unsqueeze(0) for t in (x, y))
            if self._graphs.is_captured():
                self._advance(steps, results)
            else:
                chunk = self._chunk(len(steps))
                chunk.x.copy_(steps)
                chunk.graph.replay()
                results.copy_(chunk.y)
        return y

    def _is_plain(self, tensor: Any, width: int) -> bool:
        return (
            type(tensor) is Tensor
            and tensor.layout == torch.strided
            and tensor.dtype == self.layout.dtype
            and tensor.device == self.layout.device
            and tensor.dim() in (2, 3)
            and tensor.shape[-2:] == (self._batch, width)
            and len(tensor) > 0
        )

    def _advance(self, x: Tensor, y: Tensor) -> None:
        """The steps of x (T, B, I), into y (T, B, P) and the state."""
        torch._foreach_copy_([y, *self.state], self._compute(x))  # in one launch

    def _compute(self, x: Tensor) -> list[Tensor]:
        h, c = self.state
        return list(ops.infer(x, h, c, self._weights, self.layout.num_layers, False))

    def _chunk(self, seq_len: int) -> Chunk:
        chunk = self._chunks.pop(seq_len, None) or self._record(seq_len)
        self._chunks[seq_len] = chunk
        if len(self._chunks) > MOST_CHUNKS:
            del self._chunks[next(iter(self._chunks))]
        return chunk

    def _record(self, seq_len: int) -> Chunk:
        x, y = (self._zeros(seq_len, self._batch, size) for size in (self.layout.input_size, self.layout.width))
        # First calls load kernels and make handles, which no graph may hold. On the current stream: on the one that
        # records, cuBLAS would take its workspace from common memory, and not from the graph's.
        self._compute(x)
        beside = next(iter(self._chunks.values()), None)
        return Chunk(x, y, self._graphs.record(lambda: self._advance(x, y), beside and beside.graph))

    def _memory(self) -> list[Tensor]:
        chunks = [tensor for chunk in self._chunks.values() for tensor in (chunk.x, chunk.y)]
        return [*self.state, *self.start, *self._weights, *chunks]

    def _new_state(self) -> State:
        layers, batch, layout = self.layout.num_layers, self._batch, self.layout
        return self._zeros(layers, batch, layout.width), self._zeros(layers, batch, layout.hidden_size)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.layout.dtype, device=self.layout.device)


def _check(layout: stream_module.Layout, weights: torch.dtype | None, activations: torch.dtype | None) -> None:
    """Raises where there is no stream on a GPU."""
    if layout.device.type not in ops.DEVICE_TYPES:
        raise NotImplementedError(f"lstm: expected a build of lstm_fused with kernels for {layout.device}; it has none")
    if layout.dtype not in DTYPES:
        raise ValueError(f"lstm: expected float32, float64, float16 or bfloat16 parameters, got {layout.dtype}")
    for name, dtype, own in (("weights", weights, layout.dtype), ("activations", activations, None)):
        if dtype not in (None, own):
            raise ValueError(f"{name}: expected None on a GPU, where all stays {layout.dtype}, got {dtype}")
