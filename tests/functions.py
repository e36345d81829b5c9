"""Calls of lstm_fused as functions of their tensors, for all that differentiates functions."""

from __future__ import annotations

import torch
from cases import Case, draw
from torch.utils._python_dispatch import TorchDispatchMode

from lstm_fused import functional, reference

SMALL = Case(3, 2, 2, 2, dtype=torch.float64)
SEVERAL: list[dict] = [
    {},
    {"bias": False, "bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "hidden_size": 3, "proj_size": 2},
    {"lengths": True, "bidirectional": True},
    {"reset": 0.4, "bidirectional": True, "num_layers": 2},
    {"lengths": True, "reset": 0.4, "bidirectional": True, "return_cells": True, "hidden_size": 3, "proj_size": 1},
    {"return_cells": True, "num_layers": 2, "dropout": 0.5},
    {"batch_first": True, "return_cells": True},
]


def as_function(case: Case):
    """A function of all differentiable tensors of a case, and these tensors."""
    problem = draw(case)
    if case.lengths:
        problem.lengths = torch.arange(case.rows) % case.seq_len + 1  # each length from 1 up, also the full one
    reset = problem.reset
    if case.batch_first:
        problem.leaves["input"] = problem.leaves["input"].transpose(0, 1)
        reset = None if reset is None else reset.t()

    def function(input, h_0, c_0, *weights):
        torch.manual_seed(case.seed)
        output, states, *cells = functional.lstm(
            input, (h_0, c_0), list(weights), num_layers=case.num_layers, bias=case.bias, training=case.dropout > 0,
            bidirectional=case.bidirectional, batch_first=case.batch_first, dropout=case.dropout,
            lengths=problem.lengths, reset=reset, return_cells=case.return_cells,
        )  # fmt: skip
        return output, *states, *cells

    return function, tuple(t.clone().requires_grad_() for t in problem.leaves.values())


def as_plain_function(case: Case):
    """The same in torch's own operations."""
    problem = draw(case)
    assert not (case.lengths or case.batch_first or case.dropout)

    def function(input, h_0, c_0, *weights):
        options = {"bidirectional": case.bidirectional, "reset": problem.reset}
        results = reference.lstm(input, h_0, c_0, weights, **options)
        return results if case.return_cells else results[:3]

    return function


class Recorder(TorchDispatchMode):
    """Keeps every call of an op of lstm_fused with its arguments."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "lstm_fused":
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def sum_of_squares(function):
    return lambda *tensors: sum(result.square().sum() for result in function(*tensors))
