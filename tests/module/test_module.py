"""lstm_fused.LSTM is torch.nn.LSTM to its users: construction, checkpoints, dropout, weights in disguise."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import lstm_fused

OPTIONS: list[dict] = [
    {},
    {"bias": False},
    {"num_layers": 3, "bidirectional": True, "batch_first": True, "dropout": 0.25},
    {"num_layers": 2, "proj_size": 2, "bidirectional": True},
    {"dtype": torch.float64},
    {"device": "meta"},
]


def pair(*args, seed: int = 0, **options) -> tuple[lstm_fused.LSTM, nn.LSTM]:
    """The same construction twice, from the same seed."""
    modules = []
    for cls in (lstm_fused.LSTM, nn.LSTM):
        torch.manual_seed(seed)
        modules.append(cls(*args, **options))
    return tuple(modules)


def assert_close(ours, theirs) -> None:
    """Results of both modules, padded or packed."""
    (output, states), (output2, states2) = ours, theirs
    assert type(output) is type(output2)
    if isinstance(output, PackedSequence):
        for a, b in zip(output[1:], output2[1:], strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
        output, output2 = output.data, output2.data
    for a, b in zip((output, *states), (output2, *states2), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_construction(options: dict):
    """Names, order, shapes, initial values, attributes and repr; and the random stream goes on from the same place."""
    ours, theirs = pair(4, 5, **options)
    assert isinstance(ours, nn.RNNBase) and repr(ours) == repr(theirs)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and a.requires_grad
        assert a.is_meta or torch.equal(a, b)
    assert ours.all_weights[0][0] is ours.weight_ih_l0
    names = ["mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"]
    for name in [*names, "proj_size", "training"]:
        assert getattr(ours, name) == getattr(theirs, name)
    streams = []
    for cls in (lstm_fused.LSTM, nn.LSTM):
        torch.manual_seed(1)
        cls(4, 5, **options)
        streams.append(torch.rand(3))
    assert torch.equal(*streams)


def test_positional_arguments_in_torch_order():
    ours, theirs = pair(4, 5, 2, False, True, 0.5, True, 3, "cpu", torch.float64)
    assert repr(ours) == repr(theirs) and ours.weight_hr_l0.dtype == torch.float64


def test_checkpoints_move_both_ways():
    _, theirs = pair(4, 5, num_layers=2, bidirectional=True, proj_size=2)
    other = lstm_fused.LSTM(4, 5, num_layers=2, bidirectional=True, proj_size=2)
    buffer = io.BytesIO()
    torch.save(theirs.state_dict(), buffer)
    buffer.seek(0)
    assert not any(other.load_state_dict(torch.load(buffer)))
    input = torch.randn(6, 3, 4)
    assert_close(other(input), theirs(input))
    nn.init.normal_(other.weight_hh_l0)
    assert not any(theirs.load_state_dict(other.state_dict()))
    assert_close(other(input), theirs(input))


@pytest.mark.parametrize("how", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(how):
    module = lstm_fused.LSTM(4, 5, num_layers=2, batch_first=True)
    input = torch.randn(3, 6, 4)
    twin = how(module)
    assert type(twin) is lstm_fused.LSTM and repr(twin) == repr(module)
    for a, b in zip(twin(input)[1], module(input)[1], strict=True):
        assert torch.equal(a, b)


def sequences(lengths: list[int]) -> list[torch.Tensor]:
    return [torch.randn(n, 4) for n in lengths]


@pytest.mark.parametrize("hx", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True, "num_layers": 2, "batch_first": True, "proj_size": 3}], ids=str
)
@pytest.mark.parametrize(
    ("lengths", "enforce_sorted"), [([6, 4, 4, 1], True), ([1, 6, 3, 6], False), ([5], True)], ids=str
)
def test_packed_sequences(lengths: list[int], enforce_sorted: bool, options: dict, hx: bool):
    """The same PackedSequence, in the same order, with gradients to the packed data and the states."""
    ours, theirs = pair(4, 5, **options)
    packed = pack_sequence(sequences(lengths), enforce_sorted=enforce_sorted)
    layers = options.get("num_layers", 1) * (2 if options else 1)
    states = torch.randn(layers, len(lengths), options.get("proj_size", 5)), torch.randn(layers, len(lengths), 5)
    results = []
    for module in (ours, theirs):
        data = packed.data.clone().requires_grad_()
        hx_ = tuple(s.clone().requires_grad_() for s in states) if hx else None
        result = module(packed._replace(data=data), hx_)
        loss = result[0].data.square().sum() + result[1][0].sum() + result[1][1].square().sum()
        wanted = [data, *(hx_ or ()), *module.parameters()]
        results.append((result, torch.autograd.grad(loss, wanted)))
    assert_close(results[0][0], results[1][0])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("form", ["padded", "batch_first", "unbatched", "packed"])
@pytest.mark.parametrize("dropout", [0.3, 1.0])
def test_dropout_draws_the_masks_of_torch(form: str, dropout: float):
    """A seed gives what it gives torch.nn.LSTM in training, and leaves the generator where it leaves it."""
    options = {"num_layers": 3, "bidirectional": True, "dropout": dropout, "batch_first": form == "batch_first"}
    ours, theirs = pair(4, 5, **options)
    input = {
        "padded": torch.randn(6, 3, 4),
        "batch_first": torch.randn(3, 6, 4),
        "unbatched": torch.randn(6, 4),
        "packed": pack_sequence(sequences([2, 6, 3]), enforce_sorted=False),
    }[form]
    results, after = [], []
    for module in (ours, theirs):
        torch.manual_seed(7)
        results.append(module(input))
        after.append(torch.rand(2))
    assert_close(*results)
    assert torch.equal(*after)
    ours.eval(), theirs.eval()
    assert_close(ours(input), theirs(input))


def test_no_warnings():
    """No flatten_parameters, no deprecations, no oneDNN remarks: nothing a user would have to silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({}, {"num_layers": 2, "bidirectional": True, "proj_size": 3, "dropout": 0.5}):
            module = copy.deepcopy(lstm_fused.LSTM(4, 5, **options)).double().float()
            module.flatten_parameters()
            module(torch.randn(6, 3, 4))[0].sum().backward()
            module(pack_sequence(sequences([2, 6, 3]), enforce_sorted=False))


