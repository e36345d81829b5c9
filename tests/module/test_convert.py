"""convert and revert: modules change class, everything that belongs to them stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lstm_fused
from lstm_fused import convert, revert


class Variant(nn.LSTM):
    """Someone's own LSTM, which computes as torch's."""


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(4, 5, num_layers=2, batch_first=True, bidirectional=True, proj_size=3, dropout=0.5)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 4), nn.Identity()), nn.LSTM(4, 5)])
        self.again = self.blocks[1]
        self.named = nn.ModuleDict({"cell": nn.LSTMCell(5, 5)})
        self.variant = Variant(5, 5)
        self.nothing = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = self.again(self.blocks[0](self.encoder(input)[0]))[0]
        return self.variant(self.blocks[1](x[..., :4])[0])[0] + self.named["cell"](x[0])[0]


def types(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


def test_converts_by_type_and_back():
    model = Model()
    before, names = types(model), list(model.state_dict())
    assert convert(model) is model
    swap = {nn.LSTM: lstm_fused.LSTM, nn.LSTMCell: lstm_fused.LSTMCell, Variant: type(model.variant)}
    assert types(model) == {name: swap.get(cls, cls) for name, cls in before.items()}
    assert isinstance(model.variant, Variant) and isinstance(model.variant, lstm_fused.LSTM)
    assert list(model.state_dict()) == names
    assert revert(model) is model
    assert types(model) == before
    assert list(model.state_dict()) == names


def test_same_outputs_and_gradients():
    model, input = Model().eval(), torch.randn(3, 6, 4)
    results = []
    for change in (lambda m: m, convert, revert):
        output = change(model)(input)
        model.zero_grad()
        output.square().sum().backward()
        results.append([output, *(p.grad for p in model.parameters())])
    for a, b, c in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)


@pytest.mark.parametrize("change", [convert, revert])
def test_parameters_are_the_same_objects(change):
    model = Model() if change is convert else convert(Model())
    before = dict(model.named_parameters())
    change(model)
    after = dict(model.named_parameters())
    assert list(before) == list(after)
    assert all(after[name] is parameter for name, parameter in before.items())


def test_a_module_in_two_places_stays_one():
    model = convert(Model())
    assert model.again is model.blocks[1] and type(model.again) is lstm_fused.LSTM
    shared = nn.LSTM(3, 3)
    outer = convert(nn.Sequential(nn.ModuleDict({"a": shared}), nn.ModuleDict({"b": shared})))
    assert outer[0]["a"] is outer[1]["b"] and type(outer[0]["a"]) is lstm_fused.LSTM


@pytest.mark.parametrize(("plain", "ours"), [(nn.LSTM, lstm_fused.LSTM), (nn.LSTMCell, lstm_fused.LSTMCell)])
def test_the_root(plain: type, ours: type):
    module = plain(4, 5, bias=False, dtype=torch.float64)
    text = repr(module)
    module = convert(module)
    assert type(module) is ours and repr(module) == text
    assert convert(module) is module
    module = revert(module)
    assert type(module) is plain and repr(module) == text
    module(torch.randn(3, 4, dtype=torch.float64))


@pytest.mark.parametrize("training", [False, True])
def test_flags_stay(training: bool):
    """Training mode, and which parameters are trained."""
    module = nn.LSTM(4, 5, num_layers=2, dropout=0.5).train(training)
    module.weight_hh_l0.requires_grad_(False)
    for change in (convert, revert):
        module = change(module)
        assert module.training is training and module.dropout == 0.5
        assert not module.weight_hh_l0.requires_grad and module.weight_hh_l1.requires_grad


def test_hooks_and_attributes_stay():
    calls = []
    module = nn.LSTM(4, 5)
    module.register_forward_pre_hook(lambda m, args: calls.append("pre"))
    handle = module.register_forward_hook(lambda m, args, result: calls.append("post"))
    module.register_full_backward_hook(lambda m, grads, outputs: calls.append("backward"))
    module.register_state_dict_post_hook(lambda m, state, prefix, metadata: calls.append("state"))
    module.note = "mine"
    module.register_buffer("scale", torch.ones(1))
    for change in (convert, revert):
        module = change(module)
        calls.clear()
        module(torch.randn(6, 3, 4, requires_grad=True))[0].sum().backward()
        assert sorted(calls) == ["backward", "post", "pre"]
        module.state_dict()
        assert calls[-1] == "state"
        assert module.note == "mine" and "scale" in dict(module.named_buffers())
    handle.remove()
    calls.clear()
    module(torch.randn(6, 3, 4))
    assert calls == ["pre"]


def test_an_optimizer_goes_on():
    """An optimizer made before the conversion keeps its state and updates what the converted model uses."""
    torch.manual_seed(0)
    models = [nn.Sequential(nn.LSTM(4, 5)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.05) for m in models]
    input = torch.randn(6, 3, 4)
    for step in range(6):
        if step == 2:
            convert(models[1])
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model(input)[0].square().sum().backward()
            optimizer.step()
    assert type(models[1][0]) is lstm_fused.LSTM
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_parametrized_weights_are_kept():
    module = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.LSTM(4, 5), "weight_hh_l0"))
    input = torch.randn(6, 3, 4)
    before, names = module(input)[0], list(module.state_dict())
    convert(module)  # a parametrized module has a class of its own: left alone, or kept parametrized
    assert list(module.state_dict()) == names
    torch.testing.assert_close(module(input)[0], before)


def test_models_without_an_lstm_are_untouched():
    for module in (nn.GRU(4, 5), nn.Linear(4, 5), nn.Sequential()):
        cls = type(module)
        assert convert(module) is module and revert(module) is module and type(module) is cls
