"""The LSTM in numpy's longest floats, forward and backward by hand: the reference for float64.

It owes nothing to lstm_fused nor to torch: the equations of Hochreiter & Schmidhuber 1997 with the forget gate of Gers
et al. 2000 and the projection of Sak et al. 2014, and their derivatives. Where the longest float has 64 bits of
fraction (x86-64) it is 2000 times as fine as float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from cases import Problem

Array = np.ndarray
LONG = np.longdouble


@dataclass
class Weights:
    """Of one layer and direction."""

    w_ih: Array  # (4H, I)
    w_hh: Array  # (4H, P)
    bias: Array  # (4H,), b_ih + b_hh
    w_hr: Array | None  # (P, H)


@dataclass
class Step:
    """What a step leaves for backward. Rows that take no part hold anything finite."""

    x: Array
    h_in: Array
    c_in: Array
    gates: tuple[Array, Array, Array, Array]  # i, f, g, o, activated
    tanh_c: Array
    valid: Array  # bool (B, 1): the step exists
    starts: Array  # bool (B, 1): its state is zero, not what came before


def sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def exact_lstm(problem: Problem) -> dict[str, Array]:
    """output, h_n, c_n, cells where the case has them, and under `grad NAME` the gradient of each leaf."""
    case = problem.case
    leaves = {name: to_long(tensor) for name, tensor in problem.leaves.items()}
    incoming = {name: to_long(tensor) for name, tensor in problem.cotangents.items()}
    states = case.num_layers * case.directions
    zeros = {name: np.zeros((states, case.rows, n), LONG) for name, n in (("h", case.width), ("c", case.hidden_size))}
    h_0, c_0 = leaves.get("h_0", zeros["h"]), leaves.get("c_0", zeros["c"])

    runs: list[Direction] = []
    x, h_n, c_n = leaves["input"], [], []
    for layer in range(case.num_layers):
        if layer > 0 and problem.masks is not None:
            x = x * to_long(problem.masks)[layer - 1]
        outputs, cells = [], []
        for direction in range(case.directions):
            run = Direction(problem, weights_of(leaves, layer, direction), reverse=direction == 1)
            n = layer * case.directions + direction
            output, all_cells, h, c = run.forward(x, h_0[n], c_0[n])
            runs.append(run)
            outputs.append(output)
            cells.append(all_cells)
            h_n.append(h)
            c_n.append(c)
        x = np.concatenate(outputs, -1)
    results = {"output": x, "h_n": np.stack(h_n), "c_n": np.stack(c_n)}
    if case.return_cells:
        results["cells"] = np.concatenate(cells, -1)

    grads = {name: np.zeros_like(leaf) for name, leaf in leaves.items()}
    grad_x = incoming["output"]
    for layer in reversed(range(case.num_layers)):
        grad_output, grad_x = np.split(grad_x, case.directions, -1), LONG(0)
        last = case.return_cells and layer == case.num_layers - 1
        grad_cells = np.split(incoming["cells"], case.directions, -1) if last else [LONG(0)] * case.directions
        for direction in range(case.directions):
            n = layer * case.directions + direction
            state = incoming["h_n"][n], incoming["c_n"][n]
            grad, of_input, grad_h, grad_c = runs[n].backward(grad_output[direction], grad_cells[direction], *state)
            grad_x = grad_x + of_input
            for name, value in grad.items():
                grads[suffixed(name, layer, direction)] = value
            if case.hx:
                grads["h_0"][n], grads["c_0"][n] = grad_h, grad_c
        if layer > 0 and problem.masks is not None:
            grad_x = grad_x * to_long(problem.masks)[layer - 1]
    grads["input"] = grad_x
    return results | {f"grad {name}": grad for name, grad in grads.items()}


def to_long(tensor) -> Array:
    return tensor.detach().cpu().double().numpy().astype(LONG)


def suffixed(name: str, layer: int, direction: int) -> str:
    return f"{name}_l{layer}" + ("_reverse" if direction else "")


def weights_of(leaves: dict[str, Array], layer: int, direction: int) -> Weights:
    def get(name: str) -> Array | None:
        return leaves.get(suffixed(name, layer, direction))

    w_ih, w_hh, b_ih, b_hh = (get(name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    assert w_ih is not None and w_hh is not None
    bias = np.zeros(len(w_ih), LONG) if b_ih is None or b_hh is None else b_ih + b_hh
    return Weights(w_ih, w_hh, bias, get("weight_hr"))


class Direction:
    """One direction of one layer."""

    def __init__(self, problem: Problem, weights: Weights, reverse: bool) -> None:
        case = problem.case
        time = np.arange(case.seq_len)[:, None]
        lengths = np.full(case.rows, case.seq_len) if problem.lengths is None else problem.lengths.cpu().numpy()
        self.case, self.weights = case, weights
        self.valid = time < lengths  # (T, B)
        starts = np.zeros((case.seq_len + 1, case.rows), bool)
        if problem.reset is not None:
            starts[:-1] = problem.reset.cpu().numpy()
        # Going backwards a boundary cuts off the step before it; one at or past the row's end cuts nothing.
        self.starts = starts[1:] & (time + 1 < lengths) if reverse else starts[:-1]
        self.order = list(reversed(range(case.seq_len))) if reverse else list(range(case.seq_len))
        self.steps: dict[int, Step] = {}

    def forward(self, x: Array, h: Array, c: Array) -> tuple[Array, Array, Array, Array]:
        """h and c after every step, zero where there is none, and at the end; x: (T, B, I)."""
        w, width = self.weights, self.case.hidden_size
        output = np.zeros((*x.shape[:2], self.case.width), LONG)
        cells = np.zeros((*x.shape[:2], width), LONG)
        for t in self.order:
            valid, starts = self.valid[t][:, None], self.starts[t][:, None]
            x_t = np.where(valid, x[t], 0)
            h_in, c_in = np.where(starts, 0, h), np.where(starts, 0, c)
            pre = x_t @ w.w_ih.T + h_in @ w.w_hh.T + w.bias
            i, f, g, o = (pre[:, n * width : (n + 1) * width] for n in range(4))
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            c_t = f * c_in + i * g
            tanh_c = np.tanh(c_t)
            h_t = o * tanh_c if w.w_hr is None else (o * tanh_c) @ w.w_hr.T
            self.steps[t] = Step(x_t, h_in, c_in, (i, f, g, o), tanh_c, valid, starts)
            output[t], cells[t] = np.where(valid, h_t, 0), np.where(valid, c_t, 0)
            h, c = np.where(valid, h_t, h), np.where(valid, c_t, c)
        return output, cells, h, c

    def backward(self, grad_output: Array, grad_cells: Array, grad_h: Array, grad_c: Array):
        """Gradients of the weights by name, of x, and of the state at the beginning."""
        w, case = self.weights, self.case
        grad_output, grad_cells = (
            np.broadcast_to(grad, (case.seq_len, case.rows, n))
            for grad, n in ((grad_output, case.width), (grad_cells, case.hidden_size))
        )
        grads = {"weight_ih": np.zeros_like(w.w_ih), "weight_hh": np.zeros_like(w.w_hh)}
        bias = np.zeros_like(w.bias)
        if w.w_hr is not None:
            grads["weight_hr"] = np.zeros_like(w.w_hr)
        grad_x = np.zeros((case.seq_len, case.rows, w.w_ih.shape[1]), LONG)
        for t in reversed(self.order):
            s = self.steps[t]
            i, f, g, o = s.gates
            of_h = np.where(s.valid, grad_h + grad_output[t], 0)
            of_c = np.where(s.valid, grad_c + grad_cells[t], 0)
            of_hidden = of_h
            if w.w_hr is not None:
                grads["weight_hr"] += of_h.T @ (o * s.tanh_c)
                of_hidden = of_h @ w.w_hr
            of_c = of_c + of_hidden * o * (1 - s.tanh_c**2)
            of_pre = (
                of_c * g * i * (1 - i),
                of_c * s.c_in * f * (1 - f),
                of_c * i * (1 - g**2),
                of_hidden * s.tanh_c * o * (1 - o),
            )
            pre = np.concatenate(of_pre, -1)
            grads["weight_ih"] += pre.T @ s.x
            grads["weight_hh"] += pre.T @ s.h_in
            bias += pre.sum(0)
            grad_x[t] = pre @ w.w_ih
            passes = s.valid & ~s.starts
            grad_h = np.where(s.valid, np.where(passes, pre @ w.w_hh, 0), grad_h)
            grad_c = np.where(s.valid, np.where(passes, of_c * f, 0), grad_c)
        if case.bias:
            grads |= {"bias_ih": bias, "bias_hh": bias}
        return grads, grad_x, grad_h, grad_c
