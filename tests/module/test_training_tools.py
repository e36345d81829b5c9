"""What training puts around a module: autocast, loss scaling, checkpointing, other processes, changed weights."""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import lstm_fused

FORMS = ["padded", "batch_first", "unbatched", "ragged", "packed", "with states", "cell"]


def call(form: str, cls: type = lstm_fused.LSTM, device: str = "cpu", dtype: torch.dtype = torch.float32):
    """A module and a function that calls it in some form: its argument is the input, its results a flat tuple."""
    if form == "cell":
        module = (lstm_fused.LSTMCell if cls is lstm_fused.LSTM else nn.LSTMCell)(4, 6)
        return module.to(device), torch.randn(3, 4, dtype=dtype, device=device), lambda input: module(input)
    module = cls(4, 6, num_layers=2, bidirectional=True, batch_first=form == "batch_first").to(device)
    lengths = torch.tensor([5, 3, 1])
    input = torch.randn(5, *(() if form == "unbatched" else (3,)), 4, dtype=dtype, device=device)
    states = torch.randn(4, 3, 6, device=device), torch.randn(4, 3, 6, device=device)

    def function(input):
        if form == "packed":
            with torch.autocast(device, enabled=False):  # torch's packing refuses some dtypes within
                packed = pack_padded_sequence(input, lengths)
            output, (h_n, c_n) = module(packed)
            return output.data, h_n, c_n
        if form == "ragged":
            output, (h_n, c_n) = module(input, lengths=lengths)
        else:
            output, (h_n, c_n) = module(input, states) if form == "with states" else module(input)
        return output, h_n, c_n

    return module, input.transpose(0, 1) if form == "batch_first" else input, function


# ---- autocast


