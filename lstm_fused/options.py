"""What one call has beside its input, states and weights, as one value on its way from the module to the operators."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

MaybeTensor = Tensor | None


class Options(NamedTuple):
    """T, B, L, D and P as in :func:`lstm_fused.functional.lstm`. Under a transform the tensors may have more."""

    bidirectional: bool = False
    lengths: MaybeTensor = None  # int64 (B,)
    reset: MaybeTensor = None  # bool (T, B)
    dropout_mask: MaybeTensor = None  # (L-1, T, B, D*P), or (L-1, N, D*P) for packed input: what h is multiplied with
    return_cells: bool = False
    recompute_gates: bool = False

    def tensors(self) -> tuple[MaybeTensor, ...]:  # no property: torch 2.10 compiles none of a tuple's
        return self.lengths, self.reset, self.dropout_mask

    def with_tensors(self, lengths: Any, reset: Any, dropout_mask: Any) -> Options:
        return self._replace(lengths=lengths, reset=reset, dropout_mask=dropout_mask)

    def without_tensors(self) -> Options:
        """What may be kept beside ``ctx.save_for_backward``, which is the place for tensors."""
        return self.with_tensors(None, None, None)

    def without_extras(self) -> Options:
        """For a forward that only fills a reserve."""
        return self._replace(return_cells=False, recompute_gates=False)


class CellOptions(NamedTuple):
    """What makes the cell another one than torch.nn.LSTM's; equations and papers are in :mod:`.reference`."""

    zoneout: tuple[float, float] = (0.0, 0.0)  # p_h and p_c
    recurrent_dropout: float = 0.0
    weight_dropout: float = 0.0  # of W_hh alone: the cell that it comes to is the plain one
    cell_clip: float | None = None
    peephole: bool = False
    layer_norm: bool = False

    def varies(self, training: bool) -> bool:
        """Whether a step computes something else than the plain cell."""
        at_step = self.cell_clip, self.peephole, self.layer_norm, training and self.recurrent_dropout
        return any(self.zoneout) or any(at_step)

    def __str__(self) -> str:
        """Those that are not off, as the constructor takes them."""
        given = ((name, value) for name, value in self._asdict().items() if value != self._field_defaults[name])
        return ", ".join(f"{name}={value}" for name, value in given)


class Variant(NamedTuple):
    """The cell of one direction of one layer in one call: options of which masks have been drawn.

    Its weights come behind those of the plain LSTM: the peepholes (3, H), and weight and bias of the three norms.
    """

    zoneout_h: Tensor | float = 0.0  # e (T, B, P), 0 or 1, or for all of them their expectation
    zoneout_c: Tensor | float = 0.0  # d (T, B, H)
    recurrent_mask: MaybeTensor = None  # m (B, P), 0 or 1/(1-p)
    cell_clip: float | None = None
    peephole: bool = False
    layer_norm: bool = False


class Outputs(NamedTuple):
    """Of a call, or their gradients; and of backward, what was asked of the first call."""

    output: Any  # (T, B, D*P)
    h_n: Any  # (L*D, B, P)
    c_n: Any  # (L*D, B, H)
    cells: Any  # (T, B, D*H), empty or None without return_cells


class Needs(NamedTuple):
    """Whose gradients a backward is to find, beside those of h_0 and c_0."""

    input: bool
    weights: bool
