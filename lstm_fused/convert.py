"""Swaps the LSTMs inside a model, in place."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from .modules import LSTM, LSTMCell

Module = TypeVar("Module", bound=nn.Module)

_OURS: dict[type[nn.Module], type[nn.Module]] = {nn.LSTM: LSTM, nn.LSTMCell: LSTMCell}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


def convert(module: Module) -> Module:
    """Makes every ``torch.nn.LSTM`` and ``torch.nn.LSTMCell`` inside ``module``, itself included, one of ours.

    Both sides keep the same attributes, so the objects stay what they are and change class: parameters, hooks, training
    flag, device and every reference to them (an optimizer's, a parent's) go on being valid. Subclasses are left alone.

    Returns:
        ``module``.

    Raises:
        TypeError: if ``module`` is no ``torch.nn.Module``.
    """
    return _swap(module, _OURS)


def revert(module: Module) -> Module:
    """The inverse of :func:`convert`."""
    return _swap(module, _THEIRS)


def _swap(module: Module, classes: dict[type[nn.Module], type[nn.Module]]) -> Module:
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    for part in module.modules():
        part.__class__ = classes.get(type(part), type(part))
    return module
