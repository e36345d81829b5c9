"""``Stream``: an LSTM that is called step after step, as a service or a device does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor
from torch.nn.modules.rnn import RNNBase

from . import _plan, stream_module
from .stream_cpu import CpuEngine
from .stream_cuda import CudaEngine
from .stream_module import State


class Engine(Protocol):
    """What computes a stream, on one type of device. It is made of the module, batch, weights and activations."""

    layout: stream_module.Layout
    stored_as: torch.dtype
    activations: torch.dtype | None
    state: State  # its memory: h (L, B, P) and c (L, B, H)
    start: State  # as much, for what reset() goes back to; zero when made

    @property
    def version(self) -> stream_module.Version:
        """Of the module's parameters, as the weights were taken from them."""

    @property
    def step(self) -> Callable[[Any, Any], Tensor | None]:
        """Takes x and out. None where one is not plainly what is expected, or a parameter that is watched changed."""

    @property
    def guard(self) -> _plan.StreamGuard:
        """Watches parameters."""

    def turn(self) -> AbstractContextManager[Any]:
        """Keeps other threads out of the memory."""

    def refresh(self, lstm: RNNBase) -> None:
        """Takes the weights that the module has now."""


ENGINES: dict[str, Callable[..., Engine]] = {"cpu": CpuEngine, "cuda": CudaEngine}


