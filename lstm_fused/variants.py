"""A stack of LSTM layers whose cells are variants of the plain one, layer by layer and direction by direction.

The equations are in :mod:`.reference`, the operator that runs one direction of one layer in :mod:`.variant_ops`. Masks
are drawn here, from torch's generator, so that the rest of a call is a function of its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import checks, packing, variant_ops
from .options import CellOptions, MaybeTensor, Options, Outputs, Variant

PEEPHOLE = "weight_peephole"
NORMS = ("norm_ih_weight", "norm_ih_bias", "norm_hh_weight", "norm_hh_bias", "norm_c_weight", "norm_c_bias")


def parameter_sizes(cell: CellOptions, hidden_size: int) -> dict[str, tuple[int, ...]]:
    """Of what one layer and direction has behind the weights of the plain LSTM, in order."""
    sizes: dict[str, tuple[int, ...]] = {PEEPHOLE: (3, hidden_size)} if cell.peephole else {}
    if cell.layer_norm:
        sizes |= {name: (hidden_size if "_c_" in name else 4 * hidden_size,) for name in NORMS}
    return sizes


def with_dropped_weights(weights: Sequence[Tensor], num_states: int, probability: float) -> list[Tensor]:
    """Merity et al. 2017: dropout of the elements of every w_hh, the second weight of each layer and direction."""
    per_state = max(1, len(weights) // num_states)
    return [
        weight * _dropout_mask(probability, weight) if n % per_state == 1 else weight
        for n, weight in enumerate(weights)
    ]


def split(weights: Sequence[Tensor], cell: CellOptions, num_states: int) -> tuple[list[Tensor], list[Tensor]]:
    """The weights of the plain LSTM, and what the cell has behind them in each layer and direction."""
    count = len(parameter_sizes(cell, 1))
    per_state = max(1, len(weights) // num_states)
    plain: list[Tensor] = []
    own: list[Tensor] = []
    for begin in range(0, len(weights), per_state):
        end = begin + per_state
        plain += weights[begin : end - count]
        own += weights[end - count : end]
    return plain, own


def lstm(
    input: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[Tensor],
    options: Options,
    cell: CellOptions,
    training: bool,
) -> Outputs:
    """As :func:`lstm_fused.autograd.lstm`, of ``weights`` that hold for each layer and direction all that it has.

    Half types are widened once and rounded at the end. Packed input is padded.
    """
    dtype = input.dtype
    wide = torch.float32 if dtype.itemsize == 2 else dtype
    lengths, reset, dropout_mask = options.tensors()
    places = None
    if input.dim() == 2:
        assert lengths is not None
        places = packing.places_of_lengths(lengths, input.size(0))
        input = places.pad(input)
        if dropout_mask is not None:
            dropout_mask = torch.stack([places.pad(layer) for layer in dropout_mask.unbind()])
    x = input
    if dtype != wide:
        x, h_0, c_0, *weights = [t.to(wide) for t in (input, h_0, c_0, *weights)]
        dropout_mask = None if dropout_mask is None else dropout_mask.to(wide)

    num_directions = 2 if options.bidirectional else 1
    num_states = h_0.size(0)
    per_state = len(weights) // num_states
    all_h_0, all_c_0 = h_0.unbind(), c_0.unbind()
    last_h, last_c = [], []
    for layer in range(num_states // num_directions):
        if layer > 0 and dropout_mask is not None:
            x = x * dropout_mask[layer - 1]
        outputs, all_cells = [], []
        for d in range(num_directions):
            n = layer * num_directions + d
            own_weights = weights[n * per_state : (n + 1) * per_state]
            state = all_h_0[n], all_c_0[n]
            variant = drawn(cell, x, *state, training)
            h, c, h_n, c_n = variant_ops.direction(
                x, *state, own_weights, d == 1, lengths, reset, variant, is_widened=dtype != wide
            )
            outputs.append(h)
            all_cells.append(c)
            last_h.append(h_n)
            last_c.append(c_n)
        x = outputs[0] if num_directions == 1 else torch.cat(outputs, -1)
    cells: MaybeTensor = None
    if options.return_cells:
        cells = all_cells[0] if num_directions == 1 else torch.cat(all_cells, -1)
    if places is not None:
        x, cells = places.pack(x), None if cells is None else places.pack(cells)
    h_n, c_n = (t[0].unsqueeze(0) if len(t) == 1 else torch.stack(t) for t in (last_h, last_c))
    if dtype != wide:
        x, h_n, c_n = x.to(dtype), h_n.to(dtype), c_n.to(dtype)
        cells = None if cells is None else cells.to(dtype)
    return Outputs(x, h_n, c_n, cells)


def drawn(cell: CellOptions, x: Tensor, h_0: Tensor, c_0: Tensor, training: bool) -> Variant:
    """The cell of one direction of one layer: with masks in training, drawn for m, e and d in this order."""
    zoneout_h: Tensor | float
    zoneout_c: Tensor | float
    zoneout_h, zoneout_c = cell.zoneout
    recurrent_mask = None
    if training:
        if cell.recurrent_dropout:
            recurrent_mask = _dropout_mask(cell.recurrent_dropout, h_0)
        steps = x.size(0)
        if zoneout_h:
            zoneout_h = _ones(zoneout_h, (steps, *h_0.shape), h_0)
        if zoneout_c:
            zoneout_c = _ones(zoneout_c, (steps, *c_0.shape), c_0)
    return Variant(zoneout_h, zoneout_c, recurrent_mask, cell.cell_clip, cell.peephole, cell.layer_norm)


def _ones(probability: float, size: Sequence[int], like: Tensor) -> Tensor:
    """Else zeros; the same for all dtypes. On a CPU ``torch.bernoulli`` takes twice as long."""
    return (torch.rand(size, dtype=torch.float32, device=like.device) < probability).to(like.dtype)


def _dropout_mask(probability: float, like: Tensor) -> Tensor:
    return _ones(1 - probability, like.shape, like) * (1 / (1 - probability))


def check_weights(own: Sequence[Tensor], cell: CellOptions, layout: checks.Layout, first: Tensor) -> None:
    """Of what :func:`split` has split off, beside the first weight of the plain LSTM."""
    sizes = parameter_sizes(cell, layout.hidden_size)
    for n, weight in enumerate(own):
        name = list(sizes)[n % len(sizes)]
        checks.check_weight(f"weights: {name} of layer and direction {n // len(sizes)}", weight, sizes[name], first)
