"""``LSTM`` and ``LSTMCell``: torch.nn's modules to their users, with our kernels underneath."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.rnn import RNNBase, RNNCellBase
from torch.nn.utils.rnn import PackedSequence

from . import cell, checks, functional, tracing
from .flat_weights import FlatWeights
from .tooling import ToolSupport

_CELL_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class LSTM(ToolSupport, FlatWeights):
    """Drop-in replacement for :class:`torch.nn.LSTM`.

    Constructor, parameters (names, order, shapes, initial values for a seed), ``state_dict``, input forms and errors
    are those of ``torch.nn.LSTM``; a checkpoint moves both ways. The call takes three more keyword arguments, and there
    is one more attribute.

    Args:
        input_size: I, the width of the input.
        hidden_size: H, the width of the cell state.
        num_layers: L.
        bias: whether there are b_ih and b_hh.
        batch_first: input and output are ``(B, T, ...)`` instead of ``(T, B, ...)``; h and c are not affected.
        dropout: probability of a zero in each layer's output but the last's, in training.
        bidirectional: D = 2 directions, forward and reverse.
        proj_size: P, the width of h where it is projected, below H; 0 for no projection.

    Attributes:
        recompute_gates: set it to True, and training keeps no gates until backward, which computes them again: a third
            of the memory for some more time (docs/pytorch.md).
    """

    recompute_gates: bool = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options = (num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype)
        # By name: in a subclass of both, super() is torch.nn.LSTM.
        RNNBase.__init__(self, "LSTM", input_size, hidden_size, *options)
        checks.check_construction(input_size, bias, batch_first)

    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]

    def flatten_parameters(self) -> None:
        """Does nothing: the kernels read each parameter where it lies."""

    def _slow_forward(self, *input: Any, **kwargs: Any) -> Any:
        """The call in a trace. torch.onnx would have it fail earlier, by passing keyword-only arguments by position."""
        tracing.refuse_onnx()
        return super()._slow_forward(*input, **kwargs)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        return_cells: bool = False,
    ) -> Any:
        """Returns ``output, (h_n, c_n)``, and ``cells`` with ``return_cells``.

        Arguments, shapes and errors: :func:`lstm_fused.functional.lstm`.
        """
        if isinstance(input, Proxy):
            return self.node(input, hx, lengths=lengths, reset=reset, return_cells=return_cells)
        if self._flat_weight_refs:  # somebody has asked for torch.nn.LSTM's list
            weights = self._handed_weights()
        else:
            # Where __getattr__ would look in the end. What is not there is parametrized, or replaced by a plain tensor.
            own: dict[str, Any] = self._parameters
            weights = [own[name] if name in own else getattr(self, name) for name in self._flat_weights_names]
        return functional.lstm(
            input,
            hx,
            weights,
            num_layers=self.num_layers,
            bias=self.bias,
            bidirectional=self.bidirectional,
            batch_first=self.batch_first,
            dropout=self.dropout,
            training=self.training,
            lengths=lengths,
            reset=reset,
            return_cells=return_cells,
            recompute_gates=self.recompute_gates,
        )


class LSTMCell(ToolSupport, RNNCellBase):
    """Drop-in replacement for :class:`torch.nn.LSTMCell`: one step of an LSTM.

    Args:
        input_size: I, the width of the input.
        hidden_size: H, the width of h and c.
        bias: whether there are b_ih and b_hh.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        RNNCellBase.__init__(self, input_size, hidden_size, bias, num_chunks=4, device=device, dtype=dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, ...] | None = None) -> tuple[Tensor, Tensor]:
        """Returns h and c after the step.

        Args:
            input: ``(B, I)`` or ``(I,)``.
            hx: h and c before the step, ``(B, H)`` or ``(H,)`` each; zero when None.

        Raises:
            ValueError, RuntimeError: as torch.nn.LSTMCell, for sizes and dtypes that do not fit.
        """
        if isinstance(input, Proxy):
            return self.node(input, hx)
        dim = input.dim()
        if dim not in (1, 2):
            raise ValueError(f"LSTMCell: Expected input to be 1D or 2D, got {dim}D instead")
        if hx is not None and not (type(hx) is tuple and len(hx) == 2 and hx[0] is not None and hx[1] is not None):
            hx = self._taken_apart(hx, dim)
        own: dict[str, Any] = self._parameters  # as in LSTM.forward
        weights = [own[name] if name in own else getattr(self, name) for name in _CELL_WEIGHTS[: 4 if self.bias else 2]]
        try:
            result = cell.step(input, hx, weights)
        except (RuntimeError, TypeError, ValueError):
            self._check(input, hx)  # says it better, if it is about the arguments; as may what follows
            result = None
        if result is not None:
            return result
        step, states = input.unsqueeze(0), None
        try:
            if hx is not None:
                h_0, c_0 = hx
                states = h_0.unsqueeze(0), c_0.unsqueeze(0)
            if dim == 1:
                step = step.unsqueeze(0)
                states = None if states is None else (states[0].unsqueeze(0), states[1].unsqueeze(0))
            _, (h, c) = functional.lstm(step, states, weights, bias=self.bias)
        except (RuntimeError, TypeError, ValueError):
            self._check(input, hx)  # says it better, if it is about the arguments
            raise
        h, c = h.squeeze(0), c.squeeze(0)
        return (h, c) if dim == 2 else (h.squeeze(0), c.squeeze(0))

    @staticmethod
    def _taken_apart(hx: Any, dim: int) -> Any:
        """What hx is to torch.nn.LSTMCell: without a batch, whatever has two items; otherwise a tuple or a list."""
        for n, state in enumerate(hx):
            if state.dim() not in (1, 2):
                raise ValueError(f"LSTMCell: Expected hx[{n}] to be 1D or 2D, got {state.dim()}D instead")
        if dim == 1:
            return hx[0], hx[1]
        if not isinstance(hx, (tuple, list)):
            kind = type(hx).__name__
            raise TypeError(f"lstm_cell(): argument 'hx' (position 2) must be tuple of Tensors, not {kind}")
        return hx

    @tracing.untraced
    def _check(self, input: Tensor, hx: tuple[Tensor, ...] | None) -> None:
        """Raises torch.nn.LSTMCell's own error, for arguments that it refuses."""
        if hx is not None:
            self._taken_apart(hx, 2)
        if input.dim() == 1:
            input = input.unsqueeze(0)
            hx = None if hx is None else tuple(state.unsqueeze(0) for state in hx)
        if input.size(1) != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {input.size(1)} expected {self.input_size}")
        checks.check_input(input, self.weight_ih, 2, RuntimeError)
        if hx is None:
            return
        if len(hx) != 2:
            raise RuntimeError("lstm_cell expects two hidden states")
        for n, state in enumerate(hx):
            if state.dim() != 2 or state.size(0) != input.size(0):
                raise RuntimeError(
                    f"Input batch size {input.size(0)} doesn't match hidden{n} batch size {state.size(0)}"
                )
            if state.size(1) != self.hidden_size:
                raise RuntimeError(
                    f"hidden{n} has inconsistent hidden_size: got {state.size(1)}, expected {self.hidden_size}"
                )
