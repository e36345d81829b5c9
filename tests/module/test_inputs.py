"""Tensors as callers really have them: sliced, expanded, aliased, poisoned around; and nothing of theirs is changed."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import Case, draw
from numerics import scattered

import lstm_fused
from lstm_fused import functional

CASE = Case(6, 4, 5, 7, num_layers=2, bidirectional=True, proj_size=3)
EXTRAS = {
    "lengths": torch.tensor([6, 1, 4, 5]),
    "reset": torch.tensor([[0, 0, 0, 1], [0, 0, 1, 0], [1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]]) == 1,
    "return_cells": True,
}


def run(leaves: dict, cotangents: dict, case: Case = CASE, **extras) -> list[torch.Tensor]:
    """Results and gradients of the stateless form; leaves and cotangents are handed over as they are."""
    weights = [tensor for name, tensor in leaves.items() if name not in ("input", "h_0", "c_0")]
    output, (h_n, c_n), *cells = functional.lstm(
        leaves["input"], (leaves["h_0"], leaves["c_0"]), weights, num_layers=case.num_layers, bias=case.bias,
        bidirectional=case.bidirectional, batch_first=case.batch_first, **extras,
    )  # fmt: skip
    outputs = [output, h_n, c_n, *cells]
    gradients = torch.autograd.grad(outputs, list(leaves.values()), [cotangents[i] for i in range(len(outputs))])
    return [t.detach() for t in outputs] + list(gradients)


def problem(case: Case = CASE) -> tuple[dict, dict]:
    drawn = draw(case.but(return_cells=True))
    return drawn.leaves, dict(enumerate(drawn.cotangents.values()))


def place(tensors: dict, how) -> dict:
    return {name: how(t) for name, t in tensors.items()}


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    """The same values with the memory order of the dimensions turned round."""
    order = list(range(tensor.dim()))[::-1]
    return tensor.permute(order).contiguous().permute(order)


def inner_slice(tensor: torch.Tensor) -> torch.Tensor:
    """Dense rows inside a larger tensor full of NaN, at an odd offset: alignment and bounds are both wrong."""
    big = tensor.new_full([size + 3 for size in tensor.shape], float("nan"))
    view = big[tuple(slice(1, 1 + size) for size in tensor.shape)]
    return view.copy_(tensor)


def odd_offset(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, but one element past an aligned address, with NaN on either side."""
    flat = tensor.new_full((tensor.numel() + 2,), float("nan"))
    flat[1:-1] = tensor.flatten()
    return flat[1:-1].view(tensor.shape)


