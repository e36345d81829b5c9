"""Builds the two sides of a case from the same weights and checks that they agree before anything is timed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lstm_fused
from bench.cases import DTYPES, Case

Forward = Callable[[Tensor], tuple[Tensor, tuple[Tensor, Tensor]]]

# Largest difference allowed between the two sides, as a fraction of the largest element of the tensor. torch.nn.LSTM
# itself is off from its float64 result by up to 3e-6 in float32, and in bfloat16 by 2e-2 where the gradient of W_hh
# adds up 256 packed steps (lstm_fused by 2e-3 there); over the whole grid the two differed by up to 4e-6 and 4.5e-2.
# A wrong step or row differs by far more.
# TF32 rounds the operands of each product to 10 bits, as float16 does.
TOLERANCE = {"float64": 1e-10, "float32": 2e-5, "tf32": 1e-2, "float16": 2e-2, "bfloat16": 6e-2}


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Sets torch's switches for TF32 as the dtype says, those of its RNN and of other products alike."""
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = dtype == "tf32"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


class Disagreement(AssertionError):
    """Two sides computed different results, so their times must not be compared."""


@dataclass
class Side:
    """One of the two modules with an input and an output gradient of its own."""

    forward: Forward
    input: Tensor  # (T, B, I), a leaf that requires a gradient, as the output of an embedding does; of a cell see build
    grad_output: Tensor  # (T, B, D*H)
    parameters: list[tuple[str, torch.nn.Parameter]]

    def infer(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """In the caller's mode: what it costs to enter torch.inference_mode() is no part of either module."""
        return self.forward(self.input)

    def train(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        self.input.grad = None
        for _, parameter in self.parameters:
            parameter.grad = None
        result = self.forward(self.input)
        result[0].backward(self.grad_output)
        return result

    def tensors(self, mode: str) -> dict[str, Tensor]:
        """Runs once and returns by name everything that this mode computes."""
        with torch.inference_mode(mode == "inference"):
            output, (h_n, c_n) = self.train() if mode == "training" else self.infer()
        tensors = {"output": output.detach(), "h_n": h_n.detach(), "c_n": c_n.detach()}
        if mode == "training":
            leaves = [("input", self.input), *self.parameters]
            tensors |= {f"grad {name}": leaf.grad for name, leaf in leaves if leaf.grad is not None}
        return tensors


def build(case: Case, device: torch.device, seed: int = 0) -> tuple[Side, Side]:
    """Returns (ours, theirs) with equal weights and inputs.

    Ragged rows reach lstm_fused.LSTM as `lengths` on the device, and torch.nn.LSTM as pack -> LSTM -> pad, with the
    rows already sorted so that no time goes into sorting them. One step of a cell takes (B, I) and gives (B, H).
    """
    torch.manual_seed(seed)
    if case.group == "cell":
        return _build_cells(case, device)
    size, layers, both, dtype = case.hidden_size, case.num_layers, case.num_directions == 2, DTYPES[case.dtype]
    theirs = torch.nn.LSTM(size, size, layers, bidirectional=both).to(device, dtype)
    ours = lstm_fused.LSTM(size, size, layers, bidirectional=both).to(device, dtype)
    ours.load_state_dict(theirs.state_dict())
    input = torch.randn(case.seq_len, case.batch, size).to(device, dtype)
    grad_output = torch.randn(case.seq_len, case.batch, case.num_directions * size).to(device, dtype)

    def side(module: torch.nn.Module, forward: Forward) -> Side:
        module.train(case.mode == "training")
        return Side(forward, input.clone().requires_grad_(), grad_output, list(module.named_parameters()))

    if case.lengths is None:
        return side(ours, ours), side(theirs, theirs)

    lengths = torch.tensor(case.lengths)
    lengths_on_device = lengths.to(device)

    def packed(input: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, state = theirs(pack_padded_sequence(input, lengths))
        return pad_packed_sequence(output)[0], state

    return side(ours, lambda input: ours(input, lengths=lengths_on_device)), side(theirs, packed)


def _build_cells(case: Case, device: torch.device) -> tuple[Side, Side]:
    dtype, size = DTYPES[case.dtype], case.hidden_size
    cells = [cls(size, size).to(device, dtype) for cls in (lstm_fused.LSTMCell, torch.nn.LSTMCell)]
    cells[0].load_state_dict(cells[1].state_dict())
    steps = (case.seq_len,) if case.seq_len > 1 else ()
    input, grad_output = (torch.randn(*steps, case.batch, size).to(device, dtype) for _ in range(2))

    def looped(cell: torch.nn.Module) -> Forward:
        def forward(input: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            if not steps:
                h, c = cell(input)
                return h, (h, c)
            state, outputs = None, []
            for step in input.unbind():
                state = cell(step, state)
                outputs.append(state[0])
            return torch.stack(outputs), state

        return forward

    ours, theirs = (
        Side(looped(cell), input.clone().requires_grad_(), grad_output, list(cell.named_parameters())) for cell in cells
    )
    return ours, theirs


class Comparable(Protocol):
    def tensors(self, mode: str) -> dict[str, Tensor]: ...


def check_agreement(case: Case, ours: Comparable, **peers: Comparable) -> float:
    """Runs every side once and returns the largest relative difference of any output or gradient of ours from a peer's.

    Raises Disagreement where it exceeds the tolerance, or where one side lacks a gradient that the other has.
    """
    tolerance = TOLERANCE[case.dtype]
    got, worst = ours.tensors(case.mode), 0.0
    for peer, side in peers.items():
        expected = side.tensors(case.mode)
        if got.keys() != expected.keys():
            raise Disagreement(f"{case.name}: only ours or {peer}'s has {sorted(got.keys() ^ expected.keys())}")
        for name, tensor in expected.items():
            error = relative_difference(got[name], tensor)
            if not error <= tolerance:  # a NaN must fail too
                text = f"{name} differs by {error:.2e} of the largest element of {peer}'s, > {tolerance:.0e}"
                raise Disagreement(f"{case.name}: {text}")
            worst = max(worst, error)
    return worst


def relative_difference(got: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest absolute element of `expected`; infinite where shapes differ."""
    if got.shape != expected.shape:
        return float("inf")
    scale = expected.abs().max().item()
    difference = (got.double() - expected.double()).abs().max().item()
    return difference if difference == 0 else difference / scale if scale else float("inf")
