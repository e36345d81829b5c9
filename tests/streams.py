"""What the tests of lstm_fused.Stream share, on any device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from cases import Case
from numerics import Errors
from torch import Tensor, nn

import lstm_fused


def make(case: Case, seed: int = 0, **options) -> lstm_fused.LSTM:
    torch.manual_seed(seed)
    return lstm_fused.LSTM(**case.options() | options).eval()


def cut(stream: lstm_fused.Stream, x: Tensor, lengths: list[int]) -> Tensor:
    """The stream's outputs for x in chunks of these lengths over and over; 1 is a step without a time dimension."""
    outputs, begin, n = [], 0, 0
    while begin < len(x):
        chunk = x[begin : begin + lengths[n % len(lengths)]]
        outputs.append(stream(chunk[0]).unsqueeze(0) if len(chunk) == 1 else stream(chunk))
        begin, n = begin + len(chunk), n + 1
    return torch.cat(outputs)


def drawn(case: Case) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """x and a state."""
    x = torch.randn(case.seq_len, case.rows, case.input_size)
    h, c = (torch.randn(case.num_layers, case.rows, size) for size in (case.width, case.hidden_size))
    x, h, c = (tensor.to(case.device, case.dtype) for tensor in (x, h.clamp(-1, 1), c))
    return x, (h, c)


def stepwise(lstm: nn.Module, x: Tensor, hx: tuple[Tensor, Tensor] | None, lengths: list[int]) -> list[Tensor]:
    """Output, h and c of a module that is given chunks of these lengths and the state in between."""
    outputs, begin, n = [], 0, 0
    with torch.no_grad():
        while begin < len(x):
            chunk = x[begin : begin + lengths[n % len(lengths)]].clone()  # whose address torch's products round by
            output, hx = lstm(chunk, hx)
            outputs.append(output)
            begin, n = begin + len(output), n + 1
    assert hx is not None
    return [torch.cat(outputs), *hx]


