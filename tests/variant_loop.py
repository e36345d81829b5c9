"""Cells beyond the plain one as one would write them by hand: a Python loop over time, one sequence after the other.

It owes nothing to lstm_fused but the names of parameters and the order in which masks are drawn: rows are cut where
they end and where they are reset, so that there is neither a length nor a reset in it, and norms and clips are torch's.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from cases import Case
from torch import Tensor

import lstm_fused

# One value for each option, off by itself where the cell is the plain one.
OPTIONS: dict[str, dict[str, Any]] = {
    "zoneout": {"zoneout": (0.3, 0.2)},
    "recurrent_dropout": {"recurrent_dropout": 0.4},
    "weight_dropout": {"weight_dropout": 0.3},
    "cell_clip": {"cell_clip": 0.4},
    "peephole": {"peephole": True},
    "layer_norm": {"layer_norm": True},
    "forget_bias": {"forget_bias": 1.5},
}
NAMES = list(OPTIONS)
PAIRS = [f"{a} {b}" for n, a in enumerate(NAMES) for b in NAMES[n + 1 :]]
ALL = " ".join(NAMES)


def options_of(names: str) -> dict[str, Any]:
    return {key: value for name in names.split() for key, value in OPTIONS[name].items()}


@dataclass
class Call:
    """A module and what it is called with, in the case's form; every tensor of float64 or float32 is a leaf."""

    case: Case
    module: lstm_fused.LSTM
    input: Tensor  # (T, B, I)
    hx: tuple[Tensor, Tensor] | None
    lengths: Tensor | None
    reset: Tensor | None  # (T, B)

    def to(self, dtype: torch.dtype) -> Call:
        module = lstm_fused.LSTM(**self.case.but(dtype=dtype).options(), **cell_of(self.module))
        module.load_state_dict(self.module.state_dict())
        hx = None if self.hx is None else (self.hx[0].detach().to(dtype), self.hx[1].detach().to(dtype))
        changed = Call(self.case, module, self.input.detach().to(dtype), hx, self.lengths, self.reset)
        changed.module.train(self.module.training)
        for tensor in changed.leaves():
            tensor.requires_grad_()
        return changed

    def leaves(self) -> list[Tensor]:
        return [self.input, *(self.hx or ()), *self.module.parameters()]


def cell_of(module: lstm_fused.LSTM) -> dict[str, Any]:
    return {} if module.cell_options is None else module.cell_options._asdict()


def make(case: Case, training: bool = True, **options: Any) -> Call:
    torch.manual_seed(case.seed)
    module = lstm_fused.LSTM(**case.options(), **options).train(training)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith("norm_"):  # something else than ones and zeros
                parameter.add_(0.3 * torch.randn_like(parameter))
    steps, rows, states = case.seq_len, case.rows, case.num_layers * case.directions
    draw = {"dtype": case.dtype}
    hx = (torch.randn(states, rows, case.width, **draw), torch.randn(states, rows, case.hidden_size, **draw))
    lengths = torch.randint(1, steps + 1, (rows,)) if case.lengths else None
    reset = torch.rand(steps, rows) < case.reset if case.reset else None
    call = Call(
        case, module, torch.randn(steps, rows, case.input_size, **draw), hx if case.hx else None, lengths, reset
    )
    for tensor in call.leaves():
        tensor.requires_grad_()
    return call


def ours(call: Call, seed: int = 0) -> list[Tensor]:
    """output, h_n, c_n, cells, time first and with a batch."""
    case = call.case
    torch.manual_seed(seed)
    given = {"lengths": call.lengths, "reset": call.reset}
    input, hx = call.input, call.hx
    if case.batch is None:
        input, hx = input[:, 0], None if hx is None else (hx[0][:, 0], hx[1][:, 0])
        given = {name: None if t is None else t.select(-1, 0) for name, t in given.items()}
    elif case.batch_first:
        input = input.transpose(0, 1)
        given["reset"] = None if call.reset is None else call.reset.t()
    output, (h_n, c_n), cells = call.module(input, hx, **given, return_cells=True)
    if case.batch is None:
        return [t.unsqueeze(1) for t in (output, h_n, c_n, cells)]
    return [output.transpose(0, 1), h_n, c_n, cells.transpose(0, 1)] if case.batch_first else [output, h_n, c_n, cells]


