"""Weights handed over in torch.nn.LSTM's list, `_flat_weights`, and what else decides which tensors compute."""

from __future__ import annotations

import copy
import pickle
import random
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import lstm_fused

X = torch.randn(6, 3, 5)
NAMES = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]


def pair(cls: type = lstm_fused.LSTM, **options) -> list[nn.LSTM]:
    """Ours and torch's with the same weights; or torch's twice, the first converted."""
    modules = [(nn.LSTM if cls is lstm_fused.convert else cls)(5, 5, **options), nn.LSTM(5, 5, **options)]
    modules[1].load_state_dict(modules[0].state_dict())
    if cls is lstm_fused.convert:
        modules[0](X)
        lstm_fused.convert(modules[0])
    return modules


def fresh(module: nn.LSTM) -> list[torch.Tensor]:
    return [torch.randn_like(weight).requires_grad_() for weight in nn.LSTM(5, 5).parameters()]


def assert_same(modules: list[nn.LSTM]) -> None:
    ours, theirs = (module(X) for module in modules)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(modules[0]._flat_weights, modules[1]._flat_weights, strict=True):
        torch.testing.assert_close(a, b)


CLASSES = pytest.mark.parametrize("cls", [lstm_fused.LSTM, lstm_fused.convert], ids=["built", "converted"])


@CLASSES
@pytest.mark.parametrize("grad", [True, False])
def test_handed_over(cls, grad: bool):
    """The whole list, one element, and an element of a list that was read before a call."""
    modules = pair(cls)
    with torch.set_grad_enabled(grad):
        held = [module._flat_weights for module in modules]
        assert_same(modules)
        weights = fresh(modules[0])
        for module, one in zip(modules, held, strict=True):
            one[1] = weights[1]
            assert module._flat_weights is one
        assert_same(modules)
        for module in modules:
            module._flat_weights[2] = weights[2]
        assert_same(modules)
        for module in modules:
            module._flat_weights = list(weights)
        assert_same(modules)
        for module in modules:  # a name that changes takes all of them back
            module.bias_hh_l0 = nn.Parameter(weights[3].detach())
            module._flat_weights[0] = weights[0]
        assert_same(modules)
        assert modules[0]._flat_weights[0] is modules[0].weight_ih_l0
        for module in modules:
            module._flat_weights[0] = weights[0]
        assert_same(modules)


@CLASSES
def test_inner_steps_of_meta_learning(cls):
    """Fast weights are assigned; the outer gradient goes through the inner steps, and back to the parameters."""
    gradients = []
    for module in pair(cls):
        fast = list(module.parameters())
        for _ in range(2):
            module._flat_weights = fast
            loss = module(X)[0].square().mean()
            steps = torch.autograd.grad(loss, fast, create_graph=True)
            fast = [weight - 0.5 * step for weight, step in zip(fast, steps, strict=True)]
        module._flat_weights = fast
        outer = module(X)[0].square().mean()
        gradients.append([outer, *torch.autograd.grad(outer, list(module.parameters()))])
    torch.testing.assert_close(*gradients)
    assert gradients[0][0] < loss


def test_an_adapter():
    """Low rank on top of frozen weights, handed over in a pre-hook: the adapter alone is trained."""
    results = []
    for module in pair(num_layers=1, bias=False):
        torch.manual_seed(0)
        a, b = torch.randn(20, 2, requires_grad=True), torch.randn(2, 5, requires_grad=True)
        module.requires_grad_(False)

        def hand_over(module, args, a=a, b=b):
            module._flat_weights = [module.weight_ih_l0 + a @ b, module.weight_hh_l0]

        module.register_forward_pre_hook(hand_over)
        optimizer = torch.optim.SGD([a, b], lr=0.1)
        for _ in range(3):
            loss = module(X)[0].square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        results.append([loss, a, b])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("how", ["delattr", "_parameters"])
