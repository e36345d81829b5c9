"""``Stream``: an LSTM that is called step after step, as a service or a device does."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.modules.rnn import RNNBase

from . import _plan, stream_weights

State = tuple[Tensor, Tensor]


class Stream:
    """Inference of an LSTM in one direction, with weights that are packed once and a state that stays.

    A call goes straight to the kernel, on the CPU: no operator, and with ``out`` no memory allocated. No gradient flows
    through it. Any cut of a sequence into steps and chunks gives the same bits, with any number of threads.

    Args:
        lstm: an :class:`lstm_fused.LSTM` or ``torch.nn.LSTM`` on the CPU, float32 or float64, of any layers and
            projection. Its ``batch_first`` plays no part.
        batch: B, rows that go on side by side.
        weights: dtype that the weights are stored as. None for the module's, or of a float32 module torch.bfloat16 or
            torch.int8 (a scale for each row of each matrix). All is computed in the module's dtype.
        activations: torch.int8 rounds, beside weights of torch.int8, what they are multiplied by as well (x and h, each
            row with a scale of its own): several times as fast for large H and B, and less exact. On CPUs with
            AVX512-VNNI.

    One stream serves one thread at a time; streams of one module share its packed weights and may run side by side.
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
        self._packed = stream_weights.pack(lstm, weights, activations)
        layout = self._packed.layout
        rows = max(1, _plan.STREAM_ROWS // batch) * batch  # as in csrc/cpu/stream.h
        width, cells = layout.whole_panels(layout.width), layout.whole_panels(layout.hidden_size)
        shapes: list[tuple[int, ...]] = [(layout.num_layers, batch, width), (layout.num_layers, batch, cells)]
        shapes += [(2, rows, width), (rows, 4 * cells), (batch, cells)]
        longest = stream_weights.whole(max(layout.input_size, width, cells), stream_weights.BYTES_TOGETHER)
        of_bytes = batch + rows if self._packed.activations else 0
        with (
            torch.device("cpu"),
            torch.inference_mode(False),
        ):  # wherever it is made
            self._h, self._c, *scratch = [torch.zeros(shape, dtype=layout.dtype) for shape in shapes]
            as_bytes = torch.zeros(of_bytes, longest, dtype=torch.uint8), torch.zeros(of_bytes, dtype=layout.dtype)
        self._scratch = [*scratch, *as_bytes]
        self._given: State | None = None
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
        layout = self._packed.layout
        with self._turn():
            return self._h[..., : layout.width].clone(), self._c[..., : layout.hidden_size].clone()

    @state.setter
    def state(self, given: State | None) -> None:
        if given is not None:
            if not isinstance(given, (tuple, list)) or len(given) != 2:
                raise TypeError(f"state: expected (h, c) or None, got {type(given).__name__}")
            layout = self._packed.layout
            for name, tensor, width in (("h", given[0], layout.width), ("c", given[1], layout.hidden_size)):
                _check(f"state: {name}", tensor, layout.dtype, [(layout.num_layers, self.batch, width)])
            given = given[0].detach().clone(), given[1].detach().clone()
        with self._turn():
            self._given = given
            self._restore(slice(None))

    def reset(self, rows: Any = None) -> None:
        """Takes rows back to zero, or to the state that was assigned: all of them, or those of a bool mask ``(B,)`` or
        of indices."""
        chosen = slice(None) if rows is None else self._indices(rows)
        with self._turn():
            self._restore(chosen)

    def refresh(self) -> None:
        """Packs the weights that the module has now. The state stays."""
        with self._turn():
            self._check_module()
            self._packed = stream_weights.pack(self.lstm, self._packed.dtype, self._packed.activations)
        self._connect()

    @property
    def stale(self) -> bool:
        """Whether the module's parameters have changed since they were packed."""
        return self._packed.version != stream_weights.version_of(self.lstm)

    def __repr__(self) -> str:
        rounded = f", activations={self._packed.activations}" if self._packed.activations else ""
        return f"Stream({self.lstm!r}, batch={self.batch}, weights={self._packed.dtype}{rounded})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Stream cannot be copied or pickled: make another one of the module, and assign its state")

    def _connect(self) -> None:
        """The kernel's view of all memory."""
        packed, layout = self._packed, self._packed.layout
        self._warned = False
        self._step = _plan.StreamStep(
            tensor_type=Tensor,
            run=stream_weights.RUN,
            is_double=layout.dtype == torch.float64,
            batch=self.batch,
            input_size=layout.input_size,
            hidden_size=layout.hidden_size,
            proj_width=layout.width,
            weights=stream_weights.KINDS[packed.dtype, packed.activations],
            layers=packed.addresses,
            memory=[tensor.data_ptr() for tensor in (self._h, self._c, *self._scratch)],
            bytes_stride=self._scratch[-2].size(1),
            step_bytes=packed.nbytes * self.batch,
        )
        self._step.watch(stream_weights.parameters_of(self.lstm))

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        step = self._step
        step.enter()
        try:
            yield
        finally:
            step.leave()

    def _restore(self, rows: Any) -> None:
        for own, given in zip((self._h, self._c), self._given or (None, None)):
            if given is None:
                own[:, rows] = 0
            else:
                own[:, rows, : given.size(2)] = given[:, rows]

    def _indices(self, rows: Any) -> Tensor:
        index = torch.as_tensor(rows, device="cpu")
        if index.dtype == torch.bool:
            if index.shape != (self.batch,):
                raise ValueError(f"rows: expected a mask of shape ({self.batch},), got {tuple(index.shape)}")
            return index
        index = index.reshape(-1)
        if not index.numel():
            return index.long()
        if index.is_floating_point() or index.is_complex():
            raise TypeError(f"rows: expected a bool mask or whole numbers, got {index.dtype}")
        if int(index.min()) < 0 or int(index.max()) >= self.batch:
            raise ValueError(f"rows: expected numbers from 0 to {self.batch - 1}, got {index.tolist()}")
        return index.long()

    def _carefully(self, x: Any, out: Any) -> Tensor:
        """What is not plain: an error that says so, a warning, or a copy of x in order."""
        layout, batch = self._packed.layout, self.batch
        _check("x", x, layout.dtype, [(batch, layout.input_size), ("T", batch, layout.input_size)])
        if x.size(0) == 0:
            raise ValueError("x: expected at least one step, got none")
        if out is not None:
            _check("out", out, layout.dtype, [(*x.shape[:-1], layout.width)])
            if not out.is_contiguous() or out.is_neg():
                raise ValueError(f"out: expected a contiguous tensor, got strides {out.stride()}")
        if not self._step.unchanged():
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
        self._step.watch(stream_weights.parameters_of(self.lstm))

    def _check_module(self) -> None:
        then, now = self._packed.layout, stream_weights.layout_of(self.lstm)
        if now != then:
            raise ValueError(f"lstm: expected {then}, as the stream was made of; it is now {now}: make another stream")


def _check(name: str, tensor: Any, dtype: torch.dtype, shapes: Sequence[tuple[Any, ...]]) -> None:
    """Raises unless it is a tensor of this dtype, on the CPU, of one of these shapes; a str stands for any size."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got {tensor.layout}")
    if tensor.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, got {tensor.dtype}")
    if tensor.device.type != "cpu":
        raise ValueError(f"{name}: expected a tensor on the CPU, got one on {tensor.device}")
    sizes = tuple(tensor.shape)
    if not any(
        len(shape) == len(sizes) and all(isinstance(a, str) or a == b for a, b in zip(shape, sizes)) for shape in shapes
    ):
        texts = [f"({', '.join(map(str, shape))})" for shape in shapes]
        raise ValueError(f"{name}: expected shape {' or '.join(texts)}, got {sizes}")
