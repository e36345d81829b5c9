"""Streams for GPUs without one: the op on the simulator, and tapes in the place of CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from simulated import Simulator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from lstm_fused import stream
from lstm_fused.stream_cuda import CudaEngine


class Tape(TorchDispatchMode):
    """Like a CUDA graph: operators with the memory that they were given, to run again on what that holds by then.

    Recording changes nothing, and between replays temporary memory is others': it is full of NaN.
    """

    def __init__(self, run: Callable[[], object]) -> None:
        super().__init__()
        self._calls: list[tuple[Any, ...]] = []
        self._before: list[tuple[Tensor, Tensor]] = []
        with self:
            run()
        with torch.inference_mode():
            for tensor, before in reversed(self._before):
                tensor.copy_(before)
            self._spoil()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(Tensor, Tensor.detach, (args, kwargs or {}))  # where they lie now
        written = [value for value, argument in zip(args, func._schema.arguments) if argument.is_write]
        self._before += [(tensor, tensor.clone()) for tensor in tree_leaves(written)]
        results = func(*args, **kwargs)
        new = [] if written or func.is_view else tree_leaves(results)
        self._calls.append((func, args, kwargs, new))
        return results

    @torch.inference_mode()
    def replay(self) -> None:
        for func, args, kwargs, new in self._calls:
            again = func(*args, **kwargs)
            for tensor, value in zip(new, tree_leaves(again) if new else []):
                tensor.copy_(value)
        self._spoil()

    def _spoil(self) -> None:
        for *_, new in self._calls:
            for tensor in new:
                tensor.fill_(float("nan"))


class Tapes:
    """In the place of lstm_fused.stream_cuda.Graphs."""

    def __init__(self, device: torch.device) -> None:
        self.recorded: list[Tape] = []
        self.beside: list[Tape | None] = []
        self.captured = False

    on_device = staticmethod(nullcontext)

    def is_captured(self) -> bool:
        return self.captured

    def follow(self, memory: Callable[[], list[Tensor]]) -> None:
        """There is one order."""

    def record(self, run: Callable[[], None], beside: Tape | None) -> Tape:
        self.beside.append(beside)
        self.recorded.append(Tape(run))
        return self.recorded[-1]


def graphs_of(one: stream.Stream) -> Tapes:
    assert isinstance(one._engine, CudaEngine)
    return one._engine._graphs


@contextmanager
def on_tapes(simulator: Simulator, kind: str = "step", allow_tf32: bool = False) -> Iterator[None]:
    """Streams of modules on the CPU are those of CudaEngine."""
    with simulator.running(kind, allow_tf32), pytest.MonkeyPatch.context() as patch:
        patch.setitem(stream.ENGINES, "cpu", partial(CudaEngine, graphs=Tapes))
        yield
