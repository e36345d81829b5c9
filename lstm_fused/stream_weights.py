"""The weights of a stream on the CPU: rounded to how they are stored, in the order in which its kernel reads them."""

from __future__ import annotations

import threading
import weakref

import torch
from torch import Tensor, nn
from torch.nn.modules.rnn import RNNBase

from . import _library, _plan  # noqa: F401 (_library loads the operators)
from .stream_module import Layout, layout_of, version_of, weights_of

RUN, VECTOR_BYTES, MULTIPLIES_BYTES = torch.ops.lstm_fused.stream_facts()
Key = tuple[torch.dtype, torch.dtype | None]
# How csrc/cpu/stream.h numbers them, by the dtypes of weights and of activations that are rounded.
KINDS: dict[Key, int] = {(torch.float32, None): 0, (torch.float64, None): 0, (torch.bfloat16, None): 1}
KINDS |= {(torch.int8, None): 2, (torch.int8, torch.int8): 3}
PANEL_VECTORS, BYTES_TOGETHER = 2, 4
MOST_BYTES = 2**16  # products of bytes whose sum fits an int32


class Packed:
    """The weights of a module as they were at one time. Streams of the module share it."""

    def __init__(self, lstm: RNNBase, dtype: torch.dtype, activations: torch.dtype | None) -> None:
        self.layout, self.dtype, self.activations = layout_of(lstm), dtype, activations
        self.version = version_of(lstm)
        weights = [weight.detach() for weight in weights_of(lstm)]
        per_layer = len(weights) // lstm.num_layers
        self.layers = [self._layer(lstm, weights[n : n + per_layer]) for n in range(0, len(weights), per_layer)]
        self.nbytes = sum(t.nbytes for layer in self.layers for t in layer if t is not None)

    @property
    def addresses(self) -> list[list[int]]:
        """Of each layer, in the order of csrc/cpu/stream.h."""
        return [[0 if t is None else t.data_ptr() for t in layer] for layer in self.layers]

    def _layer(self, lstm: RNNBase, weights: list[Tensor]) -> list[Tensor | None]:
        w_ih, w_hh, *rest = weights
        bias = rest[0] + rest[1] if lstm.bias else w_ih.new_zeros(len(w_ih))
        w_hr = rest[-1] if lstm.proj_size else None
        matrices: list[Tensor | None] = []
        scales: list[Tensor | None] = []
        for matrix, in_blocks in ((w_ih, self._blocks), (w_hh, self._blocks), (w_hr, self._columns)):
            if matrix is None:
                matrices, scales = [*matrices, None], [*scales, None]
                continue
            stored, scale = quantized(matrix) if self.dtype == torch.int8 else (matrix.to(self.dtype), None)
            panels = in_blocks(stored)
            if self.activations:
                panels = _of_bytes(panels, in_blocks(-128 * stored.sum(1, keepdim=True, dtype=torch.int32)))
            matrices.append(_settled(panels))
            scales.append(None if scale is None else in_blocks(scale.unsqueeze(1)).contiguous())
        return [*matrices, self._blocks(bias.unsqueeze(1)).contiguous(), *scales]

    def _blocks(self, matrix: Tensor) -> Tensor:
        """(4H, K) as (blocks, 2, K, 2 * lanes)."""
        hidden, lanes = self.layout.hidden_size, lanes_of(self.layout)
        gates = _padded(matrix.unflatten(0, (4, hidden)), 1, lanes)
        return gates.reshape(2, 2, -1, lanes, matrix.size(1)).permute(2, 0, 4, 1, 3).flatten(-2)

    def _columns(self, matrix: Tensor) -> Tensor:
        """(P, K) as (panels, K, 2 * lanes)."""
        panel = PANEL_VECTORS * lanes_of(self.layout)
        return _padded(matrix, 0, panel).reshape(-1, panel, matrix.size(1)).transpose(1, 2)


