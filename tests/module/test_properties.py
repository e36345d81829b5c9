"""All options together: hypothesis draws the calls, the tolerance rule judges every output and gradient."""

from __future__ import annotations

from functools import partial

import torch
from cases import DTYPES, Case
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numerics import assert_accurate, fused

import lstm_fused


@st.composite
def cases(draw: st.DrawFn) -> Case:
    hidden_size = draw(st.integers(1, 40))
    num_layers = draw(st.integers(1, 3))
    return Case(
        seq_len=draw(st.integers(1, 10)),
        batch=draw(st.one_of(st.none(), st.integers(1, 6))),
        input_size=draw(st.integers(1, 40)),
        hidden_size=hidden_size,
        num_layers=num_layers,
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        dropout=draw(st.sampled_from([0.0, 0.25, 0.5])) if num_layers > 1 else 0.0,
        bidirectional=draw(st.booleans()),
        proj_size=draw(st.one_of(st.just(0), st.integers(1, hidden_size - 1))) if hidden_size > 1 else 0,
        dtype=draw(st.sampled_from(DTYPES)),
        hx=draw(st.booleans()),
        reset=draw(st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0])),
        return_cells=draw(st.booleans()),
        contiguous=draw(st.booleans()),
        seed=draw(st.integers(0, 100)),
    )


@settings(max_examples=40)
@given(cases(), st.booleans(), st.booleans())
def test_every_call_is_accurate(case: Case, lengths: bool, recompute_gates: bool):
    case = case.but(lengths=lengths and case.batch is not None)
    assert_accurate(case, partial(fused, recompute_gates=recompute_gates))


@settings(max_examples=25)
@given(cases(), st.integers(0, 9))
def test_splitting_time_changes_nothing(case: Case, cut: int):
    """Running the first steps, then the rest from their state, is running all of them."""
    case = case.but(bidirectional=False, dtype=torch.float64, batch=case.batch or 1, batch_first=False, dropout=0.0)
    cut = min(cut, case.seq_len - 1)
    module, input = lstm_fused.LSTM(**case.options()), torch.randn(case.seq_len, case.rows, case.input_size).double()
    whole, states = module(input)
    if cut:
        first, between = module(input[:cut])
        rest, after = module(input[cut:], between)
        torch.testing.assert_close(torch.cat([first, rest]), whole)
        for a, b in zip(after, states, strict=True):
            torch.testing.assert_close(a, b)


@settings(max_examples=25)
@given(cases(), st.randoms(use_true_random=False))
def test_rows_are_independent(case: Case, random):
    """Any order of the rows gives the same results in that order, with all extras along."""
    rows = case.rows + 3
    case = case.but(batch=rows, batch_first=False, dtype=torch.float64, dropout=0.0)
    order = torch.tensor(random.sample(range(rows), rows))
    module, input = lstm_fused.LSTM(**case.options()), torch.randn(case.seq_len, rows, case.input_size).double()
    lengths, reset = torch.randint(1, case.seq_len + 1, (rows,)), torch.rand(case.seq_len, rows) < 0.3
    output, states, cells = module(input, lengths=lengths, reset=reset, return_cells=True)
    permuted = module(input[:, order], lengths=lengths[order], reset=reset[:, order], return_cells=True)
    for a, b in zip((permuted[0], *permuted[1], permuted[2]), (output, *states, cells), strict=True):
        torch.testing.assert_close(a, b[:, order])


@settings(max_examples=25)
@given(cases())
@example(Case(num_layers=2, bidirectional=True))
def test_reversing_time_swaps_the_directions(case: Case):
    """With swapped weights, a reversed input gives the reversed output; one layer, where the halves simply swap."""
    case = case.but(bidirectional=True, num_layers=1, dtype=torch.float64, batch=3, batch_first=False, dropout=0.0)
    module, swapped = lstm_fused.LSTM(**case.options()), lstm_fused.LSTM(**case.options())
    names = [name for name, _ in module.named_parameters() if not name.endswith("_reverse")]
    state = module.state_dict()
    pairs = [(a, b) for name in names for a, b in ((name, name + "_reverse"), (name + "_reverse", name))]
    swapped.load_state_dict({a: state[b] for a, b in pairs})
    input = torch.randn(case.seq_len, 3, case.input_size).double()
    output, states = module(input)
    output2, states2 = swapped(input.flip(0))
    halves = output2.flip(0).chunk(2, dim=2)
    torch.testing.assert_close(torch.cat(halves[::-1], dim=2), output)
    for a, b in zip(states2, states, strict=True):
        torch.testing.assert_close(a.flip(0), b)