def check_accuracy(case: Case, lengths: list[int]) -> None:
    """The rule of numerics.py, beside torch.nn.LSTM in the same precision that is given the same chunks."""
    pairs: dict[str, tuple[Errors, Errors]] = {}
    for seed in range(min(8, 1 + 100 // (case.num_layers * case.rows * case.width))):
        lstm = make(case, seed, device=case.device)
        x, hx = drawn(case)
        plain = nn.LSTM(**case.options(), device=case.device)
        plain.load_state_dict(lstm.state_dict())
        stream = lstm_fused.Stream(lstm, case.rows)
        stream.state = hx
        actual = [cut(stream, x, lengths), *stream.state]
        theirs = stepwise(plain, x, hx, lengths)
        in_float64 = [tensor.cpu().double() for tensor in (x, *hx)]
        exact = stepwise(plain.cpu().double(), in_float64[0], (in_float64[1], in_float64[2]), [len(x)])
        for name, a, b, wanted in zip("yhc", actual, theirs, exact, strict=True):
            assert a.dtype == case.dtype and a.shape == wanted.shape
            if case.dtype == torch.float64:  # nothing is finer
                few = 64 * torch.finfo(case.dtype).eps * max(1.0, float(wanted.abs().max()))
                assert (a.cpu() - wanted).abs().max() <= few, name
                continue
            of_ours, of_theirs = pairs.setdefault(name, (Errors(case), Errors(case)))
            of_ours.add(a, wanted.numpy())
            of_theirs.add(b, wanted.numpy())
    for name, (of_ours, of_theirs) in pairs.items():
        for norm, error in of_ours.norms().items():
            assert error <= 2 * of_theirs.norms()[norm] + 0.5, f"{name}: {norm} {error}"


ROWS = [
    (None, [0, 1, 2, 3]),
    (torch.tensor([True, False, True, False]), [0, 2]),
    ([False, False, False, True], [3]),
    (np.array([False, True, False, False]), [1]),
    (torch.tensor([3, 1]), [1, 3]),
    ([2], [2]),
    (1, [1]),
    ([], []),
    (torch.zeros(4, dtype=torch.bool), []),
]

# Ways to change a weight.
CHANGES: dict[str, Callable[[nn.LSTM], object]] = {
    "in place": lambda lstm: lstm.weight_ih_l0.detach().add_(1),
    "replaced": lambda lstm: setattr(lstm, "weight_ih_l0", nn.Parameter(lstm.weight_ih_l0.detach() + 1)),
    "moved": lambda lstm: setattr(lstm.weight_ih_l0, "data", lstm.weight_ih_l0.data + 1),
    "loaded": lambda lstm: lstm.load_state_dict({n: w + 1 for n, w in lstm.state_dict().items()}),
}

# Of a stream of LSTM(5, 20) in float32 with a batch of 2: x, out, what it raises and says.
BAD_X = [
    ([[0.0] * 5] * 2, None, TypeError, "x: expected a torch.Tensor, got list"),
    (torch.zeros(2, 5, dtype=torch.float64), None, TypeError, "x: expected torch.float32, got torch.float64"),
    (torch.zeros(2, 5, device="meta"), None, ValueError, "x: expected a tensor on the CPU, got one on meta"),
    (torch.zeros(2, 5).to_sparse(), None, TypeError, "x: expected a dense tensor, got torch.sparse_coo"),
    (torch.zeros(5), None, ValueError, r"x: expected shape \(2, 5\) or \(T, 2, 5\), got \(5,\)"),
    (torch.zeros(1, 1, 2, 5), None, ValueError, "x: expected shape"),
    (torch.zeros(3, 5), None, ValueError, r"x: .* got \(3, 5\)"),
    (torch.zeros(2, 6), None, ValueError, r"x: .* got \(2, 6\)"),
    (torch.zeros(2, 3, 5), None, ValueError, r"x: .* got \(2, 3, 5\)"),
    (torch.zeros(0, 2, 5), None, ValueError, "x: expected at least one step"),
    (torch.zeros(2, 5), torch.zeros(2, 5), ValueError, r"out: expected shape \(2, 20\), got \(2, 5\)"),
    (torch.zeros(3, 2, 5), torch.zeros(2, 20), ValueError, r"out: expected shape \(3, 2, 20\)"),
    (torch.zeros(3, 2, 5), torch.zeros(4, 2, 20), ValueError, r"out: expected shape \(3, 2, 20\)"),
    (torch.zeros(2, 5), torch.zeros(2, 20, dtype=torch.float64), TypeError, "out: expected torch.float32"),
    (torch.zeros(2, 5), torch.zeros(20, 2).t(), ValueError, "out: expected a contiguous tensor, got strides"),
    (torch.zeros(2, 5), torch.zeros(2, 20, device="meta"), ValueError, "out: expected a tensor on the CPU"),
    (torch.zeros(2, 5), [0], TypeError, "out: expected a torch.Tensor, got list"),
]

BAD_STATES = [
    (torch.zeros(1, 2, 20), TypeError, r"state: expected \(h, c\) or None, got Tensor"),
    ((torch.zeros(1, 2, 20),), TypeError, "state: expected"),
    ((torch.zeros(1, 2, 20), None), TypeError, "state: c: expected a torch.Tensor, got NoneType"),
    ((torch.zeros(2, 20), torch.zeros(2, 20)), ValueError, r"state: h: expected shape \(1, 2, 20\)"),
    ((torch.zeros(1, 2, 20), torch.zeros(1, 2, 20).double()), TypeError, "state: c: expected torch.float32"),
]

BAD_ROWS = [
    (2, ValueError, "rows: expected numbers from 0 to 1, got"),
    ([-1], ValueError, "rows: expected numbers from 0 to 1"),
    ([True], ValueError, r"rows: expected a mask of shape \(2,\), got \(1,\)"),
    (torch.ones(1, 2, dtype=torch.bool), ValueError, "rows: expected a mask"),
    ([0.5], TypeError, "rows: expected a bool mask or whole numbers"),
]