def by_hand(call: Call, seed: int = 0, draws: torch.dtype | None = None) -> list[Tensor]:
    """The same; masks of dropout are rounded as in `draws`, the dtype of the call by default."""
    case, module = call.case, call.module
    torch.manual_seed(seed)
    dtype = draws or call.input.dtype
    own = dict(module.named_parameters())
    cell = module.cell_options or lstm_fused.functional.CellOptions()
    training = module.training
    suffixes = [f"_l{layer}{d}" for layer in range(case.num_layers) for d in ("", "_reverse")[: case.directions]]
    zeros = call.input.new_zeros
    shape = (len(suffixes), case.rows)
    h_0, c_0 = call.hx or (zeros((*shape, case.width)), zeros((*shape, case.hidden_size)))

    def ones(like: Sequence[int], p: float) -> Tensor:
        return (torch.rand(like, dtype=torch.float32) < p).to(call.input.dtype)

    def dropped(like: Sequence[int], p: float) -> Tensor:
        return ones(like, 1 - p) * (1 / torch.tensor(1 - p, dtype=dtype)).to(call.input.dtype)

    if training and cell.weight_dropout:
        for suffix in suffixes:
            w_hh = own["weight_hh" + suffix]
            own["weight_hh" + suffix] = w_hh * dropped(w_hh.shape, cell.weight_dropout)
    steps = case.seq_len, case.rows
    between = []
    if training and case.dropout:
        wide = torch.ones((*steps, case.directions * case.width), dtype=dtype)
        masks = [torch.nn.functional.dropout(wide, case.dropout) for _ in range(case.num_layers - 1)]
        between = [mask.to(call.input.dtype) for mask in masks]
    x, last_h, last_c = call.input, [], []
    for layer in range(case.num_layers):
        if layer and between:
            x = x * between[layer - 1]
        outputs, all_cells = [], []
        for d in range(case.directions):
            n = layer * case.directions + d
            weights = {name.removesuffix(suffixes[n]): t for name, t in own.items() if name.endswith(suffixes[n])}
            p_h, p_c = cell.zoneout
            mask, e, c_mask = None, zeros((*steps, case.width)) + p_h, zeros((*steps, case.hidden_size)) + p_c
            if training and cell.recurrent_dropout:
                mask = dropped((case.rows, case.width), cell.recurrent_dropout)
            if training and p_h:
                e = ones(e.shape, p_h)
            if training and p_c:
                c_mask = ones(c_mask.shape, p_c)
            rows = []
            for b in range(case.rows):
                one = slice(b, b + 1)
                masks = (None if mask is None else mask[one], e[:, one], c_mask[:, one])
                rows.append(_row(call, cell, weights, x[:, one], h_0[n, one], c_0[n, one], d == 1, b, masks))
            h, c, h_n, c_n = (torch.cat(parts, -2) for parts in zip(*rows, strict=True))
            outputs.append(h)
            all_cells.append(c)
            last_h.append(h_n)
            last_c.append(c_n)
        x = torch.cat(outputs, -1)
    return [x, torch.stack(last_h), torch.stack(last_c), torch.cat(all_cells, -1)]


def _row(call, cell, w, x, h, c, reverse, b, masks):
    """One row of the batch: its own steps alone, from zero where it is reset."""
    length = call.case.seq_len if call.lengths is None else int(call.lengths[b])
    starts = [call.reset is not None and bool(call.reset[t, b]) for t in range(length)] + [False]
    mask, e, d = masks
    all_h, all_c = x.new_zeros((len(x), *h.shape)), x.new_zeros((len(x), *c.shape))
    all_h, all_c = list(all_h), list(all_c)
    for t in reversed(range(length)) if reverse else range(length):
        if starts[t + 1 if reverse else t]:
            h, c = torch.zeros_like(h), torch.zeros_like(c)
        h, c = _step(cell, w, x[t], h, c, mask, e[t], d[t])
        all_h[t], all_c[t] = h, c
    return torch.stack(all_h), torch.stack(all_c), h, c


