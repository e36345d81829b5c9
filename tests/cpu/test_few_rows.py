"""The CPU's kernel for few rows, which packs nothing: tiles of every shape, every instruction set, the same bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from cases import Case, Problem, draw
from instruction_sets import each_instruction_set
from numerics import assert_accurate, fused

import lstm_fused
from lstm_fused import _plan

# T, B, I, H: rows in tiles of 4 or 3, 2 and 1 and beyond the 16 that share a weight; units and widths of x and h below,
# at and past whole vectors and pairs of them.
SIZES = [
    (1, 1, 1, 2),
    (1, 1, 33, 64),
    (1, 2, 16, 15),
    (1, 3, 5, 33),
    (1, 4, 16, 31),  # of several tiles of rows, with x in the recurrence
    (1, 11, 35, 43),
    (1, 7, 8, 40),
    (2, 18, 20, 190),
    (3, 15, 3, 230),  # W_ih by panels
    (2, 4, 31, 43),
    (5, 3, 65, 79),
    (3, 7, 4, 109),
    (32, 1, 3, 161),
]
STACK = {"num_layers": 2, "bidirectional": True}
OPTIONS: list[dict] = [
    {"bias": False},
    {"seq_len": 1, "proj_size": 1},
    STACK | {"seq_len": 2, "batch": 5, "proj_size": 61},
    STACK | {"lengths": True, "reset": 0.3, "return_cells": True},
    STACK | {"lengths": True, "reset": 0.3, "return_cells": True, "proj_size": 60},
    STACK | {"seq_len": 1, "reset": 0.5, "proj_size": 6},
    STACK | {"dropout": 0.5, "batch_first": True, "hx": False},
    {"seq_len": 26, "batch": 1, "hidden_size": 130, "reset": 0.3},
    {"seq_len": 12, "batch": 2, "hidden_size": 150, "proj_size": 128, "bidirectional": True, "lengths": True},
]
CASES = [Case(*sizes) for sizes in SIZES] + [Case(4, 3, 9, 63).but(**options) for options in OPTIONS]
# Few rows of which there are many steps: weights are packed, and read by several panels at once.
PACKED_CASES = [
    Case(105, 1, 3, 129),
    Case(33, 1, 5, 40),
    Case(35, 1, 37, 43),  # W_ih by panels
    Case(31, 2, 256, 20),
    Case(31, 2, 257, 20),
    Case(12, 3, 17, 43),
    Case(14, 2, 20, 33, lengths=True, reset=0.3, return_cells=True, **STACK),
    Case(7, 3, 9, 70, lengths=True, proj_size=21, **STACK),
    Case(100, 40, 513, 20, lengths=True),  # W_ih by a product of its own, a range of steps at a time
]
# Beside tiles and tails of every shape, weights that are packed: W_ih, too, from five rows on, up to 512 inputs,
# or as many pairs of them.
HALF_TYPES = [torch.bfloat16, torch.float16]
HALF_CASES = [
    Case(1, 1, 33, 65),
    Case(1, 7, 16, 40),
    Case(3, 2, 20, 37, lengths=True, reset=0.3, **STACK),
    Case(4, 1, 70, 130, proj_size=128),
    Case(2, 30, 9, 27),
    Case(26, 1, 40, 23),
    Case(9, 6, 11, 45, proj_size=6, **STACK),
    Case(60, 20, 1023, 20, lengths=True),
    Case(100, 40, 1025, 20, lengths=True),
]


FACTS = _plan.CpuFacts(1, *torch.ops.lstm_fused.cpu_facts())


def kernel_of(case: Case) -> str:
    """That this machine takes."""
    names = ("seq_len", "batch", "hidden_size", "proj_size")
    dtype = str(case.dtype).removeprefix("torch.")
    problem = _plan.Problem(dtype=dtype, **{name: getattr(case, name) for name in names})
    return _plan.plan_cpu(problem, FACTS).kernel


@each_instruction_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_accuracy(monkeypatch: pytest.MonkeyPatch, case: Case, dtype: torch.dtype) -> None:
    monkeypatch.setenv("LSTM_FUSED_KERNEL", "direct")
    assert_accurate(case.but(dtype=dtype))


@each_instruction_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", PACKED_CASES, ids=str)
def test_accuracy_packed(monkeypatch: pytest.MonkeyPatch, case: Case, dtype: torch.dtype) -> None:
    monkeypatch.setenv("LSTM_FUSED_KERNEL", "packed")
    assert_accurate(case.but(dtype=dtype))


# x W_ih^T of 16 (AVX-512) or 24 to 48 rows and 128 inputs or more, which are its lanes; 15 and 49 rows are not.
LANES = [(15, 1), (16, 1), (9, 2), (24, 1), (13, 2), (33, 1), (47, 1), (16, 3), (49, 1)]


@each_instruction_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", LANES, ids=str)
def test_rows_in_lanes(
    monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None], rows: tuple[int, int], dtype: torch.dtype
) -> None:
    """Inputs past whole running sums, and of an odd number; columns past whole vectors; with the same bits."""
    monkeypatch.setenv("LSTM_FUSED_KERNEL", "direct")
    for input_size, hidden_size in ((128, 33), (257, 21), (515, 17)):
        case = Case(*rows, input_size, hidden_size, dtype=dtype)
        assert_accurate(case)
        outputs = []
        for count in (1, 2, 3):
            threads(count)
            outputs.append(fused(draw(case))["output"])
        assert all(torch.equal(outputs[0], output) for output in outputs)


# Backward of one or two steps reads weights where they lie, for as many rows as a tile has, by whole panels. The
# gradient of W_ih is such a product, too, of few units: of an odd number of terms in the first case.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [(1, 5, 70, 3), (1, 2, 40, 65), (1, 13, 65, 129), (2, 9, 33, 70)], ids=str)
def test_backward_that_packs_nothing(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    assert_accurate(Case(*sizes, dtype=dtype))


# The gradient of x, of 4H terms, adds product by product up to 48 rows, unless it is of a half type.
@each_instruction_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [(7, 1), (15, 1), (11, 2), (48, 1), (49, 1)], ids=str)
def test_gradients_of_input_of_many_terms(rows: tuple[int, int], dtype: torch.dtype) -> None:
    for input_size, hidden_size in ((35, 128), (70, 133)):
        assert_accurate(Case(*rows, input_size, hidden_size, dtype=dtype))


@pytest.mark.parametrize("steps", [32, 33])
def test_gradients_of_few_terms_in_rows_of_pages(steps: int) -> None:
    """Of so many columns that a tile's rows are written from end to end, up to 32 terms, or panel by panel."""
    assert_accurate(Case(steps, 1, 1031, 1037))