def quantized(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """int8 `q` and a scale for each row: q * scale is next to the matrix. The largest number of a row becomes 127."""
    scale = matrix.abs().amax(1) / 127
    scale = torch.where(scale > 0, scale, 1)
    return (matrix / scale.unsqueeze(1)).round_().to(torch.int8), scale


_cache: weakref.WeakKeyDictionary[nn.Module, weakref.WeakValueDictionary[Key, Packed]]
_cache = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def pack(lstm: RNNBase, dtype: torch.dtype | None, activations: torch.dtype | None) -> Packed:
    """The packed weights of a module that a stream can be made of; those of another stream of it, if still right."""
    dtype = check(lstm, dtype)
    check_activations(lstm, dtype, activations)
    key = dtype, activations
    with _lock:
        of_module = _cache.setdefault(lstm, weakref.WeakValueDictionary())
        packed = of_module.get(key)
        if packed is None or packed.version != version_of(lstm):
            packed = of_module[key] = Packed(lstm, dtype, activations)
        return packed


def check(lstm: RNNBase, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype that weights are stored as. Raises where there is no stream on the CPU."""
    layout = layout_of(lstm)
    if layout.dtype not in (torch.float32, torch.float64):
        narrow = "; bfloat16 weights: lstm.float() and weights=torch.bfloat16" if layout.dtype.itemsize == 2 else ""
        raise ValueError(f"lstm: expected float32 or float64 parameters on the CPU, got {layout.dtype}{narrow}")
    if dtype in (None, layout.dtype):
        return layout.dtype
    if layout.dtype != torch.float32 or dtype not in (torch.bfloat16, torch.int8):
        expected = "None, torch.bfloat16 or torch.int8" if layout.dtype == torch.float32 else "None"
        raise ValueError(f"weights: expected {expected} for a module of {layout.dtype}, got {dtype}")
    if dtype == torch.int8:
        for name, weight in zip(lstm._flat_weights_names, weights_of(lstm)):
            if not bool(weight.isfinite().all()):
                raise ValueError(f"lstm: {name} has numbers that are not finite, which int8 cannot hold")
    return dtype


def check_activations(lstm: RNNBase, dtype: torch.dtype, activations: torch.dtype | None) -> None:
    if activations is None:
        return
    if activations != torch.int8 or dtype != torch.int8:
        raise ValueError(f"activations: expected None, or torch.int8 with weights of torch.int8; got {activations}")
    if not MULTIPLIES_BYTES:
        raise ValueError("activations: torch.int8 needs a CPU with AVX2 or AVX512-VNNI, got one without; leave it out")
    layout = layout_of(lstm)
    longest = max(layout[:3])
    if longest > MOST_BYTES:
        raise ValueError(f"activations: torch.int8 takes sizes up to {MOST_BYTES}, got {longest}")


def lanes_of(layout: Layout) -> int:
    """Elements of a vector."""
    return VECTOR_BYTES // layout.dtype.itemsize


def whole_panels(layout: Layout, size: int) -> int:
    return whole(size, PANEL_VECTORS * lanes_of(layout))


def whole(size: int, unit: int) -> int:
    """Up to the next multiple."""
    return -(-size // unit) * unit


def _settled(tensor: Tensor) -> Tensor:
    """A copy in memory that is good to read from end to end."""
    copy = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    _plan.prefer_large_pages(copy.data_ptr(), copy.nbytes)
    return copy.copy_(tensor)


def _of_bytes(panels: Tensor, firsts: Tensor) -> Tensor:
    """Panels (..., K, width) of bytes as (..., 1 + K / 4, width, 4): an int32, then the bytes of four k's together."""
    fours = _padded(panels, -2, BYTES_TOGETHER).unflatten(-2, (-1, BYTES_TOGETHER)).transpose(-1, -2)
    return torch.cat([firsts.unsqueeze(-1).view(torch.int8), fours], -3)


def _padded(tensor: Tensor, dim: int, unit: int) -> Tensor:
    """With zeros behind, up to a multiple of the unit."""
    missing = list(tensor.shape)
    missing[dim] = whole(missing[dim], unit) - missing[dim]
    return torch.cat([tensor, tensor.new_zeros(missing)], dim)
