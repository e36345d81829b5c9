"""What is tested, as data: one Case is one call of an LSTM, and draw() makes its tensors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@dataclass(frozen=True)
class Case:
    """Sizes and options of one call. `batch=None` is an unbatched call; everything else is as in torch.nn.LSTM."""

    seq_len: int = 5
    batch: int | None = 3
    input_size: int = 4
    hidden_size: int = 6
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    proj_size: int = 0
    dtype: torch.dtype = torch.float32
    hx: bool = True
    lengths: bool = False
    reset: float = 0.0  # probability that a segment starts at a step; 0 passes no `reset` at all
    return_cells: bool = False
    contiguous: bool = True
    seed: int = 0
    device: str = "cpu"

    @property
    def rows(self) -> int:
        return 1 if self.batch is None else self.batch

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def width(self) -> int:
        """P, the width of h."""
        return self.proj_size or self.hidden_size

    def options(self) -> dict:
        """Arguments of the constructor, for torch.nn.LSTM and lstm_fused.LSTM alike."""
        names = "num_layers bias batch_first dropout bidirectional proj_size dtype".split()
        return {"input_size": self.input_size, "hidden_size": self.hidden_size} | {n: getattr(self, n) for n in names}

    def but(self, **changes) -> Case:
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        """A short name for pytest: the sizes, then every option that is not the default."""
        sizes = f"T{self.seq_len}-B{self.batch}-I{self.input_size}-H{self.hidden_size}"
        fields = [
            f for f in dataclasses.fields(self) if f.name not in ("seq_len", "batch", "input_size", "hidden_size")
        ]
        changed = [f"{f.name}={getattr(self, f.name)}" for f in fields if getattr(self, f.name) != f.default]
        return "-".join([sizes, *changed]).replace("torch.", "")


@dataclass
class Problem:
    """The tensors of a case, time-major and batched: input (T, B, I), h_0 (L*D, B, P), c_0 (L*D, B, H)."""

    case: Case
    leaves: dict[str, Tensor]  # input, h_0 and c_0 where the case has hx, and every parameter by its name
    cotangents: dict[str, Tensor]  # gradients that arrive at output, h_n, c_n, cells
    lengths: Tensor | None  # (B,) int64
    reset: Tensor | None  # (T, B) bool
    masks: Tensor | None  # (L-1, T, B, D*P), scaled by 1/(1-p), as torch.nn.LSTM draws them after manual_seed(seed)

    def to(self, dtype: torch.dtype) -> Problem:
        def cast(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(dtype) for name, tensor in tensors.items()}

        masks = None if self.masks is None else self.masks.to(dtype)
        case = self.case.but(dtype=dtype)
        return dataclasses.replace(
            self, case=case, leaves=cast(self.leaves), cotangents=cast(self.cotangents), masks=masks
        )

    def on(self, device: str) -> Problem:
        """The same numbers on another device."""

        def move(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        extras = (None if tensor is None else tensor.to(device) for tensor in (self.lengths, self.reset, self.masks))
        return Problem(self.case.but(device=device), move(self.leaves), move(self.cotangents), *extras)


def draw(case: Case, replica: int = 0) -> Problem:
    """Random tensors for a case, the same on every device but for the masks. Weights start as torch.nn.LSTM's do."""
    seed = case.seed + 1000 * replica
    torch.manual_seed(seed)
    steps, rows, states = case.seq_len, case.rows, case.num_layers * case.directions
    options = case.options() | {"dropout": 0.0}  # torch.nn.LSTM warns about dropout with one layer
    leaves = {"input": torch.randn(steps, rows, case.input_size).to(case.dtype)}
    if case.hx:
        leaves["h_0"] = torch.randn(states, rows, case.width).clamp(-1, 1).to(case.dtype)
        leaves["c_0"] = torch.randn(states, rows, case.hidden_size).to(case.dtype)
    leaves |= {name: p.detach() for name, p in torch.nn.LSTM(**options).named_parameters()}
    shapes = {
        "output": (steps, rows, case.directions * case.width),
        "h_n": (states, rows, case.width),
        "c_n": (states, rows, case.hidden_size),
    }
    if case.return_cells:
        shapes["cells"] = (steps, rows, case.directions * case.hidden_size)
    cotangents = {name: torch.randn(shape).to(case.dtype) for name, shape in shapes.items()}
    lengths = torch.randint(1, steps + 1, (rows,)) if case.lengths else None
    reset = torch.rand(steps, rows) < case.reset if case.reset else None
    problem = Problem(case.but(seed=seed), leaves, cotangents, lengths, reset, None).on(case.device)
    if case.dropout and case.num_layers > 1:
        torch.manual_seed(seed)
        ones = torch.ones(shapes["output"], dtype=case.dtype, device=case.device)
        problem.masks = torch.stack(
            [torch.nn.functional.dropout(ones, case.dropout) for _ in range(case.num_layers - 1)]
        )
    return problem


def _sizes() -> list[Case]:
    """Every size at the edge of something: one, odd, one past or one short of a power of two."""
    table = [
        # T, B, I, H
        (1, 1, 1, 1),
        (1, 17, 17, 1),
        (1, 3, 17, 64),
        (2, 1, 111, 17),
        (2, 17, 1, 129),
        (7, 3, 17, 17),
        (7, 1, 17, 111),
        (7, 17, 111, 64),
        (7, 0, 17, 17),
        (33, 1, 17, 64),
        (33, 3, 1, 1),
        (33, 1, 1, 129),
        (33, 17, 17, 111),
        (33, 3, 111, 129),
    ]
    return [Case(*sizes, dtype=dtype) for sizes in table for dtype in DTYPES]


def _options() -> list[Case]:
    """Every option alone, then together with those it could be confused with."""
    table: list[dict] = [
        {"bias": False},
        {"hx": False},
        {"batch_first": True},
        {"batch": None},
        {"batch": None, "batch_first": True, "hx": False},
        {"bidirectional": True},
        {"num_layers": 2},
        {"num_layers": 3, "bidirectional": True, "bias": False},
        {"proj_size": 1},
        {"proj_size": 5, "bias": False},
        {"proj_size": 5, "num_layers": 2, "bidirectional": True},
        {"proj_size": 16, "num_layers": 3, "batch_first": True, "hx": False},
        {"batch": 1, "num_layers": 2, "bidirectional": True, "batch_first": True},
        {"batch": None, "num_layers": 2, "bidirectional": True, "proj_size": 3},
        {"batch": 0, "num_layers": 2, "bidirectional": True, "proj_size": 3},
        {"dropout": 0.5, "num_layers": 3},
        {"dropout": 0.5, "num_layers": 2, "bidirectional": True, "proj_size": 5, "batch_first": True},
        {"dropout": 1.0, "num_layers": 2},
    ]
    some = Case(seq_len=7, batch=3, input_size=9, hidden_size=17)
    return [some.but(**options, dtype=dtype) for options in table for dtype in DTYPES]


SIZES = _sizes()
OPTIONS = _options()
