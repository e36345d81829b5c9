"""TorchRL's LSTMModule whose recurrent mode, episode ends inside the batch included, is one call with ``reset=``.

TorchRL cuts the rows of a batch at every ``is_init`` and pads the pieces, or loops over time.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from . import convert as convert_lstms
from . import functional, modules
from . import revert as revert_lstms

try:
    import torchrl.modules
except ImportError as error:
    raise ImportError("lstm_fused.torchrl needs TorchRL, which is not installed: pip install torchrl") from error

Module = TypeVar("Module", bound=nn.Module)


class LSTMModule(torchrl.modules.LSTMModule):
    """``torchrl.modules.LSTMModule``: the same arguments, keys, primer and results.

    ``recurrent_backend`` changes nothing, but for what goes on as it does in TorchRL: ``python_based=True``; resets in
    a bidirectional LSTM; and states that the data has for a step where an episode starts, if they are not zero. To see
    whether they are, a call on a GPU waits for it, as TorchRL's ``"pad"`` does.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        convert_lstms(self.lstm, subclass=True)  # TorchRL asks isinstance(lstm, nn.LSTM)

    @property
    def recurrent_backend(self) -> str:
        """The one without padding, whose method is below; of a Python-based LSTM what was given."""
        return "scan" if isinstance(self.lstm, modules.LSTM) else self.__dict__["recurrent_backend"]

    @recurrent_backend.setter
    def recurrent_backend(self, value: str) -> None:
        self.__dict__["recurrent_backend"] = value

    def _lstm_scan_with_resets(
        self, input: Tensor, hidden0_in: Tensor, hidden1_in: Tensor, initial_hidden: Any, is_init: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """input (B, T, I), the hidden of each step (B, T, L*D, H), those of the first (L*D, B, H), is_init (B, T)."""
        lstm = self.lstm
        if not isinstance(lstm, modules.LSTM):
            return super()._lstm_scan_with_resets(input, hidden0_in, hidden1_in, initial_hidden, is_init)
        reset = is_init.clone()
        reset[:, 0] = False  # there the state is what the data says
        if lstm.bidirectional or _any_state(hidden0_in, reset) or _any_state(hidden1_in, reset):
            return self._lstm_pad_with_resets(input, hidden0_in, hidden1_in, is_init)

        states: tuple[list[Tensor], list[Tensor]] = ([], [])
        for layer, weights in enumerate(lstm.all_weights):
            if layer and lstm.dropout:
                input = nn.functional.dropout(input, lstm.dropout, lstm.training)
            input, _, cells = functional.lstm(
                input,
                (initial_hidden[0][layer : layer + 1], initial_hidden[1][layer : layer + 1]),
                weights,
                bias=lstm.bias,
                batch_first=True,
                training=lstm.training,
                cell=lstm.cell_options,
                reset=reset,
                return_cells=True,
                recompute_gates=self.recurrent_recompute == "full",
            )
            states[0].append(input)
            states[1].append(cells)
        # Every episode's last state, of each layer; zero at other steps, as TorchRL has it.
        last = torch.cat([reset[:, 1:], torch.ones_like(reset[:, :1])], 1)[..., None, None]
        h, c = (torch.stack(layers, 2).where(last, 0) for layers in states)
        return input, h, c


def _any_state(hidden: Tensor, reset: Tensor) -> bool:
    """Whether an episode starts within the data from a state that counts."""
    return bool((reset[..., None, None] & ((hidden != 0) | hidden.requires_grad)).any())


def convert(module: Module) -> Module:
    """Makes every LSTMModule of TorchRL inside ``module``, itself included, one of ours; in place.

    Parameters stay the objects that they are, so optimizers, losses and collectors that hold them go on being valid.
    """
    part: Any
    for part in module.modules():
        if type(part) is torchrl.modules.LSTMModule:
            part.__class__ = LSTMModule
            convert_lstms(part.lstm, subclass=True)
    return module


def revert(module: Module) -> Module:
    """The inverse of :func:`convert`."""
    for part in module.modules():
        if type(part) is LSTMModule:
            revert_lstms(part.lstm)
            part.__class__ = torchrl.modules.LSTMModule
    return module
