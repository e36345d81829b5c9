"""Swaps the LSTMs inside a model, in place."""

from __future__ import annotations

import warnings
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from .flat_weights import FlatWeights
from .subclasses import OURS, TORCH, our_class, torch_class

Module = TypeVar("Module", bound=nn.Module)

_NAMES = {cls.__name__ for cls in TORCH}


def convert(module: Module, *, subclass: bool = False) -> Module:
    """Makes every ``torch.nn.LSTM`` and ``torch.nn.LSTMCell`` inside ``module``, itself included, one of ours.

    Both sides keep the same attributes, so the objects stay what they are and change class: parameters, hooks, training
    flag, device and every reference to them (an optimizer's, a parent's) go on being valid. Subclasses whose
    ``forward`` ends in ``super().forward`` keep their class as a base, parametrized modules their parametrizations.

    Args:
        module: is changed, and returned.
        subclass: the results are instances of ``torch.nn.LSTM`` and ``torch.nn.LSTMCell`` as well, for code that asks
            for it. torch.compile refuses such instances. Converted subclasses always are.

    Warns:
        UserWarning: once, with the names of LSTMs that had to be left as they are: subclasses that compute by
            themselves, TorchScript, quantized ones.

    Raises:
        TypeError: if ``module`` is no ``torch.nn.Module``.
    """
    _check_module(module)
    left: list[tuple[str, str]] = []
    for name, part in module.named_modules():
        try:
            become_ours(part, subclass=subclass)
        except TypeError as error:
            left.append((name, str(error)))
    _name("convert", left)
    return module


def revert(module: Module) -> Module:
    """The inverse of :func:`convert`, whatever it was called with. Named in a warning: classes derived from ours.

    Raises:
        ValueError: naming those whose cell torch.nn.LSTM does not have. Nothing has changed then.
    """
    _check_module(module)
    parts = module.named_modules()
    variants = [(name, part.cell_options) for name, part in parts if isinstance(part, OURS[0]) and part.cell_options]
    if variants:
        found = ", ".join(f"{name or 'the module itself'} ({options})" for name, options in variants)
        raise ValueError(f"lstm_fused.revert: expected cells that torch.nn.LSTM has, got {found}")
    left = []
    for name, part in module.named_modules():
        _become(part, torch_class(_class_of(part)))
        if isinstance(part, OURS):
            left.append((name, f"{type(part).__qualname__} is a subclass of ours"))
    _name("revert", left)
    return module


def become_ours(part: nn.Module, *, subclass: bool) -> None:
    """Of one module alone. Raises TypeError, with the reason, for an LSTM that has to stay as it is."""
    kind = part.original_name if isinstance(part, torch.jit.ScriptModule) else type(part).__name__
    if kind in _NAMES and isinstance(part, torch.jit.ScriptModule):
        raise TypeError("TorchScript")
    if kind in _NAMES and type(part).__module__.startswith("torch.ao."):
        raise TypeError(f"of {type(part).__module__}")
    cls = our_class(_class_of(part), subclass=subclass)
    if cls is not torch_class(cls) and "forward" in vars(part):
        raise TypeError("its forward was replaced")
    _become(part, cls)


def _check_module(module: object) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")


def _name(function: str, left: list[tuple[str, str]]) -> None:
    if left:
        parts = ", ".join(f"{name or 'the module itself'} ({reason})" for name, reason in left)
        warnings.warn(f"lstm_fused.{function}: left as they are: {parts}", stacklevel=3)


def _class_of(part: nn.Module) -> type:
    """Without the class that torch makes for a parametrized module."""
    return parametrize.type_before_parametrizations(part)


def _become(part: nn.Module, cls: type) -> None:
    if cls is _class_of(part):
        return
    if isinstance(part, FlatWeights):
        part.list_for_torch()
    part.__class__ = _parametrized(type(part), cls) if parametrize.is_parametrized(part) else cls
    if isinstance(part, FlatWeights):
        part.list_from_torch()


def _parametrized(cls: type, base: type) -> type:
    """A parametrized module's own class on another base: the one that it had at first, if that has all it needs."""
    own = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    first = own.setdefault("_first", cls)
    if first.__base__ is base and vars(first).keys() - {"__dict__", "__weakref__"} == own.keys() - {"_first"}:
        return first
    return type(cls.__name__, (base,), own)
