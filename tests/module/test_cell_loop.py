"""Training a loop over lstm_fused.LSTMCell, whose steps share a node for the gradients of weights, against torch's."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import lstm_fused

INPUT, HIDDEN, STEPS = 111, 129, 9  # enough elements for a node after some of the steps


def pair(**options: Any) -> tuple[nn.LSTMCell, nn.LSTMCell]:
    """Ours and torch's, of the same weights."""
    ours = lstm_fused.LSTMCell(INPUT, HIDDEN, **options)
    theirs = nn.LSTMCell(INPUT, HIDDEN, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def sequence(batch: int | None = 3, **options: Any) -> Tensor:
    return torch.randn(STEPS, *(() if batch is None else (batch,)), INPUT, **options)


def loss_of(cell: nn.Module, x: Tensor, hx: Any = None) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for step in x:
        hx = cell(step, hx)
        total = total + hx[0].double().square().sum()
    return total + hx[1].double().sum()


def grads(cell: nn.Module, loss: Tensor, *others: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [*others, *cell.parameters()]))


def compare(run: Callable[[nn.Module], list[Tensor]], **options: Any) -> None:
    torch.manual_seed(0)
    for a, b in zip(*map(run, pair(**options)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("batch", [None, 0, 1, 17, 300])
def test_gradients(batch: int | None, given: bool, bias: bool, products: list[int]):
    """300 rows: products at every other step, and at the end."""
    x, lead = sequence(batch), () if batch is None else (batch,)
    states = [torch.randn(*lead, HIDDEN) for _ in range(2)]

    def run(cell: nn.Module) -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in (x, *states)]
        wanted = leaves if given else leaves[:1]
        return grads(cell, loss_of(cell, leaves[0], tuple(leaves[1:]) if given else None), *wanted)

    compare(run, bias=bias)
    in_loop = STEPS - 4  # the first to have the node is the fifth
    assert products == ([600, 600, 300] if batch == 300 else [in_loop * (1 if batch is None else batch)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [1, 150])
def test_accuracy(batch: int, dtype: torch.dtype, products: list[int]):
    """At most twice torch's error against float64, plus one rounding."""
    torch.manual_seed(0)
    x, cells = sequence(batch, dtype=dtype), pair(dtype=dtype)
    exact = copy.deepcopy(cells[1]).double()
    ours, theirs, wanted = (grads(cell, loss_of(cell, x.to(next(cell.parameters()).dtype))) for cell in (*cells, exact))
    eps = torch.finfo(dtype).eps
    for a, b, c in zip(ours, theirs, wanted, strict=True):
        error = (b - c).norm() if dtype != torch.float64 else 8 * eps * c.norm()  # there torch itself is the reference
        assert (a - c).norm() <= 2 * error + eps / 2 * c.norm()
    assert products


def test_the_same_bits_again():
    cell, x = pair()[0], sequence(17)
    first, again = (grads(cell, loss_of(cell, x)) for _ in range(2))
    assert all(map(torch.equal, first, again))


def test_some_gradients_only(products: list[int]):
    def run(cell: nn.Module) -> list[Tensor]:
        torch.manual_seed(1)
        x = sequence().requires_grad_()
        loss = loss_of(cell, x)
        of_input = torch.autograd.grad(loss, [x], retain_graph=True)
        of_weight = torch.autograd.grad(loss, [cell.weight_hh], retain_graph=True)
        loss.backward(inputs=[cell.bias_ih], retain_graph=True)
        assert cell.weight_ih.grad is None
        loss.backward()
        return [*of_input, *of_weight, *(p.grad for p in cell.parameters())]

    compare(run)
    assert len(products) == 3  # none for the gradient of the input


def test_frozen_weights_and_some_frozen_meanwhile():
    def run(cell: nn.Module) -> list[Tensor]:
        torch.manual_seed(1)
        x, hx, total = sequence(), None, torch.zeros(())
        cell.weight_ih.requires_grad_(False)
        for t, step in enumerate(torch.cat([x, x])):
            cell.bias_hh.requires_grad_(not 7 <= t < 10)
            hx = cell(step, hx)
            total = total + hx[0].sum()
        total.backward()
        assert cell.weight_ih.grad is None
        return [p.grad for p in cell.parameters() if p.grad is not None]

    compare(run)


def test_twice_and_differentiated_again(products: list[int]):
    """A gradient that may be differentiated again comes from each step by itself."""

    def run(cell: nn.Module) -> list[Tensor]:
        torch.manual_seed(1)
        x = sequence(dtype=torch.float64)[:7].requires_grad_()
        loss = loss_of(cell, x)
        first = torch.autograd.grad(loss, list(cell.parameters()), retain_graph=True)
        with_graph = torch.autograd.grad(loss, [x, *cell.parameters()], create_graph=True)
        again = torch.autograd.grad(sum(g.square().sum() for g in with_graph), [x, *cell.parameters()])
        return [*first, *with_graph, *again]

    compare(run, dtype=torch.float64)
    assert len(products) == 2  # of the first, and of what is added to it to differentiate again


def test_masked_states_two_cells_and_two_sequences(products: list[int]):
    """As in reinforcement learning, in stacks, and where one cell reads two texts."""

    def run(cell: nn.Module) -> list[Tensor]:
        torch.manual_seed(1)
        upper = copy.deepcopy(cell)
        narrow, total = nn.Linear(HIDDEN, INPUT), torch.zeros(())
        for x in (sequence(5), sequence(2)):
            states: list[Any] = [None, None]
            for t, step in enumerate(x):
                mask = torch.arange(x.size(1)).unsqueeze(1) != t
                if t:
                    states[0] = tuple(state * mask for state in states[0])
                states[0] = cell(step, states[0])
                states[1] = upper(narrow(states[0][0]), states[1])
            total = total + states[1][0].sum() + states[0][1].square().sum()
        return list(torch.autograd.grad(total, [*cell.parameters(), *upper.parameters()]))

    compare(run)
    assert len(products) == 4


def test_the_state_of_another_cell():
    """A decoder goes on from an encoder's state: the weights are others."""

    def run(cell: nn.Module) -> list[Tensor]:
        torch.manual_seed(1)
        decoder, x, hx = copy.deepcopy(cell), sequence(), None
        for step in x:
            hx = cell(step, hx)
        for step in x:
            hx = decoder(step, hx)
        return list(torch.autograd.grad(hx[0].square().sum(), [*cell.parameters(), *decoder.parameters()]))

    compare(run)


def test_truncated_backpropagation_and_an_optimizer():
    def run(cell: nn.Module) -> list[Tensor]:
        torch.manual_seed(1)
        optimizer, hx = torch.optim.SGD(cell.parameters(), lr=0.01), None
        for _ in range(3):
            total = torch.zeros(())
            for step in sequence():
                hx = cell(step, hx)
                total = total + hx[0].square().sum()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            hx = tuple(state.detach() for state in hx)
        return [p.detach() for p in cell.parameters()]

    compare(run)


def test_weights_changed_meanwhile_are_refused():
    for cell in pair():
        x, hx = sequence(), None
        for step in x:
            hx = cell(step, hx)
        with torch.no_grad():
            cell.weight_hh.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            hx[0].sum().backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_steps(reentrant: bool):
    def run(cell: nn.Module) -> list[Tensor]:
        torch.manual_seed(1)
        x = sequence().requires_grad_()

        def three(x: Tensor, h: Tensor, c: Tensor) -> Any:
            for step in x:
                h, c = cell(step, (h, c))
            return h, c

        h = c = torch.zeros(3, HIDDEN)
        for n in range(3):
            h, c = checkpoint(three, torch.cat([x[3 * n : 3 * n + 3]] * 3), h, c, use_reentrant=reentrant)
        h.square().sum().backward()
        return [p.grad for p in (x, *cell.parameters())]

    compare(run)


def test_autocast():
    """Products for the node in bfloat16, gradients in float32: as close to float32 as torch's are."""
    torch.manual_seed(0)
    ours, theirs = pair()
    x = sequence(17)
    exact = grads(theirs, loss_of(theirs, x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [loss_of(cell, x) for cell in (ours, theirs)]
    for a, b, c in zip(grads(ours, losses[0]), grads(theirs, losses[1]), exact, strict=True):
        assert a.dtype == torch.float32 and (a - c).norm() <= 2 * (b - c).norm()


def test_computed_weights():
    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    def run(cell: nn.Module) -> list[Tensor]:
        torch.manual_seed(1)
        parametrize.register_parametrization(cell, "weight_hh", Doubled())
        x = sequence()
        cached = []
        for context in (nullcontext(), parametrize.cached()):
            with context:
                cached += grads(cell, loss_of(cell, x))
        return cached

    compare(run)


def test_hooks_of_weights_run_once():
    def run(cell: nn.Module) -> list[Tensor]:
        torch.manual_seed(1)
        calls: list[str] = []
        cell.weight_hh.register_hook(lambda grad: calls.append("grad") or 2 * grad)
        cell.weight_hh.register_post_accumulate_grad_hook(lambda p: calls.append("post"))
        loss_of(cell, sequence()).backward()
        assert calls == ["grad", "post"]
        return [p.grad for p in cell.parameters()]

    compare(run)


def test_batches_of_gradients():
    """torch.func.vmap over backward, and the older is_grads_batched."""
    torch.manual_seed(0)
    x, directions = sequence(), torch.randn(5, 3, HIDDEN)

    def run(cell: nn.Module) -> list[Tensor]:
        hx = None
        for step in x:
            hx = cell(step, hx)
        weights = list(cell.parameters())

        def one(direction: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(hx[0], weights, direction, retain_graph=True)

        each = [torch.stack(of_weight) for of_weight in zip(*map(one, directions), strict=True)]
        if isinstance(cell, nn.LSTMCell):
            return 3 * each
        older = torch.autograd.grad(hx[0], weights, directions, is_grads_batched=True, retain_graph=True)
        return [*each, *older, *torch.func.vmap(one)(directions)]

    compare(run)


@pytest.mark.filterwarnings("ignore")
def test_compiled_autograd():
    from torch._dynamo import compiled_autograd

    def run(cell: nn.Module) -> list[Tensor]:
        torch.manual_seed(1)
        loss = loss_of(cell, sequence()[:7])
        ours = isinstance(cell, lstm_fused.LSTMCell)
        with compiled_autograd._enable(torch.compile(backend="eager")) if ours else nullcontext():
            loss.backward()
        return [p.grad for p in cell.parameters()]

    compare(run)


def test_threads():
    """Two backwards through one graph at a time, and of two graphs."""
    cell = pair()[0]
    x = sequence(17)
    expected = grads(cell, loss_of(cell, x))
    shared, results = loss_of(cell, x), []

    def work() -> None:
        for _ in range(10):
            results.append(torch.autograd.grad(shared, list(cell.parameters()), retain_graph=True))
            results.append(grads(cell, loss_of(cell, x)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    for result in results:
        assert all(map(torch.equal, result, expected))


def test_a_backward_after_one_that_failed():
    cell = pair()[0]
    x = sequence().requires_grad_()
    loss = loss_of(cell, x)
    expected = torch.autograd.grad(loss, list(cell.parameters()), retain_graph=True)

    def fail(grad: Tensor) -> None:
        raise KeyError("halfway")

    hook = x.register_hook(fail)
    with pytest.raises(KeyError):
        loss.backward(retain_graph=True)
    hook.remove()
    cell.zero_grad()
    loss.backward(inputs=list(cell.parameters()))
    assert all(map(torch.equal, (p.grad for p in cell.parameters()), expected))


def test_nothing_outlives_the_graph():
    cell = pair()[0]
    gc.disable()  # no cycle either
    try:
        hx = None
        for step in sequence():
            hx = cell(step, hx)
        loop = hx[0].grad_fn.loop
        token, left = weakref.ref(loop.token), weakref.ref(loop.left)
        hx[0].sum().backward()
        assert not loop.left.of_backward
        del hx, loop, step
        assert token() is None and left() is None
        twin = copy.deepcopy(cell)
        assert all(map(torch.equal, twin.parameters(), cell.parameters()))
    finally:
        gc.enable()
