"""``LSTM`` and ``LSTMCell``: torch.nn's modules to their users, with our kernels underneath."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.rnn import RNNBase, RNNCellBase
from torch.nn.utils.rnn import PackedSequence

from . import cell, checks, functional, tracing, variants
from .flat_weights import FlatWeights
from .options import CellOptions
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
        num_layers: L, how many.
        bias: whether there are b_ih and b_hh.
        batch_first: input and output are ``(B, T, ...)`` instead of ``(T, B, ...)``; h and c are not affected.
        dropout: probability of a zero in each layer's output but the last's, in training.
        bidirectional: D = 2 directions, forward and reverse.
        proj_size: P, the width of h where it is projected, below H; 0 for no projection.
        zoneout: p_h and p_c, or one number for both: probability that a unit of h, of c, keeps its value at a step.
        recurrent_dropout: of the h that W_hh multiplies, one mask for all steps of a call.
        weight_dropout: of W_hh's elements, once a call.
        cell_clip: c stays between this and its negative.
        peephole: the gates see c; one more parameter in each layer and direction, ``weight_peephole_l0`` and so on.
        layer_norm: of W_ih x, W_hh h and c; six more parameters, ``norm_ih_weight_l0`` and so on.
        forget_bias: is added to the forget gate's part of b_ih when the parameters are drawn.

    The last seven are no part of torch.nn.LSTM, and off by default (docs/cells.md). They set what is in the attribute
    ``cell_options``, None where the cell is the plain one.

    Attributes:
        recompute_gates: set it to True, and training keeps no gates until backward, which computes them again: a third
            of the memory for some more time (docs/pytorch.md).
    """

    recompute_gates: bool = False
    cell_options: CellOptions | None = None
    forget_bias: float = 0.0

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
        *,
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        cell_clip: float | None = None,
        peephole: bool = False,
        layer_norm: bool = False,
        forget_bias: float = 0.0,
    ) -> None:
        options = (num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype)
        # By name: in a subclass of both, super() is torch.nn.LSTM.
        RNNBase.__init__(self, "LSTM", input_size, hidden_size, *options)
        checks.check_construction(input_size, bias, batch_first)
        of_cell: Any = (zoneout, recurrent_dropout, weight_dropout, cell_clip, peephole, layer_norm)
        cell_options = checks.checked_cell(CellOptions(*of_cell))
        checks.check_forget_bias(forget_bias, bias)
        if cell_options != CellOptions():
            self.cell_options = cell_options
            self._add_parameters(device, dtype)
        if forget_bias:
            self.forget_bias = float(forget_bias)
            self._add_forget_bias()

    def _add_parameters(self, device: Any, dtype: torch.dtype | None) -> None:
        """What the cell has itself, behind the weights of each layer and direction: their order in a call."""
        assert self.cell_options is not None
        for names in self._all_weights:
            suffix = names[0].removeprefix("weight_ih")
            for name, size in variants.parameter_sizes(self.cell_options, self.hidden_size).items():
                names.append(name + suffix)
                setattr(self, name + suffix, nn.Parameter(torch.empty(size, device=device, dtype=dtype)))
                if name == variants.PEEPHOLE:
                    nn.init.uniform_(getattr(self, name + suffix), -(self.hidden_size**-0.5), self.hidden_size**-0.5)
        self._flat_weights_names = [name for names in self._all_weights for name in names]
        self._init_flat_weights()
        self._reset_norms()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self._reset_norms()
        if self.forget_bias:
            self._add_forget_bias()

    def _reset_norms(self) -> None:
        for name, parameter in self.named_parameters():
            if name.startswith("norm_"):
                nn.init.constant_(parameter, 1.0 if "_weight_" in name else 0.0)

    def _add_forget_bias(self) -> None:
        with torch.no_grad():
            for names in self._all_weights:
                getattr(self, names[2]).chunk(4)[1].add_(self.forget_bias)

    def extra_repr(self) -> str:
        own = [] if self.cell_options is None else [str(self.cell_options)]
        own += [f"forget_bias={self.forget_bias}"] if self.forget_bias else []
        return ", ".join([super().extra_repr(), *own])

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
            cell=self.cell_options,
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
        if cell.is_plain(input, hx, weights):
            try:
                return cell.step(input, hx, weights)
            except (RuntimeError, TypeError, ValueError):
                self._check(input, hx)  # says it better, if it is about the arguments; as may what follows
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