class Stream:
    """Inference of an LSTM in one direction, with weights that are packed once and a state that stays.

    On the CPU a call goes straight to the kernel: no operator, and with ``out`` no memory allocated. On a GPU it
    replays a CUDA graph, recorded in the first call with as many steps. No gradient flows through it. On the CPU any
    cut of a sequence into steps and chunks gives the same bits, with any number of threads; on a GPU the same cut does.

    Args:
        lstm: an :class:`lstm_fused.LSTM` or ``torch.nn.LSTM`` of any layers and projection, on the CPU in float32 or
            float64, on a GPU in bfloat16 or float16 as well. Its ``batch_first`` plays no part.
        batch: B, rows that go on side by side.
        weights: dtype that the weights are stored as. None for the module's, or of a float32 module on the CPU
            torch.bfloat16 or torch.int8 (a scale for each row of each matrix). All is computed in the module's dtype.
        activations: torch.int8 rounds, beside weights of torch.int8, what they are multiplied by as well (x and h, each
            row with a scale of its own): up to several times as fast for large H and B, and less exact. On
            CPUs with AVX2 or AVX512-VNNI.

    One stream serves one thread at a time; streams of one module may run side by side, and share its packed weights on
    the CPU.
    """

    def __init__(
        self,
        lstm: RNNBase,
        batch: int = 1,
        weights: torch.dtype | None = None,
        *,
        activations: torch.dtype | None = None,
    ) -> None:
        if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
            raise ValueError(f"batch: expected a whole number of at least 1, got {batch!r}")
        self.lstm, self.batch = lstm, batch
        device = stream_module.check(lstm).device
        if device.type not in ENGINES:
            raise NotImplementedError(
                f"lstm: a Stream is on the CPU or a GPU, and the module on {device}; call that itself"
            )
        self._engine = ENGINES[device.type](lstm, batch, weights, activations)
        self._connect()

    def __call__(self, x: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Returns h of the last layer: ``(B, P)`` for a step ``x (B, I)``, ``(T, B, P)`` for a chunk ``(T, B, I)``.

        P is the projection's size, or H without one. The result is a new tensor, or ``out``.

        Raises:
            TypeError, ValueError: an argument is of another kind, dtype, device or shape, or the module has become so.
            RuntimeError: another thread is using this stream.
        """
        y = self._step(x, out)
        if y is None:
            y = self._carefully(x, out)
        if out is not None:
            torch._C._increment_version((out,))  # as an operator does that writes
        return y

    @property
    def state(self) -> State:
        """h ``(L, B, P)`` and c ``(L, B, H)``, copies. Assigned, they are also what :meth:`reset` goes back to; None
        stands for zeros."""
        h, c = self._engine.state
        with self._engine.turn():
            return h.clone(), c.clone()

    @state.setter
    def state(self, given: State | None) -> None:
        engine = self._engine
        if given is not None:
            if not isinstance(given, (tuple, list)) or len(given) != 2:
                raise TypeError(f"state: expected (h, c) or None, got {type(given).__name__}")
            for name, tensor, own in zip("hc", given, engine.state):
                _check(f"state: {name}", tensor, engine.layout, [tuple(own.shape)])
        with engine.turn():
            for n, start in enumerate(engine.start):
                if given is None:
                    start.zero_()
                else:
                    start.copy_(given[n].detach())
            self._restore(None)

    def reset(self, rows: Any = None) -> None:
        """Takes rows back to zero, or to the state that was assigned: all of them, or those of a bool mask ``(B,)`` or
        of indices."""
        chosen = None if rows is None else self._indices(rows)
        with self._engine.turn():
            self._restore(chosen)

    def refresh(self) -> None:
        """Packs the weights that the module has now. The state stays."""
        with self._engine.turn():
            self._check_module()
            stream_module.check(self.lstm)
            self._engine.refresh(self.lstm)
        self._connect()

    @property
    def stale(self) -> bool:
        """Whether the module's parameters have changed since they were packed."""
        return self._engine.version != stream_module.version_of(self.lstm)

    def __repr__(self) -> str:
        engine = self._engine
        rounded = f", activations={engine.activations}" if engine.activations else ""
        return f"Stream({self.lstm!r}, batch={self.batch}, weights={engine.stored_as}{rounded})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Stream cannot be copied or pickled: make another one of the module, and assign its state")

    def _connect(self) -> None:
        self._step = self._engine.step
        self._warned = False
        self._engine.guard.watch(stream_module.parameters_of(self.lstm))

    def _restore(self, chosen: Tensor | None) -> None:
        for own, start in zip(self._engine.state, self._engine.start):
            if chosen is None:
                own.copy_(start)
            elif chosen.dtype == torch.bool:  # a GPU would be waited for to use it as an index
                torch.where(chosen.unsqueeze(-1), start, own, out=own)
            else:
                own[:, chosen] = start[:, chosen]

    def _indices(self, rows: Any) -> Tensor:
        """A mask (B,) or indices, where the state is."""
        device = self._engine.layout.device
        index = rows.detach() if isinstance(rows, Tensor) else torch.as_tensor(rows, device="cpu")
        if index.dtype == torch.bool:
            if index.shape != (self.batch,):
                raise ValueError(f"rows: expected a mask of shape ({self.batch},), got {tuple(index.shape)}")
            return index.to(device, non_blocking=True)
        index = index.reshape(-1).cpu()
        if index.numel():
            if index.is_floating_point() or index.is_complex():
                raise TypeError(f"rows: expected a bool mask or whole numbers, got {index.dtype}")
            if int(index.min()) < 0 or int(index.max()) >= self.batch:
                raise ValueError(f"rows: expected numbers from 0 to {self.batch - 1}, got {index.tolist()}")
        return index.long().to(device, non_blocking=True)

    def _carefully(self, x: Any, out: Any) -> Tensor:
        """What is not plain: an error that says so, a warning, or a copy of x in order."""
        layout, batch = self._engine.layout, self.batch
        _check("x", x, layout, [(batch, layout.input_size), ("T", batch, layout.input_size)])
        if x.size(0) == 0:
            raise ValueError("x: expected at least one step, got none")
        if out is not None:
            _check("out", out, layout, [(*x.shape[:-1], layout.width)])
            if not out.is_contiguous() or out.is_neg():
                raise ValueError(f"out: expected a contiguous tensor, got strides {out.stride()}")
        if not self._engine.guard.unchanged():
            self._look_at_module()
        plain = x.detach().as_subclass(Tensor).clone(memory_format=torch.contiguous_format).resolve_neg()
        target = None if out is None else out.detach().as_subclass(Tensor)
        y = self._step(plain, target)
        if y is None:
            raise TypeError("x, out: expected tensors in memory, not those of a transform, a trace or a graph")
        return y if out is None else out

    def _look_at_module(self) -> None:
        self._check_module()
        if not self._warned:
            self._warned = True
            warnings.warn(
                "Stream: the module's parameters have changed since they were packed; the stream goes on with the old "
                "ones until its refresh() is called",
                stacklevel=4,
            )
        self._engine.guard.watch(stream_module.parameters_of(self.lstm))

    def _check_module(self) -> None:
        then, now = self._engine.layout, stream_module.layout_of(self.lstm)
        if now != then:
            raise ValueError(f"lstm: expected {then}, as the stream was made of; it is now {now}: make another stream")


def _check(name: str, tensor: Any, layout: stream_module.Layout, shapes: Sequence[tuple[Any, ...]]) -> None:
    """Raises unless it is a tensor as the stream's own, of one of these shapes; a str stands for any size."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got {tensor.layout}")
    if tensor.dtype != layout.dtype:
        raise TypeError(f"{name}: expected {layout.dtype}, got {tensor.dtype}")
    if stream_module.device_of(tensor) != layout.device:
        place = "the CPU" if layout.device.type == "cpu" else layout.device
        raise ValueError(f"{name}: expected a tensor on {place}, got one on {tensor.device}")
    sizes = tuple(tensor.shape)
    if not any(
        len(shape) == len(sizes) and all(isinstance(a, str) or a == b for a, b in zip(shape, sizes)) for shape in shapes
    ):
        texts = [f"({', '.join(map(str, shape))})" for shape in shapes]
        raise ValueError(f"{name}: expected shape {' or '.join(texts)}, got {sizes}")
