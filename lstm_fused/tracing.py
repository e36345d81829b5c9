"""Calls that become a graph, by torch.compile, torch.export, torch.jit.trace or make_fx: it will run on other tensors.

So nothing in it may follow from a value, and to torch.jit.trace, nothing from two sizes being the same.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

_set_tracing_state: Any = getattr(torch._C, "_set_tracing_state")  # noqa: B009 (mypy does not know it)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def values(tensor: Tensor) -> list[int] | None:
    """What an integer tensor on the CPU holds, under a transform in all its members; None where that is not to be read.

    That is in a graph, of a tensor elsewhere, and of kinds of tensors that answer for operators themselves, as fake
    ones, which hold nothing. torch.jit.trace has values, those of its example, which only checks may read.
    """
    if torch.compiler.is_compiling() or get_proxy_mode() is not None:
        return None
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    if tensor.device.type != "cpu" or type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return None
    return (tensor if tensor.dim() == 1 else tensor.reshape(-1)).tolist()


def untraced(check: _Function) -> _Function:
    """A check that torch.jit.trace does not see, to which sizes are tensors, and a comparison of them a warning."""

    @functools.wraps(check)
    def checked(*args: Any) -> Any:
        state = torch._C._get_tracing_state()
        if state is None:
            return check(*args)
        _set_tracing_state(None)
        try:
            return check(*args)
        finally:
            _set_tracing_state(state)

    return checked  # type: ignore[return-value]


def refuse_onnx() -> None:
    """In torch.onnx.export, which has no words for our operators, unless somebody has asked for ours.

    With dynamo=False it makes a trace. With dynamo=True it asks the operators what their results look like; what runs
    before may be compiled, and is then told that nothing is exported.
    """
    if torch.onnx.is_in_onnx_export() and (torch.jit.is_tracing() or "lstm_fused.onnx" not in sys.modules):
        raise NotImplementedError(
            "torch.onnx.export cannot translate the operators of lstm_fused: use lstm_fused.onnx.export"
        )
