"""Tools of torch that look at a module's class: torch.fx, TorchScript, quantization, torch.nn.utils."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import fx, nn
from torch.nn.utils import parametrizations, prune

import lstm_fused
from lstm_fused import convert, revert

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of the tools


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"lstm": nn.LSTM(4, 5, 2, batch_first=True, dropout=0.5, bidirectional=True)})
        self.cell = nn.LSTMCell(10, 5)
        self.head = nn.Linear(5, 3)
        self.start = nn.Parameter(torch.randn(4, 1, 5))

    def forward(self, input):
        state = self.start.expand(-1, input.size(0), -1)
        output, (h, _) = self.parts["lstm"](input, (state, state))
        return self.head(self.cell(output[:, -1], (h[-1], h[-2]))[0])


def pair() -> tuple[nn.Module, nn.Module]:
    theirs = Model()
    return convert(copy.deepcopy(theirs)), theirs


X = torch.randn(3, 6, 4)


@pytest.mark.parametrize("subclass", [False, True])
def test_fx(subclass: bool):
    """The graph that torch.nn's modules give; it runs, trains, and can be converted there and back."""
    ours, theirs = pair()
    convert(ours, subclass=subclass)
    traced, exact = fx.symbolic_trace(ours), fx.symbolic_trace(theirs)
    assert str(traced.graph) == str(exact.graph)
    assert traced.get_submodule("parts.lstm") is ours.parts["lstm"]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (traced, exact)]
    for _ in range(3):
        outputs = []
        for module, optimizer in zip((traced, exact), optimizers, strict=True):
            torch.manual_seed(0)  # of dropout
            outputs.append(module(X))
            optimizer.zero_grad()
            outputs[-1].square().sum().backward()
            optimizer.step()
        torch.testing.assert_close(*outputs)
    traced.eval(), exact.eval()
    for how in (lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), revert, convert):
        traced = how(traced)
        torch.testing.assert_close(traced(X), exact(X))
    assert type(traced.get_submodule("parts.lstm")) is lstm_fused.LSTM


class Extras(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = lstm_fused.LSTM(4, 5)

    def forward(self, input, lengths):
        output, _, cells = self.lstm(input, lengths=lengths, return_cells=True)
        return output + cells


def test_fx_with_arguments_of_ours():
    model = Extras()
    traced = fx.symbolic_trace(model)
    (node,) = (node for node in traced.graph.nodes if node.op == "call_module")
    assert set(node.kwargs) == {"lengths", "return_cells"} and len(node.args) == 1
    input, lengths = torch.randn(6, 3, 4), torch.tensor([6, 2, 1])
    assert torch.equal(traced(input, lengths), model(input, lengths))


def test_fx_of_the_module_itself():
    """torch.nn.LSTM's raises the same error, for another reason."""
    for module in (lstm_fused.LSTM(4, 5), lstm_fused.LSTMCell(4, 5), nn.LSTM(4, 5), nn.LSTMCell(4, 5)):
        with pytest.raises(fx.proxy.TraceError):
            fx.symbolic_trace(module)


@pytest.mark.parametrize("subclass", [False, True])
def test_script(subclass: bool):
    """Refused with the way out, and the model is as it was; the way out works."""
    ours, theirs = pair()
    convert(ours, subclass=subclass).eval(), theirs.eval()
    for module in (ours, ours.parts["lstm"], ours.cell):
        with pytest.raises(RuntimeError, match=r"lstm_fused\.LSTM.*lstm_fused\.revert\(model\).*torch\.jit\.trace"):
            torch.jit.script(module)
    assert isinstance(ours.parts["lstm"], lstm_fused.LSTM) and isinstance(ours.cell, lstm_fused.LSTMCell)
    layer = nn.Sequential(ours.parts["lstm"])
    scripted = torch.jit.script(revert(copy.deepcopy(layer)))
    torch.testing.assert_close(scripted(X), layer(X))
    with torch.no_grad():
        traced = torch.jit.trace(ours, X)
        torch.testing.assert_close(traced(X), theirs(X))


def messages_of(function) -> tuple[object, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function()
    return result, [str(w.message) for w in caught if "lstm_fused" in str(w.message)]


def test_quantize_dynamic():
    """It knows torch.nn's classes alone: said for each, and after revert it quantizes what it would have."""
    ours, theirs = pair()
    ours.eval(), theirs.eval()
    quantized, messages = messages_of(lambda: torch.ao.quantization.quantize_dynamic(ours))
    assert len(messages) == 2 and all("lstm_fused.revert(model)" in message for message in messages)
    assert type(quantized.cell) is lstm_fused.LSTMCell and type(quantized.head) is not nn.Linear
    assert not hasattr(quantized.cell, "qconfig") and not hasattr(ours.cell, "qconfig")
    torch.testing.assert_close(quantized(X), ours(X), rtol=0, atol=0.05)
    quantized, messages = messages_of(lambda: torch.ao.quantization.quantize_dynamic(revert(ours)))
    assert not messages and torch.equal(quantized(X), torch.ao.quantization.quantize_dynamic(theirs)(X))
    assert "Quantized" in repr(quantized.cell) and "Quantized" in repr(quantized.parts["lstm"])


def test_quantize_fx():
    """prepare and convert run with ours inside, which stay in float, and say so."""
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    outputs = []
    for model in pair():
        args = model.eval(), get_default_qconfig_mapping("x86"), (X,)
        prepared, messages = messages_of(lambda args=args: quantize_fx.prepare_fx(*args))
        prepared(X)
        quantized, _ = messages_of(lambda m=prepared: quantize_fx.convert_fx(m))
        assert bool(messages) is isinstance(model.cell, lstm_fused.LSTMCell)
        assert type(quantized.cell) is type(model.cell) and type(quantized.head) is not nn.Linear
        outputs.append(quantized(X))
    torch.testing.assert_close(*outputs, rtol=0, atol=0.05)


def test_a_qconfig_is_an_attribute():
    module = lstm_fused.LSTM(4, 5)
    assert not hasattr(module, "qconfig") and getattr(module, "qconfig", 7) == 7
    with pytest.warns(UserWarning, match="torch.ao.quantization does not know lstm_fused.LSTM"):
        module.qconfig = 3
    assert module.qconfig == 3 and copy.deepcopy(module).qconfig == 3 and revert(module).qconfig == 3
    del convert(module).qconfig
    assert not hasattr(module, "qconfig")


@pytest.mark.filterwarnings("ignore:.*stateless:FutureWarning")
def test_utilities():
    """torch.nn.utils, with both classes and with torch's."""
    for cls, names in (
        (lstm_fused.LSTM, ["weight_hh_l0", "bias_ih_l0"]),
        (lstm_fused.LSTMCell, ["weight_hh", "bias_ih"]),
    ):
        theirs = {lstm_fused.LSTM: nn.LSTM, lstm_fused.LSTMCell: nn.LSTMCell}[cls]
        modules = [torch.nn.utils.skip_init(cls, 4, 5), theirs(4, 5)]  # torch's LSTM cannot
        for module in modules:
            torch.manual_seed(0)
            module.reset_parameters()
            parametrizations.orthogonal(module, names[0])
            prune.l1_unstructured(module, names[1], 0.5)
        results = []
        for module in modules:
            flat = nn.utils.parameters_to_vector(module.parameters())
            nn.utils.vector_to_parameters(flat * 0.5, module.parameters())
            state = {name: p * 1.5 for name, p in module.named_parameters()}
            replaced = nn.utils.stateless.functional_call(module, state, (X[0],))
            results.append([module(X[0]), replaced])
        torch.testing.assert_close(*results)
