"""What torch.nn.LSTM and LSTMCell have besides forward, and subclasses of them call: the same results and errors."""

from __future__ import annotations

import inspect
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import lstm_fused

OPTIONS: list[dict] = [
    {},
    {"bias": False, "batch_first": True},
    {"num_layers": 3, "bidirectional": True, "dropout": 0.25},
    {"num_layers": 2, "proj_size": 2, "bidirectional": True, "batch_first": True, "dtype": torch.float64},
]


def pair(cls: type = nn.LSTM, **options) -> tuple[nn.Module, ...]:
    ours = {nn.LSTM: lstm_fused.LSTM, nn.LSTMCell: lstm_fused.LSTMCell}[cls]
    theirs = cls(4, 5, **options)
    modules = [ours(4, 5, **options), lstm_fused.convert(cls(4, 5, **options), subclass=True), theirs]
    for module in modules:
        module.load_state_dict(theirs.state_dict())
    return tuple(modules)


def outcomes(modules, function) -> list:
    """What a function gives, or the error that it raises, for each module."""
    found = []
    for module in modules:
        try:
            found.append(function(module))
        except Exception as error:
            found.append((type(error), str(error)))
    return found


@pytest.mark.parametrize("cls", [nn.LSTM, nn.LSTMCell])
def test_nothing_is_missing(cls: type):
    """Every attribute of torch's class and instance, and callables with the same parameters in front."""
    for ours in pair(cls)[:2]:
        theirs = cls(4, 5)
        assert set(dir(cls)) | set(dir(theirs)) <= set(dir(ours)) | {"_flat_weights"}
        assert hasattr(ours, "_flat_weights") is hasattr(theirs, "_flat_weights")
        for name in set(dir(cls)) - set(dir(object)):
            function = getattr(cls, name)
            if inspect.isfunction(function) and name != "__init__":
                wanted = list(inspect.signature(function).parameters)
                assert list(inspect.signature(getattr(type(ours), name)).parameters)[: len(wanted)] == wanted


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("packed", [True, False])
def test_expected_sizes(options: dict, packed: bool):
    batch_sizes = torch.tensor([7, 3, 1]) if packed else None
    input = torch.zeros(11, 4) if packed else torch.zeros(6, 3, 4)
    for name in ("get_expected_hidden_size", "get_expected_cell_size"):
        a, b, c = outcomes(pair(**options), lambda m, name=name: getattr(m, name)(input, batch_sizes))
        assert a == b == c and isinstance(a[0], int) and len(a) == 3


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_permute_hidden(options: dict):
    states = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    order = torch.tensor([2, 0, 1])
    for module in pair(**options):
        assert module.permute_hidden(states, None) is states
        for permuted, state in zip(module.permute_hidden(states, order), states, strict=True):
            assert torch.equal(permuted, state[:, order])
    a, b, c = outcomes(pair(**options), lambda m: m.permute_hidden(states, torch.tensor([3])))
    assert a == b == c and a[0] is RuntimeError


def argument_cases(options: dict) -> dict[str, tuple]:
    dtype = options.get("dtype", torch.float32)
    states = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    width = options.get("proj_size", 5)

    def zeros(*sizes):
        return torch.zeros(sizes, dtype=dtype)

    input = zeros(3, 6, 4) if options.get("batch_first") else zeros(6, 3, 4)
    good = zeros(states, 3, width), zeros(states, 3, 5)
    sizes = torch.tensor([3, 2, 1])
    return {
        "good": (input, good, None),
        "good, packed": (zeros(6, 4), good, sizes),
        "width": (zeros(6, 3, 5), good, None),
        "2-D": (zeros(6, 4), good, None),
        "3-D, packed": (input, good, sizes),
        "dtype": (input.half(), good, None),
        "h": (input, (good[0][:, :2], good[1]), None),
        "c": (input, (good[0], good[1][..., :4]), None),
        "c, packed": (zeros(6, 4), (good[0], good[1][:, :1]), sizes),
        "layers": (input, (zeros(9, 3, width), good[1]), None),
        "swapped": (input, good[::-1], None),
    }


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("case", argument_cases({}))
def test_checks(options: dict, case: str):
    input, hidden, batch_sizes = argument_cases(options)[case]
    modules = pair(**options)
    for call in (
        lambda m: m.check_forward_args(input, hidden, batch_sizes),
        lambda m: m.check_input(input, batch_sizes),
        lambda m: m.check_hidden_size(hidden[1], (1, 3, 5)),
        lambda m: m.check_hidden_size(hidden[0], m.get_expected_hidden_size(input, batch_sizes), "wanted {}, is {}"),
    ):
        a, b, c = outcomes(modules, call)
        assert a == b == c
    error = outcomes(modules, lambda m: m.check_forward_args(input, hidden, batch_sizes))[0]
    assert (error is None) is (case.startswith("good") or (case == "swapped" and "proj_size" not in options))


