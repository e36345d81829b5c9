"""Gradients of gradients, for every option and form of input."""

from __future__ import annotations

import pytest
import torch
from cases import Case
from functions import SEVERAL, SMALL, as_function, as_plain_function
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import lstm_fused

DEEP = {"num_layers": 2, "bidirectional": True}
OPTIONS = [
    *SEVERAL,
    {"bias": False, "hidden_size": 3, "proj_size": 2},
    {"num_layers": 3},
    {"dropout": 0.5, "lengths": True, "reset": 0.4, **DEEP},
    {"batch_first": True, "lengths": True, "reset": 0.4, **DEEP},
    {"batch": 1, "reset": 1.0},
    {"seq_len": 1, "lengths": True, "return_cells": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradgradcheck(options: dict, device: str):
    function, inputs = as_function(SMALL.but(device=device, **options))
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_gradgradcheck_element_by_element(device: str):
    function, inputs = as_function(Case(2, 1, 1, 1, dtype=torch.float64, device=device))
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("hx", [False, True])
@pytest.mark.parametrize("form", ["padded", "batch_first", "unbatched", "packed", "cell"])
def test_gradgradcheck_of_modules(form: str, hx: bool, device: str):
    """With h_0 and c_0 and without them, in every form that a module takes."""
    place = {"dtype": torch.float64, "device": device}
    if form == "cell":
        module, states = lstm_fused.LSTMCell(2, 3, **place), ((2, 3), (2, 3))
    else:
        module = lstm_fused.LSTM(2, 3, proj_size=2, batch_first=form == "batch_first", **DEEP, **place)
        rows = () if form == "unbatched" else (2,)
        states = ((4, *rows, 2), (4, *rows, 3))
    packed = pack_sequence([torch.randn(n, 2, **place) for n in (1, 3)], enforce_sorted=False)
    shape = {"padded": (3, 2, 2), "batch_first": (2, 3, 2), "unbatched": (3, 2), "packed": (4, 2), "cell": (2, 2)}[form]
    tensors = [torch.randn(shape, **place), *(torch.randn(s, **place) for s in states if hx)]

    def function(input, *rest):
        hx_, parameters = (rest[:2], rest[2:]) if hx else (None, rest)
        input = PackedSequence(input, *packed[1:]) if form == "packed" else input
        names = [name for name, _ in module.named_parameters()]
        results = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (input, hx_))
        if form == "cell":
            return results
        output, (h_n, c_n) = results
        return output.data if form == "packed" else output, h_n, c_n

    leaves = [t.detach().requires_grad_() for t in (*tensors, *module.parameters())]
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def test_third_order(device: str):
    """The third derivative, against the one of the same in torch's own operations."""
    function, inputs = as_function(SMALL.but(device=device))

    def third(f):
        current = sum(result.square().sum() for result in f(*inputs))
        for _ in range(3):
            current = sum(g.sum() for g in torch.autograd.grad(current, inputs, create_graph=True))
        return current

    torch.testing.assert_close(third(function), third(as_plain_function(SMALL)))


@pytest.mark.parametrize("wanted", ["input", "states", "weights", "one bias"])
def test_of_some_tensors_only(wanted: str):
    """What is frozen stays out of the first and of the second backward."""
    function, inputs = as_function(SMALL.but(num_layers=2))
    leaves = {"input": inputs[:1], "states": inputs[1:3], "weights": inputs[3:], "one bias": inputs[5:6]}[wanted]
    inputs = tuple(t if any(t is leaf for leaf in leaves) else t.detach() for t in inputs)

    def of_leaves(*leaves_):
        rest = iter(leaves_)
        return function(*(next(rest) if t.requires_grad else t for t in inputs))

    assert torch.autograd.gradgradcheck(of_leaves, leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types(dtype: torch.dtype):
    """Second derivatives of half types are sums in float32: as close to float64's as their own rounding lets them."""
    function, inputs = as_function(Case(12, 4, 5, 7, dtype=dtype, **DEEP))
    wide_function, wide = as_function(Case(12, 4, 5, 7, dtype=torch.float64, **DEEP))
    wide = tuple(t.double().detach().requires_grad_() for t in inputs)

    def second(function, tensors):
        first = torch.autograd.grad(sum(r.double().sum() for r in function(*tensors)), tensors, create_graph=True)
        return torch.autograd.grad(sum(g.double().sum() for g in first), tensors)

    epsilon = torch.finfo(dtype).eps
    for ours, exact in zip(second(function, inputs), second(wide_function, wide), strict=True):
        assert ours.dtype == dtype
        error = (ours.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
        assert error < 2 * epsilon


class Critic(nn.Module):
    """Scores sequences, as a discriminator does."""

    def __init__(self, cls: type) -> None:
        super().__init__()
        self.lstm = cls(3, 8, num_layers=2, bidirectional=True, batch_first=True, dtype=torch.float64)
        self.score = nn.Linear(16, 1, dtype=torch.float64)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.score(self.lstm(input)[0][:, -1]).squeeze(1)


def penalized_step(critic: Critic, real: torch.Tensor, fake: torch.Tensor, optimizer) -> torch.Tensor:
    """One step of WGAN-GP: the norm of the gradient by the input is held near 1, which takes its gradient."""
    mix = torch.linspace(0, 1, len(real), dtype=real.dtype, device=real.device).view(-1, 1, 1)
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def test_gradient_penalty(device: str):
    """Five steps of a penalized critic are those of torch.nn.LSTM."""
    critics = [Critic(cls) for cls in (lstm_fused.LSTM, nn.LSTM)]
    critics[0].load_state_dict(critics[1].state_dict())
    real, fake = (torch.randn(4, 6, 3, dtype=torch.float64) for _ in range(2))
    losses = []
    for critic, where in zip(critics, (device, "cpu"), strict=True):  # cuDNN has no second derivative
        critic.to(where)
        optimizer = torch.optim.Adam(critic.parameters(), lr=0.01, betas=(0.0, 0.9))
        losses.append([penalized_step(critic, real.to(where), fake.to(where), optimizer).cpu() for _ in range(5)])
    torch.testing.assert_close(*losses)
    for a, b in zip(critics[0].parameters(), critics[1].parameters(), strict=True):
        torch.testing.assert_close(a.cpu(), b)
    assert losses[0][0] != losses[0][-1]
