"""What other packages compute with torch.nn.LSTM and with ours: docs/other-code.md has a row for each trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

import lstm_fused

Step = Callable[[nn.Module], Any]  # a model's outputs, tensors in any nesting, for one and the same batch
Run = Callable[[], list[Tensor]]
OURS = (lstm_fused.LSTM, lstm_fused.LSTMCell)
TRIALS: dict[str, Trial] = {}


@dataclass(frozen=True)
class Trial:
    """One row. A package is imported only when it is prepared."""

    package: str  # as pip knows it
    what: str
    way: str  # by which its LSTMs become ours
    prepare: Callable[[bool], Run]  # with ours or without; every run begins at one and the same seed

    def version(self) -> str:
        return version(self.package)


def enter(package: str, what: str, way: str, prepare: Callable[[bool], Run]) -> None:
    TRIALS[f"{package}: {what}"] = Trial(package, what, way, prepare)


def trial(package: str, what: str, subclass: bool = False) -> Callable[[Callable[[], tuple[nn.Module, Step]]], None]:
    """For a function that builds a model and gives it with a step, which becomes one of training."""

    def decorate(make: Callable[[], tuple[nn.Module, Step]]) -> None:
        def prepare(ours: bool) -> Run:
            torch.manual_seed(0)
            model, step = make()
            if ours:
                lstm_fused.convert(model, subclass=subclass)
                assert any(isinstance(part, OURS) for part in model.modules())
            return lambda: train(model, step)

        enter(package, what, "`subclass=True`" if subclass else "`convert`", prepare)

    return decorate


def whole(package: str, what: str) -> Callable[[Callable[[], Any]], None]:
    """For a function that builds, trains and uses a model: for ours, in place of torch's classes."""

    def decorate(function: Callable[[], Any]) -> None:
        def prepare(ours: bool) -> Run:
            def run() -> list[Tensor]:
                torch.manual_seed(0)
                if not ours:
                    return tensors(function())
                with lstm_fused.in_place_of_torch():
                    return tensors(function())

            return run

        enter(package, what, "`in_place_of_torch`", prepare)

    return decorate


def train(model: nn.Module, step: Step) -> list[Tensor]:
    """Outputs and gradients, dropout drawn from one and the same seed."""
    torch.manual_seed(1)
    model.zero_grad()
    outputs = tensors(step(model))
    sum(output.square().mean() for output in outputs if output.requires_grad).backward()
    return [output.detach() for output in outputs] + [p.grad for p in model.parameters() if p.grad is not None]


def tensors(results: Any) -> list[Tensor]:
    """The floating-point tensors in any nesting of sequences and dictionaries, PackedSequences included."""
    if isinstance(results, Tensor):
        return [results] if results.is_floating_point() else []
    if isinstance(results, dict):
        results = results.values()
    if isinstance(results, str) or not hasattr(results, "__iter__"):
        return []
    return [tensor for result in results for tensor in tensors(result)]


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference of all tensors, each relative to its own largest value.

    A gradient that is zero but for rounding, as that of a bias before a softmax, has no such value: a ten thousandth of
    the largest value of all takes its place.
    """
    floor = 1e-4 * max(float(b.abs().max()) for b in theirs)
    return max(float((a - b).abs().max()) / max(floor, float(b.abs().max())) for a, b in zip(ours, theirs, strict=True))
