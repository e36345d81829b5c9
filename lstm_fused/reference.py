"""The LSTM in plain torch operations: the definition that the kernels are held to, differentiable to any order.

Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000 and the projection of Sak et al. 2014:

    i, f, o = sigmoid(W_ih x + b_ih + W_hh h + b_hh),  g = tanh(the same)
    c' = f c + i g
    h' = o tanh(c'), or W_hr (o tanh(c')) where h is projected
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A stack of LSTM layers over a padded batch.

    Args:
        input: ``(T, B, I)``.
        h_0: ``(L*D, B, P)``, with ``P`` the projection's size or ``H``.
        c_0: ``(L*D, B, H)``.
        weights: as ``torch.nn.LSTM`` orders them: per layer and direction w_ih, w_hh, [b_ih, b_hh], [w_hr].
        lengths: int64 ``(B,)``, each row's number of valid steps.
        reset: bool ``(T, B)``; true where a new segment starts.
        dropout_mask: ``(L-1, T, B, D*P)``, the factor on each layer's output but the last's.

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
        for direction in range(num_directions):
            n = layer * num_directions + direction
            own_weights = weights[n * per_direction : (n + 1) * per_direction]
            h, c, h_n, c_n = _direction(x, h_0[n], c_0[n], own_weights, direction == 1, lengths, reset)
            outputs.append(h)
            all_cells.append(c)
            last_h.append(h_n)
            last_c.append(c_n)
        x, cells = torch.cat(outputs, -1), torch.cat(all_cells, -1)
    return x, torch.stack(last_h), torch.stack(last_c), cells


def _direction(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weights: Sequence[Tensor],
    reverse: bool,
    lengths: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One direction of one layer: h and c after every step (zero past a row's length), h_n and c_n."""
    w_ih, w_hh, *rest = weights
    w_hr = rest.pop() if len(rest) % 2 else None
    pre = x @ w_ih.t()
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
        i, f, g, o = (pre[t] + h_prev @ w_hh.t()).chunk(4, 1)
        c_next = f.sigmoid() * c_prev + i.sigmoid() * g.tanh()
        h_next = o.sigmoid() * c_next.tanh()
        if w_hr is not None:
            h_next = h_next @ w_hr.t()
        if valid is None:
            all_h[t], all_c[t] = h, c = h_next, c_next
        else:
            all_h[t], all_c[t] = _zero_where(~valid[:, 0], h_next), _zero_where(~valid[:, 0], c_next)
            h, c = torch.where(valid, h_next, h), torch.where(valid, c_next, c)
    return torch.stack(all_h), torch.stack(all_c), h, c


def _zero_where(rows: Tensor, state: Tensor) -> Tensor:
    """``masked_fill``, not a product: a NaN in what is discarded must not survive."""
    return state.masked_fill(rows.unsqueeze(1), 0.0)