def test_checks_see_the_weights_in_use():
    """Of another dtype, handed over, computed."""
    for change in (
        lambda m: m.half(),
        lambda m: setattr(m, "_flat_weights", [w.half() for w in m.parameters()]),
        lambda m: m._flat_weights.__setitem__(0, m.weight_ih_l0.bfloat16()),
        lambda m: parametrizations.weight_norm(m.double(), "weight_ih_l0"),
        lambda m: m.load_state_dict({k: v.double() for k, v in m.state_dict().items()}, assign=True),
    ):
        modules = pair()
        for module in modules:
            change(module)
        a, b, c = outcomes(modules, lambda m: m.check_input(torch.zeros(6, 3, 4), None))
        assert a == b == c and a[0] is ValueError


class Custom(nn.LSTM):
    """forward in the manner of torch's own, by its methods, with our kernels for the last step."""

    def forward(self, input, hx=None):
        if not isinstance(input, PackedSequence):
            return super().forward(input, hx)
        data, batch_sizes, sorted_indices, unsorted_indices = input
        if hx is None:
            hx = tuple(
                data.new_zeros(size(data, batch_sizes))
                for size in (self.get_expected_hidden_size, self.get_expected_cell_size)
            )
        hx = self.permute_hidden(hx, sorted_indices)
        self.check_forward_args(data, hx, batch_sizes)
        output, states = super().forward(PackedSequence(data, batch_sizes), hx)
        return output._replace(sorted_indices=sorted_indices), self.permute_hidden(states, unsorted_indices)


def test_in_a_subclass():
    theirs = Custom(4, 5, num_layers=2, proj_size=3)
    ours = lstm_fused.convert(Custom(4, 5, num_layers=2, proj_size=3))
    ours.load_state_dict(theirs.state_dict())
    packed = pack_sequence([torch.randn(n, 4) for n in (2, 6, 3)], enforce_sorted=False)
    states = torch.randn(2, 3, 3), torch.randn(2, 3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of projections
        for hx in (None, states):
            for a, b in zip(ours(packed, hx), theirs(packed, hx), strict=True):
                torch.testing.assert_close(a, b)
        a, b = outcomes((ours, theirs), lambda m: m(packed, states[::-1]))
        assert a == b and a[0] is RuntimeError


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_names_and_weights(options: dict):
    for module in (*pair(**options)[:2], lstm_fused.convert(nn.LSTM(4, 5, **options))):
        theirs = nn.LSTM(4, 5, **options)
        assert module._flat_weights_names == theirs._flat_weights_names
        assert module._all_weights == theirs._all_weights
        assert [w.shape for w in module._flat_weights] == [w.shape for w in theirs._flat_weights]
        for row, names in zip(module.all_weights, module._all_weights, strict=True):
            assert all(weight is getattr(module, name) for weight, name in zip(row, names, strict=True))
        assert module.extra_repr() == theirs.extra_repr() and module.mode == theirs.mode == "LSTM"
        assert module.flatten_parameters() is None
        for changed in (False, True):
            assert module._weights_have_changed() is theirs._weights_have_changed() is changed
            for m in (module, theirs):
                m.weight_hh_l0 = nn.Parameter(m.weight_hh_l0.detach())


@pytest.mark.parametrize("ours", [lstm_fused.LSTM, type(lstm_fused.convert(nn.LSTM(4, 5), subclass=True))])
def test_old_pickles(ours: type):
    """State as older releases of torch wrote it: without names, proj_size or references, or with ours of before."""
    source = nn.LSTM(4, 5, num_layers=2, bidirectional=True)
    exact, input = source(torch.ones(6, 3, 4))[0], torch.ones(6, 3, 4)
    full = {name: value for name, value in vars(source).items() if name != "_flat_weight_refs"}
    oldest = {
        name: value for name, value in full.items() if not name.startswith(("_flat", "_all")) and name != "proj_size"
    }
    oldest["all_weights"] = [[getattr(source, name) for name in names] for names in source._all_weights]
    for state in (full, oldest, {name: value for name, value in full.items() if name != "proj_size"}):
        module = ours.__new__(ours)
        module.__setstate__(dict(state))
        assert module.proj_size == 0 and module._all_weights == source._all_weights
        torch.testing.assert_close(module(input)[0], exact)
        theirs = nn.LSTM.__new__(nn.LSTM)
        theirs.__setstate__(dict(state))
        assert lstm_fused.revert(module)._flat_weights_names == theirs._flat_weights_names
        torch.testing.assert_close(module(input)[0], theirs(input)[0])
        assert isinstance(module._flat_weight_refs[0], weakref.ref)
