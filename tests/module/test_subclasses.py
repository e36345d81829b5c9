"""convert of other people's subclasses and of parametrized modules, subclass=True, and revert of all of it."""

from __future__ import annotations

import abc
import copy
import functools
import gc
import io
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import lstm_fused
from lstm_fused import convert, revert


class Plain(nn.LSTM):
    """Adds a constructor and a method, leaves forward alone."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 5, num_layers=2)
        self.scale = nn.Parameter(torch.ones(()))

    def twin(self) -> Plain:
        return type(self)(self.input_size)


class Mixin(abc.ABC, nn.RNNBase):
    """Before torch.nn.LSTM in the order of resolution, as forecasting libraries have it."""

    @abc.abstractmethod
    def name(self) -> str: ...

    def forward(self, input, hx=None, lengths=None):
        if lengths is None or isinstance(input, PackedSequence):
            return super().forward(input, hx=hx)
        output, states = super().forward(input[: max(lengths)], hx=hx)
        return output * 2, states


class Mixed(Mixin, nn.LSTM):
    def name(self) -> str:
        return "mixed"


def doubled(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        output, states = function(*args, **kwargs)
        return 2 * output, states

    return wrapper


class Decorated(nn.LSTM):
    @doubled
    @torch.autocast("cpu", enabled=False)
    def forward(self, input, hx=None):
        def run():
            return super(Decorated, self).forward(input, hx)

        return run()


class Deeper(Decorated):
    def forward(self, input, hx=None):
        return self.helper(input, hx)

    def helper(self, input, hx):
        return super().forward(input + 1, hx)


class Pair(nn.LSTMCell):
    def forward(self, input, hx=None):
        h, c = super().forward(input, hx)
        return c, h


class Own(nn.LSTM):
    """Computes by itself."""

    def forward(self, input, hx=None):
        return input @ self.weight_ih_l0.t(), None


class Explicit(nn.LSTM):
    """Calls torch's function by its name, which nothing of ours can come before."""

    def forward(self, input, hx=None):
        return nn.LSTM.forward(self, input, hx)


class BelowOwn(Own):
    def forward(self, input, hx=None):
        return super().forward(input, hx)


class Registered(nn.LSTM):
    """Every class made of it must say a key."""

    def __init_subclass__(cls, *, key: str) -> None:
        super().__init_subclass__()


MAKE = {
    "plain": lambda: Plain(4),
    "mixed": lambda: Mixed(4, 5, bidirectional=True, batch_first=True, proj_size=2),
    "decorated": lambda: Decorated(4, 5),
    "deeper": lambda: Deeper(4, 5),
    "cell": lambda: Pair(4, 5),
}
CELLS = ("Pair", "LSTMCell")
CASES = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())


def results(module: nn.Module, **kwargs) -> list[torch.Tensor]:
    """Outputs and gradients."""
    torch.manual_seed(1)
    input = torch.randn(3, 4) if type(module).__name__ in CELLS else torch.randn(6, 3, 4)
    tensors = [t for t in torch.utils._pytree.tree_leaves(module(input, **kwargs)) if t is not None]
    wanted = [p for p in module.parameters() if p.numel() > 1]
    if not wanted:  # quantized
        return tensors
    return [*tensors, *torch.autograd.grad(sum(t.square().sum() for t in tensors), wanted, allow_unused=True)]


def assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def runs_ours(module: nn.Module) -> bool:
    """Whether a call reaches our operators: torch's own have other names."""
    input = torch.randn(3, 4) if type(module).__name__ in CELLS else torch.randn(6, 3, 4)
    with torch.profiler.profile() as profile, torch.no_grad():
        module(input)
    names = {event.name for event in profile.events()}
    assert ("aten::lstm" in names or "aten::lstm_cell" in names) is not any("lstm_fused" in name for name in names)
    return any("lstm_fused" in name for name in names)


