"""Keras 3 on the torch backend: ``keras.layers.LSTM``, computed by the kernels of this library.

Only the loop over time is ours. Arguments, weights, states, dropout masks and files are Keras's own, see docs/keras.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from . import functional, ops

try:
    import keras
except ImportError as error:
    raise ImportError("lstm_fused.keras needs Keras 3, which is not installed: pip install keras") from error
if keras.backend.backend() != "torch":
    raise RuntimeError(
        f"lstm_fused.keras needs Keras's torch backend, got {keras.backend.backend()!r}: set the environment variable "
        "KERAS_BACKEND=torch before keras is imported"
    )

Layer = TypeVar("Layer")

_COMPUTED = {
    "activation": (keras.activations.tanh, keras.ops.tanh, torch.tanh),
    "recurrent_activation": (keras.activations.sigmoid, keras.ops.sigmoid, torch.sigmoid),
}


@keras.saving.register_keras_serializable(package="lstm_fused")
class LSTM(keras.layers.LSTM):
    """``keras.layers.LSTM``: the same arguments, results and weights.

    Masks may have any form. ``unroll`` and ``use_cudnn`` change nothing. What the kernels do not compute runs in
    Keras's own loop, and a warning says so, once for each layer: another ``activation`` or ``recurrent_activation``,
    and in training ``recurrent_dropout``, or ``dropout`` with ``implementation=1``.
    """

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        refusal = self._refusal(training) or _refusal_of(sequences.device)
        if refusal is not None:
            if "_has_said" not in vars(self):
                self._has_said = True
                warnings.warn(f"lstm_fused.keras: {self.name} runs in Keras's own loop: {refusal}", stacklevel=2)
            return super().inner_loop(sequences, initial_state, mask, training=training)

        if training and self.dropout:
            sequences = sequences * self.cell.get_dropout_mask(sequences[:, 0]).unsqueeze(1)
        # A stateful layer's states change in place after this call and before its backward, which reads them.
        states = [state.clone() if self.stateful else state for state in initial_state]
        steps = _Steps.of(mask)
        if self.go_backwards:
            sequences, steps = sequences.flip(1), steps and _Steps(steps.valid.flip(1))
        output, states = _run(sequences, states, self._weights(), steps)
        if self.return_sequences:
            output = output if steps is None else steps.spread(output, self.zero_output_for_mask)
            return output[:, -1], output, states
        last = states[0] if steps is None else steps.last(states[0], self.zero_output_for_mask)
        return last, last.unsqueeze(1), states

    def _refusal(self, training: bool) -> str | None:
        """Why Keras's loop has to run, if it has to."""
        for name, computed in _COMPUTED.items():
            if (value := getattr(self, name)) not in computed:
                return f"{name}={getattr(value, '__name__', value)}"
        if not training or self.cell.implementation != 1:
            return None
        # Keras draws four masks then, one for each gate; recurrent_dropout sets implementation=1.
        if self.recurrent_dropout:
            return f"recurrent_dropout={self.recurrent_dropout} in training"
        return f"dropout={self.dropout} with implementation=1 in training" if self.dropout else None

    def _weights(self) -> list[Tensor]:
        """As functional.lstm takes them, in the dtype that the layer computes in."""
        cell, tensor = self.cell, keras.ops.convert_to_tensor
        weights = [tensor(cell.kernel).t(), tensor(cell.recurrent_kernel).t()]
        if cell.bias is not None:
            bias = tensor(cell.bias)
            weights += [bias, torch.zeros_like(bias)]
        return weights

    @property
    def use_cudnn(self) -> Any:
        """False where our kernels compute: Bidirectional would else not call its layers. Otherwise what was given."""
        return self.__dict__["use_cudnn"] if self._refusal(training=False) else False

    @use_cudnn.setter
    def use_cudnn(self, value: Any) -> None:
        if value is not False or "use_cudnn" not in self.__dict__:  # Bidirectional hands on what it reads above
            self.__dict__["use_cudnn"] = value


class _Steps(NamedTuple):
    """Which steps count, (B, T) bool: a mask of any form. Those that do go through the LSTM one after the other."""

    valid: Tensor

    @staticmethod
    def of(mask: Any) -> _Steps | None:
        mask = mask[0] if isinstance(mask, list | tuple) else mask
        if mask is None:
            return None
        mask = keras.ops.convert_to_tensor(mask).bool()
        return _Steps(mask.squeeze(-1) if mask.dim() == 3 else mask)

    @property
    def lengths(self) -> Tensor:
        return self.valid.sum(1)

    def gather(self, sequences: Tensor) -> Tensor:
        """(B, T, ...) with each row's valid steps first."""
        order = self.valid.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
        return _take(sequences, order)

    def spread(self, output: Tensor, zeros: bool) -> Tensor:
        """The inverse. A step that does not count repeats the output before it, or is zero; so is one before all."""
        count = self.valid.cumsum(1)
        known = self.valid if zeros else count > 0
        return _take(output, (count - 1).clamp(min=0)).where(known.unsqueeze(-1), 0)

    def last(self, h_n: Tensor, zeros: bool) -> Tensor:
        """Of what spread() gives, by the last valid step's output."""
        known = self.valid[:, -1] if zeros else self.valid.any(1)
        return h_n.where(known.unsqueeze(-1), 0)


def _take(sequences: Tensor, steps: Tensor) -> Tensor:
    """sequences[b, steps[b, t]]; whole rows at once, which is faster than an index for each number."""
    rows = torch.arange(steps.size(0), device=steps.device).unsqueeze(1) * steps.size(1)
    return sequences.flatten(0, 1).index_select(0, (rows + steps).flatten()).unflatten(0, steps.shape)


