"""Training an LSTM that is called one step at a time, which runs as cells that share the gradients of weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import lstm_fused

INPUT, HIDDEN, STEPS = 161, 193, 5  # large enough for cells, and for a node behind the first steps


def pair(**options: Any) -> tuple[nn.LSTM, nn.LSTM]:
    """Ours and torch's, of the same weights."""
    ours, theirs = lstm_fused.LSTM(INPUT, HIDDEN, **options), nn.LSTM(INPUT, HIDDEN, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def loop(lstm: nn.LSTM, x: Tensor, hx: Any = None, between: Callable[[Tensor], Tensor] = torch.clone) -> Tensor:
    """A loss of all that x, with steps in its first dimension but one for a batch that comes first, goes through."""
    total = torch.zeros((), dtype=torch.float64)
    dim = x.dim() - 2 if lstm.batch_first else 0
    for step in x.split(1, dim):
        output, hx = lstm(step, hx)
        total = total + output.double().square().sum()
        hx = between(hx[0]), hx[1]
    return total + hx[0].double().sum() + hx[1].double().square().sum()


def compare(run: Callable[[nn.LSTM], list[Tensor]], **options: Any) -> None:
    torch.manual_seed(0)
    results = []
    for lstm in pair(**options):
        torch.manual_seed(1)
        results.append(run(lstm))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("form", ["batch first", "unbatched", 0, 1, 17])
def test_gradients(form: Any, num_layers: int, given: bool, bias: bool, products: list[int]):
    batch = form if isinstance(form, int) else 3
    lead = () if form == "unbatched" else (batch,)

    def run(lstm: nn.LSTM) -> list[Tensor]:
        leaves = [torch.randn(STEPS, *lead, INPUT), *(torch.randn(num_layers, *lead, HIDDEN) for _ in range(2))]
        x, *states = (leaf.requires_grad_() for leaf in leaves)
        loss = loop(lstm, x.transpose(0, 1) if lstm.batch_first else x, tuple(states) if given else None)
        return [loss, *torch.autograd.grad(loss, [*leaves[: 3 if given else 1], *lstm.parameters()])]

    compare(run, num_layers=num_layers, bias=bias, batch_first=form == "batch first")
    in_loops = STEPS - 2  # the node is there from the third on
    assert products == num_layers * [in_loops * (1 if form == "unbatched" else batch)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_accuracy(dtype: torch.dtype):
    """At most twice torch's error against float64, plus one rounding."""
    torch.manual_seed(0)
    lstms, x = pair(num_layers=2, dtype=dtype), torch.randn(STEPS, 17, INPUT, dtype=dtype)
    results = []
    for lstm in (*lstms, copy.deepcopy(lstms[1]).double()):
        loss = loop(lstm, x.to(next(lstm.parameters()).dtype))
        results.append(torch.autograd.grad(loss, list(lstm.parameters())))
    eps = torch.finfo(dtype).eps
    for a, b, c in zip(*results, strict=True):
        error = (b - c).norm() if dtype != torch.float64 else 8 * eps * c.norm()  # there torch itself is the reference
        assert (a - c).norm() <= 2 * error + eps / 2 * c.norm()


@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_bits_of_inference(num_layers: int):
    lstm, _ = pair(num_layers=num_layers)
    trained = inferred = None
    for step in torch.randn(STEPS, 1, 17, INPUT):
        output, trained = lstm(step, trained)
        with torch.no_grad():
            expected, inferred = lstm(step, inferred)
        assert all(map(torch.equal, (output, *trained), (expected, *inferred)))


def test_dropout_between_layers(products: list[int]):
    """The masks that torch.nn.LSTM draws from a seed."""

    def run(lstm: nn.LSTM) -> list[Tensor]:
        loss = loop(lstm, torch.randn(STEPS, 8, INPUT))
        return [loss, *torch.autograd.grad(loss, list(lstm.parameters()))]

    compare(run, num_layers=3, dropout=0.3)
    assert len(products) == 3


def test_one_step_packed(products: list[int]):
    def run(lstm: nn.LSTM) -> list[Tensor]:
        hx, total = None, torch.zeros(())
        for step in torch.randn(STEPS, 1, 4, INPUT):
            output, hx = lstm(pack_padded_sequence(step, [1] * 4), hx)
            total = total + output.data.square().sum()
        return list(torch.autograd.grad(total, list(lstm.parameters())))

    compare(run, num_layers=2)
    assert len(products) == 2


@pytest.mark.parametrize("num_layers", [1, 2])
def test_states_masked_between_steps(num_layers: int, products: list[int]):
    """As where episodes end: the steps still find each other."""

    def run(lstm: nn.LSTM) -> list[Tensor]:
        mask = (torch.rand(3, 1) < 0.5).float()
        loss = loop(lstm, torch.randn(STEPS, 3, INPUT), between=lambda h: h * mask)
        return list(torch.autograd.grad(loss, list(lstm.parameters())))

    compare(run, num_layers=num_layers)
    assert len(products) == num_layers


@pytest.mark.parametrize("num_layers", [1, 2])
def test_results_changed_in_place(num_layers: int):
    """Output, h_n and c_n are three tensors, and backward has no use for them; torch's has."""

    def run(lstm: nn.LSTM) -> list[Tensor]:
        hx, total = None, torch.zeros(())
        ours = isinstance(lstm, lstm_fused.LSTM)
        for step in torch.randn(STEPS, 3, INPUT):
            output, (h, c) = lstm(step.unsqueeze(0), hx)
            output, h, c = (output.mul_(2), h.relu_(), c.mul_(0.5)) if ours else (2 * output, h.relu(), 0.5 * c)
            hx, total = (h, c), total + output.sum() + h.sum()
        return list(torch.autograd.grad(total, list(lstm.parameters())))

    compare(run, num_layers=num_layers)


def test_results_detached_in_place():
    def run(lstm: nn.LSTM) -> list[Tensor]:
        hx = None
        for step in torch.randn(STEPS, 1, 3, INPUT):
            output, hx = lstm(step, hx)
            hx = hx[0].detach_(), hx[1].detach_()
        output.sum().backward()
        output.detach_()
        return [output, *(p.grad for p in lstm.parameters())]

    compare(run, num_layers=2)


def test_a_state_changed_meanwhile_is_refused():
    for lstm in pair(num_layers=2):
        h_0, c_0 = torch.zeros(2, 3, HIDDEN), torch.zeros(2, 3, HIDDEN)
        output, _ = lstm(torch.randn(1, 3, INPUT), (h_0, c_0))
        h_0.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()


def test_frozen_layer_and_differentiated_again():
    def run(lstm: nn.LSTM) -> list[Tensor]:
        for parameter in lstm.all_weights[0]:
            parameter.requires_grad_(False)
        x = torch.randn(STEPS, 3, INPUT, dtype=torch.float64).requires_grad_()
        leaves = [x, *lstm.all_weights[1]]
        first = torch.autograd.grad(loop(lstm, x), leaves, create_graph=True)
        return [*first, *torch.autograd.grad(sum(grad.square().sum() for grad in first), leaves)]

    compare(run, num_layers=2, dtype=torch.float64)


def test_autocast():
    """As close to float32 as torch is, without oneDNN, which has no autocast where a CPU has no AVX-512."""
    torch.manual_seed(0)
    ours, theirs = pair(num_layers=2)
    x = torch.randn(STEPS, 17, INPUT)
    exact = torch.autograd.grad(loop(theirs, x), list(theirs.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.backends.mkldnn.flags(enabled=False):
        losses = [loop(lstm, x) for lstm in (ours, theirs)]
    results = (torch.autograd.grad(loss, list(m.parameters())) for loss, m in zip(losses, (ours, theirs), strict=True))
    for a, b, c in zip(*results, exact, strict=True):
        assert a.dtype == torch.float32 and (a - c).norm() <= 2 * (b - c).norm()


@pytest.mark.parametrize(
    "options",
    [{"bidirectional": True}, {"proj_size": 5}, {"zoneout": 0.1}, {"peephole": True}],
    ids=str,
)
def test_what_is_no_cell_is_a_stack(options: dict, products: list[int]):
    lstm = lstm_fused.LSTM(INPUT, HIDDEN, **options)
    loop(lstm, torch.randn(STEPS, 2, INPUT)).backward()
    assert all(p.grad is not None for p in lstm.parameters()) and not products


def test_extras_are_a_stack(products: list[int]):
    lstm, hx = pair()[0], None
    for step in torch.randn(STEPS, 1, 2, INPUT):
        _, hx, _ = lstm(step, hx, return_cells=True)
        _, hx = lstm(step, hx, reset=torch.tensor([[True, False]]))
        _, hx = lstm(step, hx, lengths=torch.tensor([1, 1]))
    hx[0].sum().backward()
    assert lstm.weight_hh_l0.grad is not None and not products
