"""What torch's tools ask of a module: torch.fx, TorchScript, torch.ao.quantization."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

from torch import nn
from torch.fx import Proxy
from torch.fx.proxy import TraceError


class ToolSupport(nn.Module):
    # TorchScript compiles properties, also of what is traced; none of ours is for it.
    __jit_unused_properties__: ClassVar[list[str]] = ["all_weights", "_flat_weights", "qconfig"]

    def __prepare_scriptable__(self) -> nn.Module:
        name = type(self).__name__
        raise RuntimeError(
            f"torch.jit.script cannot compile lstm_fused.{name}. Script lstm_fused.revert(model), which computes with "
            f"torch.nn.{name}, or use torch.jit.trace"
        )

    @property
    def qconfig(self) -> Any:
        if "qconfig" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute 'qconfig'")
        return vars(self)["qconfig"]

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        """How torch.ao.quantization marks every module, before it replaces those whose class it knows."""
        name = type(self).__name__
        warnings.warn(
            f"torch.ao.quantization does not know lstm_fused.{name} and leaves it as it is: "
            f"quantize lstm_fused.revert(model), which has torch.nn.{name} instead",
            stacklevel=2,
        )
        vars(self)["qconfig"] = value

    @qconfig.deleter
    def qconfig(self) -> None:
        del vars(self)["qconfig"]

    def node(self, input: Proxy, hx: Any, **options: Any) -> Proxy:
        """The call as one node of torch.fx's graph, as it is for a module of torch.nn."""
        path = input.tracer.path_of_module(self)  # type: ignore[attr-defined]
        if not path:
            raise TraceError("torch.fx: an LSTM is one node of a graph; trace a module that holds it")
        args = (input,) if hx is None else (input, hx)
        given = {name: value for name, value in options.items() if value is not None and value is not False}
        return input.tracer.create_proxy("call_module", path, args, given)