def test_other_dtypes():
    """.to(dtype) takes the weights along, there and back: float32 then sees them rounded, in both modules alike."""
    ours, theirs = pair(4, 5, num_layers=2)
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.float32):
        ours.to(dtype), theirs.to(dtype)
        output, (h_n, c_n) = ours(torch.randn(6, 3, 4, dtype=dtype))
        assert output.dtype == h_n.dtype == c_n.dtype == dtype
    input = torch.randn(6, 3, 4)
    assert_close(ours(input), theirs(input))


# Weights that are not what they were when the module was built.


def test_functional_call():
    """Replaced weights are used, and get the gradient."""
    ours, theirs = pair(4, 5)
    input = torch.randn(6, 3, 4)
    weights = {name: torch.randn_like(p).requires_grad_() for name, p in ours.named_parameters()}
    results = [torch.func.functional_call(m, weights, (input,)) for m in (ours, theirs)]
    assert_close(*results)
    gradients = [torch.autograd.grad(r[0].square().sum(), list(weights.values())) for r in results]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_tied_and_replaced_weights():
    modules = pair(5, 5, num_layers=2)
    input, gradients = torch.randn(6, 3, 5), []
    for module in modules:
        module.weight_ih_l1 = module.weight_ih_l0
        module.weight_hh_l0 = nn.Parameter(torch.full((20, 5), 0.1))
        module(input)[0].square().sum().backward()
        gradients.append([p.grad for p in module.parameters()])
    assert len(gradients[0]) == 7
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_weights(wrap):
    ours, theirs = pair(4, 5)
    for module in (ours, theirs):
        torch.manual_seed(3)
        wrap(module, "weight_hh_l0")
    input = torch.randn(6, 3, 4)
    ours.eval(), theirs.eval()
    assert_close(ours(input), theirs(input))
    ours(input)[0].sum().backward()
    assert all(p.grad is not None for p in ours.parameters())


def test_weights_loaded_by_assignment():
    """load_state_dict(assign=True) puts new tensors in place, also onto a meta module."""
    donor = lstm_fused.LSTM(4, 5, num_layers=2)
    module = lstm_fused.LSTM(4, 5, num_layers=2, device="meta")
    module.load_state_dict(donor.state_dict(), assign=True)
    input = torch.randn(6, 3, 4)
    assert torch.equal(module(input)[0], donor(input)[0])


def test_an_optimizer_step_is_seen():
    module = lstm_fused.LSTM(4, 5)
    input = torch.randn(6, 3, 4)
    before = module(input)[0]
    before.sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert module(input)[0].sum() < before.sum()
