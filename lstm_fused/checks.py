"""What is refused before anything runs: torch.nn.LSTM's own error types and messages where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import ops, tracing
from .options import CellOptions

_FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_BIASES = ("b_ih", "b_hh")
# The weights of one layer and direction, by whether there are biases and a projection.
_NAMES = {
    (bias, projected): ("w_ih", "w_hh", *(_BIASES if bias else ()), *(("w_hr",) if projected else ()))
    for bias in (False, True)
    for projected in (False, True)
}


class Layout(NamedTuple):
    """What the weights say of the LSTM they belong to."""

    input_size: int
    hidden_size: int
    proj_width: int  # of h: the projection's size, or hidden_size
    num_layers: int
    num_directions: int


def check_construction(input_size: int, bias: bool, batch_first: bool) -> None:
    """What torch.nn.LSTM has refused since torch 2.11; an older one fails in its call, or has no column to multiply."""
    for name, value in (("bias", bias), ("batch_first", batch_first)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} should be of type bool, got: {type(value).__name__}")
    if input_size <= 0:
        raise ValueError("input_size must be greater than zero")


_PROBABILITIES = "zoneout", "zoneout", "recurrent_dropout", "weight_dropout"


def checked_cell(cell: CellOptions) -> CellOptions:
    """With a pair for zoneout."""
    if not isinstance(cell, CellOptions):
        raise TypeError(f"cell: expected CellOptions or None, got {type(cell).__name__}")
    zoneout: Any = cell.zoneout
    if not isinstance(zoneout, tuple | list):
        zoneout = (zoneout, zoneout)
    if len(zoneout) != 2:
        raise ValueError(f"zoneout: expected one probability or a pair (p_h, p_c), got {cell.zoneout!r}")
    for name, value in zip(_PROBABILITIES, (*zoneout, cell.recurrent_dropout, cell.weight_dropout), strict=True):
        if not _is_number(value) or not 0 <= value < 1:
            raise ValueError(f"{name}: expected a probability in [0, 1), got {value!r}")
    clip = cell.cell_clip
    if clip is not None and not (_is_number(clip) and 0 < clip < float("inf")):
        raise ValueError(f"cell_clip: expected None or a finite number above 0, got {clip!r}")
    for name, value in (("peephole", cell.peephole), ("layer_norm", cell.layer_norm)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} should be of type bool, got: {type(value).__name__}")
    return cell if zoneout is cell.zoneout else cell._replace(zoneout=tuple(zoneout))


def check_forget_bias(forget_bias: float, bias: bool) -> None:
    if not _is_number(forget_bias) or not abs(forget_bias) < float("inf"):
        raise ValueError(f"forget_bias: expected a finite number, got {forget_bias!r}")
    if forget_bias and not bias:
        raise ValueError(
            f"forget_bias={forget_bias}: expected bias=True, which has the vector it is added to, got False"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@tracing.untraced
def check_weight(name: str, weight: Tensor, size: tuple[int, ...], first: Tensor) -> None:
    if weight.shape != size:
        raise ValueError(f"{name}: expected size {size}, got {tuple(weight.shape)}")
    if weight.dtype != first.dtype or weight.device != first.device:
        raise ValueError(
            f"{name}: expected {first.dtype} on {first.device} like weights[0], got {weight.dtype} on {weight.device}"
        )


@tracing.untraced
def check_weights(weights: Sequence[Tensor], num_layers: int, bias: bool, bidirectional: bool) -> Layout:
    """Weights must hold w_ih, w_hh, [b_ih, b_hh], [w_hr] for each layer and direction, of one dtype and device."""
    num_directions = 2 if bidirectional else 1
    count, states = 4 if bias else 2, num_layers * num_directions
    if states < 1 or len(weights) not in (states * count, states * (count + 1)):
        raise ValueError(
            f"weights: expected {count} tensors per layer and direction, or {count + 1} with a projection, for "
            f"num_layers={num_layers}, bidirectional={bidirectional}, bias={bias}; got {len(weights)} tensors"
        )
    projected = len(weights) == states * (count + 1)
    first, recurrent = weights[0], weights[1]
    if first.dim() != 2 or recurrent.dim() != 2:
        raise ValueError(f"weights: expected 2-D w_ih and w_hh, got {first.dim()}-D and {recurrent.dim()}-D tensors")
    (rows, input_size), (_, width) = first.shape, recurrent.shape
    hidden = weights[count].size(1) if projected else rows // 4
    if input_size < 1 or hidden < 1:
        raise ValueError(f"weights[0] (w_ih): expected size (4H, I) with H and I above 0, got {tuple(first.shape)}")
    gates, dtype, device = 4 * hidden, first.dtype, first.device
    names = _NAMES[bias, projected]
    for state in range(states):
        layer_input = input_size if state < num_directions else num_directions * width
        sizes = {"w_ih": (gates, layer_input), "w_hh": (gates, width), "b_ih": (gates,), "b_hh": (gates,)}
        sizes["w_hr"] = (width, hidden)
        for n, name in enumerate(names, state * len(names)):
            weight, size = weights[n], sizes[name]
            if weight.shape != size or (not projected and width != hidden):
                raise ValueError(
                    f"weights[{n}] ({name} of layer {state // num_directions}): expected size {size}, "
                    f"got {tuple(weight.shape)}"
                )
            if weight.dtype != dtype or weight.device != device:
                raise ValueError(
                    f"weights[{n}] ({name}): expected {dtype} on {device} like weights[0], "
                    f"got {weight.dtype} on {weight.device}"
                )
    return Layout(input_size, hidden, width, num_layers, num_directions)


@tracing.untraced
def check_input(input: Tensor, weight: Tensor, expected_dim: int, dtype_error: type[Exception] = ValueError) -> None:
    if input.dtype != weight.dtype and not torch._C._is_any_autocast_enabled():
        raise dtype_error(
            f"RNN input dtype ({input.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or convert model: model.to({input.dtype})"
        )
    if input.dim() != expected_dim:
        raise RuntimeError(f"input must have {expected_dim} dimensions, got {input.dim()}")
    width, expected_width = input.shape[-1], weight.shape[1]
    if width != expected_width:
        raise RuntimeError(f"input.size(-1) must be equal to input_size. Expected {expected_width}, got {width}")
    if input.device != weight.device:
        raise RuntimeError(
            "Input and parameter tensors are not at the same device, found input tensor at "
            f"{input.device} and parameter tensor at {weight.device}"
        )
    if weight.dtype not in _FLOATING:
        raise ValueError(f"input: expected float32, float64, float16 or bfloat16, got {input.dtype}")
    device = input.device
    if device.type not in ops.DEVICE_TYPES:
        raise NotImplementedError(f"lstm_fused has no kernels for {device.type} tensors in this build, got {device}")
    if expected_dim == 3 and input.shape[0] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")


@tracing.untraced
def check_hx(hx: tuple[Tensor, Tensor], input: Tensor, layout: Layout, batch: int | None = None) -> None:
    """Of batched h_0 and c_0, for padded input, or for packed of a batch that is given."""
    batch = input.shape[1] if batch is None else batch
    if not isinstance(hx, tuple | list):
        raise TypeError(f"hx: expected a tuple of two tensors, got {type(hx).__name__}")
    if len(hx) != 2:
        raise RuntimeError("lstm expects two hidden states")
    states = layout.num_layers * layout.num_directions
    for n, width in enumerate((layout.proj_width, layout.hidden_size)):
        if not isinstance(hx[n], Tensor):
            raise TypeError(f"hx[{n}]: expected a tensor, got {type(hx[n]).__name__}")
        if hx[n].shape != (states, batch, width):
            raise RuntimeError(f"Expected hidden[{n}] size {(states, batch, width)}, got {list(hx[n].size())}")
        if hx[n].device != input.device:
            raise RuntimeError(
                "Input and hidden tensors are not at the same device, found input tensor at "
                f"{input.device} and hidden tensor at {hx[n].device}"
            )
        if hx[n].dtype != input.dtype and not torch._C._is_any_autocast_enabled():
            raise RuntimeError(f"hx[{n}]: expected dtype {input.dtype} like the input, got {hx[n].dtype}")


@tracing.untraced
def check_packed(data: Tensor, batch_sizes: Tensor, has_hx: bool) -> tuple[int, Any]:
    """Of a PackedSequence; returns T and B, which is None where the values of batch_sizes are not known."""
    if not isinstance(batch_sizes, Tensor):
        raise TypeError(f"PackedSequence: expected a tensor of batch_sizes, got {type(batch_sizes).__name__}")
    if batch_sizes.dim() == 0 or batch_sizes.shape[0] == 0:
        raise IndexError("PackedSequence: expected batch_sizes of at least one step, got none")
    if batch_sizes.dim() != 1 or batch_sizes.is_floating_point():  # torch's states of zeros have no such size
        error = RuntimeError if has_hx else TypeError
        raise error(f"PackedSequence: expected int64 batch_sizes (T,), got {_kind(batch_sizes)}")
    if batch_sizes.dtype != torch.int64 or batch_sizes.device.type != "cpu":
        raise RuntimeError(f"PackedSequence: expected int64 batch_sizes on the CPU, got {_kind(batch_sizes)}")
    sizes = tracing.values(batch_sizes)
    if sizes is None:
        return batch_sizes.shape[0], None
    if sizes[-1] < 1 or sizes != sorted(sizes, reverse=True):
        raise RuntimeError("PackedSequence: expected batch_sizes that are positive and do not grow")
    if sum(sizes) != data.shape[0]:
        raise RuntimeError(f"PackedSequence: batch_sizes add up to {sum(sizes)}, but data has {data.shape[0]} rows")
    return len(sizes), sizes[0]


@tracing.untraced
def check_lengths(lengths: Tensor, input: Tensor, batch_first: bool) -> None:
    """An integer tensor (B,), () for unbatched input; its values are read only where that costs no synchronisation."""
    batched = input.dim() == 3
    shape = (input.size(0 if batch_first else 1),) if batched else ()
    seq_len = input.size(1 if batch_first and batched else 0)
    if not isinstance(lengths, Tensor):
        raise TypeError(f"lengths: expected an integer tensor of size {shape}, got {type(lengths).__name__}")
    if lengths.dtype == torch.bool or lengths.is_floating_point() or lengths.is_complex():
        raise TypeError(f"lengths: expected an integer tensor, got dtype {lengths.dtype}")
    if lengths.shape != shape:
        raise ValueError(f"lengths: expected size {shape}, got {tuple(lengths.shape)}")
    values = tracing.values(lengths)
    if values and not 1 <= min(values) <= max(values) <= seq_len:
        raise ValueError(
            f"lengths: expected values from 1 to {seq_len}, got values from {min(values)} to {max(values)}"
        )


@tracing.untraced
def check_reset(reset: Tensor, input: Tensor, shape: tuple[int, ...] | None = None) -> None:
    """A bool tensor (T, B); (B, T) with batch_first; (T,) unbatched. The shape is given for packed input."""
    shape, device = tuple(input.shape[:-1]) if shape is None else shape, input.device
    if not isinstance(reset, Tensor):
        raise TypeError(f"reset: expected a bool tensor of size {shape}, got {type(reset).__name__}")
    if reset.dtype != torch.bool:
        raise TypeError(f"reset: expected a bool tensor, got dtype {reset.dtype}")
    if reset.shape != shape:
        raise ValueError(f"reset: expected size {shape}, got {tuple(reset.shape)}")
    if reset.device != device:
        raise ValueError(f"reset: expected a tensor on {device} like the input, got one on {reset.device}")


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
