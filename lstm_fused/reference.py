"""The LSTM in plain torch operations: the definition that the kernels are held to, differentiable to any order.

Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000 and the projection of Sak et al. 2014::

    i, f, o = sigmoid(W_ih x + b_ih + W_hh h + b_hh),  g = tanh(the same)
    c' = f c + i g
    h' = o tanh(c'), or W_hr (o tanh(c')) where h is projected

The cell's variants, each of which may be there with any of the others, in the order in which they act::

    recurrent dropout   W_hh (m h) for W_hh h, one m in {0, 1/(1-p)} for all steps     Gal & Ghahramani 2015
    layer norm          LN(W_ih x) + LN(W_hh h) + b_ih + b_hh, each over all 4H         Ba et al. 2016
    peepholes           p_i c is added to i's sum, p_f c to f's, and p_o c~ to o's      Gers & Schmidhuber 2000
    cell clip           c~ = f c + i g, kept in [-x, x]; no gradient where it was not   Sak et al. 2014
    layer norm          h~ = o tanh(LN(c~)); c~ itself goes on as it is                 Ba et al. 2016
    zoneout             c' = d c + (1-d) c~ and h' = e h + (1-e) h~ (or W_hr h~),       Krueger et al. 2016
                        d, e in {0, 1} for each step and unit, or their expectations

with LN(s) = w (s - mean) / sqrt(variance + 1e-5) + b. Where the state is reset, c and h are zero in all of them. Weight
dropout (Merity et al. 2017) is of W_hh, before any of this. Haste (LMNT 2020) has zoneout of h alone; its normalised
cell is this one with the biases of the first two norms at zero, and c goes on as it is there, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .options import Variant

EPSILON = 1e-5  # of the norms


def lstm(
    input: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[Tensor],
    *,
    bidirectional: bool = False,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    dropout_mask: Tensor | None = None,
    variants: Sequence[Variant] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A stack of LSTM layers over a padded batch.

    Args:
        input: ``(T, B, I)``.
        h_0: ``(L*D, B, P)``, with ``P`` the projection's size or ``H``.
        c_0: ``(L*D, B, H)``.
        weights: as ``torch.nn.LSTM`` orders them: per layer and direction w_ih, w_hh, [b_ih, b_hh], [w_hr]; behind them
            what a variant has, [peepholes (3, H)] and [weight and bias of the norms of W_ih x, W_hh h and c~].
        lengths: int64 ``(B,)``, each row's number of valid steps.
        reset: bool ``(T, B)``; true where a new segment starts.
        dropout_mask: ``(L-1, T, B, D*P)``, the factor on each layer's output but the last's.
        variants: of each layer and direction; None for the plain cell.

    Returns:
        output ``(T, B, D*P)``, h_n, c_n as h_0, c_0, and the last layer's cells ``(T, B, D*H)``.
    """
    num_directions = 2 if bidirectional else 1
    num_layers = h_0.size(0) // num_directions
    per_direction = len(weights) // h_0.size(0)
    x, last_h, last_c = input, [], []
    for layer in range(num_layers):
        if layer > 0 and dropout_mask is not None:
            x = x * dropout_mask[layer - 1]
        outputs, all_cells = [], []
        for d in range(num_directions):
            n = layer * num_directions + d
            own_weights = weights[n * per_direction : (n + 1) * per_direction]
            variant = Variant() if variants is None else variants[n]
            h, c, h_n, c_n = direction(x, h_0[n], c_0[n], own_weights, d == 1, lengths, reset, variant)
            outputs.append(h)
            all_cells.append(c)
            last_h.append(h_n)
            last_c.append(c_n)
        x, cells = torch.cat(outputs, -1), torch.cat(all_cells, -1)
    return x, torch.stack(last_h), torch.stack(last_c), cells


def direction(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weights: Sequence[Tensor],
    reverse: bool,
    lengths: Tensor | None,
    reset: Tensor | None,
    variant: Variant,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One direction of one layer: h and c after every step (zero past a row's length), h_n and c_n."""
    w_ih, w_hh, *rest = weights
    norms = [rest.pop() for _ in range(6)][::-1] if variant.layer_norm else None
    peepholes = rest.pop() if variant.peephole else None
    w_hr = rest.pop() if len(rest) % 2 else None
    pre = x @ w_ih.t()
    if norms is not None:
        pre = _norm(pre, *norms[0:2])
    if rest:
        pre = pre + rest[0] + rest[1]
    seq_len = x.size(0)
    all_h: list[Tensor] = [h] * seq_len
    all_c: list[Tensor] = [c] * seq_len
    for t in reversed(range(seq_len)) if reverse else range(seq_len):
        valid = None if lengths is None else (t < lengths).unsqueeze(1)
        h_prev, c_prev = h, c
        if reset is not None and (boundary := t + 1 if reverse else t) < seq_len:
            cut = reset[boundary]
            if reverse and lengths is not None:  # a boundary at or past the row's end lies outside its sequence
                cut = cut & (boundary < lengths)
            h_prev, c_prev = _zero_where(cut, h), _zero_where(cut, c)

        recurrent = (h_prev if variant.recurrent_mask is None else variant.recurrent_mask * h_prev) @ w_hh.t()
        if norms is not None:
            recurrent = _norm(recurrent, *norms[2:4])
        i, f, g, o = (pre[t] + recurrent).chunk(4, 1)
        if peepholes is not None:
            i, f = i + peepholes[0] * c_prev, f + peepholes[1] * c_prev
        c_next = f.sigmoid() * c_prev + i.sigmoid() * g.tanh()
        if variant.cell_clip is not None:
            c_next = c_next.clamp(-variant.cell_clip, variant.cell_clip)
        if peepholes is not None:
            o = o + peepholes[2] * c_next
        h_next = o.sigmoid() * (c_next if norms is None else _norm(c_next, *norms[4:6])).tanh()
        if w_hr is not None:
            h_next = h_next @ w_hr.t()
        h_next = _zoned_out(variant.zoneout_h, t, h_prev, h_next)
        c_next = _zoned_out(variant.zoneout_c, t, c_prev, c_next)

        if valid is None:
            all_h[t], all_c[t] = h, c = h_next, c_next
        else:
            all_h[t], all_c[t] = _zero_where(~valid[:, 0], h_next), _zero_where(~valid[:, 0], c_next)
            h, c = torch.where(valid, h_next, h), torch.where(valid, c_next, c)
    return torch.stack(all_h), torch.stack(all_c), h, c


def _norm(sums: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Over the last dimension. By hand: torch's own has no second derivative of a forward-mode one."""
    centred = sums - sums.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + EPSILON).rsqrt() * weight + bias


def _zoned_out(kept: Tensor | float, t: int, before: Tensor, after: Tensor) -> Tensor:
    """``kept`` of what was before, the rest of what comes after."""
    if isinstance(kept, Tensor):
        return torch.where(kept[t] != 0, before, after)
    return after if kept == 0 else kept * before + (1 - kept) * after


def _zero_where(rows: Tensor, state: Tensor) -> Tensor:
    """``masked_fill``, not a product: a NaN in what is discarded must not survive."""
    return state.masked_fill(rows.unsqueeze(1), 0.0)