def test_a_kernel_that_is_asked_for(monkeypatch) -> None:
    case = Case(1, 5, 20, 33, lengths=True, reset=0.3, return_cells=True, **STACK)
    outputs = []
    for kernel in ("packed", "direct", "one_step"):
        monkeypatch.setenv("LSTM_FUSED_KERNEL", kernel)
        assert_accurate(case)
        outputs.append(fused(draw(case))["output"])
    assert not torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[1], outputs[2])  # sums of another order
    monkeypatch.setenv("LSTM_FUSED_KERNEL", "one_step")  # of one step alone
    assert_accurate(case.but(seq_len=2))


def of_layer(problem: Problem, layer: int, input: torch.Tensor) -> Problem:
    """What one layer of the problem computes of its input."""
    case = problem.case.but(num_layers=1, input_size=input.size(-1))
    states = slice(layer * case.directions, (layer + 1) * case.directions)
    leaves = {"input": input}
    for name, tensor in problem.leaves.items():
        if name in ("h_0", "c_0"):
            leaves[name] = tensor[states]
        elif f"_l{layer}" in name:
            leaves[name.replace(f"_l{layer}", "_l0")] = tensor
    cotangents = {n: t[states] if n in ("h_n", "c_n") else t for n, t in problem.cotangents.items()}
    return dataclasses.replace(problem, case=case, leaves=leaves, cotangents=cotangents)


def multiplies_pairs(case: Case, dtype: torch.dtype) -> bool:
    """Packed kernels of an instruction set that has them, of bfloat16."""
    return FACTS.multiplies_pairs and dtype == torch.bfloat16 and kernel_of(case.but(dtype=dtype)) != "direct"


