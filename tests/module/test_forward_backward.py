"""Outputs and gradients of the module over dtypes, sizes and options, by the tolerance rule."""

from __future__ import annotations

import pytest
import torch
from cases import DTYPES, OPTIONS, SIZES, Case, draw
from instruction_sets import each_instruction_set
from numerics import assert_accurate

import lstm_fused


@each_instruction_set
@pytest.mark.parametrize("case", SIZES, ids=str)
def test_sizes(case: Case):
    assert_accurate(case)


@pytest.mark.parametrize("case", OPTIONS, ids=str)
def test_options(case: Case):
    assert_accurate(case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_non_contiguous_tensors(dtype: torch.dtype):
    case = Case(7, 3, 9, 17, num_layers=2, bidirectional=True, proj_size=5, dtype=dtype, contiguous=False)
    assert_accurate(case)


@each_instruction_set
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "proj_size": 5}], ids=str)
@pytest.mark.parametrize("batch", [1, 3, 17])
def test_inference_and_training_give_the_same_bits(dtype: torch.dtype, options: dict, batch: int):
    case = Case(7, batch, 9, 17, dtype=dtype, **options)
    module, leaves = lstm_fused.LSTM(**case.options()), draw(case).leaves
    input, hx = leaves["input"], (leaves["h_0"], leaves["c_0"])
    recorded = flat(module(input, hx))
    module.eval()
    in_eval = flat(module(input, hx))
    with torch.no_grad():
        no_grad = flat(module(input, hx))
    with torch.inference_mode():
        inference = flat(module(input, hx))
    assert all(tensor.requires_grad for tensor in recorded + in_eval)
    assert not any(tensor.requires_grad for tensor in no_grad + inference)
    for others in (in_eval, no_grad, inference):
        assert all(torch.equal(a, b) for a, b in zip(recorded, others, strict=True))


def test_backward_in_eval_mode():
    """cuDNN refuses this; here the mode only decides about dropout."""
    case = Case(num_layers=2, dropout=0.5)
    module = lstm_fused.LSTM(**case.options()).eval()
    twin = torch.nn.LSTM(**case.options()).eval()
    twin.load_state_dict(module.state_dict())
    input = draw(case).leaves["input"]
    for m in (module, twin):
        m(input)[0].square().sum().backward()
    for ours, theirs in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_gradients_of_one_result_alone():
    """The others then arrive as None, not as zeros."""
    case = Case(num_layers=2, bidirectional=True, return_cells=True, dtype=torch.float64)
    leaves = draw(case).leaves
    module = lstm_fused.LSTM(**case.options())
    hx = leaves["h_0"].requires_grad_(), leaves["c_0"].requires_grad_()
    inputs = [leaves["input"].requires_grad_(), *hx, *module.parameters()]
    output, (h_n, c_n), cells = module(leaves["input"], hx, return_cells=True)
    results = [output, h_n, c_n, cells]
    alone = [torch.autograd.grad(r.sum(), inputs, retain_graph=True, materialize_grads=True) for r in results]
    together = torch.autograd.grad(sum(r.sum() for r in results), inputs)
    for parts, whole in zip(zip(*alone, strict=True), together, strict=True):
        torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("threads_used", [1, 2])
def test_large_enough_for_threads_and_tiles(dtype: torch.dtype, threads_used: int, threads):
    threads(threads_used)
    assert_accurate(Case(5, 64, 72, 136, dtype=dtype), times=1)
    assert_accurate(Case(5, 1, 72, 300, dtype=dtype), times=1)


def flat(result) -> list[torch.Tensor]:
    output, (h_n, c_n) = result
    return [output, h_n, c_n]
