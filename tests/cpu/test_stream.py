"""lstm_fused.Stream: its numbers in every width of weights, its bits however a sequence is cut, and its state."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from cases import Case
from instruction_sets import each_instruction_set, needs_bytes
from numerics import Errors
from streams import ROWS, cut, make
from torch import Tensor, nn

import lstm_fused
from lstm_fused.stream_weights import quantized

WIDTHS = [None, torch.bfloat16, torch.int8]
# Weights of int8 by activations that are rounded to it as well.
BYTES = pytest.param("bytes", marks=needs_bytes)
# Rows of one tile and several, sizes below, at and past vectors, panels, running sums and the steps taken together.
CASES = [
    Case(1, 1, 1, 1),
    Case(7, 3, 17, 17),
    Case(33, 1, 17, 64),
    Case(5, 17, 111, 129),
    Case(19, 2, 129, 111),
    Case(3, 64, 20, 33),
    Case(40, 1, 3, 300),
    Case(6, 8, 65, 16, bias=False),
    Case(3, 8, 260, 410),  # worth several threads in every width
    Case(9, 4, 12, 31, num_layers=3),
    Case(9, 1, 12, 70, proj_size=1),
    Case(9, 5, 12, 70, num_layers=2, proj_size=37, bias=False),
    Case(5, 15, 9, 130, num_layers=2, proj_size=128),
    Case(8, 2, 9, 150, num_layers=2),  # every other step goes through several blocks backwards
]


def stream_of(lstm: nn.LSTM, batch: int, width: torch.dtype | str | None) -> lstm_fused.Stream:
    if width == "bytes":
        return lstm_fused.Stream(lstm, batch, torch.int8, activations=torch.int8)
    return lstm_fused.Stream(lstm, batch, width)


def stored(weight: Tensor, dtype: torch.dtype | None) -> Tensor:
    """What a weight is once it is stored, in float64. Independent of the package: numpy, row by row."""
    if dtype is None:
        return weight.double()
    if dtype == torch.bfloat16:
        return weight.to(torch.bfloat16).double()
    rows = []
    for row in weight.numpy():
        scale = np.abs(row).max() / np.float32(127)
        rows.append(
            np.rint(row / scale).astype(np.float64) * np.float64(scale) if scale > 0 else row.astype(np.float64)
        )
    return torch.from_numpy(np.stack(rows))


def references(lstm: lstm_fused.LSTM, dtype: torch.dtype | None) -> tuple[nn.LSTM, nn.LSTM]:
    """torch.nn.LSTM with the weights as stored: in float64 and in the module's dtype."""
    exact = nn.LSTM(lstm.input_size, lstm.hidden_size, lstm.num_layers, lstm.bias, proj_size=lstm.proj_size).double()
    weights = {n: w if n.startswith("bias") else stored(w, dtype) for n, w in lstm.state_dict().items()}
    exact.load_state_dict(weights)
    return exact, copy.deepcopy(exact).to(lstm.weight_hh_l0.dtype)


