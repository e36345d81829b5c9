"""Packed rows on the CPU, which the operators take as they are: (N, I) instead of padded (T, B, I)."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from cases import Case, Problem, draw
from numerics import Results, assert_accurate, differentiate
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lstm_fused
from lstm_fused import ops
from lstm_fused.options import Needs, Options, Outputs

# The kernels differ by rows, by width and by what shares a thread: each of them, and every option.
CASES = [
    Case(7, 5, 4, 6),
    Case(6, 1, 40, 160, proj_size=48),  # direct: few rows
    Case(4, 3, 5, 136, bidirectional=True, reset=0.3),
    Case(5, 17, 33, 65, num_layers=2, bidirectional=True, reset=0.2, return_cells=True),
    Case(9, 70, 16, 24, num_layers=3, dropout=0.5, bias=False, return_cells=True),
    Case(70, 12, 600, 24, bidirectional=True, proj_size=7, num_layers=2, dropout=0.5),  # several ranges of steps
    Case(1, 4, 3, 5),
]


def lengths_of(case: Case) -> Tensor:
    """In descending order: repeated, one alone at the end, and for many rows ones."""
    lengths = torch.randint(1, case.seq_len + 1, (case.rows,)).sort(descending=True).values
    lengths[0] = case.seq_len
    return lengths


def both(case: Case, training: bool) -> list[list[Tensor]]:
    """All results of the two operators, for padded input and for packed; padded ones without their padding."""
    problem = draw(case)
    lengths = lengths_of(case)
    valid = torch.arange(case.seq_len).unsqueeze(1) < lengths
    leaves, given = problem.leaves, problem.cotangents
    weights = [tensor for name, tensor in leaves.items() if name not in ("input", "h_0", "c_0")]

    def call(pick):
        mask = None if problem.masks is None else torch.stack([pick(layer) for layer in problem.masks])
        operands = (pick(leaves["input"]), leaves["h_0"], leaves["c_0"], weights)
        options = Options(case.bidirectional, lengths, problem.reset, mask, case.return_cells)
        output, h_n, c_n, cells, reserve = ops.forward(*operands, options, training)
        results = [output, h_n, c_n, *([cells] if case.return_cells else [])]
        if training:
            grad_cells = pick(given["cells"]) if case.return_cells else None
            grads = Outputs(pick(given["output"]), given["h_n"], given["c_n"], grad_cells)
            *gradients, grad_weights = ops.backward(grads, *operands, options, reserve, Needs(True, True))
            results += [*gradients, *grad_weights]
        return results

    padded, packed = call(lambda t: t), call(lambda t: t[valid])
    return [[t[valid] if t.dim() == p.dim() + 1 else t for t, p in zip(padded, packed, strict=True)], packed]


@pytest.mark.parametrize("threads_used", [1, 2])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_packed_rows_give_what_padded_rows_give(case: Case, training: bool, threads_used: int, threads):
    threads(threads_used)
    padded, packed = both(case.but(dtype=torch.float64), training)
    for ours, exact in zip(packed, padded, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-11, atol=1e-12)


def fused_packed(problem: Problem, recompute_gates: bool = False) -> Results:
    """lstm_fused.LSTM, called with a PackedSequence; results come back padded."""
    case = problem.case
    module = lstm_fused.LSTM(**case.options())
    module.recompute_gates = recompute_gates
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in problem.leaves.items()}
    parameters = {name: leaves[name] for name, _ in module.named_parameters()}
    packed = pack_padded_sequence(leaves["input"], problem.lengths, enforce_sorted=False)
    extra = {"reset": problem.reset[: problem.lengths.max()]} if case.reset else {}
    call = (packed, (leaves["h_0"], leaves["c_0"]))
    extra["return_cells"] = case.return_cells
    output, (h_n, c_n), *cells = torch.func.functional_call(module, parameters, call, extra)
    results = {"output": pad_packed_sequence(output, total_length=case.seq_len)[0], "h_n": h_n, "c_n": c_n}
    results |= {"cells": pad_packed_sequence(c, total_length=case.seq_len)[0] for c in cells}
    return differentiate(results, leaves, problem.cotangents)


@pytest.mark.parametrize("recompute_gates", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True, "reset": 0.2, "return_cells": True},
        {"batch": 17, "proj_size": 5, "bidirectional": True},
    ],
    ids=str,
)
def test_accuracy(options: dict, dtype: torch.dtype, recompute_gates: bool):
    case = Case(7, 3, 9, 17, lengths=True, dtype=dtype).but(**options)
    assert_accurate(case, run=partial(fused_packed, recompute_gates=recompute_gates), times=2)


def test_inference_and_training_give_the_same_bits():
    module, rows = lstm_fused.LSTM(9, 33, num_layers=2, bidirectional=True), torch.randn(7, 12, 9)
    packed = pack_padded_sequence(rows, torch.randint(1, 8, (12,)), enforce_sorted=False)
    output, states = module(packed)
    with torch.no_grad():
        again, states_again = module(packed)
    assert torch.equal(output.data, again.data) and all(map(torch.equal, states, states_again))


@pytest.mark.parametrize("op", ["forward", "backward"])
def test_operators(op: str):
    """As torch checks them, but for tracing: what compiles is padded."""
    checks = ("test_schema", "test_faketensor")
    lengths, weights = torch.tensor([3, 2, 2]), [torch.randn(20, 4), torch.randn(20, 5)]
    tensors = (torch.randn(7, 4), torch.randn(1, 3, 5), torch.randn(1, 3, 5), weights)
    options = (False, lengths, None, None)
    if op == "forward":
        for tensor in (*tensors[:3], *weights):
            tensor.requires_grad_()
        checks += ("test_autograd_registration",)
        args = (*tensors, *options, True, True, False)
        torch.library.opcheck(torch.ops.lstm_fused.forward.default, args, test_utils=checks)
        return
    output, *_, reserve = ops.forward(*tensors, Options(lengths=lengths), True)
    args = (torch.ones_like(output), None, None, None, *tensors, *options, reserve, True, True, False)
    torch.library.opcheck(torch.ops.lstm_fused.backward.default, args, test_utils=checks)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (None, "needs lengths"),
        ([2, 3, 2], "must not grow"),
        ([3, 2, 1], "add up"),
        ([3, 3, 3], "add up"),
        ([0, 0, 0], "add up"),
        ([8, 0, -1], "must not grow"),
        ([7, 1, -1], "add up"),
        ([2**62, 3, 2], "must not grow"),
        ([4, 3], "lengths does not have the size"),
    ],
    ids=str,
)
def test_lengths_must_fit_the_packed_rows(lengths: list[int] | None, message: str):
    lengths = None if lengths is None else torch.tensor(lengths)
    weights, state = [torch.randn(20, 4), torch.randn(20, 5)], torch.zeros(1, 3, 5)
    with pytest.raises(RuntimeError, match=message):
        ops.forward(torch.randn(7, 4), state, state, weights, Options(lengths=lengths), True)


def test_rows_without_a_step_keep_their_state():
    """A length of 0, which no PackedSequence has, is one that the operator takes."""
    weights, state = [torch.randn(20, 4), torch.randn(20, 5)], torch.randn(1, 3, 5)
    lengths = torch.tensor([3, 1, 0])
    _, h_n, c_n, _, _ = ops.forward(torch.randn(4, 4), state, state, weights, Options(lengths=lengths), False)
    assert torch.equal(h_n[:, 2], state[:, 2]) and torch.equal(c_n[:, 2], state[:, 2])
