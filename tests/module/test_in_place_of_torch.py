"""in_place_of_torch: whoever builds or loads an LSTM gets ours, however it came by the name."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import pickle
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn import LSTM as EARLY
from torch.nn import LSTMCell as EARLY_CELL

import lstm_fused
from lstm_fused import in_place_of_torch


class Tagger(nn.Module):
    """Someone's model."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(4, 5, 2, True, bidirectional=True)
        self.cell = torch.nn.modules.rnn.LSTMCell(10, 5, bias=False)
        for part in self.modules():
            if isinstance(part, nn.LSTM):
                nn.init.orthogonal_(part.weight_hh_l0)

    def forward(self, input):
        return self.cell(self.encoder(input)[0][-1])[0]


class Sub(EARLY):
    def __init__(self, width: int) -> None:
        super().__init__(width, 5)
        self.built_as = type(self)

    def forward(self, input, hx=None):
        output, states = super().forward(input, hx)
        return 2 * output, states


class Own(nn.LSTM):
    def forward(self, input, hx=None):
        return input, hx


def is_ours(module: nn.Module) -> bool:
    return isinstance(module, (lstm_fused.LSTM, lstm_fused.LSTMCell))


def assert_torch_is_back() -> None:
    for cls in (nn.LSTM, nn.LSTMCell):
        assert type(cls(4, 5)) is cls and "__setstate__" not in vars(cls)
        assert type(pickle.loads(pickle.dumps(cls(4, 5)))) is cls
    assert not is_ours(Sub(4))


@pytest.fixture(autouse=True)
def torch_is_back():
    """However a test ends."""
    yield
    assert_torch_is_back()


@pytest.mark.parametrize("cls", [nn.LSTM, torch.nn.modules.LSTM, EARLY, nn.LSTMCell, EARLY_CELL])
def test_built(cls: type):
    """By any name, with the arguments and the random numbers of torch's."""
    torch.manual_seed(0)
    theirs = cls(4, 5, bias=False, dtype=torch.float64)
    torch.manual_seed(0)
    with in_place_of_torch():
        ours = cls(4, 5, bias=False, dtype=torch.float64)
        assert isinstance(ours, cls) and inspect.signature(cls).parameters
        with pytest.raises(ValueError, match="hidden_size"):
            cls(4, -5) if issubclass(cls, nn.LSTM) else torch.nn.LSTM(4, -5)
    assert is_ours(ours) and isinstance(ours, cls) and repr(ours) == repr(theirs)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    input = torch.randn(3, 4, dtype=torch.float64)
    for a, b in zip(*(torch.utils._pytree.tree_leaves(m(input)) for m in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)
    assert type(lstm_fused.revert(ours)) is cls


def test_a_model():
    """It goes on as ours afterwards, and as a checkpoint; convert makes it plain, for torch.compile."""
    torch.manual_seed(0)
    exact = Tagger()
    torch.manual_seed(0)
    with in_place_of_torch():
        model = Tagger()
    assert is_ours(model.encoder) and is_ours(model.cell)
    assert isinstance(model.encoder, nn.LSTM) and isinstance(model.cell, nn.LSTMCell)
    input = torch.randn(6, 3, 4)
    torch.testing.assert_close(model(input), exact(input))
    exact.load_state_dict(model.state_dict())
    assert is_ours(copy.deepcopy(model).encoder)
    lstm_fused.convert(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(input), exact(input))


def test_subclasses():
    """Defined before, or inside, where the name is torch's own: they count, and leak nothing."""
    with in_place_of_torch():
        early = Sub(4)

        class Late(nn.LSTM):
            pass

        late = Late(4, 5)
    for module, cls in ((early, Sub), (late, Late)):
        assert is_ours(module) and isinstance(module, cls)
    assert early.built_as is type(early)
    assert not is_ours(Late(4, 5)) and not issubclass(Late, lstm_fused.LSTM)
    exact, input = Sub(4), torch.randn(6, 3, 4)
    exact.load_state_dict(early.state_dict())
    torch.testing.assert_close(early(input), exact(input))
    with in_place_of_torch(), pytest.warns(UserWarning, match=r"Own stays as it is \(Own.forward does not") as caught:
        assert type(Own(4, 5)) is Own
    assert caught[0].filename == __file__


def test_loaded():
    """torch.load of whole modules, in both of its modes; pickle; deepcopy."""
    theirs = nn.ModuleDict({"model": Tagger(), "sub": Sub(4)})
    buffer = io.BytesIO()
    torch.save(theirs, buffer)
    cell = nn.Sequential(nn.LSTMCell(4, 5))
    safe = io.BytesIO()
    torch.save(cell, safe)
    safe.seek(0)
    with in_place_of_torch():
        for how in (
            lambda: torch.load(io.BytesIO(buffer.getvalue()), weights_only=False),
            lambda: pickle.loads(pickle.dumps(theirs)),
            lambda: copy.deepcopy(theirs),
        ):
            ours = how()
            assert is_ours(ours["model"].encoder) and is_ours(ours["model"].cell) and is_ours(ours["sub"])
            assert not is_ours(theirs["sub"])
            input = torch.randn(6, 3, 4)
            torch.testing.assert_close(ours["model"](input), theirs["model"](input))
            torch.testing.assert_close(ours["sub"](input), theirs["sub"](input))
        with torch.serialization.safe_globals([nn.Sequential, nn.LSTMCell, set]):
            assert is_ours(torch.load(safe)[0])
        before = nn.LSTM.__init__
        skipped = torch.nn.utils.skip_init(nn.LSTMCell, 4, 5)
        assert is_ours(skipped) and nn.LSTM.__init__ is before


def test_nested_and_failing():
    with in_place_of_torch():
        with in_place_of_torch():
            assert is_ours(nn.LSTM(4, 5))
        assert is_ours(nn.LSTM(4, 5))
        with contextlib.suppress(KeyError), in_place_of_torch():
            raise KeyError
        assert is_ours(nn.LSTM(4, 5))
    assert_torch_is_back()
    with pytest.raises(KeyError), in_place_of_torch():
        raise KeyError
    assert_torch_is_back()

    @in_place_of_torch()
    def build():
        return nn.LSTM(4, 5)

    assert is_ours(build()) and is_ours(build())


def test_threads():
    """What is built in another thread is ours, too; contexts of several threads may end in any order."""
    entered, leave, built = threading.Event(), threading.Event(), []

    def other() -> None:
        with in_place_of_torch():
            entered.set()
            leave.wait(60)
            built.append(nn.LSTM(4, 5))

    thread = threading.Thread(target=other)
    with in_place_of_torch():
        builder = threading.Thread(target=lambda: built.append(nn.LSTM(4, 5)))
        builder.start(), builder.join()
        thread.start()
        assert entered.wait(60)
    assert is_ours(nn.LSTM(4, 5))  # the other's goes on
    leave.set()
    thread.join()
    assert len(built) == 2 and all(map(is_ours, built))


def test_ours_stay_what_they_are():
    with in_place_of_torch(), warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = lstm_fused.LSTM(4, 5)
        assert type(plain) is lstm_fused.LSTM and type(copy.deepcopy(plain)) is lstm_fused.LSTM
        assert type(nn.GRU(4, 5)) is nn.GRU