def _run(
    sequences: Tensor, states: list[Tensor], weights: list[Tensor], steps: _Steps | None
) -> tuple[Tensor, list[Tensor]]:
    """The valid steps' output (B, T, H), and [h_n, c_n]."""
    dtype, batch = weights[0].dtype, sequences.size(0)
    input, (h_0, c_0) = sequences.to(dtype), (state.to(dtype).expand(batch, -1) for state in states)
    lengths = empty = None
    if steps is not None:
        input, lengths = steps.gather(input), steps.lengths
        # A row without valid steps computes one, of zeros, and keeps its states.
        empty = (lengths == 0).unsqueeze(-1)
        lengths = lengths.clamp(min=1)
        input[:, 0].masked_fill_(empty, 0)
    hx = h_0.unsqueeze(0), c_0.unsqueeze(0)
    bias = len(weights) == 4
    output, (h_n, c_n) = functional.lstm(input, hx, weights, bias=bias, batch_first=True, lengths=lengths)
    h_n, c_n = h_n.squeeze(0), c_n.squeeze(0)
    if empty is not None:
        h_n, c_n = h_0.where(empty, h_n), c_0.where(empty, c_n)
    return output, [h_n, c_n]


def _refusal_of(device: torch.device) -> str | None:
    return None if device.type in ops.DEVICE_TYPES else f"no kernels for {device.type} tensors in this build"


def convert(model: Layer) -> Layer:
    """Makes every ``keras.layers.LSTM`` inside a Keras model or layer, itself included, one of ours; in place.

    The layers stay the objects that they are: weights, optimizer, compile() and all references to them go on being
    valid. Subclasses of ``keras.layers.LSTM`` are left as they are, and named in a warning.
    """
    return _become("convert", model, keras.layers.LSTM, LSTM)


def revert(model: Layer) -> Layer:
    """The inverse of :func:`convert`, as for a file that opens where lstm_fused is not installed."""
    return _become("revert", model, LSTM, keras.layers.LSTM)


def _become(function: str, model: Any, old: Any, new: Any) -> Any:
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"model: expected a Keras model or layer, got {type(model).__name__}")
    left: list[str] = []
    for layer in model._flatten_layers():
        if type(layer) is old:
            layer.__class__ = new
        elif isinstance(layer, old) and type(layer) is not new:
            left.append(f"{layer.name} ({type(layer).__qualname__})")
    if left:
        warnings.warn(f"lstm_fused.keras.{function}: left as they are: {', '.join(left)}", stacklevel=3)
    return model


def weights_from_keras(weights: Sequence[np.ndarray], *, bidirectional: bool = False) -> dict[str, Tensor]:
    """The ``state_dict`` for :class:`lstm_fused.LSTM` and ``torch.nn.LSTM`` of what ``get_weights()`` gives in Keras.

    Args:
        weights: kernel ``(I, 4H)``, recurrent_kernel ``(H, 4H)`` and, with ``use_bias``, bias ``(4H,)``, for one layer
            after the other. With ``bidirectional`` they are two for each, forward and backward, as Bidirectional gives
            them.
    """
    arrays = [np.asarray(array) for array in weights]
    parts = 3 if any(array.ndim == 1 for array in arrays) else 2
    directions = 2 if bidirectional else 1
    if not arrays or len(arrays) % (parts * directions):
        raise ValueError(
            f"weights: expected kernel, recurrent_kernel{', bias' if parts == 3 else ''} for each layer"
            f"{' and direction' if bidirectional else ''}, got {len(arrays)} arrays"
        )
    state = {}
    for n in range(len(arrays) // parts):
        kernel, recurrent, *bias = arrays[n * parts : (n + 1) * parts]
        units = recurrent.shape[0]
        if (kernel.shape[1:], recurrent.shape[1:], *(b.shape for b in bias)) != ((4 * units,),) * parts:
            shapes = [array.shape for array in (kernel, recurrent, *bias)]
            raise ValueError(f"weights[{n * parts}:{(n + 1) * parts}]: expected (I, 4H), (H, 4H), (4H,), got {shapes}")
        suffix = f"_l{n // directions}{'_reverse' if n % directions else ''}"
        state[f"weight_ih{suffix}"] = torch.tensor(kernel.T)
        state[f"weight_hh{suffix}"] = torch.tensor(recurrent.T)
        if bias:
            state[f"bias_ih{suffix}"] = torch.tensor(bias[0])
            state[f"bias_hh{suffix}"] = torch.zeros_like(state[f"bias_ih{suffix}"])
    return state


def weights_to_keras(lstm: nn.RNNBase) -> list[np.ndarray]:
    """The inverse: what ``set_weights()`` of Keras takes, for one layer of ``lstm`` after the other; biases added."""
    if lstm.proj_size:
        raise ValueError(f"lstm: expected no projection, which Keras's LSTM has not; got proj_size={lstm.proj_size}")
    if cell := getattr(lstm, "cell_options", None):
        raise ValueError(f"lstm: expected the plain cell, which is Keras's; got {cell}")
    arrays = []
    for weights in lstm.all_weights:
        w_ih, w_hh, *biases = (weight.detach().cpu() for weight in weights)
        arrays += [w_ih.t(), w_hh.t(), *([biases[0] + biases[1]] if biases else [])]
    return [array.contiguous().numpy() for array in arrays]
