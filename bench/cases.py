"""What is measured: the grid as data, and the arithmetic that turns a time into GFLOP/s."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
DEFAULT_DTYPES = ("float32", "bfloat16")
MODES = ("inference", "training")
GROUPS = ("sizes", "layers", "directions", "lengths")


@dataclass(frozen=True)
class Case:
    """One shape, dtype and mode. The input is (seq_len, batch, hidden_size): input_size equals hidden_size."""

    group: str
    mode: str  # inference: forward only; training: forward and backward, the gradient of the input included
    dtype: str
    seq_len: int
    batch: int
    hidden_size: int
    num_layers: int = 1
    num_directions: int = 1
    ragged: bool = False

    @property
    def shape(self) -> str:
        """The case within its group, mode and dtype, such as `T32 B8 H256 L2`."""
        text = f"T{self.seq_len} B{self.batch} H{self.hidden_size}"
        text += f" L{self.num_layers}" if self.num_layers > 1 else ""
        text += f" D{self.num_directions}" if self.num_directions > 1 else ""
        return text + (" ragged" if self.ragged else "")

    @property
    def name(self) -> str:
        """Unique in the grid; what `--filter` searches."""
        return f"{self.group} {self.mode} {self.dtype} {self.shape}"

    @property
    def lengths(self) -> list[int] | None:
        """Steps of each row: evenly spaced from T down to about T/4, longest first; None where all rows are full."""
        if not self.ragged:
            return None
        shortest = max(1, self.seq_len // 4)
        span = self.seq_len - shortest
        return [self.seq_len - span * row // max(1, self.batch - 1) for row in range(self.batch)]

    @property
    def flops(self) -> int:
        """Floating-point operations of one call, matrix products only; a multiply-add counts as two.

        A layer and direction costs 2 * T*B * 4H * (I + H) forward, where I is H in the first layer and D*H above it,
        and T*B is the sum of the lengths where rows are ragged. Training costs three times as much: backward has one
        product for the gradient of the weights and one for the gradient of input and state.
        """
        steps = sum(self.lengths) if self.lengths else self.seq_len * self.batch
        hidden, directions = self.hidden_size, self.num_directions
        widths = [hidden] + [directions * hidden] * (self.num_layers - 1)
        forward = sum(2 * steps * 4 * hidden * (width + hidden) * directions for width in widths)
        return forward * (3 if self.mode == "training" else 1)


@dataclass(frozen=True)
class Variant:
    """What the second half of the grid changes, each at all of VARIANT_SIZES."""

    group: str
    num_layers: int = 1
    num_directions: int = 1
    ragged: bool = False


SEQ_LENS, BATCHES, HIDDEN_SIZES = (1, 32, 256), (1, 8, 64), (64, 256, 1024)
SIZES = tuple(itertools.product(SEQ_LENS, BATCHES, HIDDEN_SIZES))  # (T, B, H)
VARIANT_SIZES = ((32, 8, 256), (256, 32, 256))
VARIANTS = (
    Variant("layers", num_layers=2),
    Variant("layers", num_layers=3),
    Variant("directions", num_directions=2),
    Variant("directions", num_layers=2, num_directions=2),
    Variant("lengths", ragged=True),
    Variant("lengths", num_directions=2, ragged=True),
)
# A cut through the grid for `--quick`: each regime once (call overhead, bandwidth, small and large products).
QUICK_SIZES = {(1, 1, 64), (1, 1, 1024), (32, 1, 256), (32, 8, 64), (32, 8, 256), (256, 8, 64)}
QUICK_VARIANTS, QUICK_VARIANT_SIZES = VARIANTS[::2], VARIANT_SIZES[:1]


def grid(
    groups: Sequence[str] = GROUPS,
    modes: Sequence[str] = MODES,
    dtypes: Sequence[str] = DEFAULT_DTYPES,
    *,
    quick: bool = False,
    pattern: str = "",
) -> list[Case]:
    """The cases of these groups, modes and dtypes whose name holds a match of the regular expression `pattern`."""
    return [
        case
        for group, mode, dtype in itertools.product(groups, modes, dtypes)
        for case in _cases(group, mode, dtype, quick)
        if re.search(pattern, case.name)
    ]


def _cases(group: str, mode: str, dtype: str, quick: bool) -> Iterator[Case]:
    if group == "sizes":
        for size in SIZES:
            if not quick or size in QUICK_SIZES:
                yield Case(group, mode, dtype, *size)
    for variant in QUICK_VARIANTS if quick else VARIANTS:
        if variant.group == group:
            for size in QUICK_VARIANT_SIZES if quick else VARIANT_SIZES:
                yield Case(group, mode, dtype, *size, variant.num_layers, variant.num_directions, variant.ragged)