def check_accuracy(case: Case, dtype: torch.dtype | None) -> None:
    """The rule of numerics.py, against the weights as they are stored."""
    pairs: dict[str, tuple[Errors, Errors]] = {}
    for seed in range(max(3, 300 // (case.seq_len * case.rows * case.width))):
        lstm = make(case, seed)
        exact, plain = references(lstm, dtype)
        x = torch.randn(case.seq_len, case.rows, case.input_size, dtype=case.dtype)
        shapes = [(case.num_layers, case.rows, n) for n in (case.width, case.hidden_size)]
        hx = torch.randn(shapes[0], dtype=case.dtype).clamp(-1, 1), torch.randn(shapes[1], dtype=case.dtype)
        stream = lstm_fused.Stream(lstm, case.rows, dtype)
        stream.state = hx
        actual = [cut(stream, x, [1, 5, 2]), *stream.state]
        with torch.no_grad():
            of_exact, states = exact(x.double(), tuple(s.double() for s in hx))
            of_plain, plain_states = plain(x, hx)
        results = zip(("output", "h", "c"), actual, (of_exact, *states), (of_plain, *plain_states), strict=True)
        for name, ours, wanted, theirs in results:
            assert ours.dtype == case.dtype and ours.shape == wanted.shape
            of_ours, of_theirs = pairs.setdefault(name, (Errors(case), Errors(case)))
            of_ours.add(ours, wanted.numpy())
            of_theirs.add(theirs, wanted.numpy())
    for name, (ours, theirs) in pairs.items():
        for norm, error in ours.norms().items():
            assert error <= 2 * theirs.norms()[norm] + 0.5, f"{name}: {norm} {error} against {theirs.norms()[norm]}"


@each_instruction_set
@pytest.mark.parametrize("dtype", WIDTHS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_accuracy(case: Case, dtype: torch.dtype | None):
    check_accuracy(case, dtype)


@each_instruction_set
@pytest.mark.parametrize("case", CASES, ids=str)
def test_accuracy_in_float64(case: Case):
    """Against torch.nn.LSTM in the same precision: nothing is finer, so by a few roundings."""
    lstm = make(case, dtype=torch.float64)
    x = torch.randn(case.seq_len, case.rows, case.input_size, dtype=torch.float64)
    with torch.no_grad():
        expected = references(lstm, None)[0](x)[0]
    actual = cut(lstm_fused.Stream(lstm, case.rows), x, [1, 5, 2])
    assert (actual - expected).abs().max() <= 64 * torch.finfo(torch.float64).eps * max(1, expected.abs().max())


@each_instruction_set
@pytest.mark.parametrize("number_of_threads", [1, 3])
@pytest.mark.parametrize("width", [*WIDTHS, BYTES, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_cutting_gives_the_same_bits(case: Case, width: torch.dtype | str | None, number_of_threads: int, threads):
    wide = torch.float64 if width == torch.float64 else torch.float32
    lstm = make(case, dtype=wide)
    x = torch.randn(case.seq_len, case.rows, case.input_size, dtype=wide)
    threads(1)
    first = cut(stream_of(lstm, case.rows, width), x, [1])
    threads(number_of_threads)
    for lengths in ([len(x)], [2], [3, 1], [17, 2]):
        assert torch.equal(cut(stream_of(lstm, case.rows, width), x, lengths), first)
    # Nor do the other rows of the batch matter.
    alone = stream_of(lstm, 1, width)
    assert torch.equal(alone(x[:, -1:].contiguous()), first[:, -1:])


@each_instruction_set
@pytest.mark.parametrize("width", [*WIDTHS, BYTES], ids=str)
def test_nan_stays_in_its_row(width: torch.dtype | str | None):
    case = Case(6, 5, 7, 33, num_layers=2)
    lstm, x = make(case), torch.randn(6, 5, 7)
    clean = stream_of(lstm, 5, width)(x)
    x[2, 3, 1] = float("nan")
    dirty = stream_of(lstm, 5, width)(x)
    others = [0, 1, 2, 4]
    assert torch.equal(dirty[:, others], clean[:, others]) and torch.equal(dirty[:2], clean[:2])
    assert dirty[2:, 3].isnan().all()


def test_int8_is_the_nearest():
    """Each weight is off by half a step at most, and the largest of a row not at all; a row of zeros stays zero."""
    lstm = make(Case(1, 1, 9, 20))
    with torch.no_grad():
        lstm.weight_ih_l0[3] = 0
        lstm.weight_hh_l0[5] *= 1e-30
    for weight in (lstm.weight_ih_l0.detach(), lstm.weight_hh_l0.detach()):
        q, scale = quantized(weight)
        assert q.dtype == torch.int8
        value = q.double() * scale.double().unsqueeze(1)
        torch.testing.assert_close(value, stored(weight, torch.int8), rtol=1e-6, atol=0)
        largest = weight.double().abs().amax(1)
        assert ((value - weight.double()).abs().amax(1) <= largest / 254 * (1 + 1e-6)).all()
        assert (q.abs().amax(1) == torch.where(largest > 0, 127, 0)).all()


def as_bytes(row: np.ndarray) -> np.ndarray:
    """A row of activations as it is multiplied, in float64."""
    largest = np.abs(row).max()
    if largest < 1e-35:
        return np.zeros(len(row))
    whole = np.rint(row * (np.float32(127) / largest))
    return whole.astype(np.float64) * np.float64(largest / np.float32(127))


@needs_bytes
@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30, 1e-40])
@pytest.mark.parametrize("case", [case for case in CASES if not case.proj_size and case.num_layers == 1], ids=str)
def test_rounded_activations(case: Case, scale: float):
    """Step by step, each from the same state: next to a rounding's edge h may go either way, and not come back."""
    lstm, rows = make(case), case.rows
    x, hx = torch.randn(rows, case.input_size) * scale, [torch.randn(1, rows, case.hidden_size) for _ in range(2)]
    hx[0] = hx[0].clamp(-1, 1)
    stream = stream_of(lstm, rows, "bytes")
    stream.state = hx
    rounded = [torch.from_numpy(np.stack([as_bytes(row) for row in part.numpy()])) for part in (x, hx[0][0])]
    weights = [stored(weight, torch.int8) for weight in (lstm.weight_ih_l0.detach(), lstm.weight_hh_l0.detach())]
    gates = sum(part @ weight.T for part, weight in zip(rounded, weights))
    if case.bias:
        gates += (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().double()
    i, f, g, o = gates.chunk(4, 1)
    c = f.sigmoid() * hx[1][0].double() + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    actual = stream(x)
    if scale > 1:  # what is left of a gate's sum is its sign
        assert ((actual.double() - h).abs() < 1e-4).double().mean() > 0.98
        return
    torch.testing.assert_close(actual.double(), h, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(stream.state[1][0].double(), c, rtol=2e-6, atol=2e-6)


@needs_bytes
def test_rounded_activations_are_near_enough():
    """Over many steps of a stack with a projection."""
    case = Case(60, 3, 64, 96, num_layers=2, proj_size=40)
    lstm, x = make(case), torch.randn(60, 3, 64)
    difference = stream_of(lstm, 3, "bytes")(x) - stream_of(lstm, 3, None)(x)
    assert 0 < difference.abs().max() < 0.01


# State


def test_state_is_a_copy_and_assignable():
    case = Case(4, 3, 5, 20, num_layers=2, proj_size=6)
    lstm, x = make(case), torch.randn(8, 3, 5)
    stream = lstm_fused.Stream(lstm, 3)
    stream(x[:4])
    h, c = stream.state
    assert h.shape == (2, 3, 6) and c.shape == (2, 3, 20)
    expected = stream(x[4:])
    h.add_(0), c.add_(0)
    stream.state = h, c
    h.fill_(7), c.fill_(7)  # nobody looks at them any more
    assert torch.equal(stream(x[4:]), expected)
    stream.state[0].fill_(7)
    other = lstm_fused.Stream(lstm, 3)
    other.state = stream.state
    assert torch.equal(other(x[0]), stream(x[0]))


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(("rows", "which"), ROWS, ids=str)
def test_reset_of_rows(rows: object, which: list[int], given: bool):
    lstm, x = make(Case(4, 4, 5, 20, num_layers=2)), torch.randn(9, 4, 5)
    start = torch.randn(2, 4, 20).clamp(-1, 1), torch.randn(2, 4, 20)
    stream = lstm_fused.Stream(lstm, 4)
    if given:
        stream.state = start
    first = stream(x)
    stream(x[:3])  # somewhere else
    elsewhere = stream.state
    stream.reset(rows)
    others = [row for row in range(4) if row not in which]
    for now, then in zip(stream.state, elsewhere):
        assert torch.equal(now[:, others], then[:, others])
    assert torch.equal(stream(x)[:, which], first[:, which])
    stream.state = None
    assert not any(part.any() for part in stream.state)
    stream(x)
    stream.reset()
    assert not any(part.any() for part in stream.state)


def test_rows_that_end_at_different_times():
    """As reset= of the module."""
    lstm, x = make(Case(4, 4, 5, 20, num_layers=2)), torch.randn(12, 4, 5)
    ends = torch.rand(12, 4) < 0.3
    with torch.no_grad():
        expected = lstm(x, reset=ends)[0]
    stream = lstm_fused.Stream(lstm, 4)
    for step in range(12):
        stream.reset(ends[step])
        torch.testing.assert_close(stream(x[step]), expected[step])


def test_made_anywhere_used_anywhere():
    """Within torch.inference_mode or another default device, and without."""
    lstm, x = make(Case(1, 2, 5, 20)), torch.randn(3, 2, 5)
    expected = stream_of(lstm, 2, None)(x)
    with torch.inference_mode():
        made_inside = stream_of(lstm, 2, None)
    made_outside = stream_of(lstm, 2, None)
    with torch.device("meta"):
        made_elsewhere = stream_of(lstm, 2, None)
        made_elsewhere.reset([1])

    def use(stream: lstm_fused.Stream) -> None:
        assert torch.equal(stream(x), expected)
        stream.state = stream.state
        stream.reset(torch.tensor([True, False]))
        stream.state = None

    for stream in (made_inside, made_outside, made_elsewhere):
        use(stream)
        with torch.inference_mode():
            use(stream)


def test_cpu_0_is_the_cpu():
    """To torch they are two devices."""
    x = torch.randn(2, 5)
    for of_module, of_x in (("cpu:0", "cpu"), ("cpu", "cpu:0")):
        lstm = make(Case(1, 2, 5, 20), device=of_module)
        assert torch.equal(stream_of(lstm, 2, None)(x.to(of_x)), stream_of(lstm, 2, None)(x))
        out = torch.empty(20, 2).t()
        with pytest.raises(ValueError, match="out: expected a contiguous tensor"):
            stream_of(lstm, 2, None)(x.to(of_x), out=out)
