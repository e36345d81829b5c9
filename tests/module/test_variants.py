"""Cells beyond the plain one, each option and each pair of them: against a loop by hand, forward and all gradients."""

from __future__ import annotations

import pytest
import torch
from cases import Case
from hypothesis import given, settings
from hypothesis import strategies as st
from variant_loop import ALL, NAMES, OPTIONS, PAIRS, all_of, assert_accurate, assert_same, make, options_of, ours

import lstm_fused
from lstm_fused import reference, variants

SMALL = Case(4, 3, 4, 5, dtype=torch.float64)
FULL = {"num_layers": 2, "bidirectional": True, "lengths": True, "reset": 0.3, "dropout": 0.3}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("names", [*NAMES, *PAIRS, ALL])
def test_options_and_pairs(names: str, training: bool):
    assert_same(make(SMALL, training, **options_of(names)))


@pytest.mark.parametrize("form", [{}, {"proj_size": 3}, {"bias": False, "hx": False}], ids=str)
@pytest.mark.parametrize("names", [*NAMES, "peephole layer_norm cell_clip", ALL])
def test_with_all_that_the_plain_one_has(names: str, form: dict):
    options = options_of(names)
    if not form.get("bias", True):
        options.pop("forget_bias", None)
    assert_same(make(SMALL.but(**FULL, **form), **options))


@pytest.mark.parametrize("form", [{"batch": None}, {"batch": 1, "batch_first": True}, {"batch_first": True}], ids=str)
def test_forms_of_input(form: dict):
    assert_same(make(SMALL.but(num_layers=2, bidirectional=True, reset=0.3, **form), **options_of(ALL)))


