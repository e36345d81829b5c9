"""torch.nn.LSTM made to answer every case, in any dtype: the reference that owes nothing to lstm_fused.

Where torch.nn.LSTM has the option, it is asked directly, with lengths as pack -> LSTM -> pad. What it lacks (resets,
all cell states, dropout masks of our choice) is had by splitting: each row of the batch is cut at its boundaries and at
its length, and torch's own LSTM function runs on each piece.
"""

from __future__ import annotations

import torch
from cases import Problem
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def torch_lstm(problem: Problem, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """output, h_n, c_n and, where the case has them, cells; computed in the dtype of the problem.

    leaves: what to differentiate by, cast to that dtype at each use.
    """
    case = problem.case
    if problem.reset is not None or problem.masks is not None or case.return_cells:
        return split_rows(problem, leaves)
    if problem.lengths is not None:
        return packed(problem, leaves)
    return whole(problem, leaves)


def _module_and_inputs(problem: Problem, leaves: dict[str, Tensor]):
    module = torch.nn.LSTM(**problem.case.options() | {"batch_first": False, "dropout": 0.0})
    cast = {name: tensor.to(problem.case.dtype) for name, tensor in leaves.items()}
    parameters = {name: cast[name] for name, _ in module.named_parameters()}
    hx = (cast["h_0"], cast["c_0"]) if problem.case.hx else None
    return module, parameters, cast["input"], hx


def whole(problem: Problem, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """torch.nn.LSTM as it is."""
    module, parameters, input, hx = _module_and_inputs(problem, leaves)
    output, (h_n, c_n) = torch.func.functional_call(module, parameters, (input, hx))
    return {"output": output, "h_n": h_n, "c_n": c_n}


def packed(problem: Problem, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """pack -> torch.nn.LSTM -> pad."""
    module, parameters, input, hx = _module_and_inputs(problem, leaves)
    sequence = pack_padded_sequence(input, problem.lengths.cpu(), enforce_sorted=False)
    output, (h_n, c_n) = torch.func.functional_call(module, parameters, (sequence, hx))
    return {"output": pad_packed_sequence(output, total_length=problem.case.seq_len)[0], "h_n": h_n, "c_n": c_n}


def split_rows(problem: Problem, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every layer, direction, row and segment on its own."""
    case = problem.case
    layer_input = leaves["input"].to(case.dtype)
    h_n, c_n = [], []
    for layer in range(case.num_layers):
        outputs, cells = [], []
        for direction in range(case.directions):
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            weights = [tensor for name, tensor in leaves.items() if name.endswith(suffix)]
            index = layer * case.directions + direction
            rows = []
            for row in range(case.rows):
                if case.hx:
                    state = leaves["h_0"][index, row].to(case.dtype), leaves["c_0"][index, row].to(case.dtype)
                else:
                    state = _zero_state(problem)
                stepwise = case.return_cells and layer == case.num_layers - 1
                rows.append(_one_row(problem, row, layer_input[:, row], state, weights, bool(direction), stepwise))
            stacked = [torch.stack(parts, dim=-2) for parts in zip(*rows, strict=True)]
            outputs.append(stacked[0])
            h_n.append(stacked[1])
            c_n.append(stacked[2])
            cells.append(stacked[3])
        layer_output = torch.cat(outputs, dim=-1)
        layer_input = layer_output
        if problem.masks is not None and layer < case.num_layers - 1:
            layer_input = layer_output * problem.masks[layer]
    results = {"output": layer_output, "h_n": torch.stack(h_n), "c_n": torch.stack(c_n)}
    return results | ({"cells": torch.cat(cells, dim=-1)} if case.return_cells else {})


def _zero_state(problem: Problem) -> tuple[Tensor, Tensor]:
    case = problem.case
    place = {"dtype": case.dtype, "device": case.device}
    return torch.zeros(case.width, **place), torch.zeros(case.hidden_size, **place)


def _one_row(problem: Problem, row: int, steps: Tensor, state, weights: list[Tensor], reverse: bool, stepwise: bool):
    """One direction of one layer for one row: output (T, P), h_n (P,), c_n (H,), cells (T, H; zero unless stepwise).

    steps: (T, I), the input of the layer.
    """
    case = problem.case
    length = case.seq_len if problem.lengths is None else int(problem.lengths[row])
    starts = set() if problem.reset is None else set(problem.reset[:length, row].nonzero().flatten().tolist())
    edges = sorted({0, length} | starts)
    segments = list(zip(edges[:-1], edges[1:], strict=True))
    if 0 in starts and not reverse:  # in reverse, the boundary before step 0 lies behind the last step taken
        state = _zero_state(problem)
    output: list[Tensor | None] = [None] * case.seq_len
    cells: list[Tensor | None] = [None] * case.seq_len
    for number, (begin, end) in enumerate(reversed(segments) if reverse else segments):
        if number:
            state = _zero_state(problem)
        order = range(end - 1, begin - 1, -1) if reverse else range(begin, end)
        for piece in [[t] for t in order] if stepwise else [list(order)]:
            values, state = _run(steps[piece], state, weights, case.bias)
            for t, value in zip(piece, values, strict=True):
                output[t] = value
            cells[piece[-1]] = state[1]
    zero_h, zero_c = _zero_state(problem)
    stack = [zero_h if v is None else v for v in output], [zero_c if v is None or not stepwise else v for v in cells]
    return torch.stack(stack[0]), state[0], state[1], torch.stack(stack[1])


def _run(steps: Tensor, state: tuple[Tensor, Tensor], weights: list[Tensor], bias: bool):
    """torch's LSTM function on one piece of one row. steps: (n, I); returns (n, P) and the state after it."""
    hx = state[0].view(1, 1, -1), state[1].view(1, 1, -1)
    cast = [w.to(steps.dtype) for w in weights]
    output, h, c = torch.lstm(steps.unsqueeze(1), hx, cast, bias, 1, 0.0, False, False, False)
    return output.squeeze(1), (h.flatten(), c.flatten())
