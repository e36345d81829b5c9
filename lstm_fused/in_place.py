"""torch.nn.LSTM and LSTMCell are ours, for a while: for code that builds or loads its model itself."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from .convert import become_ours
from .subclasses import TORCH

_WAYS = ("__init__", "__setstate__")  # by which a module comes to be: built; unpickled, loaded or copied
_lock = threading.Lock()
_open = 0  # contexts, in all threads
_undo = contextlib.ExitStack()


@contextlib.contextmanager
def in_place_of_torch() -> Iterator[None]:
    """While it lasts, every ``torch.nn.LSTM`` and ``torch.nn.LSTMCell`` that is built, loaded or copied becomes ours.

    What it becomes is what ``convert(subclass=True)`` makes of it, and stays so. The classes are who they were: it does
    not matter how code came by their name, or when; subclasses count, and isinstance() holds, inside and afterwards.
    ``convert(model)`` afterwards gives what torch.compile takes.

    All threads see it. Contexts may be nested or overlap: the last to end, ends it. A subclass that cannot be converted
    stays as it is, with a warning.
    """
    global _open
    with _lock:
        _open += 1
        if _open == 1:
            for cls in TORCH:
                for way in _WAYS:
                    _undo.callback(_replace(cls, way))
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if _open == 0:
                _undo.close()


def _replace(cls: type, way: str) -> Callable[[], None]:
    """Has a method of torch's class make its result ours. Returns what undoes it."""
    method, inherited = getattr(cls, way), way not in vars(cls)
    setattr(cls, way, _then_ours(method))
    return functools.partial(delattr, cls, way) if inherited else functools.partial(setattr, cls, way, method)


def _then_ours(method: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(method)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        method(self, *args, **kwargs)
        try:
            become_ours(self, subclass=True)
        except TypeError as error:
            name = type(self).__qualname__
            warnings.warn(f"lstm_fused.in_place_of_torch: {name} stays as it is ({error})", stacklevel=2)

    return wrapper
