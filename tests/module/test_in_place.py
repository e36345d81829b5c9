"""Operations in place, between forward and backward, on what a call returned and on what it was given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import DTYPES
from simulated import Simulator
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import lstm_fused

T, B, SIZE, H = 7, 5, 9, 17
STACK = {"num_layers": 3, "bidirectional": True}
OPTIONS: list[dict] = [
    {},
    {"bidirectional": True},
    {"num_layers": 2, "bias": False},
    {"proj_size": 5},
    STACK | {"proj_size": 5, "dropout": 0.5},
    {"batch_first": True, **STACK},
]
FORMS = ["padded", "unbatched", "packed", "packed, even", "lengths", "reset"]


def masked(output: Tensor) -> Tensor:
    output[..., 0] = 0
    return output.mul_(2)


# By name: what is done in place to every result, and the same out of place.
CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "relu": (lambda t: t.relu_(), lambda t: t.relu()),
    "dropout": (
        lambda t: nn.functional.dropout(t, 0.5, inplace=True),
        lambda t: nn.functional.dropout(t, 0.5),
    ),
    "mask": (masked, lambda t: 2 * t * torch.tensor([0.0] + [1.0] * (t.size(-1) - 1), dtype=t.dtype)),
}


def called(module: nn.Module, input: Tensor, form: str, return_cells: bool = True) -> list[Tensor]:
    """Every result of a call."""
    lengths, keywords = torch.tensor([3, 7, 1, 5, 7]), {"return_cells": True} if return_cells else {}
    if form == "unbatched":
        input = input[:, 0]
    elif form.startswith("packed"):
        steps = lengths if form == "packed" else torch.full((B,), T)
        input = pack_padded_sequence(input, steps, module.batch_first, enforce_sorted=False)
    elif form == "lengths":
        keywords["lengths"] = lengths
    elif form == "reset":
        keywords["reset"] = torch.arange(T * B).view(input.shape[:2]) % 4 == 0
    output, states, *cells = module(input, **keywords)
    return [r.data if isinstance(r, PackedSequence) else r for r in (output, *states, *cells)]


def gradients(module: nn.Module, input: Tensor, form: str, change: Callable[[Tensor], Tensor]) -> list[Tensor]:
    torch.manual_seed(3)
    results = [change(result) for result in called(module, input, form)]
    loss = sum((result.double() * torch.linspace(0.5, 1, result.size(-1))).sum() for result in results)
    return list(torch.autograd.grad(loss, [input, *module.parameters()]))


def drawn(options: dict) -> Tensor:
    torch.manual_seed(1)
    shape = (B, T, SIZE) if options.get("batch_first") else (T, B, SIZE)
    return torch.randn(shape, dtype=options.get("dtype")).requires_grad_()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_results_may_be_changed(options: dict, form: str, change: str):
    """Output, h_n, c_n and cells: to the bit the gradients of the same out of place."""
    module, input = lstm_fused.LSTM(SIZE, H, **options), drawn(options)
    for recompute_gates in (False, True):
        module.recompute_gates = recompute_gates
        in_place, out_of_place = (gradients(module, input, form, each) for each in CHANGES[change])
        assert all(map(torch.equal, in_place, out_of_place))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [{}, STACK, {"proj_size": 5}], ids=str)
def test_every_dtype(options: dict, dtype: torch.dtype):
    options = options | {"dtype": dtype}
    module, input = lstm_fused.LSTM(SIZE, H, **options), drawn(options)
    in_place, out_of_place = (gradients(module, input, "padded", each) for each in CHANGES["relu"])
    assert all(map(torch.equal, in_place, out_of_place))


@pytest.mark.parametrize("form", ["padded", "unbatched", "packed", "packed, even"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_against_torch(options: dict, form: str):
    """Gradients of torch.nn.LSTM on the out-of-place equivalent; it has no cells to change."""
    options = options | {"dropout": 0.0}
    ours, theirs = lstm_fused.LSTM(SIZE, H, **options), nn.LSTM(SIZE, H, **options)
    ours.load_state_dict(theirs.state_dict())

    input = drawn(options)

    def loss(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Tensor:
        results = [change(result) for result in called(module, input, form, return_cells=False)]
        return sum((r * torch.linspace(0.5, 1, r.size(-1))).sum() for r in results)

    pairs = zip(
        torch.autograd.grad(loss(ours, lambda t: t.relu_()), [input, *ours.parameters()]),
        torch.autograd.grad(loss(theirs, lambda t: t.relu()), [input, *theirs.parameters()]),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("options", [{}, STACK | {"proj_size": 5}], ids=str)
@pytest.mark.parametrize("kind", ["step", "block"])
def test_of_the_cuda_kernels(simulator: Simulator, kind: str, options: dict):
    module, input = lstm_fused.LSTM(SIZE, H, **options), drawn(options)
    with simulator.running(kind):
        in_place, out_of_place = (gradients(module, input, "lengths", each) for each in CHANGES["mask"])
    assert all(map(torch.equal, in_place, out_of_place))


# ---- what a call was given


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def test_input_and_state_of_frozen_weights():
    """Only gradients of weights would need them."""
    module, leaf = frozen(lstm_fused.LSTM(SIZE, H, num_layers=2)), drawn({})
    h_0, c_0 = torch.randn(2, B, H), torch.randn(2, B, H)
    exact = torch.autograd.grad(module(leaf, (h_0, c_0))[0].sum(), leaf)[0]
    input = leaf * 1
    output, _ = module(input, (h_0, c_0))
    input.zero_(), h_0.zero_()
    assert torch.equal(torch.autograd.grad(output.sum(), leaf)[0], exact)


@pytest.mark.parametrize("cell", [False, True])
def test_weights_that_backward_does_not_read(cell: bool):
    """Biases, and W_ih where input wants no gradient, in a training loop that changes them early."""
    module = lstm_fused.LSTMCell(SIZE, H) if cell else lstm_fused.LSTM(SIZE, H)
    input = torch.randn(B, SIZE) if cell else torch.randn(T, B, SIZE)
    names = ["weight_ih", "bias_ih", "bias_hh"]
    exact = torch.autograd.grad(module(input)[0].sum(), list(module.parameters()))
    output = module(input)[0]
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.removesuffix("_l0") in names:
                parameter.add_(1)
    assert all(map(torch.equal, torch.autograd.grad(output.sum(), list(module.parameters())), exact))


@pytest.mark.parametrize("what", ["input", "weight_hh_l0", "c_0"])
def test_what_backward_reads_may_not_change(what: str):
    module, input, c_0 = lstm_fused.LSTM(SIZE, H), drawn({}) * 1, torch.randn(1, B, H)
    output, _ = module(input, (torch.zeros(1, B, H), c_0))
    with torch.no_grad():
        {"input": input, "weight_hh_l0": module.weight_hh_l0, "c_0": c_0}[what].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("what", ["input", "bias_ih", "nothing"])
@pytest.mark.parametrize("cell", [False, True])
def test_a_second_derivative_reads_everything(cell: bool, what: str):
    """What a first one has no use for is looked at there."""
    module = lstm_fused.LSTMCell(SIZE, H) if cell else lstm_fused.LSTM(SIZE, H)
    frozen(module)
    leaf = torch.randn((B, SIZE) if cell else (T, B, SIZE), requires_grad=True)
    input = leaf * 1
    output = module(input)[0]
    bias = dict(module.named_parameters())["bias_ih" if cell else "bias_ih_l0"]
    if what != "nothing":
        (input.detach() if what == "input" else bias).mul_(1)
        with pytest.raises(RuntimeError, match=f"inplace operation: {'input' if what == 'input' else 'weight 2'}"):
            torch.autograd.grad(output.sum(), leaf, create_graph=True)
        return
    (gradient,) = torch.autograd.grad(output.sum(), leaf, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), leaf)[0].abs().sum() > 0


def test_no_cycle_keeps_a_changed_input_alive():
    """input += module(input): the graph of what input became holds the call, which must not hold input."""
    module, leaf = frozen(lstm_fused.LSTM(H, H)), torch.randn(T, B, H, requires_grad=True)
    storages = []
    for _ in range(2):
        input = leaf * 1
        storages.append(torch.multiprocessing.reductions.StorageWeakRef(input.untyped_storage()))
        input += module(input)[0]
        del input
    assert all(storage.expired() for storage in storages)


def test_compiled():
    """The registered formula keeps the same."""
    module = lstm_fused.LSTM(SIZE, H, num_layers=2)
    compiled = torch.compile(lambda input: module(input)[0].relu_(), fullgraph=True, backend="aot_eager")
    input = drawn({})
    wanted = [input, *module.parameters()]
    exact = torch.autograd.grad(module(input)[0].relu().sum(), wanted)
    assert all(map(torch.equal, torch.autograd.grad(compiled(input).sum(), wanted), exact))
    frozen(module)
    again = torch.autograd.grad(compiled(input).sum(), input)[0]
    torch.testing.assert_close(again, exact[0])


def test_the_operator_by_hand():
    """Its formula reads no input and no bias for frozen weights, so that they may change."""
    module, input = frozen(lstm_fused.LSTM(SIZE, H)), drawn({}) * 1
    zeros = torch.zeros(1, B, H)
    output, *_ = torch.ops.lstm_fused.forward(
        input, zeros, zeros, list(module.parameters()), False, None, None, None, True, False, False
    )
    input.detach().zero_(), module.bias_ih_l0.add_(1)
    output.sum().backward()