@pytest.mark.parametrize("how", [scattered, transposed, inner_slice, odd_offset], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layout_does_not_matter(how, dtype: torch.dtype):
    leaves, cotangents = problem(CASE.but(dtype=dtype))
    plain = run(place(leaves, lambda t: t.clone().requires_grad_()), cotangents, **EXTRAS)
    placed = run(place(leaves, lambda t: how(t).requires_grad_()), place(cotangents, how), **EXTRAS)
    extras = EXTRAS | {
        "lengths": EXTRAS["lengths"].repeat_interleave(2)[::2],
        "reset": EXTRAS["reset"].t().contiguous().t(),
    }
    strided = run(place(leaves, lambda t: t.clone().requires_grad_()), cotangents, **extras)
    for a, b, c in zip(plain, placed, strided, strict=True):
        torch.testing.assert_close(a, b)
        assert torch.equal(a, c)


def test_expanded_tensors():
    """Stride 0 in inputs, states and incoming gradients (what .sum().backward() sends)."""
    leaves, cotangents = problem()
    leaves |= {"input": leaves["input"][:1, :1].expand(6, 4, 5), "h_0": leaves["h_0"][:, :1].expand(4, 4, 3)}
    cotangents = {i: t.flatten()[0].expand(t.shape) for i, t in cotangents.items()}
    dense = [place(tensors, torch.clone) for tensors in (leaves, cotangents)]
    results = []
    for some_leaves, some_cotangents in ((leaves, cotangents), dense):
        some_leaves = {name: t.detach().requires_grad_() for name, t in some_leaves.items()}
        results.append(run(some_leaves, some_cotangents, **EXTRAS))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("extras", [{}, EXTRAS], ids=["plain", "extras"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_nothing_of_the_caller_is_changed(batch_first: bool, extras: dict):
    case = CASE.but(batch_first=batch_first)
    leaves, cotangents = problem(case)
    if batch_first:
        leaves["input"] = leaves["input"].transpose(0, 1)
        cotangents |= {i: cotangents[i].transpose(0, 1) for i in (0, 3)}
        extras = {k: v.t() if k == "reset" else v for k, v in extras.items()}
    mine = [*leaves.values(), *cotangents.values(), *(v for v in extras.values() if isinstance(v, torch.Tensor))]
    before, versions = [t.clone() for t in mine], [t._version for t in mine]
    run({name: t.requires_grad_() for name, t in leaves.items()}, cotangents, case, **extras)
    assert all(torch.equal(a, b) for a, b in zip(mine, before, strict=True))
    assert [t._version for t in mine] == versions


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("batch", [2, 9, 17])
def test_a_poisoned_row_stays_alone(batch: int, poison: float):
    """Rows of a batch are independent: all others keep their very bits, forward and in the gradients of the input."""
    case = CASE.but(batch=batch, proj_size=0, hidden_size=33)
    leaves, cotangents = problem(case)
    clean = run({name: t.clone().requires_grad_() for name, t in leaves.items()}, cotangents, case, return_cells=True)
    leaves["input"][2, 1] = poison
    leaves["c_0"][:, 1] = poison
    sick = run({name: t.requires_grad_() for name, t in leaves.items()}, cotangents, case, return_cells=True)
    others = [row for row in range(batch) if row != 1]
    for a, b in zip(clean[:7], sick[:7], strict=True):  # output, h_n, c_n, cells, and gradients of input, h_0, c_0
        assert torch.equal(a[:, others], b[:, others])
    if poison != poison:  # an infinity may end in a gate that is merely shut
        assert sick[0][:, 1].isnan().any()


def test_one_tensor_as_both_states():
    leaves, _ = problem(CASE.but(proj_size=0))
    module = lstm_fused.LSTM(**CASE.but(proj_size=0).options())
    state = leaves["h_0"].requires_grad_()
    both = state.detach().clone().requires_grad_(), state.detach().clone().requires_grad_()
    output, twin = module(leaves["input"], (state, state))[0], module(leaves["input"], both)[0]
    assert torch.equal(output, twin)
    gradient = torch.autograd.grad(output.sum(), state)[0]
    torch.testing.assert_close(gradient, sum(torch.autograd.grad(twin.sum(), both)))


@pytest.mark.parametrize("chosen", itertools.product([False, True], repeat=4), ids=str)
def test_only_wanted_gradients(chosen: tuple[bool, ...]):
    """Each subset of input, h_0, c_0 and the weights: the same gradients as with all, and None for the rest."""
    leaves, _ = problem()
    groups = ["input", "h_0", "c_0", "weights"]

    def gradients(wanted: dict[str, bool]) -> dict:
        copies = {n: t.clone().requires_grad_(wanted[n if n in wanted else "weights"]) for n, t in leaves.items()}
        weights = [t for name, t in copies.items() if name not in groups]
        output, (h_n, c_n) = functional.lstm(
            copies["input"], (copies["h_0"], copies["c_0"]), weights, num_layers=2, bidirectional=True
        )
        assert output.requires_grad == any(wanted.values())
        if output.requires_grad:
            (output.square().sum() + h_n.sum() + c_n.square().sum()).backward()
        return {name: t.grad for name, t in copies.items()}

    everything = gradients(dict.fromkeys(groups, True))
    for name, gradient in gradients(dict(zip(groups, chosen, strict=True))).items():
        if chosen[groups.index(name if name in groups else "weights")]:
            torch.testing.assert_close(gradient, everything[name])
        else:
            assert gradient is None


def test_one_trainable_weight_among_frozen_ones():
    module = lstm_fused.LSTM(**CASE.options()).requires_grad_(False)
    module.weight_hh_l1_reverse.requires_grad_()
    module(torch.randn(6, 4, 5))[0].sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is not None] == ["weight_hh_l1_reverse"]


def test_a_changed_tensor_is_noticed():
    """Backward needs what forward saw: torch's own check on saved tensors must fire, never a wrong gradient."""
    for name in ("input", "weight_hh_l0", "output"):
        module = lstm_fused.LSTM(5, 7)
        input = torch.randn(6, 4, 5)
        output = module(input)[0]
        loss = output.square().sum()
        with torch.no_grad():
            {"input": input, "weight_hh_l0": module.weight_hh_l0, "output": output}[name].add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.gpu
def test_cuda_tensors_are_refused_by_name():
    with pytest.raises(NotImplementedError, match="CUDA"):
        lstm_fused.LSTM(5, 7, device="cuda")(torch.randn(6, 4, 5, device="cuda"))