@pytest.mark.parametrize("by_list", [True, False])
def test_parameters_taken_off(how: str, by_list: bool):
    """And replaced by plain tensors, under their names or in the list."""
    modules = pair()
    weights, gradients = fresh(modules[0]), []
    for module in modules:
        for name, weight in zip(NAMES, weights, strict=True):
            delattr(module, name) if how == "delattr" else module._parameters.pop(name)
            if not by_list:
                setattr(module, name, weight)
        if by_list:
            module._flat_weights = list(weights)
        assert not list(module.parameters())
        gradients.append(torch.autograd.grad(module(X)[0].square().sum(), weights))
    torch.testing.assert_close(*gradients)
    assert_same(modules)
    for module in modules:
        for name, weight in zip(NAMES, weights, strict=True):
            setattr(module, name, weight * 2)
    assert_same(modules)


def test_a_weight_that_is_missing():
    """An error that names it, whether there is a list or not."""
    for touch in (lambda m: None, lambda m: m._flat_weights):
        module = lstm_fused.LSTM(5, 5)
        del module.weight_hh_l0
        touch(module)
        with pytest.raises(AttributeError, match="weight_hh_l0"):
            module(X)


def change_by_list(modules, weights, n):
    for module in modules:
        module._flat_weights = list(weights)


def change_an_element(modules, weights, n):
    for module in modules:
        module._flat_weights[n] = weights[n]


def change_a_held_list(modules, weights, n):
    """Read before a call, changed after it."""
    lists = [module._flat_weights for module in modules]
    assert_same(modules)
    for held in lists:
        held[n] = weights[n]


def change_a_name(modules, weights, n):
    for module in modules:
        setattr(module, NAMES[n], nn.Parameter(weights[n].detach().clone()))


def change_a_name_to_a_tensor(modules, weights, n):
    for module in modules:
        if NAMES[n] in module._parameters:
            delattr(module, NAMES[n])
        setattr(module, NAMES[n], weights[n])


def change_a_name_unseen(modules, weights, n):
    """As learn2learn's and others' functional modules do. Then a call: nothing else tells torch of it."""
    for module in modules:
        vars(module).pop(NAMES[n], None)
        module._parameters[NAMES[n]] = nn.Parameter(weights[n].detach().clone())
    assert_same(modules)


def change_in_place(modules, weights, n):
    with torch.no_grad():
        for module in modules:
            getattr(module, NAMES[n]).copy_(weights[n])


def load(modules, weights, n):
    state = {name: weight.detach().clone() for name, weight in zip(NAMES, weights, strict=True)}
    for module in modules:
        module.load_state_dict({name: state[name] for name in module.state_dict()}, assign=n % 2 == 0)


def replace_for_a_call(modules, weights, n):
    named = dict(zip(NAMES, weights, strict=True))
    torch.testing.assert_close(*(torch.func.functional_call(m, named, (X,)) for m in modules))
    assert_same(modules)  # torch would ignore a list assigned before that


def convert_dtype(modules, weights, n):
    for module in modules:
        module.double().float()


def share(modules, weights, n):
    for module in modules:
        if list(module.parameters()):
            module.share_memory()


def copy_all(modules, weights, n):
    how = [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m][n]
    for module in modules:
        leaves = [*module._flat_weights, *(w for w in vars(module).values() if isinstance(w, torch.Tensor))]
        if n != 0 and not all(w.is_leaf for w in leaves):
            return
    modules[:] = [how(module) for module in modules]
    assert_same(modules)  # as above


def there_and_back(modules, weights, n):
    """To torch's class and back: what was handed over is still in force."""
    lstm_fused.revert(modules[0])
    assert type(modules[0]) is nn.LSTM
    if n % 2:
        assert_same(modules)
    lstm_fused.convert(modules[0])


def zero_grad(modules, weights, n):
    for module in modules:
        module.zero_grad(), module.flatten_parameters(), module.train(n % 2 == 0)


