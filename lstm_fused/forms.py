"""The forms in which an input comes, one function for each: checked, and turned into the one that the operators take.

That is time first, with a batch. Rows of packed input stay in the order in which they are packed; on the CPU the
operators take its steps as they are, elsewhere, in a graph and in a transform they are padded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from . import autograd, checks, packing
from .options import MaybeTensor

State = tuple[Tensor, Tensor]


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


@dataclass
class Call:
    """What the operators are given, and how its results, and a dropout mask before them, change between the forms."""

    input: Tensor  # (T, B, I), or packed (N, I)
    batch: Any  # B
    hx: State | None  # (L*D, B, P) and (L*D, B, H)
    lengths: MaybeTensor  # (B,)
    reset: MaybeTensor  # (T, B)
    mask_steps: Sequence[int]  # for which dropout is drawn: (T, B) or (N,)
    mask: Callable[[Tensor], Tensor] = _unchanged  # one layer's (*mask_steps, D*P)
    output: Callable[[Tensor], Any] = _unchanged  # output and cells
    states: Callable[[Tensor], Tensor] = _unchanged  # h_n and c_n


def padded(
    input: Tensor,
    hx: State | None,
    weight: Tensor,
    layout: checks.Layout,
    lengths: MaybeTensor,
    reset: MaybeTensor,
    batch_first: bool,
) -> Call:
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
    if not batched:
        call = _unbatched(input, hx, lengths, reset)
    elif batch_first:
        call = _batch_first(input, hx, lengths, reset)
    else:
        call = Call(input, input.size(1), hx, lengths, reset, input.shape[:2])
    checks.check_input(call.input, weight, 3)
    if call.hx is not None:
        checks.check_hx(call.hx, call.input, layout)
    return call


def _unbatched(input: Tensor, hx: State | None, lengths: MaybeTensor, reset: MaybeTensor) -> Call:
    input = input.unsqueeze(1)
    hx = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
    lengths = None if lengths is None else lengths.unsqueeze(0)
    reset = None if reset is None else reset.unsqueeze(1)

    def unbatched(result: Tensor) -> Tensor:
        return result.squeeze(1)

    return Call(input, 1, hx, lengths, reset, input.shape[:2], output=unbatched, states=unbatched)


def _batch_first(input: Tensor, hx: State | None, lengths: MaybeTensor, reset: MaybeTensor) -> Call:
    def transposed(result: Tensor) -> Tensor:
        return result.transpose(0, 1)

    input = transposed(input)
    reset = None if reset is None else transposed(reset)
    return Call(input, input.size(1), hx, lengths, reset, input.shape[:2], output=transposed)


def packed(
    input: PackedSequence,
    hx: State | None,
    weight: Tensor,
    layout: checks.Layout,
    reset: MaybeTensor,
    batch_first: bool,
) -> Call:
    data, batch_sizes, sorted_indices, unsorted_indices = input
    checks.check_input(data, weight, 2, RuntimeError)
    seq_len, batch = checks.check_packed(data, batch_sizes, hx is not None)
    if sorted_indices is not None and hx is not None:
        hx = hx[0].index_select(1, sorted_indices), hx[1].index_select(1, sorted_indices)
    recorded = batch is None or torch.jit.is_tracing()
    if recorded:
        batch = _recorded_batch(input, hx, reset, batch_first)
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

    def unsorted(state: Tensor) -> Tensor:
        return state if unsorted_indices is None else state.index_select(1, unsorted_indices)

    # Dropout is drawn for the packed steps alone, so that a seed gives the masks of torch.nn.LSTM.
    return Call(unpacked(data), batch, hx, lengths, reset, data.shape[:1], unpacked, repacked, unsorted)


def _recorded_batch(packed: PackedSequence, hx: State | None, reset: MaybeTensor, batch_first: bool) -> Any:
    """The batch in a graph: the size of a tensor, if there is one that has it, or else what batch_sizes will say."""
    if hx is not None:
        return hx[0].size(1)
    if reset is not None:
        return reset.size(0 if batch_first else 1)
    _, batch_sizes, sorted_indices, _ = packed  # Dynamo of torch 2.12 does not find them by name
    if sorted_indices is not None:
        return sorted_indices.size(0)
    batch = batch_sizes[0]
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
