"""A stream on the CPU: its memory, and the kernel that is called by its address."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.rnn import RNNBase

from . import _plan, stream_weights
from .stream_module import Version
from .stream_weights import whole, whole_panels


class CpuEngine:
    """What :class:`lstm_fused.stream.Engine` asks for."""

    def __init__(self, lstm: RNNBase, batch: int, weights: torch.dtype | None, activations: torch.dtype | None) -> None:
        self._batch = batch
        self.packed = stream_weights.pack(lstm, weights, activations)
        self.layout, self.stored_as, self.activations = self.packed.layout, self.packed.dtype, activations
        layout = self.layout
        rows = max(1, _plan.STREAM_ROWS // batch) * batch  # as in csrc/cpu/stream.h
        width, cells = whole_panels(layout, layout.width), whole_panels(layout, layout.hidden_size)
        states = [(layout.num_layers, batch, width), (layout.num_layers, batch, cells)]
        scratch = [(2, rows, width), (rows, 4 * cells), (batch, cells)]
        row_bytes = 8 + 2 * whole(max(layout.input_size, width, cells), 8)  # csrc/cpu/isa/bytes.h
        of_bytes = batch + rows if activations else 0
        with torch.device("cpu"), torch.inference_mode(False):  # wherever it is made
            self._memory = [torch.zeros(shape, dtype=layout.dtype) for shape in (*states, *scratch)]
            self._memory += [
                torch.zeros(of_bytes, row_bytes, dtype=torch.uint8),
                torch.zeros(of_bytes, dtype=layout.dtype),
            ]
            h, c = self._memory[:2]
            self.state = h[..., : layout.width], c[..., : layout.hidden_size]
            self.start = torch.zeros_like(self.state[0]), torch.zeros_like(self.state[1])
        self._connect()

    @property
    def version(self) -> Version:
        return self.packed.version

    @property
    def guard(self) -> _plan.StreamGuard:
        return self.step

    def turn(self) -> _plan.StreamGuard:
        return self.step

    def refresh(self, lstm: RNNBase) -> None:
        self.packed = stream_weights.pack(lstm, self.stored_as, self.activations)
        self._connect()

    def _connect(self) -> None:
        """The kernel's view of all memory."""
        layout, packed = self.layout, self.packed
        self.step = _plan.StreamStep(
            tensor_type=Tensor,
            run=stream_weights.RUN,
            is_double=layout.dtype == torch.float64,
            batch=self._batch,
            input_size=layout.input_size,
            hidden_size=layout.hidden_size,
            proj_width=layout.width,
            weights=stream_weights.KINDS[packed.dtype, packed.activations],
            layers=packed.addresses,
            memory=[tensor.data_ptr() for tensor in self._memory],
            bytes_stride=self._memory[-2].size(1),
            step_bytes=packed.nbytes * self._batch,
        )
