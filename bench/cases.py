"""What is measured: the grid as data, and the arithmetic that turns a time into GFLOP/s."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "tf32": torch.float32,  # on CUDA, with torch's switches for TF32 on; for float32 they are off
    "float32": torch.float32,
    "float64": torch.float64,
}
MODES = ("inference", "training")


@dataclass(frozen=True)
class Case:
    """One shape, dtype and mode. The input is (seq_len, batch, hidden_size): input_size equals hidden_size.

    In the group `cell` it is an LSTMCell that goes through the steps in a loop.
    """

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
    def num_steps(self) -> int:
        """Steps of all rows together: T*B, or the sum of the lengths."""
        return sum(self.lengths) if self.lengths else self.seq_len * self.batch

    @property
    def input_sizes(self) -> list[int]:
        """Of each layer: H, and D*H above the first."""
        return [self.hidden_size] + [self.num_directions * self.hidden_size] * (self.num_layers - 1)

    @property
    def flops(self) -> int:
        """Floating-point operations of one call, matrix products only; a multiply-add counts as two.

        A layer and direction costs 2 * T*B * 4H * (I + H) forward, where T*B is the sum of the lengths where rows are
        ragged. Training costs three times as much: backward has one product for the gradient of the weights and one for
        the gradient of input and state.
        """
        hidden, rows = self.hidden_size, self.num_steps * self.num_directions
        forward = sum(2 * rows * 4 * hidden * (input_size + hidden) for input_size in self.input_sizes)
        return forward * (3 if self.mode == "training" else 1)


@dataclass(frozen=True)
class Variant:
    """What the second half of a grid changes, each at all of its variant_sizes."""

    group: str
    num_layers: int = 1
    num_directions: int = 1
    ragged: bool = False


VARIANTS = (
    Variant("layers", num_layers=2),
    Variant("layers", num_layers=3),
    Variant("directions", num_directions=2),
    Variant("directions", num_layers=2, num_directions=2),
    Variant("lengths", ragged=True),
    Variant("lengths", num_directions=2, ragged=True),
)
Size = tuple[int, int, int]  # T, B, H


@dataclass(frozen=True)
class Grid:
    """All that is measured on a kind of device. The quick sizes are a cut through it for `--quick`."""

    dtypes: tuple[str, ...]
    sizes: dict[str, tuple[Size, ...]]  # by group
    variant_sizes: tuple[Size, ...]
    quick_sizes: frozenset[Size]

    @property
    def groups(self) -> tuple[str, ...]:
        return (*self.sizes, *dict.fromkeys(variant.group for variant in VARIANTS))

    def cases(
        self,
        groups: Sequence[str] | None = None,
        modes: Sequence[str] = MODES,
        dtypes: Sequence[str] | None = None,
        *,
        quick: bool = False,
        pattern: str = "",
    ) -> list[Case]:
        """The cases of these groups, modes and dtypes whose name holds a match of the regular expression `pattern`."""
        return [
            case
            for group, mode, dtype in itertools.product(groups or self.groups, modes, dtypes or self.dtypes)
            for case in self._cases(group, mode, dtype, quick)
            if re.search(pattern, case.name)
        ]

    def _cases(self, group: str, mode: str, dtype: str, quick: bool) -> Iterator[Case]:
        for size in self.sizes.get(group, ()):
            if not quick or size in self.quick_sizes:
                yield Case(group, mode, dtype, *size)
        for variant in VARIANTS[::2] if quick else VARIANTS:
            if variant.group == group:
                for size in self.variant_sizes[:1] if quick else self.variant_sizes:
                    yield Case(group, mode, dtype, *size, variant.num_layers, variant.num_directions, variant.ragged)


def _product(seq_lens: Sequence[int], batches: Sequence[int], hidden_sizes: Sequence[int]) -> tuple[Size, ...]:
    return tuple(itertools.product(seq_lens, batches, hidden_sizes))


# The quick sizes of the CPU are one of each regime: call overhead, bandwidth, small and large products.
CPU_GRID = Grid(
    dtypes=("float32", "bfloat16"),
    sizes={
        "sizes": _product((1, 32, 256), (1, 8, 64), (64, 256, 1024)),
        "cell": _product((1, 20), (1, 8, 32, 128), (8, 64, 128, 512)),
    },
    variant_sizes=((32, 8, 256), (256, 32, 256)),
    quick_sizes=frozenset(
        {(1, 1, 64), (1, 1, 1024), (32, 1, 256), (32, 8, 64), (32, 8, 256), (256, 8, 64), (20, 8, 64)}
    ),
)
# Groups by the kind of kernel that H calls for: W_hh within one thread block, or beyond it.
CUDA_GRID = Grid(
    dtypes=("bfloat16", "float16", "tf32", "float32"),
    sizes={
        "block": _product((64, 256, 1024), (1, 16, 64, 256), (32, 64, 96, 128)),
        "step": _product((1, 64), (1, 16, 128), (256, 512, 1024)),
    },
    variant_sizes=((256, 32, 64), (64, 32, 512)),
    quick_sizes=frozenset({(64, 1, 64), (64, 64, 64), (256, 16, 128), (256, 256, 128), (64, 16, 512)}),
)
GRIDS = {"cpu": CPU_GRID, "cuda": CUDA_GRID}
