"""Ours as subclasses of torch.nn's: for code that asks isinstance(), and under the subclasses that others have made."""

from __future__ import annotations

import copyreg
import inspect
import types
import weakref
from collections.abc import Iterator
from typing import Any

from torch import nn

from . import modules

TORCH = (nn.LSTM, nn.LSTMCell)
OURS = (modules.LSTM, modules.LSTMCell)


class _Pickled(nn.Module):
    """Pickled by the class that it stands for: the one made of that has no name of its own to be found under."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(max(int(protocol), 2))
        make, args, *rest = reduced
        if make is copyreg.__newobj__ and args[0] is not torch_class(args[0]):  # type: ignore[attr-defined]
            return _new, (torch_class(args[0]), *args[1:]), *rest
        return reduced


def _new(theirs: type[nn.Module], *args: Any) -> nn.Module:
    cls = our_class(theirs, subclass=True)
    return cls.__new__(cls, *args)


class LSTM(modules.LSTM, _Pickled, nn.LSTM):
    """:class:`lstm_fused.LSTM` that is an instance of :class:`torch.nn.LSTM` as well."""


class LSTMCell(modules.LSTMCell, _Pickled, nn.LSTMCell):
    """:class:`lstm_fused.LSTMCell` that is an instance of :class:`torch.nn.LSTMCell` as well."""


_PLAIN: dict[type, type[nn.Module]] = {nn.LSTM: modules.LSTM, nn.LSTMCell: modules.LSTMCell}
_SUBCLASS: dict[type, type[nn.Module]] = {nn.LSTM: LSTM, nn.LSTMCell: LSTMCell}
_TORCH = {ours: theirs for table in (_PLAIN, _SUBCLASS) for theirs, ours in table.items()}
# Those made of other people's subclasses. They hold what they are made of, so that a value alone can let go of both.
_made: weakref.WeakValueDictionary[type, type[nn.Module]] = weakref.WeakValueDictionary()


def torch_class(cls: type) -> type:
    """The class that one of ours stands for; any other as it is."""
    return _TORCH.get(cls) or vars(cls).get("_stands_for", cls)


def our_class(cls: type, *, subclass: bool) -> type:
    """Ours for torch.nn's or a subclass of it; any other as it is.

    Raises:
        TypeError: for a subclass that computes by itself.
    """
    theirs = torch_class(cls)
    if theirs in _PLAIN:
        return (_SUBCLASS if subclass else _PLAIN)[theirs]
    if not issubclass(theirs, TORCH) or issubclass(theirs, OURS):
        return cls
    return _made.get(theirs) or _made.setdefault(theirs, _make(theirs))


def _make(theirs: type) -> type[nn.Module]:
    """A class whose order of resolution has ours right before torch.nn's: there super() of ``theirs`` finds it."""
    for part in theirs.__mro__:
        if part in TORCH:
            break
        if "forward" in vars(part) and not any(_calls_next_forward(value) for value in vars(part).values()):
            raise TypeError(f"{part.__qualname__}.forward does not call super().forward")
    base = LSTM if issubclass(theirs, nn.LSTM) else LSTMCell
    names = ("__module__", "__qualname__", "__doc__")
    namespace = {name: getattr(theirs, name) for name in names} | {"_stands_for": theirs}
    return types.new_class(theirs.__name__, (theirs, base), exec_body=lambda ns: ns.update(namespace))


def _calls_next_forward(value: Any) -> bool:
    """Whether a function has ``super`` and ``forward`` among the names that it uses."""
    code = getattr(inspect.unwrap(value), "__code__", None)
    return code is not None and any({"super", "forward"} <= set(part.co_names) for part in _nested(code))


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)
