"""How results are computed three times - fused, by torch.nn.LSTM, more finely - and how their errors are compared.

The rule: against a reference of higher precision, the error of lstm_fused is at most twice that of torch.nn.LSTM in the
same dtype, plus one rounding of the result. It is applied to every output and every gradient on its own.

* Errors are relative to the largest element of their tensor. The root of their mean square is compared always, the
  largest one where its value is no luck: with 1000 elements or more, which come of 16 rows times steps or more (the
  gradient of a weight is an outer product, and over few steps its one largest factor decides). One bad element among
  few shows in the mean as well.
* One rounding moves a value by at most half the distance to its neighbour: eps / 2 of the largest element.
* Small cases are drawn several times, and all draws count as one tensor, for both sides alike: torch.nn.LSTM may hit
  the exact result of a single element by chance.
* Where large numbers cancel, a few elements have nearly all of the error, and whether torch.nn.LSTM rounds just those
  well is luck: there it runs several times, with the input's features in other orders, and all runs count.
* torch.nn.LSTM runs on the device of the case, the reference always on the CPU: torch.nn.LSTM in float64, or, for
  float64, the LSTM of exact.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from cases import Case, Problem, draw
from exact import exact_lstm
from oracle import torch_lstm
from torch import Tensor

import lstm_fused

Results = dict[str, Tensor]


def scaled(names: str, factor: float):
    """A way to draw a case in which the tensors of a name are multiplied by a factor; below 1e-9 they are denormal."""

    def make(case: Case, replica: int) -> Problem:
        problem = draw(case, replica)
        by = torch.finfo(case.dtype).smallest_normal / 100 if 0 < factor < 1e-9 else factor
        leaves = {n: (t.double() * by if names in n else t.double()) for n, t in problem.leaves.items()}
        return dataclasses.replace(problem, leaves={n: t.to(case.dtype) for n, t in leaves.items()})

    return make


def differentiate(outputs: Results, leaves: Results, cotangents: Results) -> Results:
    """The outputs, and under `grad NAME` the gradient of each leaf."""
    names = [name for name in outputs if outputs[name].requires_grad]
    gradients = torch.autograd.grad(
        [outputs[n] for n in names], list(leaves.values()), [cotangents[n] for n in names], materialize_grads=True
    )
    results = {name: output.detach() for name, output in outputs.items()}
    return results | {f"grad {name}": g for name, g in zip(leaves, gradients, strict=True)}


def scattered(tensor: Tensor) -> Tensor:
    """The same values in a non-contiguous slice, at an odd offset, of a larger tensor full of NaN."""
    big = tensor.new_full([2 * size + 3 for size in tensor.shape], float("nan"))
    view = big[tuple(slice(1, 1 + 2 * size, 2) for size in tensor.shape)]
    view.copy_(tensor)
    return view


def fused(problem: Problem, recompute_gates: bool = False, copies: bool = True) -> Results:
    """lstm_fused.LSTM, called in the layout that the case asks for; results come back time-major and batched.

    It gets copies of the problem's tensors, or these themselves.
    """
    case = problem.case
    module = lstm_fused.LSTM(**case.options())
    module.recompute_gates = recompute_gates
    place = (scattered if not case.contiguous else torch.clone) if copies else torch.detach
    leaves = {name: place(tensor).requires_grad_() for name, tensor in problem.leaves.items()}
    parameters = {name: leaves[name] for name, _ in module.named_parameters()}
    time_dim = 1 if case.batch_first else 0

    def to_layout(tensor: Tensor) -> Tensor:  # (T, B, ...) to what the caller hands over
        return tensor.squeeze(1) if case.batch is None else tensor.movedim(0, time_dim)

    def from_layout(tensor: Tensor) -> Tensor:
        return tensor.unsqueeze(1) if case.batch is None else tensor.movedim(time_dim, 0)

    def state(tensor: Tensor) -> Tensor:  # hx is never batch_first
        return tensor.squeeze(1) if case.batch is None else tensor

    hx = (state(leaves["h_0"]), state(leaves["c_0"])) if case.hx else None
    extra = {
        "lengths": problem.lengths,
        "reset": None if problem.reset is None else to_layout(problem.reset),
        "return_cells": case.return_cells,
    }
    torch.manual_seed(case.seed)
    output, (h_n, c_n), *cells = torch.func.functional_call(
        module,
        parameters,
        (to_layout(leaves["input"]), hx),
        {k: v for k, v in extra.items() if v is not None and v is not False},
    )
    outputs = {"output": from_layout(output)}
    outputs |= (
        {"h_n": h_n, "c_n": c_n} if case.batch is not None else {"h_n": h_n.unsqueeze(1), "c_n": c_n.unsqueeze(1)}
    )
    outputs |= {"cells": from_layout(c) for c in cells}
    return differentiate(outputs, leaves, problem.cotangents)


def expected(problem: Problem, dtype: torch.dtype) -> Results:
    """torch.nn.LSTM in dtype. Gradients of 16-bit weights add up in float32 over the pieces of a split sequence."""
    cast = problem.to(dtype)
    wide = torch.float32 if dtype.itemsize == 2 else dtype
    leaves = {name: tensor.to(wide).requires_grad_() for name, tensor in cast.leaves.items()}
    return differentiate(torch_lstm(cast, leaves), leaves, cast.cotangents)


def reference(problem: Problem) -> dict[str, np.ndarray]:
    """The results in a finer precision than the problem's."""
    if problem.case.dtype == torch.float64:
        return exact_lstm(problem)
    return {name: tensor.numpy() for name, tensor in expected(problem, torch.float64).items()}