@CASES
@pytest.mark.parametrize("subclass", [False, True])
def test_a_subclass(make, subclass: bool):
    module = make()
    cls, text, state, exact = type(module), repr(module), dict(vars(module)), results(module)
    assert not runs_ours(module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert convert(module, subclass=subclass) is module
    assert runs_ours(module) and isinstance(module, cls) and isinstance(module, (lstm_fused.LSTM, lstm_fused.LSTMCell))
    assert repr(module) == text and type(module).__qualname__ == cls.__qualname__
    assert type(module).__module__ == cls.__module__ and type(module).__doc__ == cls.__doc__
    assert_same(results(module), exact)
    changed = type(module)
    assert type(convert(module, subclass=not subclass)) is changed is type(convert(make()))
    assert revert(module) is module and type(module) is cls and not runs_ours(module)
    assert vars(module).keys() == state.keys()
    assert_same(results(module), exact)


def test_what_a_subclass_adds():
    module = convert(Mixed(4, 5))
    exact = revert(copy.deepcopy(module))
    assert module.name() == "mixed"
    assert_same(results(module, lengths=[5, 2, 1]), results(exact, lengths=[5, 2, 1]))
    packed = pack_sequence([torch.randn(n, 4) for n in (2, 6, 3)], enforce_sorted=False)
    torch.testing.assert_close(module(packed)[0].data, exact(packed)[0].data)
    twin = convert(Plain(4)).twin()
    assert type(twin) is type(convert(Plain(4))) and runs_ours(twin)
    assert "scale" in twin.state_dict()


@pytest.mark.parametrize("plain", [nn.LSTM, nn.LSTMCell])
def test_instances_of_torch(plain: type):
    """subclass=True, and from there to the plain ones and to torch's."""
    module = plain(4, 5)
    text, exact = repr(module), results(module)
    ours = {nn.LSTM: lstm_fused.LSTM, nn.LSTMCell: lstm_fused.LSTMCell}[plain]
    for _ in range(2):
        assert convert(module, subclass=True) is module
        assert isinstance(module, plain) and isinstance(module, ours) and repr(module) == text
        assert runs_ours(module)
        assert_same(results(module), exact)
        assert type(convert(module)) is ours and not isinstance(module, plain)
        convert(module, subclass=True)
        assert type(revert(module)) is plain and not runs_ours(module)
    built = type(convert(module, subclass=True))(4, 5, bias=False, dtype=torch.float64)
    assert isinstance(built, plain) and built(torch.randn(3, 4, dtype=torch.float64))[0].dtype == torch.float64


@pytest.mark.parametrize("make", [lambda: nn.LSTM(4, 5), lambda: nn.LSTMCell(4, 5), *MAKE.values()])
@pytest.mark.parametrize("how", ["deepcopy", "copy", "pickle", "pickle 0", "torch.save"])
def test_copies(make, how: str):
    module = convert(nn.Sequential(make()), subclass=True)
    if how == "torch.save":
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    else:
        function = {"deepcopy": copy.deepcopy, "copy": lambda m: nn.Sequential(copy.copy(m[0]))}.get(
            how, lambda m: pickle.loads(pickle.dumps(m, 0 if how == "pickle 0" else None))
        )
        twin = function(module)
    assert type(twin[0]) is type(module[0]) and twin[0] is not module[0]
    assert_same(results(twin[0]), results(module[0]))
    assert type(revert(twin)[0]) is type(make()) and runs_ours(module[0])


def test_what_cannot_be_converted_is_named_once():
    """And works as before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript and quantization, which are deprecated
        scripted = torch.jit.script(nn.Sequential(nn.LSTM(4, 5)))
        traced = torch.jit.trace(nn.Sequential(nn.LSTM(4, 5)), torch.randn(6, 3, 4))
        quantized = torch.ao.quantization.quantize_dynamic(nn.ModuleList([nn.LSTM(4, 5), nn.LSTMCell(4, 5)]))
    patched = nn.LSTM(4, 5)
    patched.forward = patched.forward
    parts = {
        "scripted": scripted,
        "traced": traced,
        "quantized": quantized[0],
        "quantized_cell": quantized[1],
        "own": Own(4, 5),
        "explicit": Explicit(4, 5),
        "below": BelowOwn(4, 5),
        "patched": patched,
        "registered": Registered(4, 5),
        "fine": Plain(4),
    }
    model = nn.ModuleDict(parts)
    before = {name: (type(part), results(part)) for name, part in model.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        convert(model)
    (warning,) = caught
    assert warning.category is UserWarning
    assert warning.filename == __file__
    text = str(warning.message)
    for piece in [
        "scripted.0 (TorchScript)", "traced.0 (TorchScript)", "quantized (of torch.ao", "quantized_cell (of torch.ao",
        "own (Own.forward does not call super().forward)", "explicit (Explicit.forward does not",
        "below (Own.forward does not", "patched (its forward was replaced)", "registered (", "key",
    ]:  # fmt: skip
        assert piece in text
    assert "fine" not in text and runs_ours(model["fine"])
    for name, (cls, exact) in before.items():
        assert name == "fine" or type(model[name]) is cls
        assert_same(results(model[name]), exact)
    with pytest.warns(UserWarning, match="the module itself"):
        convert(Own(4, 5))


class OnOurs(lstm_fused.LSTM):
    """Someone's subclass of ours."""


def test_subclasses_of_ours_stay():
    model = nn.Sequential(nn.LSTM(4, 5), OnOurs(4, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(model, subclass=True)
    assert type(model[1]) is OnOurs
    with pytest.warns(UserWarning, match=r"revert: left as they are: 1 \(OnOurs is a subclass of ours\)") as caught:
        revert(model)
    assert type(model[0]) is nn.LSTM and type(model[1]) is OnOurs and caught[0].filename == __file__


def test_classes_are_let_go_of():
    """A class made on the spot, as in a function, lives as long as its instances."""
    cls = type("Local", (nn.LSTM,), {})
    module = convert(cls(4, 5))
    kept = weakref.ref(type(module)), weakref.ref(cls)
    assert type(convert(cls(4, 5))) is type(module)
    del module, cls
    gc.collect(), gc.collect()  # the instances, then what they held
    assert kept[0]() is None and kept[1]() is None


# ---- parametrized modules, each of which has a class of its own


WRAPS = {
    "weight norm": lambda m: parametrizations.weight_norm(m, "weight_hh_l0"),
    "two": lambda m: parametrizations.orthogonal(parametrizations.weight_norm(m, "weight_hh_l0"), "weight_ih_l0"),
    "spectral norm": lambda m: parametrizations.spectral_norm(m, "weight_hh_l0"),
}


@pytest.mark.parametrize("subclass", [False, True])
@pytest.mark.parametrize("make", [lambda: nn.LSTM(4, 5, bidirectional=True), lambda: Plain(4), lambda: Mixed(4, 5)])
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS.keys())
def test_parametrized(wrap, make, subclass: bool):
    module = wrap(make()).eval()
    plain, cls, text, twin = type(make()), type(module), repr(module), copy.deepcopy(module)
    state, exact = copy.deepcopy(module.state_dict()), results(module)
    module.train()
    convert(module, subclass=subclass)
    assert isinstance(module, lstm_fused.LSTM) and repr(module) == text
    assert isinstance(module, nn.LSTM) is (subclass or plain is not nn.LSTM)
    assert type(twin) is cls  # though a copy shares the class of the original
    assert runs_ours(module.eval())
    assert_same(results(module), exact)
    other = copy.deepcopy(module)
    assert_same(results(other), exact)
    revert(module.train())
    assert type(module) is cls
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert_same(results(module.eval()), exact)
    assert not runs_ours(module)
    parametrize.remove_parametrizations(other, "weight_hh_l0")
    assert other.weight_hh_l0.requires_grad and runs_ours(other)


def test_parametrizations_that_change_in_between():
    """One more and one less than when it was converted; revert gives what torch would have by now."""
    module = WRAPS["weight norm"](nn.LSTM(5, 5))
    first = type(module)
    convert(module)
    parametrizations.orthogonal(module, "weight_ih_l0")
    parametrize.remove_parametrizations(module, "weight_hh_l0")
    input = torch.randn(6, 3, 5)
    exact = module(input)[0]
    revert(module)
    assert type(module).__base__ is nn.LSTM and type(module) is not first
    assert parametrize.is_parametrized(module, "weight_ih_l0")
    assert not parametrize.is_parametrized(module, "weight_hh_l0")
    torch.testing.assert_close(module(input)[0], exact)
    parametrize.remove_parametrizations(convert(module), "weight_ih_l0")
    assert type(module) is lstm_fused.LSTM and type(revert(module)) is nn.LSTM
    torch.testing.assert_close(module(input)[0], exact)
    built = convert(WRAPS["weight norm"](lstm_fused.LSTM(5, 5)))
    assert type(revert(built)).__base__ is nn.LSTM