SIZES = [(1, 1, 1, 1), (7, 3, 17, 17), (2, 17, 1, 129), (5, 1, 111, 111), (3, 20, 5, 33), (6, 2, 3, 12)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("names", [*NAMES[:1], *NAMES[3:6], "zoneout recurrent_dropout cell_clip peephole", ALL])
def test_float32_is_accurate(names: str, size: tuple[int, int, int, int]):
    case = Case(*size, proj_size=size[3] // 3 if names == ALL and size[3] > 10 else 0, seed=3)
    times = 40 if max(size) < 20 else 2  # where few elements decide
    assert_accurate(case, times, **options_of(names))


@st.composite
def calls(draw: st.DrawFn) -> dict:
    hidden = draw(st.integers(1, 20))
    layers = draw(st.integers(1, 2))
    case = Case(
        seq_len=draw(st.integers(1, 6)),
        batch=draw(st.one_of(st.none(), st.integers(1, 5))),
        input_size=draw(st.integers(1, 20)),
        hidden_size=hidden,
        num_layers=layers,
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        dropout=draw(st.sampled_from([0.0, 0.5])) if layers > 1 else 0.0,
        bidirectional=draw(st.booleans()),
        proj_size=draw(st.one_of(st.just(0), st.integers(1, hidden - 1))) if hidden > 1 else 0,
        dtype=torch.float64,
        hx=draw(st.booleans()),
        reset=draw(st.sampled_from([0.0, 0.2, 1.0])),
        seed=draw(st.integers(0, 100)),
    )
    case = case.but(lengths=draw(st.booleans()) and case.batch is not None)
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    if not case.bias and "forget_bias" in names:
        names.remove("forget_bias")
    return {"case": case, "training": draw(st.booleans()), **options_of(" ".join(names))}


@settings(max_examples=60)
@given(calls())
def test_every_call(call: dict):
    assert_same(make(**call))


@pytest.mark.parametrize("names", ["zoneout layer_norm", ALL])
def test_the_reference_is_the_loop(names: str):
    """Where kernels run, the tests above look at them alone."""
    call = make(SMALL.but(lengths=True, reset=0.3, proj_size=3), **options_of(names))
    plain, module = ours(call), call.module
    torch.manual_seed(0)
    weights = [getattr(module, name) for name in module._flat_weights_names]
    if module.cell_options.weight_dropout:
        weights = variants.with_dropped_weights(weights, 1, module.cell_options.weight_dropout)
    variant = variants.drawn(module.cell_options, call.input, call.hx[0][0], call.hx[1][0], training=True)
    given = {"lengths": call.lengths, "reset": call.reset, "variants": [variant]}
    results = reference.lstm(call.input, *call.hx, weights, **given)
    for a, b in zip(results, plain, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_half_types_are_float32_rounded_once(dtype: torch.dtype, training: bool):
    """Their gradients too: of a sum over steps there is one rounding."""
    names = ALL.replace("weight_dropout", "")  # which is drawn, and rounded, in the dtype of W_hh
    call = make(SMALL.but(dtype=dtype, bidirectional=True, lengths=True, proj_size=3), training, **options_of(names))
    for a, b in zip(all_of(ours, call), all_of(ours, call.to(torch.float32)), strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_packed_is_padded(enforce_sorted: bool, training: bool):
    lstm = lstm_fused.LSTM(3, 6, 2, bidirectional=True, proj_size=4, dropout=0.0, **options_of(ALL)).train(training)
    lengths = torch.tensor([5, 3, 3, 1] if enforce_sorted else [3, 1, 5, 3])
    input = torch.randn(5, 4, 3)
    packed = torch.nn.utils.rnn.pack_padded_sequence(input, lengths, enforce_sorted=enforce_sorted)
    order = lengths.argsort(descending=True, stable=True) if not enforce_sorted else torch.arange(4)
    torch.manual_seed(1)
    output, (h_n, c_n), cells = lstm(packed, return_cells=True)
    torch.manual_seed(1)
    expected, (h, c), all_cells = lstm(input[:, order], lengths=lengths[order], return_cells=True)
    unsorted = order.argsort()
    unpacked, _ = torch.nn.utils.rnn.pad_packed_sequence(output)
    assert torch.equal(unpacked, expected[:, unsorted])
    assert torch.equal(torch.nn.utils.rnn.pad_packed_sequence(cells)[0], all_cells[:, unsorted])
    assert torch.equal(h_n, h[:, unsorted]) and torch.equal(c_n, c[:, unsorted])


def test_padding_is_never_read():
    call = make(SMALL.but(lengths=True, bidirectional=True, reset=0.2), **options_of(ALL))
    clean = all_of(ours, call)
    with torch.no_grad():
        for b, length in enumerate(call.lengths.tolist()):
            call.input[length:, b] = float("nan")
    assert all(torch.equal(a, b) for a, b in zip(clean, all_of(ours, call), strict=True))


def test_what_is_off_in_inference_is_the_plain_cell():
    """To the bit: the same kernels."""
    lstm = lstm_fused.LSTM(5, 9, 2, recurrent_dropout=0.5, weight_dropout=0.5, forget_bias=1.0).eval()
    plain = lstm_fused.LSTM(5, 9, 2)
    plain.load_state_dict(lstm.state_dict())
    input = torch.randn(4, 3, 5)
    assert torch.equal(lstm(input)[0], plain(input)[0])


@pytest.mark.parametrize("names", [n for n in NAMES if n in ("zoneout", "recurrent_dropout", "weight_dropout")])
def test_masks_are_drawn_as_often_as_said(names: str):
    """Zoneout for each step, recurrent dropout for each row, both of them from torch's generator."""
    lstm = lstm_fused.LSTM(5, 400, **options_of(names))
    input = torch.randn(6, 2, 5)
    torch.manual_seed(3)
    first, again = lstm(input)[0], lstm(input)[0]
    torch.manual_seed(3)
    assert torch.equal(lstm(input)[0], first) and not torch.equal(first, again)
    if names == "zoneout":
        stayed = (first[1:] == first[:-1]).float().mean((1, 2))
        assert ((stayed - OPTIONS["zoneout"]["zoneout"][0]).abs() < 0.08).all()
        assert not torch.equal(first[1] == first[0], first[2] == first[1])
