"""Cells beyond the plain one as modules: what is constructed, kept, copied and refused, and what torch's tools do."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from cases import Case
from torch import nn
from variant_loop import ALL, NAMES, all_of, by_hand, make, options_of, ours

import lstm_fused
from lstm_fused.functional import CellOptions

SMALL = Case(3, 2, 2, 3, dtype=torch.float64)


def test_parameters_behind_those_of_the_plain_one():
    lstm = lstm_fused.LSTM(3, 5, 2, bidirectional=True, proj_size=2, peephole=True, layer_norm=True)
    plain = nn.LSTM(3, 5, 2, bidirectional=True, proj_size=2)
    own = {name: tuple(t.shape) for name, t in lstm.state_dict().items() if name not in plain.state_dict()}
    assert list(lstm.state_dict())[: len(plain.state_dict())] == list(plain.state_dict())
    for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        assert own.pop("weight_peephole" + suffix) == (3, 5)
        for which, size in (("ih", 20), ("hh", 20), ("c", 5)):
            assert own.pop(f"norm_{which}_weight{suffix}") == own.pop(f"norm_{which}_bias{suffix}") == (size,)
            assert (getattr(lstm, f"norm_{which}_weight{suffix}") == 1).all()
            assert (getattr(lstm, f"norm_{which}_bias{suffix}") == 0).all()
        peepholes = getattr(lstm, "weight_peephole" + suffix)
        assert 0 < peepholes.abs().max() <= 5**-0.5
    assert not own
    assert len(lstm.all_weights) == 4 and len(lstm.all_weights[0]) == 12
    assert not lstm.load_state_dict(plain.state_dict(), strict=False).unexpected_keys


@pytest.mark.parametrize("names", ["", *NAMES, ALL])
def test_the_plain_parameters_start_as_in_torch(names: str):
    torch.manual_seed(4)
    plain = nn.LSTM(3, 5, 2)
    torch.manual_seed(4)
    lstm = lstm_fused.LSTM(3, 5, 2, **options_of(names))
    for name, parameter in plain.named_parameters():
        expected = parameter.detach().clone()
        if lstm.forget_bias and name.startswith("bias_ih"):
            expected[5:10] += 1.5
        assert torch.equal(getattr(lstm, name), expected)
    if not names:
        assert lstm.cell_options is None and repr(lstm) == repr(plain)


def test_reset_parameters():
    lstm = lstm_fused.LSTM(3, 400, forget_bias=5.0, layer_norm=True, peephole=True)
    before = {name: parameter.detach().clone() for name, parameter in lstm.named_parameters()}
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.fill_(9.0)
    lstm.reset_parameters()
    for name, parameter in lstm.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("norm_"), name
    i, f, *_ = lstm.bias_ih_l0.chunk(4)
    assert abs(float(f.mean()) - 5) < 0.1 and abs(float(i.mean())) < 0.1


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies(how):
    lstm = lstm_fused.LSTM(3, 5, 2, **options_of(ALL)).eval()
    copied, input = how(lstm), torch.randn(4, 2, 3)
    assert repr(copied) == repr(lstm) and "zoneout=(0.3, 0.2)" in repr(lstm) and "forget_bias=1.5" in repr(lstm)
    assert torch.equal(copied(input)[0], lstm(input)[0])


def test_a_module_pickled_before_there_were_options():
    lstm = lstm_fused.LSTM(3, 5)
    state = lstm.__getstate__()
    assert "cell_options" not in state and "forget_bias" not in state
    restored = lstm_fused.LSTM.__new__(lstm_fused.LSTM)
    restored.__setstate__(state)
    assert restored.cell_options is None and torch.equal(*(m(torch.ones(2, 1, 3))[0] for m in (lstm, restored)))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"zoneout": 1.0}, ValueError, r"zoneout: expected a probability in \[0, 1\), got 1.0"),
        ({"zoneout": (0.1, -0.1)}, ValueError, "zoneout: .* got -0.1"),
        ({"zoneout": (0.1, 0.1, 0.1)}, ValueError, "zoneout: expected one probability or a pair"),
        ({"zoneout": "0.1"}, ValueError, "zoneout: "),
        ({"recurrent_dropout": 1}, ValueError, "recurrent_dropout: .* got 1"),
        ({"recurrent_dropout": float("nan")}, ValueError, "recurrent_dropout: .* got nan"),
        ({"weight_dropout": True}, ValueError, "weight_dropout: .* got True"),
        ({"cell_clip": 0}, ValueError, "cell_clip: expected None or a finite number above 0, got 0"),
        ({"cell_clip": float("inf")}, ValueError, "cell_clip: "),
        ({"peephole": 1}, TypeError, "peephole should be of type bool, got: int"),
        ({"layer_norm": None}, TypeError, "layer_norm should be of type bool"),
        ({"forget_bias": float("inf")}, ValueError, "forget_bias: expected a finite number"),
        ({"forget_bias": 1.0, "bias": False}, ValueError, "forget_bias=1.0: expected bias=True.* got False"),
    ],
    ids=str,
)
def test_what_the_constructor_refuses(options: dict, error: type[Exception], says: str):
    with pytest.raises(error, match=says):
        lstm_fused.LSTM(3, 4, **options)


def test_what_functional_refuses():
    lstm = lstm_fused.LSTM(3, 4, peephole=True)
    input, weights = torch.randn(2, 1, 3), list(lstm.parameters())
    call = lstm_fused.functional.lstm
    assert torch.equal(call(input, None, weights, cell=lstm.cell_options)[0], lstm(input)[0])
    with pytest.raises(
        ValueError, match=r"weight_peephole of layer and direction 0: expected size \(3, 4\), got \(2, 4\)"
    ):
        call(input, None, [*weights[:-1], torch.zeros(2, 4)], cell=lstm.cell_options)
    with pytest.raises(ValueError, match=r"like weights\[0\], got torch.float64"):
        call(input, None, [*weights[:-1], torch.zeros(3, 4).double()], cell=lstm.cell_options)
    with pytest.raises(ValueError, match="cell_clip: "):
        call(input, None, weights, cell=CellOptions(cell_clip=-1.0))
    with pytest.raises(TypeError, match="cell: expected CellOptions or None, got dict"):
        call(input, None, weights, cell={})
    with pytest.raises(ValueError, match="weights: expected 4 tensors"):
        call(input, None, weights[:-2], cell=lstm.cell_options)


@pytest.mark.parametrize("names", [n for n in NAMES if n != "forget_bias"])
def test_revert_changes_nothing_where_torch_has_no_such_cell(names: str):
    model = nn.Sequential(lstm_fused.LSTM(3, 4), nn.Sequential(lstm_fused.LSTM(4, 4, **options_of(names))))
    with pytest.raises(ValueError, match=rf"expected cells that torch.nn.LSTM has, got 1\.0 \({names}="):
        lstm_fused.revert(model)
    assert type(model[0]) is lstm_fused.LSTM and type(model[1][0]) is lstm_fused.LSTM


def test_a_forget_bias_can_be_reverted():
    lstm, input = lstm_fused.LSTM(3, 4, forget_bias=1.0), torch.randn(2, 1, 3)
    output = lstm(input)[0]
    reverted = lstm_fused.revert(lstm)
    assert type(reverted) is nn.LSTM
    torch.testing.assert_close(reverted(input)[0], output)


def test_no_stream():
    with pytest.raises(ValueError, match=r"expected the plain cell, .* got layer_norm=True"):
        lstm_fused.Stream(lstm_fused.LSTM(3, 4, layer_norm=True))


def function_of(call):
    """All differentiable tensors to all results."""
    names = [name for name, _ in call.module.named_parameters()]

    def function(input, h_0, c_0, *parameters):
        torch.manual_seed(0)
        extras = {"lengths": call.lengths, "reset": call.reset, "return_cells": True}
        own = dict(zip(names, parameters, strict=True))
        output, states, cells = torch.func.functional_call(call.module, own, (input, (h_0, c_0)), extras)
        return output, *states, cells

    return function


CALLS = [(names, training) for names in [*NAMES[:6], ALL] for training in (True, False)]


@pytest.mark.parametrize(("names", "training"), CALLS)
def test_gradients_of_any_order(names: str, training: bool):
    call = make(SMALL.but(lengths=True, reset=0.3, bidirectional=True, proj_size=2), training, **options_of(names))
    assert torch.autograd.gradcheck(function_of(call), call.leaves(), fast_mode=True)
    assert torch.autograd.gradgradcheck(function_of(call), call.leaves(), fast_mode=True)


def test_gradcheck_element_by_element():
    call = make(Case(2, 1, 1, 2, dtype=torch.float64), **options_of(ALL))
    assert torch.autograd.gradcheck(function_of(call), call.leaves())
    assert torch.autograd.gradgradcheck(function_of(call), call.leaves())


def test_transforms():
    call = make(SMALL.but(bidirectional=True), training=False, **options_of(ALL))
    function, leaves = function_of(call), [t.detach() for t in call.leaves()]
    inputs = torch.randn(4, *call.input.shape, dtype=torch.float64)
    batched = torch.func.vmap(lambda x: function(x, *leaves[1:])[0])(inputs)
    torch.testing.assert_close(batched, torch.stack([function(x, *leaves[1:])[0] for x in inputs]))

    def loss(x):
        return function(x, *leaves[1:])[0].square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss))(inputs)
    torch.testing.assert_close(per_sample, torch.stack([torch.func.grad(loss)(x) for x in inputs]))
    tangent = torch.randn_like(inputs[0])
    by_jvp = torch.func.jvp(loss, (inputs[0],), (tangent,))[1]
    torch.testing.assert_close(by_jvp, (torch.func.grad(loss)(inputs[0]) * tangent).sum())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(inputs[0], tangent)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(loss(dual)).tangent, by_jvp)
    masked = torch.func.vmap(call.module.train(), randomness="different")(inputs)[0]
    assert not torch.equal(masked[0], call.module(inputs[0])[0])


def test_batched_gradients():
    call = make(SMALL, **options_of("zoneout peephole layer_norm"))
    output = ours(call)[0]
    grads = torch.randn(3, *output.shape, dtype=torch.float64)
    batched = torch.autograd.grad(output, call.leaves(), grads, retain_graph=True, is_grads_batched=True)
    for n, grad in enumerate(grads):
        for a, b in zip(torch.autograd.grad(output, call.leaves(), grad, retain_graph=True), batched, strict=True):
            torch.testing.assert_close(b[n], a)


@pytest.mark.parametrize("training", [True, False])
def test_compile(training: bool):
    """One graph, forward and backward; without masks also the same numbers."""
    names = ALL if not training else "cell_clip peephole layer_norm"
    call = make(SMALL.but(num_layers=2, bidirectional=True, lengths=True), training, **options_of(names))
    compiled = torch.compile(lambda x, lengths: call.module(x, call.hx, lengths=lengths)[0], fullgraph=True)
    plain = call.module(call.input, call.hx, lengths=call.lengths)[0]
    output = compiled(call.input, call.lengths)
    torch.testing.assert_close(output, plain)
    for a, b in zip(*(torch.autograd.grad(o.square().sum(), call.leaves()) for o in (output, plain)), strict=True):
        torch.testing.assert_close(a, b)


def test_compile_draws_masks():
    lstm = lstm_fused.LSTM(2, 300, **options_of(ALL))
    compiled, input = torch.compile(lstm, fullgraph=True), torch.randn(4, 3, 2)
    first = compiled(input)[0]
    first.sum().backward()
    stayed = (first[1:] == first[:-1]).float().mean()
    assert not torch.equal(first, compiled(input)[0]) and abs(float(stayed) - 0.3) < 0.08


def test_export_and_trace():
    lstm = lstm_fused.LSTM(3, 5, 2, bidirectional=True, proj_size=2, **options_of(ALL)).eval()
    steps, batch = torch.export.Dim("T"), torch.export.Dim("B")
    program = torch.export.export(lstm, (torch.randn(4, 3, 3),), dynamic_shapes=({0: steps, 1: batch},)).module()
    traced = torch.jit.trace(lstm, (torch.randn(4, 3, 3),))
    for size in ((7, 2), (1, 5)):
        input = torch.randn(*size, 3)
        for run in (program, traced):
            for a, b in zip((run(input)[0], *run(input)[1]), (lstm(input)[0], *lstm(input)[1]), strict=True):
                assert torch.equal(a, b)
    input = torch.randn(3, 2, 3, requires_grad=True)
    of_program, of_module = (torch.autograd.grad(run(input)[0].sum(), input)[0] for run in (program, lstm))
    assert torch.equal(of_program, of_module)


def test_autocast():
    """As the plain one: of the dtype that autocast has, the numbers of a module of that dtype."""
    lstm = lstm_fused.LSTM(3, 5, **options_of("cell_clip layer_norm")).eval()
    input = torch.randn(4, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        output = lstm(input)[0]
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, copy.deepcopy(lstm).bfloat16()(input.bfloat16())[0])


def test_meta_tensors():
    lstm = lstm_fused.LSTM(3, 5, proj_size=2, device="meta", **options_of(ALL))
    output, (h_n, c_n) = lstm(torch.empty(4, 2, 3, device="meta"))
    output.sum().backward()
    assert output.shape == (4, 2, 2) and h_n.shape == (1, 2, 2) and c_n.shape == (1, 2, 5)
    assert all(p.grad.shape == p.shape for p in lstm.parameters())


def test_empty_batch():
    """Gradients of weights are zero, and nothing is what nobody wrote."""
    call = make(SMALL.but(batch=0, bidirectional=True), **options_of(ALL))
    *_, grads = all_of(ours, call)[:4], all_of(ours, call)[4:]
    for grad, leaf in zip(grads, call.leaves(), strict=True):
        assert torch.equal(grad, torch.zeros_like(leaf))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30])
@pytest.mark.parametrize("names", ["cell_clip", "zoneout", "peephole", "layer_norm"])
def test_poison_stays_in_its_row(names: str, value: float):
    """And gives in it what the formulas give."""
    call = make(SMALL, training=False, **options_of(names))
    clean = [t.detach() for t in ours(call)]
    with torch.no_grad():
        call.input[1, 0, 0] = value
    for a, b, c in zip(ours(call), by_hand(call), clean, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
        assert torch.equal(a[:, 1], c[:, 1])
