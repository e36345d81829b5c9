"""Packed rows, as ``PackedSequence.data`` holds them, among padded ones.

(T, B) padded steps are in order of time; packed are those of them that exist, in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Where N packed steps lie among T * B padded ones: one index for all of them.

    torch's own pack and pad copy time step by time step, and no compiler traces them.
    """

    valid: Tensor  # bool (T, B): the steps that exist
    index: Tensor  # int64 (N,)

    def pad(self, packed: Tensor) -> Tensor:
        """(T, B, W), zero where there is no step, of (N, W)."""
        zeros = packed.new_zeros((self.valid.numel(), packed.size(1)))
        return zeros.index_put((self.index,), packed).unflatten(0, self.valid.shape)

    def pack(self, padded: Tensor) -> Tensor:
        """(N, W) of (T, B, W)."""
        return padded.flatten(0, 1).index_select(0, self.index)


def places(valid: Tensor, steps: int) -> Places:
    """Of the ``steps`` true ones in ``valid``, bool (T, B)."""
    return Places(valid, valid.flatten().nonzero_static(size=steps).squeeze(1))


def places_of_lengths(lengths: Tensor, steps: int) -> Places:
    """Of rows in the order in which they are packed, the longest first; ``lengths`` are on the CPU."""
    times = torch.arange(int(lengths[0]), dtype=torch.int64, device=lengths.device)
    return places(times.unsqueeze(1) < lengths, steps)