def in_another_order(problem: Problem, seed: int) -> Results:
    """torch.nn.LSTM's results where the input's features, and with them the columns of W_ih, have changed places."""
    order = torch.randperm(problem.case.input_size, generator=torch.Generator().manual_seed(seed))
    of_features = ["input", "weight_ih_l0", "weight_ih_l0_reverse"]
    leaves = {n: t[..., order] if n in of_features else t for n, t in problem.leaves.items()}
    results = expected(dataclasses.replace(problem, leaves=leaves), problem.case.dtype)
    back = [f"grad {name}" for name in of_features]
    return {n: t[..., order.argsort()] if n in back else t for n, t in results.items()}


class Errors:
    """The errors of one result over all draws, taken together as if they were one tensor."""

    def __init__(self, case: Case) -> None:
        self.limits = torch.finfo(case.dtype)
        self.many_steps = case.seq_len * case.rows >= 16
        self.differences: list[Tensor] = []
        self.exact: list[Tensor] = []

    def add(self, actual: Tensor, exact: np.ndarray) -> None:
        difference = actual.cpu().double().numpy() - exact  # in the longer of the two types
        for array, list in ((difference, self.differences), (exact, self.exact)):
            list.append(torch.from_numpy(array.astype(np.float64)).flatten())

    def norms(self) -> dict[str, float]:
        """In units of eps times the largest element. A NaN counts as infinitely wrong, as does a difference from zeros.

        Denormal numbers carry no full precision: a difference below the smallest normal number is none.
        """
        difference, exact = torch.cat(self.differences).abs(), torch.cat(self.exact)
        if not exact.numel():
            return {}
        relative = difference / (exact.abs().max() * self.limits.eps)
        relative = torch.where(difference < self.limits.smallest_normal, 0.0, relative).nan_to_num(nan=float("inf"))
        norms = {"rms": float(relative.square().mean().sqrt())}
        return norms | ({"largest": float(relative.max())} if self.many_steps and relative.numel() >= 1000 else {})


def draws(case: Case) -> int:
    """How many draws give the smallest result 300 elements, for a mean that is not luck. Fewer where a draw is slow."""
    layers = case.num_layers * case.directions
    input, state = case.seq_len * case.rows * case.input_size, layers * case.rows * case.width
    smallest = min(input, state, 4 * case.hidden_size)
    split = case.reset or case.return_cells or case.dropout
    calls = case.seq_len * layers * (case.rows if split else 1)
    return max(1, min(300 // max(1, smallest), 40, max(3, 300 // max(1, calls))))


MORE = 8  # times as many draws where the largest error of few breaks the rule


def assert_accurate(
    case: Case,
    run: Callable[[Problem], Results] = fused,
    make: Callable[[Case, int], Problem] = draw,
    times: int | None = None,
    orders: int = 1,
) -> None:
    """Applies the rule to every output and gradient of a case; `orders`: of the input's features, for torch.nn.LSTM.

    The largest error of a few draws is luck on either side: a case with 4.49 eps where 4.43 are allowed, in its four
    draws, is within them in 32. So more draws decide on that, and those before count among them.
    """
    errors: dict[str, tuple[Errors, Errors]] = {}
    few = times or draws(case)
    for replica in range(few):
        add_draw(errors, case, make(case, replica), run, orders)
    assert not (found := broken(errors, case, "rms")), "\n".join(found)
    if broken(errors, case, "largest"):
        for replica in range(few, MORE * few):
            add_draw(errors, case, make(case, replica), run, orders)
        assert not (found := broken(errors, case, "largest")), "\n".join(found)


def add_draw(
    errors: dict[str, tuple[Errors, Errors]],
    case: Case,
    problem: Problem,
    run: Callable[[Problem], Results],
    orders: int,
) -> None:
    """Ours and torch.nn.LSTM's errors of one draw, by result."""
    exact, actual = reference(problem.on("cpu")), run(problem)
    plain = [expected(problem, case.dtype), *(in_another_order(problem, seed) for seed in range(1, orders))]
    assert actual.keys() == exact.keys()
    for name in exact:
        assert actual[name].dtype == case.dtype, f"{name} is {actual[name].dtype}"
        assert actual[name].shape == exact[name].shape, f"{name} is {tuple(actual[name].shape)}"
        ours, theirs = errors.setdefault(name, (Errors(case), Errors(case)))
        ours.add(actual[name], exact[name])
        for results in plain:
            theirs.add(results[name], exact[name])


def broken(errors: dict[str, tuple[Errors, Errors]], case: Case, norm: str) -> list[str]:
    """Every result that breaks the rule in this norm, in words."""
    found = []
    for name, (ours, theirs) in errors.items():
        error, plain = ours.norms().get(norm, 0.0), theirs.norms().get(norm, 0.0)
        bound = 2 * plain + 0.5
        if not error <= bound:
            sizes = f"{error:.2f} eps, bound {bound:.2f} eps (torch.nn.LSTM {plain:.2f} eps)"
            found.append(f"{case}: {norm} error of {name} is {sizes}")
    return found
