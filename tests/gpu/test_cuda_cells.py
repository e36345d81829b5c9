"""Cells beyond the plain one on a GPU: the operator against the CPU's, whose numbers the other tests know."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import Case
from torch.utils._pytree import tree_map_only
from variant_loop import ALL, NAMES, make, options_of

CASES = [
    Case(7, 3, 17, 17, lengths=True, reset=0.2, proj_size=9),
    Case(40, 33, 5, 130),
    Case(1, 1, 3, 600, lengths=True),
]
OWN = [name for name in NAMES if name not in ("weight_dropout", "forget_bias")]
EVERY = ALL.replace("layer_norm ", "")  # that a persistent kernel has
CALLS = [("step", case, names) for case in CASES for names in (ALL, *OWN)]
CALLS += [(kind, case, EVERY) for kind in ("block", "cluster", "group") for case in CASES]
CALLS += [(kind, Case(9, 20, 5, 64, lengths=True, reset=0.2), name) for kind in ("block", "group") for name in OWN]


def results(own: tuple[Any, ...], training: bool) -> list[torch.Tensor]:
    """All that forward returns but the reserve, and of a call in training all gradients."""
    *found, reserve = torch.ops.lstm_fused.variant(*own, training)
    if training:
        grads = [torch.ones_like(t) for t in found]
        *others, weights = torch.ops.lstm_fused.variant_backward(*grads, *own, reserve, True, True)
        found += [*others, *weights]
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("device", "kind", "case", "names"),
    [pytest.param("cuda", *call, marks=pytest.mark.gpu) for call in CALLS] + [("cpu", *CALLS[0])],
    ids=str,
)
def test_the_operator(
    device: str,
    kind: str,
    case: Case,
    names: str,
    reverse: bool,
    dtype: torch.dtype,
    training: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LSTM_FUSED_KERNEL", kind)
    call = make(case.but(dtype=dtype), **options_of(names))
    module, (h_0, c_0), options = call.module, [t[0].detach() for t in call.hx], call.module.cell_options
    masks = [
        torch.randint(0, 2, (case.seq_len, *t.shape)).to(dtype) if names in (ALL, EVERY) else None for t in (h_0, c_0)
    ]
    masks.append(torch.rand_like(h_0) if options.recurrent_dropout else None)
    weights = [getattr(module, name).detach() for name in module._flat_weights_names]
    shares = options.zoneout if names not in (ALL, EVERY) else (0.0, 0.0)
    own = call.input.detach(), h_0, c_0, weights, reverse, call.lengths, call.reset, *masks, *shares
    own += options.cell_clip or 0.0, options.peephole, options.layer_norm
    expected = results(tree_map_only(torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, own), training)
    there = tree_map_only(torch.Tensor, lambda t: t.to(device), own)
    found = results(there, training)
    for a, b, again in zip(found, expected, results(there, training), strict=True):
        assert torch.equal(a, again)
        error = (a.cpu().double() - b).abs().max() / b.abs().max().clamp_min(1)
        assert error < 500 * torch.finfo(dtype).eps, error