def _step(cell, w, x, h, c, mask, e, d):
    """The cell, from the papers."""
    norm, linear = torch.nn.functional.layer_norm, torch.nn.functional.linear
    from_x, from_h = linear(x, w["weight_ih"]), linear(h if mask is None else h * mask, w["weight_hh"])
    if cell.layer_norm:
        from_x = norm(from_x, from_x.shape[1:], w["norm_ih_weight"], w["norm_ih_bias"], 1e-5)
        from_h = norm(from_h, from_h.shape[1:], w["norm_hh_weight"], w["norm_hh_bias"], 1e-5)
    sums = from_x + from_h
    if "bias_ih" in w:
        sums = sums + w["bias_ih"] + w["bias_hh"]
    i, f, g, o = sums.split(c.size(1), 1)
    if cell.peephole:
        i, f = i + w["weight_peephole"][0] * c, f + w["weight_peephole"][1] * c
    new = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    if cell.cell_clip is not None:
        new = torch.clamp(new, -cell.cell_clip, cell.cell_clip)
    if cell.peephole:
        o = o + w["weight_peephole"][2] * new
    seen = norm(new, new.shape[1:], w["norm_c_weight"], w["norm_c_bias"], 1e-5) if cell.layer_norm else new
    out = torch.sigmoid(o) * torch.tanh(seen)
    if "weight_hr" in w:
        out = linear(out, w["weight_hr"])
    return e * h + (1 - e) * out, d * c + (1 - d) * new


def gradients(results: Sequence[Tensor], call: Call) -> list[Tensor]:
    """Of every leaf, for incoming gradients that are the same for the same case, and numbers of every dtype."""
    generator = torch.Generator().manual_seed(1)
    incoming = [torch.randint(-8, 9, t.shape, generator=generator).to(t.dtype) / 4 for t in results]
    found = torch.autograd.grad(results, call.leaves(), incoming, materialize_grads=True)
    return list(found)


def labels(call: Call) -> list[str]:
    names = ["output", "h_n", "c_n", "cells", "grad input", *(["grad h_0", "grad c_0"] if call.hx else [])]
    return names + [f"grad {name}" for name, _ in call.module.named_parameters()]


def all_of(run: Any, call: Call) -> list[Tensor]:
    results = run(call)
    return [t.detach() for t in results] + gradients(results, call)


def assert_same(call: Call) -> None:
    """Every result and gradient of a float64 call, to a few roundings."""
    for name, a, b in zip(labels(call), all_of(ours, call), all_of(by_hand, call), strict=True):
        assert a.shape == b.shape, name
        scale = max(1.0, float(b.abs().max())) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * scale, msg=lambda text, name=name: f"{name}: {text}")


def assert_accurate(case: Case, times: int = 1, tf32: bool = False, **options: Any) -> None:
    """The rule of numerics.py: against the loop in float64, at most twice the error of the same loop in float32.

    All draws count alike, by the geometric mean of the errors' ratios: where gates or norms all but cancel, one draw
    has a thousand times the error of the others on either side, and its luck would decide.

    ``tf32``: which keeps as many bits of a factor as float16 does. Errors are held against the loop in float16, on
    float16 numbers, and with one rounding to float16 of what comes out.
    """
    dtype = torch.float16 if tf32 else torch.float32
    errors: dict[str, list[list[float]]] = {}
    for seed in range(times):
        call = make(case.but(seed=case.seed + seed), **options).to(dtype).to(torch.float32)

        def drawn(which: Call) -> list[Tensor]:
            return by_hand(which, draws=torch.float32)

        exact, own = all_of(drawn, call.to(torch.float64)), [t.to(dtype) for t in all_of(ours, call)]
        for side, results in enumerate((own, all_of(drawn, call.to(dtype)))):
            for name, result, finer in zip(labels(call), results, exact, strict=True):
                scale = (finer.abs().max() * torch.finfo(dtype).eps).clamp_min(1e-300)
                error = ((result.double() - finer) / scale).square().mean().sqrt()
                errors.setdefault(name, [[], []])[side].append(float(error))
    for name, (own_errors, plain_errors) in errors.items():
        ratios = [(error + 0.5) / (2 * plain + 1) for error, plain in zip(own_errors, plain_errors, strict=True)]
        assert statistics.geometric_mean(ratios) <= 1, f"{name}: {own_errors} eps, the loop {plain_errors}"
