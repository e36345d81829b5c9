"""The stateless form of :class:`lstm_fused.LSTM`: input forms, defaults, dropout and packing around one op call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import has_torch_function

from . import autograd, checks, ops, packing

State = tuple[Tensor, Tensor]


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
            docs/pytorch.md.

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
    plain = lengths is None and reset is None and not (return_cells or (training and dropout))
    if plain and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        try:
            result = _bare(input, hx, weights, num_layers, bias, bidirectional, batch_first)
            if result is not None:
                return result
        except (RuntimeError, TypeError, ValueError) as error:
            refusal = error  # which the checks below say better, if it is about the arguments
    layout = checks.check_weights(weights, num_layers, bias, bidirectional)
    if isinstance(input, PackedSequence):
        if lengths is not None:
            raise ValueError("lengths: expected None with a PackedSequence, which has its own; got a value")
        switches = (return_cells, recompute_gates)
        return _packed(input, hx, weights, layout, batch_first, dropout, training, reset, *switches)

    dim = input.dim()
    if dim not in (2, 3):
        raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {dim}D instead")
    batched = dim == 3
    if hx is not None and (hx[0].dim() != dim or hx[1].dim() != dim):
        raise RuntimeError(
            f"For {'batched 3-D' if batched else 'unbatched 2-D'} input, hx and cx should also be "
            f"{dim}-D but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
        )
    if lengths is not None:
        checks.check_lengths(lengths, input, batch_first)
    if reset is not None:
        checks.check_reset(reset, input)

    # From here on time comes first and there is a batch.
    if not batched:
        input = input.unsqueeze(1)
        hx = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        lengths = None if lengths is None else lengths.unsqueeze(0)
        reset = None if reset is None else reset.unsqueeze(1)
    elif batch_first:
        input = input.transpose(0, 1)
        reset = None if reset is None else reset.t()
    checks.check_input(input, weights[0], 3)
    if hx is not None:
        checks.check_hx(hx, input, layout)
    if refusal is not None:
        raise refusal
    mask = _dropout_mask(input, input.shape[:2], layout, dropout) if training and dropout != 0.0 else None
    options = (lengths, reset, mask, return_cells, recompute_gates)
    output, h_n, c_n, cells = _run(input, input.size(1), hx, weights, layout, *options)
    if not batched:
        output, h_n, c_n = output.squeeze(1), h_n.squeeze(1), c_n.squeeze(1)
        cells = cells.squeeze(1) if return_cells else cells
    elif batch_first:
        output = output.transpose(0, 1)
        cells = cells.transpose(0, 1) if return_cells else cells
    return (output, (h_n, c_n), cells) if return_cells else (output, (h_n, c_n))


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


def _packed(
    packed: PackedSequence,
    hx: State | None,
    weights: Sequence[Tensor],
    layout: checks.Layout,
    batch_first: bool,
    dropout: float,
    training: bool,
    reset: Tensor | None,
    return_cells: bool,
    recompute_gates: bool,
) -> Any:
    """The CPU's operator takes packed steps as they are; elsewhere, and in a graph or a transform, they are padded.

    Rows stay in the order in which they are packed.
    """
    data, batch_sizes, sorted_indices, unsorted_indices = packed
    checks.check_input(data, weights[0], 2, RuntimeError)
    seq_len, batch = checks.check_packed(data, batch_sizes, hx is not None)
    if sorted_indices is not None and hx is not None:
        hx = hx[0].index_select(1, sorted_indices), hx[1].index_select(1, sorted_indices)
    recorded = batch is None or torch.jit.is_tracing()
    if recorded:
        batch = _recorded_batch(packed, hx, reset, batch_first)
        batch_sizes = _asserted(batch_sizes, data, batch)
    if reset is not None:
        checks.check_reset(reset, data, (batch, seq_len) if batch_first else (seq_len, batch))
        reset = reset.t() if batch_first else reset
        reset = reset if sorted_indices is None else reset.index_select(1, sorted_indices)
    if hx is not None:
        checks.check_hx(hx, data, layout, batch)

    lengths = places = None
    steps, device = data.size(0), data.device
    even = not recorded and steps == seq_len * batch  # all rows are of one length
    if not even:
        rows = torch.arange(batch, dtype=torch.int64, device=device)
        valid = rows < batch_sizes.to(device, non_blocking=True).unsqueeze(1)  # (T, B)
        lengths = valid.sum(0)
        if recorded or device.type != "cpu" or autograd.transforms_are_active():
            places = packing.places(valid, steps)

    def unpacked(data: Tensor) -> Tensor:
        if even:
            return data.unflatten(0, (seq_len, batch))
        return data if places is None else places.pad(data)

    def repacked(result: Tensor) -> PackedSequence:
        if even:
            result = result.flatten(0, 1)
        elif places is not None:
            result = places.pack(result)
        return PackedSequence(result, batch_sizes, sorted_indices, unsorted_indices)

    mask = _dropout_mask(data, data.shape[:1], layout, dropout) if training and dropout != 0.0 else None
    if mask is not None:  # drawn for the packed steps alone, so that a seed gives the masks of torch.nn.LSTM
        mask = torch.stack([unpacked(layer) for layer in mask.unbind()])
    options = (lengths, reset, mask, return_cells, recompute_gates)
    output, h_n, c_n, cells = _run(unpacked(data), batch, hx, weights, layout, *options)
    if unsorted_indices is not None:
        h_n, c_n = h_n.index_select(1, unsorted_indices), c_n.index_select(1, unsorted_indices)
    result = repacked(output), (h_n, c_n)
    return (*result, repacked(cells)) if return_cells else result


def _recorded_batch(packed: PackedSequence, hx: State | None, reset: Tensor | None, batch_first: bool) -> Any:
    """The batch in a graph: the size of a tensor, if there is one that has it, or else what batch_sizes will say."""
    if hx is not None:
        return hx[0].size(1)
    if reset is not None:
        return reset.size(0 if batch_first else 1)
    if packed.sorted_indices is not None:
        return packed.sorted_indices.size(0)
    batch = packed.batch_sizes[0]
    # To torch.jit.trace all sizes are tensors. To torch.export, int() of one would be one number for good.
    return batch if torch.jit.is_tracing() else batch.item()


def _asserted(batch_sizes: Tensor, data: Tensor, batch: Any) -> Tensor:
    """What checks.check_packed says of values, as operators in a graph."""
    fits = (batch_sizes.cummin(0).values == batch_sizes).all() & (batch_sizes[-1] > 0)
    fits = fits & (batch_sizes.sum() == data.size(0)) & (batch_sizes[0] == batch)
    message = "PackedSequence: batch_sizes do not fit data, or hx, reset or sorted_indices"
    if torch.jit.is_tracing():  # which drops assertions whose result is not used
        return torch._functional_assert_async(fits, message, batch_sizes)
    torch._assert_async(fits, message)
    return batch_sizes


def _dropout_mask(like: Tensor, steps: Sequence[int], layout: checks.Layout, dropout: float) -> Tensor | None:
    """(L-1, *steps, D*P): 0 or 1/(1-p). One draw per layer, as torch.nn.LSTM on the CPU draws."""
    if layout.num_layers == 1:
        return None
    ones = like.new_ones((*steps, layout.num_directions * layout.proj_width))
    draws = [torch.nn.functional.dropout(ones, dropout) for _ in range(layout.num_layers - 1)]
    return torch.stack(draws)


def _run(
    input: Tensor,
    batch: int,
    hx: State | None,
    weights: Sequence[Tensor],
    layout: checks.Layout,
    lengths: Tensor | None,
    reset: Tensor | None,
    mask: Tensor | None,
    return_cells: bool,
    recompute_gates: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator, for input (T, B, I), or on the CPU packed, (N, I)."""
    device = input.device
    if hx is None:
        _, hidden, width, layers, directions = layout
        c_0 = input.new_zeros((layers * directions, batch, hidden))
        h_0 = c_0 if width == hidden else input.new_zeros((layers * directions, batch, width))
    else:
        h_0, c_0 = hx
    if lengths is not None:
        lengths = lengths.to(device=device, dtype=torch.int64, non_blocking=True).contiguous()
    if reset is not None:
        reset = reset.contiguous()
    any_autocast = torch._C._is_any_autocast_enabled()  # the cheaper question
    if any_autocast and torch.is_autocast_enabled(device.type) and input.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device.type)
        input, h_0, c_0, *weights = [t.to(dtype) for t in (input, h_0, c_0, *weights)]
        mask = None if mask is None else mask.to(dtype)
    options = (layout.num_directions == 2, lengths, reset, mask, return_cells, recompute_gates)
    return autograd.lstm(input, h_0, c_0, weights, *options)