def check_half_weights(case: Case, dtype: torch.dtype) -> None:
    """Forward kernels widen them as they read: a layer is computed in float, and rounded at the end.

    Pairs of bfloat16 are not: h is rounded in between, as torch does, and sums have another order.
    """
    if multiplies_pairs(case, dtype):
        assert_accurate(case.but(dtype=dtype))
        return
    problem = draw(case.but(dtype=dtype))
    half, output = fused(problem), problem.leaves["input"]
    for layer in range(case.num_layers):
        wide = fused(of_layer(problem, layer, output).to(torch.float32))
        output = wide["output"].to(dtype)
        states = slice(layer * case.directions, (layer + 1) * case.directions)
        assert torch.equal(half["h_n"][states], wide["h_n"].to(dtype))
        assert torch.equal(half["c_n"][states], wide["c_n"].to(dtype))
    assert torch.equal(half["output"], output)
    if case.return_cells:
        assert torch.equal(half["cells"], wide["cells"].to(dtype))


@each_instruction_set
@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
@pytest.mark.parametrize("case", HALF_CASES, ids=str)
def test_half_weights_give_the_bits_of_float_weights(case: Case, dtype: torch.dtype) -> None:
    check_half_weights(case, dtype)


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
@pytest.mark.parametrize("case", [Case(1, 2, 9, 300), Case(1, 20, 5, 65), Case(3, 16, 5, 40, proj_size=33)], ids=str)
def test_gradients_by_halves(case: Case, dtype: torch.dtype) -> None:
    """Backward widens them as well: W_hh where it lies, few rows and one step, or as it is packed, and W_hr."""
    assert_accurate(case.but(dtype=dtype))


@each_instruction_set
@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
def test_every_finite_half_weight(dtype: torch.dtype) -> None:
    """W_hr holds them all. With o = 1, c = c_0 and rows of c_0 that pick a unit each, h is a column of W_hr."""
    values = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    values = values[values.isfinite()]
    module = lstm_fused.LSTM(1, 256, proj_size=len(values) // 256, dtype=dtype).requires_grad_(False)
    for parameter in module.parameters():
        parameter.zero_()
    _, forget, _, out = module.bias_ih_l0.view(4, 256)
    forget.fill_(100)
    out.fill_(100)
    module.weight_hr_l0.copy_(values.view(-1, 256))
    units = 30 * torch.eye(256, dtype=dtype).unsqueeze(0)  # tanh(30) = 1
    for rows in (1, 7, 256):  # 256 in the kernel for one step
        found = [
            module(
                torch.zeros(1, c_0.size(1), 1, dtype=dtype),
                (torch.zeros(1, c_0.size(1), module.proj_size, dtype=dtype), c_0),
            )[0][0]
            for c_0 in units.split(rows, dim=1)
        ]
        assert torch.equal(torch.cat(found), module.weight_hr_l0.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("seq_len", [1, 2])
def test_a_row_does_not_depend_on_its_neighbours(
    monkeypatch: pytest.MonkeyPatch, seq_len: int, dtype: torch.dtype
) -> None:
    """As long as all are dot products: of 16 rows or more, x W_ih^T is another one."""
    monkeypatch.setenv("LSTM_FUSED_KERNEL", "direct")
    module = lstm_fused.LSTM(113, 120, num_layers=2, proj_size=110, bidirectional=True, dtype=dtype)
    input = torch.randn(seq_len, 7, 113, dtype=dtype)
    with torch.no_grad():
        together, (h_n, c_n) = module(input)
        for row in range(7):
            alone, (h, c) = module(input[:, row : row + 1])
            assert torch.equal(alone[:, 0], together[:, row])
            assert torch.equal(h[:, 0], h_n[:, row]) and torch.equal(c[:, 0], c_n[:, row])


@pytest.mark.parametrize("sizes", [(1, 1), (1, 20), (50, 1), (12, 4)], ids=str)
def test_the_number_of_threads_does_not_matter(sizes: tuple[int, int], threads) -> None:
    module = lstm_fused.LSTM(70, 250, bidirectional=True)
    input = torch.randn(*sizes, 70)
    results = []
    for count in (1, 2, 3):
        threads(count)
        with torch.no_grad():
            output, (h_n, c_n) = module(input)
        results.append((output, h_n, c_n))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
