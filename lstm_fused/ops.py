"""The operators: what they compute without data (fake tensors), and their place in torch's dispatcher.

``torch.ops.lstm_fused.forward(input, h_0, c_0, weights, bidirectional, lengths, reset, dropout_mask, training,
return_cells, allow_tf32, recompute_gates=False) -> (output, h_n, c_n, cells, reserve)`` runs the whole stack of layers
and directions. Tensors are shaped as in :func:`lstm_fused.reference.lstm`. On the CPU ``input`` may be packed, ``(N,
I)``, with rows in descending order of ``lengths``; then output, cells and dropout_mask have N where they else have
``T, B``. ``training`` keeps the reserve that ``torch.ops.lstm_fused.backward`` needs; without it the reserve is empty,
and without ``return_cells`` so are the cells. With ``recompute_gates`` the reserve has no gates; backward sees that by
its size, and computes them again. ``allow_tf32`` concerns float32 on a GPU; the functions here fill it in from torch's
own switch.

``torch.ops.lstm_fused.infer(input, h_0, c_0, weights, num_layers, bidirectional, allow_tf32) -> (output, h_n, c_n)`` is
forward for a short call, most of whose time would go into arguments and results that it has no use for. States that
are None are zero. It has no gradients, and is not for compilers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _library, tracing
from .options import Needs, Options, Outputs

# Device types that the operators run on, here or (meta) without data.
DEVICE_TYPES = ("cpu", "meta", "cuda") if torch.ops.lstm_fused.kernels() else ("cpu", "meta")

_FORWARD = torch.ops.lstm_fused.forward.default  # looked up once: by name it costs a tenth of a short call
_BACKWARD = torch.ops.lstm_fused.backward.default
# What calling the overload comes to, without a look for __torch_function__: functional.py has looked.
_INFER = functools.partial(torch._C._dispatch_call_boxed, torch.ops.lstm_fused.infer.default._handle)

_library.IMPLEMENTATIONS.impl("infer", torch.library.fallthrough_kernel, "Autograd")


class Forward(NamedTuple):
    """The arguments of ``torch.ops.lstm_fused.forward``, in the order of its schema."""

    input: Any
    h_0: Any
    c_0: Any
    weights: Any
    bidirectional: bool
    lengths: Any
    reset: Any
    dropout_mask: Any
    training: bool
    return_cells: bool
    allow_tf32: bool
    recompute_gates: bool = False

    @property
    def options(self) -> Options:
        return Options(
            self.bidirectional, self.lengths, self.reset, self.dropout_mask, self.return_cells, self.recompute_gates
        )


def forward(
    input: Tensor, h_0: Tensor, c_0: Tensor, weights: Sequence[Tensor], options: Options, training: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    bidirectional, lengths, reset, dropout_mask, return_cells, recompute_gates = options
    masks = lengths, reset, dropout_mask
    switches = training, return_cells, uses_tf32(input), recompute_gates
    return _FORWARD(*Forward(input, h_0, c_0, weights, bidirectional, *masks, *switches))


def infer(
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    num_layers: int,
    bidirectional: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _INFER(input, h_0, c_0, weights, num_layers, bidirectional, uses_tf32(input))


def backward(
    grads: Outputs,
    input: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[Tensor],
    options: Options,
    reserve: Tensor,
    needs: Needs,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    masks = options.tensors()
    return _BACKWARD(*grads, input, h_0, c_0, weights, options.bidirectional, *masks, reserve, *needs, uses_tf32(input))


def allows_tf32() -> bool:
    """torch's switch for cuDNN's RNN, whether set by the old name (allow_tf32) or the new one."""
    return str(getattr(torch.backends.cudnn, "rnn").fp32_precision) == "tf32"  # noqa: B009 (mypy sees a module)


def uses_tf32(input: Tensor) -> bool:
    return input.is_cuda and input.dtype == torch.float32 and allows_tf32()


def _check_devices(input: Tensor, *others: Tensor | None) -> None:
    """The kernels look themselves."""
    if any(other is not None and other.device != input.device for other in others):
        raise RuntimeError("lstm_fused: a state or weight is on another device than input")


@torch.library.register_fake("lstm_fused::forward")
def _fake_forward(*args: Any, **named: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    tracing.refuse_onnx()
    input, h_0, c_0, weights, *_ = call = Forward(*args, **named)
    _check_devices(input, h_0, c_0, *weights)
    steps = input.shape[:-1]
    states, _, proj_width = h_0.shape
    hidden = c_0.size(2)
    directions = 2 if call.bidirectional else 1
    output = input.new_empty((*steps, directions * proj_width))
    cells = input.new_empty((*steps, directions * hidden) if call.return_cells else (0,))
    # csrc/torch/stack.h, reserve: a GPU keeps the cells of half types in float32, and the outputs always.
    cell_width = 2 if input.is_cuda and input.dtype.itemsize == 2 else 1
    keeps_outputs = input.is_cuda or call.recompute_gates or proj_width != hidden
    gates = 0 if call.recompute_gates else 4
    reserve_width = states * (hidden * (gates + cell_width) + (proj_width if keeps_outputs else 0))
    reserve = input.new_empty(math.prod(steps) * reserve_width if call.training else 0)
    h_n, c_n = h_0.new_empty(h_0.shape), c_0.new_empty(c_0.shape)
    return output, h_n, c_n, cells, reserve


@torch.library.register_fake("lstm_fused::infer")
def _fake_infer(
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    num_layers: int,
    bidirectional: bool,
    allow_tf32: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    _check_devices(input, h_0, c_0, *weights)
    seq_len, batch, _ = input.shape
    rows, proj_width = weights[1].shape
    directions = 2 if bidirectional else 1
    states = num_layers * directions
    output = input.new_empty((seq_len, batch, directions * proj_width))
    return output, input.new_empty((states, batch, proj_width)), input.new_empty((states, batch, rows // 4))


@torch.library.register_fake("lstm_fused::backward")
def _fake_backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    grad_cells: Tensor | None,
    input: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[Tensor],
    bidirectional: bool,
    lengths: Tensor | None,
    reset: Tensor | None,
    dropout_mask: Tensor | None,
    reserve: Tensor,
    needs_input_grad: bool,
    needs_weight_grads: bool,
    allow_tf32: bool,
    needs_state_grads: bool = True,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    grad_input = input.new_empty(input.shape if needs_input_grad else (0,))
    grad_weights = [w.new_empty(w.shape) for w in weights] if needs_weight_grads else []
    grad_h_0, grad_c_0 = (t.new_empty(t.shape if needs_state_grads else (0,)) for t in (h_0, c_0))
    return grad_input, grad_h_0, grad_c_0, grad_weights