CHANGES = [function for name, function in globals().items() if name.startswith(("change_", "copy_"))]
CHANGES += [load, replace_for_a_call, convert_dtype, share, there_and_back, zero_grad]


@pytest.mark.parametrize("seed", range(60))
def test_any_order(seed: int):
    """Changes of every kind in any order, with a call in between or not: what computes in torch computes here."""
    draw = random.Random(seed)
    modules = pair(draw.choice([lstm_fused.LSTM, lstm_fused.convert]))
    history = []
    for _ in range(12):
        change, n = draw.choice(CHANGES), draw.randrange(4)
        history.append((change.__name__, n))
        change(modules, fresh(modules[0]), n)
        if draw.random() < 0.6:
            history.append("call")
            try:
                assert_same(modules)
            except AssertionError as error:
                raise AssertionError(f"after {history}") from error


def test_parametrized_weights_are_computed_once():
    """And nothing of them is kept: a list that is handed over lasts until the next call, as in torch."""

    class Counted(nn.Module):
        calls = 0

        def forward(self, weight):
            self.calls += 1
            return 2 * weight

    ours, theirs = modules = pair()
    counters = [Counted(), Counted()]
    for module, counter in zip(modules, counters, strict=True):
        parametrize.register_parametrization(module, "weight_hh_l0", counter)
    for module in modules:
        module._flat_weights = fresh(module)
    torch.testing.assert_close(ours(X), theirs(X))
    counters[0].calls = 0
    output = ours(X)[0]
    assert counters[0].calls == 1
    kept = weakref.ref(output.grad_fn)
    del output
    assert kept() is None and "_flat_weights" not in vars(ours)
    torch.testing.assert_close(copy.deepcopy(ours)(X), theirs(X))  # which torch refuses after a call
    with parametrize.cached():
        torch.testing.assert_close(ours(X), theirs(X))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, parametrizations.weight_norm], ids=["hook", "parametrization"])
def test_weight_norm_of_converted(wrap):
    """Before convert and after, with a list that torch has filled."""
    for early in (True, False):
        modules = pair()
        plain = nn.LSTM(5, 5)
        plain.load_state_dict(modules[1].state_dict())
        modules[0] = plain
        if not early:
            lstm_fused.convert(plain)
        for module in modules:
            wrap(module, "weight_hh_l0")
            module(X)
        if early:
            lstm_fused.convert(plain)
        for _ in range(2):
            assert_same(modules)
            for module in modules:
                optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
                module(X)[0].square().sum().backward()
                optimizer.step(), optimizer.zero_grad()
        lstm_fused.revert(plain)
        assert_same(modules)


def test_replicas():
    """What DataParallel makes of a module: copies of its parameters as plain attributes."""
    for cls in (lstm_fused.LSTM, lstm_fused.convert):
        modules = pair(cls)
        for _ in range(2):
            results = []
            for module in modules:
                replica = module._replicate_for_data_parallel()
                for name, parameter in module.named_parameters():
                    setattr(replica, name, parameter.clone())
                output = replica(X)[0]
                results.append([output, *torch.autograd.grad(output.square().sum(), list(module.parameters()))])
                assert type(replica) is type(module)
            torch.testing.assert_close(*results)
            assert_same(modules)
            change_by_list(modules, fresh(module), 0)


def test_compiled():
    """A list handed over before or between calls of a compiled module."""
    ours, theirs = modules = pair()
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X), theirs(X))
    for _ in range(2):
        weights = fresh(ours)
        for module in modules:
            module._flat_weights = list(weights)
        torch.testing.assert_close(compiled(X), theirs(X))
    for module in modules:
        module._flat_weights[0] = weights[0] * 2
    torch.testing.assert_close(compiled(X), theirs(X))
    for module in modules:
        module.weight_hh_l0 = nn.Parameter(weights[1].detach())
    torch.testing.assert_close(compiled(X), theirs(X))