@pytest.mark.parametrize("to", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_autocast_has_one_rule(form: str, to: torch.dtype, device: str):
    """What torch.nn.Linear does: results have autocast's dtype, gradients their leaf's; float64 is left alone."""
    module, input, function = call(form, device=device)
    linear = nn.Linear(4, 6, device=device)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        with torch.autocast(device, dtype=to):
            results = function(input.to(dtype))
            assert {r.dtype for r in results} == {linear(input.to(dtype)).dtype} == {to}
            with torch.autocast(device, enabled=False):
                assert {r.dtype for r in function(input)} == {linear(input).dtype} == {torch.float32}
    sum(r.float().square().sum() for r in results).backward()
    assert all(p.grad.dtype == torch.float32 for p in module.parameters())
    if form == "with states":  # those are float32
        return
    module.double(), linear.double()
    with torch.autocast(device, dtype=to):
        assert {r.dtype for r in function(input.double())} == {linear(input.double()).dtype} == {torch.float64}


@pytest.mark.parametrize("form", FORMS)
def test_autocast_is_the_module_in_its_dtype(form: str, device: str):
    """The same bits as casting by hand, forward and backward; and it does not matter where backward is called."""
    module, input, function = call(form, device=device)
    states = [p.detach().bfloat16().requires_grad_() for p in module.parameters()]
    with torch.autocast(device, dtype=torch.bfloat16):
        results = function(input)
        loss = sum(r.float().square().sum() for r in results)
        inside = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
    outside = torch.autograd.grad(loss, list(module.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))
    for parameter, rounded in zip(module.parameters(), states, strict=True):
        parameter.data = rounded.data
    if form == "with states":
        return
    plain = function(input.bfloat16())
    by_hand = torch.autograd.grad(sum(r.float().square().sum() for r in plain), list(module.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(results, plain, strict=True))
    assert all(torch.equal(a.bfloat16(), b) for a, b in zip(outside, by_hand, strict=True))


@pytest.mark.parametrize("form", ["padded", "packed"])
def test_grad_scaler(form: str, device: str):
    """Scaled float16 steps go where float32 goes; a step that overflows is skipped."""
    module, input, function = call(form, device=device)
    exact = copy.deepcopy(module)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**12, growth_interval=1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for step in range(4):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16):
            loss = function(input)[0].float().square().mean()
        if step == 3:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        before, scale = [p.detach().clone() for p in module.parameters()], scaler.get_scale()
        norm = nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        moved = any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
        assert moved is bool(norm.isfinite()) is (step < 3)
        assert scaler.get_scale() == scale * (2 if step < 3 else 0.5)
    module2, optimizer2 = exact, torch.optim.SGD(exact.parameters(), lr=0.1)
    for _ in range(3):
        optimizer2.zero_grad()
        if form == "packed":
            output = module2(pack_padded_sequence(input, torch.tensor([5, 3, 1])))[0].data
        else:
            output = module2(input)[0]
        output.square().mean().backward()
        optimizer2.step()
    for a, b in zip(module.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3)


# ---- checkpointing, copies, other processes


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing(use_reentrant: bool, device: str):
    """Recomputed in backward with the same dropout masks: the same bits."""
    options = {"num_layers": 3, "dropout": 0.5, "bidirectional": True}
    module = lstm_fused.LSTM(4, 6, **options).to(device)
    input = torch.randn(5, 3, 4, device=device, requires_grad=True)
    lengths = torch.tensor([5, 2, 1])
    results = []
    for checkpointed in (False, True):
        torch.manual_seed(3)

        def function(x):
            return module(x, lengths=lengths)[0]

        output = checkpoint(function, input, use_reentrant=use_reentrant) if checkpointed else function(input)
        module.zero_grad(), setattr(input, "grad", None)
        output.square().sum().backward()
        results.append([output.detach(), input.grad, *(p.grad for p in module.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_saved_tensors_may_live_elsewhere():
    """Hooks see all that is kept, and what they give back is what backward uses."""
    module, input = lstm_fused.LSTM(4, 6), torch.randn(5, 3, 4)
    exact = torch.autograd.grad(module(input)[0].square().sum(), list(module.parameters()))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True).copy(), torch.from_numpy):
        loss = module(input)[0].square().sum()
    for a, b in zip(torch.autograd.grad(loss, list(module.parameters())), exact, strict=True):
        assert torch.equal(a, b)


def train_elsewhere(module: lstm_fused.LSTM, input: torch.Tensor, results) -> None:
    """One step in another process, on memory that both see."""
    torch.set_num_threads(1)
    assert all(p.is_shared() for p in module.parameters())
    output = module(input)[0]
    output.square().sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    results.put((type(module).__name__, output.detach().numpy()))


def test_a_module_in_another_process():
    """Sent to a spawned process, with its weights in shared memory: a step there is seen here."""
    module = lstm_fused.LSTM(4, 6, num_layers=2).share_memory()
    twin, input = copy.deepcopy(module), torch.randn(5, 3, 4)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=train_elsewhere, args=(module, input, results))
    process.start()
    name, output = results.get(timeout=300)
    process.join()
    assert process.exitcode == 0 and name == "LSTM"
    expected = twin(input)[0]
    torch.testing.assert_close(torch.from_numpy(output), expected.detach())
    expected.square().sum().backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    for a, b in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


# ---- evaluation mode, changed weights


@pytest.mark.parametrize("form", FORMS)
def test_backward_in_evaluation_mode(form: str, device: str):
    """cuDNN refuses it; here evaluation differs from training by dropout alone."""
    module, input, function = call(form, device=device)
    gradients = []
    for training in (True, False):
        module.train(training)
        loss = sum(r.square().sum() for r in function(input))
        gradients.append(torch.autograd.grad(loss, list(module.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


class Symmetric(nn.Module):
    """A parametrization of one's own."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        square = weight.view(4, weight.size(1), weight.size(1))
        return (0.5 * (square + square.transpose(1, 2))).reshape_as(weight)


WRAPS: dict[str, Callable[[nn.Module], object]] = {
    "weight norm": lambda m: parametrizations.weight_norm(m, "weight_hh_l0"),
    "weight norm by a hook": lambda m: nn.utils.weight_norm(m, "weight_hh_l0"),
    "spectral norm": lambda m: parametrizations.spectral_norm(m, "weight_hh_l0"),
    "spectral norm by a hook": lambda m: nn.utils.spectral_norm(m, "weight_hh_l0"),
    "orthogonal": lambda m: parametrizations.orthogonal(m, "weight_hh_l0"),
    "own": lambda m: parametrize.register_parametrization(m, "weight_hh_l0", Symmetric()),
    "pruning": lambda m: prune.random_unstructured(m, "weight_hh_l0", amount=0.5),
    "tied": lambda m: setattr(m, "weight_ih_l1", m.weight_hh_l0),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", WRAPS)
def test_changed_weights_are_trained(name: str):
    """Three steps, against torch.nn.LSTM called with the weights that the module shows."""
    modules = []
    for _ in range(2):
        torch.manual_seed(1)
        modules.append(lstm_fused.LSTM(5, 5, num_layers=2))
        WRAPS[name](modules[-1])
    (module, twin), plain, input = modules, nn.LSTM(5, 5, num_layers=2), torch.randn(4, 3, 5)

    def by_torch(input):
        for hook in twin._forward_pre_hooks.values():
            hook(twin, (input,))
        weights = {name: getattr(twin, name) for name, _ in plain.named_parameters()}
        return torch.func.functional_call(plain, weights, (input,))

    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (module, twin)]
    for _ in range(3):
        outputs = []
        for function, optimizer in zip((module, by_torch), optimizers, strict=True):
            outputs.append(function(input)[0])
            optimizer.zero_grad()
            outputs[-1].square().sum().backward()
            optimizer.step()
        torch.testing.assert_close(*outputs)
    for a, b in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)
        assert a.grad is not None and a.grad.abs().sum() > 0


# ---- memory

SHAPES = [(1, 1, 16, 16), (20, 8, 64, 32), (50, 4, 32, 128), (100, 1, 16, 64), (7, 33, 65, 31)]
STACKS: list[dict] = [
    {},
    {"bias": False},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "dropout": 0.5},
    {"proj_size": 8},
    {"dtype": torch.float64},
    {"dtype": torch.bfloat16},
    {"dtype": torch.float16, "num_layers": 2, "proj_size": 8},
]


def bytes_kept(module: nn.Module, input: torch.Tensor | PackedSequence) -> int:
    """What a call keeps for backward beyond parameters and input: each storage once."""
    data = input.data if isinstance(input, PackedSequence) else input
    known = {t.untyped_storage().data_ptr() for t in (*module.parameters(), data)}
    kept: dict[int, torch.UntypedStorage] = {}  # they stay alive, so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(input)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("form", ["padded", "packed, even", "packed", "packed, one long"])
@pytest.mark.parametrize("options", STACKS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_keeps_no_more_than_torch(shape: tuple[int, ...], options: dict, form: str):
    seq_len, batch, input_size, hidden_size = shape
    input = torch.randn(seq_len, batch, input_size, dtype=options.get("dtype"))
    if form != "padded":
        least, most = {"packed, even": (seq_len, seq_len), "packed": (1, seq_len), "packed, one long": (1, 1)}[form]
        lengths = torch.randint(least, most + 1, (batch,))
        lengths[-1] = seq_len
        input = pack_padded_sequence(input, lengths, enforce_sorted=False)
    ours, theirs = (bytes_kept(cls(input_size, hidden_size, **options), input) for cls in (lstm_fused.LSTM, nn.LSTM))
    assert ours <= theirs
