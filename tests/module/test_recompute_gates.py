"""The switch that keeps no gates for backward. Hypothesis draws more calls with it in test_properties.py, and the CUDA
kernels have theirs in test_cuda_kernels.py."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from functools import partial

import pytest
import torch
from cases import DTYPES, Case, draw
from numerics import Results, assert_accurate, fused
from test_training_tools import bytes_kept

import lstm_fused

STACK = {"num_layers": 2, "bidirectional": True}
OPTIONS: list[dict] = [
    {},
    {"seq_len": 1, "reset": 0.5, "bidirectional": True},
    {"batch": None, "bias": False},
    {"batch": 0},
    {"lengths": True, "bidirectional": True},
    {"reset": 0.3, "bidirectional": True, "return_cells": True},
    STACK | {"lengths": True, "reset": 0.3, "dropout": 0.5, "proj_size": 5},
    STACK | {"hx": False, "contiguous": False, "batch_first": True},
]
HOSTILE = Case(7, 5, 9, 17, **STACK, lengths=True, reset=0.3, dropout=0.5, proj_size=5, return_cells=True)
recomputed = partial(fused, recompute_gates=True)


def switched(*args, **options) -> lstm_fused.LSTM:
    module = lstm_fused.LSTM(*args, **options)
    module.recompute_gates = True
    return module


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_accuracy(options: dict, dtype: torch.dtype):
    assert_accurate(Case(7, 3, 9, 17).but(dtype=dtype, **options), recomputed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_accuracy_of_large_sums(dtype: torch.dtype):
    assert_accurate(Case(5, 64, 300, 136, dtype=dtype), recomputed, times=1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outputs_are_the_same_bits(dtype: torch.dtype):
    """And all results are, run after run."""
    problem = draw(HOSTILE.but(dtype=dtype))
    plain, results, again = fused(problem), recomputed(problem), recomputed(problem)
    for name, tensor in results.items():
        assert torch.equal(tensor, again[name]), name
        assert name.startswith("grad") or torch.equal(tensor, plain[name]), name


def test_padding_is_never_read():
    clean = dataclasses.replace(draw(HOSTILE), lengths=torch.tensor([1, 7, 4, 2, 6]))
    padding = (torch.arange(7).unsqueeze(1) >= clean.lengths).unsqueeze(2)

    def poisoned(tensors: Results) -> Results:
        return {n: t.masked_fill(padding, float("nan")) if len(t) == 7 else t for n, t in tensors.items()}

    poison = dataclasses.replace(clean, leaves=poisoned(clean.leaves), cotangents=poisoned(clean.cotangents))
    for (name, tensor), same in zip(recomputed(clean).items(), recomputed(poison).values(), strict=True):
        assert torch.equal(tensor, same), name


def test_a_lost_state_stays_lost():
    """A reset drops a state of NaN, in backward too."""
    module, h_0, c_0 = switched(2, 3), torch.full((1, 1, 3), float("nan")), torch.zeros(1, 1, 3)
    output, _ = module(torch.ones(4, 1, 2), (h_0, c_0), reset=torch.tensor([[True], [False], [False], [True]]))
    output.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("proj_size", [0, 8])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bytes_kept(dtype: torch.dtype, proj_size: int):
    """Per step and row: c of each layer and direction, and the gates or, for gates that are computed again, h.

    With a projection h is kept in any case: it does not follow from gates and c.
    """
    sizes = {"hidden_size": 32, "proj_size": proj_size, "dtype": dtype, **STACK}
    input, width = torch.randn(20, 4, 16, dtype=dtype), proj_size or 32
    h, c, gates = (4 * elements * dtype.itemsize for elements in (width, 32, 4 * 32))
    states = 4 * 4 * (32 + width) * dtype.itemsize  # h_0 and c_0, which are kept once
    if width == 32:
        states //= 2
    plain, less = bytes_kept(lstm_fused.LSTM(16, **sizes), input), bytes_kept(switched(16, **sizes), input)
    kept_h = h if proj_size else 0
    assert (plain, less) == (20 * 4 * (kept_h + c + gates) + states, 20 * 4 * (h + c) + states)


def test_two_backwards_through_one_graph():
    module, input = switched(4, 6, **STACK), torch.randn(5, 3, 4)
    loss = module(input)[0].square().sum()
    first, second = (torch.autograd.grad(loss, list(module.parameters()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_second_derivatives():
    module = switched(2, 3, num_layers=2, proj_size=2, dtype=torch.float64)
    inputs = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True), *module.parameters()
    names = [name for name, _ in module.named_parameters()]

    def function(input, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (input,))[0]

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_gradients_of_samples():
    module, input = switched(4, 6, **STACK), torch.randn(3, 5, 4)
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}

    def loss(parameters, sample):
        return torch.func.functional_call(module, parameters, (sample,))[0].square().sum()

    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, input)
    for n, sample in enumerate(input):
        torch.testing.assert_close({k: g[n] for k, g in together.items()}, torch.func.grad(loss)(parameters, sample))


def test_compile():
    module, input = switched(4, 6, **STACK), torch.randn(5, 3, 4)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    results = [torch.autograd.grad(m(input)[0].square().sum(), list(module.parameters())) for m in (module, compiled)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(dtype: torch.dtype):
    leaves = draw(HOSTILE.but(dtype=dtype)).leaves
    tensors = [leaves.pop(name).requires_grad_() for name in ("input", "h_0", "c_0")]
    weights = [weight.requires_grad_() for weight in leaves.values()]
    options = (True, None, None, None, True, True, False, True)
    torch.library.opcheck(torch.ops.lstm_fused.forward.default, (*tensors, weights, *options))


def test_it_is_a_plain_attribute():
    module = lstm_fused.LSTM(4, 6)
    assert module.recompute_gates is False and "recompute_gates" not in module.state_dict()
    module.recompute_gates = True
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.recompute_gates is True
    assert lstm_fused.convert(lstm_fused.revert(module)).recompute_gates is True
    assert lstm_fused.convert(torch.nn.LSTM(4, 6)).recompute_gates is False
    assert repr(module) == repr(torch.nn.LSTM(4, 6))
