"""The stateless form of :class:`lstm_fused.LSTM`: input forms, defaults, dropout and packing around one op call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import has_torch_function

from . import autograd, checks, forms, one_step, ops, variants
from .forms import State
from .options import CellOptions, MaybeTensor, Options, Outputs


def lstm(
    input: Tensor | PackedSequence,
    hx: State | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bias: bool = True,
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    return_cells: bool = False,
    recompute_gates: bool = False,
    cell: CellOptions | None = None,
) -> Any:
    """A stack of LSTM layers, as :class:`torch.nn.LSTM` computes it (equations: :mod:`lstm_fused.reference`).

    T = sequence length, B = batch, I = input size, H = hidden size, D = 2 if bidirectional else 1, L = layers, P = the
    projection's size, or H without one.

    Args:
        input: ``(T, B, I)``, ``(B, T, I)`` with ``batch_first``, ``(T, I)`` unbatched, or a ``PackedSequence``.
        hx: h_0 ``(L*D, B, P)`` and c_0 ``(L*D, B, H)``, without the B unbatched; zero when None.
        weights: per layer and direction w_ih ``(4H, I or D*P)``, w_hh ``(4H, P)``, with ``bias`` b_ih and b_hh
            ``(4H,)``, with a projection w_hr ``(P, H)``: the order of ``torch.nn.LSTM.parameters()``.
        dropout: probability of a zero between layers while ``training``, drawn from torch's generator.
        lengths: int ``(B,)``, each row's number of valid steps; on any device. Not with a ``PackedSequence``.
        reset: bool ``(T, B)`` (``(B, T)`` with ``batch_first``, ``(T,)`` unbatched): where true, the row's state is
            zero before that step. Going backwards the same boundary holds: the state is zero between that step and the
            one before it. Rows of a ``PackedSequence`` are counted as its ``unsorted_indices`` say.
        return_cells: also return the last layer's cell state after every step.
        recompute_gates: keep no gates for backward, which computes them again: a third of the memory, see
            docs/pytorch.md. The cell's variants keep theirs.
        cell: what makes the cell another one, see docs/cells.md. What it has itself lies in ``weights`` behind those
            above, for each layer and direction: peepholes ``(3, H)``, then weight and bias of the norms of W_ih x and
            W_hh h ``(4H,)`` and of c ``(H,)``. Its masks are drawn while ``training``.

    Returns:
        ``output, (h_n, c_n)``, and ``cells`` with ``return_cells``. output is ``(T, B, D*P)`` and cells
        ``(T, B, D*H)``, both in the input's form and zero past a row's length; h_n and c_n as hx, each row's last valid
        step.

    Raises:
        RuntimeError, ValueError, TypeError: as ``torch.nn.LSTM`` for what it has too; for ``lengths``, ``reset`` and
            ``weights``, TypeError for a wrong kind or dtype and ValueError for a wrong size or value.
        NotImplementedError: for a device that has no kernels in this build.
    """
    refusal = None
    weight_dropout, plain_weights = 0.0, weights
    own: list[Tensor] = []
    if cell is not None:
        cell = checks.checked_cell(cell)
        weight_dropout = cell.weight_dropout if training else 0.0
        num_states = max(1, num_layers * (2 if bidirectional else 1))
        plain_weights, own = variants.split(weights, cell, num_states)
        cell = cell if cell.varies(training) else None
    plain = cell is None and lengths is None and reset is None
    plain = plain and not (return_cells or weight_dropout or (training and dropout))
    if plain and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        try:
            result = _bare(input, hx, weights, num_layers, bias, bidirectional, batch_first)
            if result is not None:
                return result
        except (RuntimeError, TypeError, ValueError) as error:
            refusal = error  # which the checks below say better, if it is about the arguments
    layout = checks.check_weights(plain_weights, num_layers, bias, bidirectional)
    if cell is not None:
        variants.check_weights(own, cell, layout, weights[0])
    if isinstance(input, PackedSequence):
        if lengths is not None:
            raise ValueError("lengths: expected None with a PackedSequence, which has its own; got a value")
        call = forms.packed(input, hx, weights[0], layout, reset, batch_first)
    else:
        call = forms.padded(input, hx, weights[0], layout, lengths, reset, batch_first)
    if refusal is not None:
        raise refusal
    if weight_dropout:
        weights = variants.with_dropped_weights(weights, num_states, weight_dropout)
    options = Options(bidirectional, call.lengths, call.reset, None, return_cells, recompute_gates)
    dropout = dropout if training else 0.0
    if cell is None and one_step.suits(call, weights, layout, options):
        results = one_step.run(call, weights, num_layers, dropout)
    else:
        mask = _dropout_mask(call, layout, dropout) if dropout != 0.0 else None
        results = _run(call, layout, weights, options._replace(dropout_mask=mask), cell, training)
    result = call.output(results.output), (call.states(results.h_n), call.states(results.c_n))
    return (*result, call.output(results.cells)) if return_cells else result


def _bare(
    input: Any,
    hx: State | None,
    weights: Sequence[Tensor],
    num_layers: int,
    bias: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, State] | None:
    """Inference by the operator alone, for a short call; None where there is more to do.

    The operator refuses all that the checks of :func:`lstm` refuse, but for what is looked at here.
    """
    if type(input) is not Tensor or input.dim() != 3:
        return None
    # A graph may be trained later. Modes that look at operators make most of them.
    if torch._C._is_any_autocast_enabled() or torch._C._is_tracing() or torch._C._len_torch_dispatch_stack() > 0:
        return None
    h_0 = c_0 = None
    if hx is not None:
        if not isinstance(hx, tuple | list) or len(hx) != 2:
            return None
        h_0, c_0 = hx
        if h_0 is None or c_0 is None:  # the operator would take that
            return None
    if autograd.in_forward_mode() or autograd.transforms_are_active() or has_torch_function((h_0, c_0, *weights)):
        return None
    states, count = num_layers * (2 if bidirectional else 1), 4 if bias else 2
    if len(weights) not in (states * count, states * (count + 1)):
        return None
    if batch_first:
        input = input.transpose(0, 1)
    output, h_n, c_n = ops.infer(input, h_0, c_0, weights, num_layers, bidirectional)
    return output.transpose(0, 1) if batch_first else output, (h_n, c_n)


def _dropout_mask(call: forms.Call, layout: checks.Layout, dropout: float) -> MaybeTensor:
    """(L-1, ..., D*P): 0 or 1/(1-p). One draw per layer, as torch.nn.LSTM on the CPU draws."""
    if layout.num_layers == 1:
        return None
    ones = call.input.new_ones((*call.mask_steps, layout.num_directions * layout.proj_width))
    draws = [torch.nn.functional.dropout(ones, dropout) for _ in range(layout.num_layers - 1)]
    return torch.stack([call.mask(layer) for layer in draws])


def _run(
    call: forms.Call,
    layout: checks.Layout,
    weights: Sequence[Tensor],
    options: Options,
    cell: CellOptions | None,
    training: bool,
) -> Outputs:
    """The operator, with states, dtypes and devices as it wants them."""
    input, device = call.input, call.input.device
    if call.hx is None:
        _, hidden, width, layers, directions = layout
        c_0 = input.new_zeros((layers * directions, call.batch, hidden))
        h_0 = c_0 if width == hidden else input.new_zeros((layers * directions, call.batch, width))
    else:
        h_0, c_0 = call.hx
    lengths, reset, mask = options.tensors()
    if lengths is not None:
        lengths = lengths.to(device=device, dtype=torch.int64, non_blocking=True).contiguous()
    if reset is not None:
        reset = reset.contiguous()
    any_autocast = torch._C._is_any_autocast_enabled()  # the cheaper question
    if any_autocast and torch.is_autocast_enabled(device.type) and input.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device.type)
        input, h_0, c_0, *weights = [t.to(dtype) for t in (input, h_0, c_0, *weights)]
        mask = None if mask is None else mask.to(dtype)
    options = options.with_tensors(lengths, reset, mask)
    if cell is not None:
        return variants.lstm(input, h_0, c_0, weights, options, cell, training)
    return autograd.lstm(input, h_0, c_0, weights, options)
