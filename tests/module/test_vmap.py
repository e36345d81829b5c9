"""torch.vmap, ensembles and per-sample gradients: the same numbers as loops give."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import Case, draw
from functions import SEVERAL, SMALL, Recorder, as_function, sum_of_squares
from numerics import Errors
from torch import func, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import lstm_fused

BATCHED: dict[str, set[str]] = {
    "input": {"input"},
    "states": {"h_0", "c_0"},
    "input and one state": {"input", "c_0"},
    "weights": {"weights"},
    "everything": {"input", "h_0", "c_0", "weights"},
}


def members_of(inputs: tuple[torch.Tensor, ...], names: set[str], number: int, dims: tuple[int, ...]):
    """Inputs with `number` members where `names` says so, and in_dims."""
    kinds = ["input", "h_0", "c_0"] + ["weights"] * (len(inputs) - 3)
    batched, in_dims = [], []
    for n, (kind, tensor) in enumerate(zip(kinds, inputs, strict=True)):
        dim = dims[n % len(dims)] if kind in names else None
        if dim is not None and dim > tensor.dim():
            dim = 0
        noise = torch.randn(number, *tensor.shape, dtype=tensor.dtype).to(tensor.device)
        batched.append(tensor if dim is None else (tensor + 0.3 * noise).movedim(0, dim))
        in_dims.append(dim)
    return batched, tuple(in_dims)


def one_by_one(function, args, in_dims, number: int):
    results = [
        function(*(a if d is None else a.select(d, n) for a, d in zip(args, in_dims, strict=True)))
        for n in range(number)
    ]
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


@pytest.mark.parametrize("names", BATCHED, ids=lambda names: names.replace(" ", "_"))
@pytest.mark.parametrize("options", [o for o in SEVERAL if not o.get("dropout")], ids=str)
def test_vmap_is_a_loop(options: dict, names: str, device: str):
    """Values, and gradients through them, wherever the members lie; and how many calls of the kernels it takes."""
    function, inputs = as_function(SMALL.but(device=device, **options))
    number = 3
    args, in_dims = members_of(tuple(t.detach() for t in inputs), BATCHED[names], number, dims=(0, 1, 2))
    args = [a.requires_grad_() for a in args]
    exact = one_by_one(function, args, in_dims, number)
    with Recorder() as recorder:
        actual = func.vmap(function, in_dims)(*args)
        torch.testing.assert_close(actual, exact)
        cotangents = [torch.randn_like(result) for result in exact]
        gradients = [torch.autograd.grad(results, args, cotangents) for results in (actual, exact)]
    torch.testing.assert_close(*gradients)
    calls = [call[0] for call in recorder.calls if call[0] is torch.ops.lstm_fused.forward.default]
    assert len(calls) == (number if "weights" in BATCHED[names] else 1)


@pytest.mark.parametrize("out_dims", [0, 1, 2, (2, 0, 1)])
def test_out_dims(out_dims):
    module = lstm_fused.LSTM(3, 4, dtype=torch.float64)
    members = torch.randn(6, 5, 2, 3, dtype=torch.float64)

    def function(input):
        output, (h, c) = module(input)
        return output, h, c

    actual = func.vmap(function, out_dims=out_dims)(members)
    exact = [torch.stack(parts) for parts in zip(*(function(m) for m in members), strict=True)]
    dims = (out_dims,) * 3 if isinstance(out_dims, int) else out_dims
    for a, b, dim in zip(actual, exact, dims, strict=True):
        torch.testing.assert_close(a, b.movedim(0, dim))


@pytest.mark.parametrize("batched", [["input"], ["lengths"], ["reset"], ["input", "lengths", "reset"]], ids="-".join)
def test_lengths_and_resets_of_each_member(batched: list[str], device: str):
    case = Case(5, 3, 2, 3, bidirectional=True, dtype=torch.float64, device=device)
    module = lstm_fused.LSTM(2, 3, bidirectional=True, dtype=torch.float64, device=device)
    problems = [draw(case.but(lengths=True, reset=0.3), replica) for replica in range(4)]
    stacked = {
        "input": torch.stack([p.leaves["input"] for p in problems]),
        "lengths": torch.stack([p.lengths for p in problems]),
        "reset": torch.stack([p.reset for p in problems]),
    }
    args = [value if name in batched else value[0] for name, value in stacked.items()]
    in_dims = tuple(0 if name in batched else None for name in stacked)

    def function(input, lengths, reset):
        output, (h, c), cells = module(input, lengths=lengths, reset=reset, return_cells=True)
        return output, h, c, cells

    torch.testing.assert_close(func.vmap(function, in_dims)(*args), one_by_one(function, args, in_dims, 4))
    too_long = stacked["lengths"] + 5
    if device == "cpu":
        with pytest.raises(ValueError, match="lengths: expected values from 1 to 5"):
            func.vmap(lambda lengths: module(stacked["input"][0], lengths=lengths)[0])(too_long)


def test_vmap_of_vmap(device: str):
    """Two levels: both fold into the batch, with one call of the kernels."""
    module = lstm_fused.LSTM(3, 4, num_layers=2, dtype=torch.float64, device=device)
    input = torch.randn(2, 3, 5, 2, 3, dtype=torch.float64, device=device)
    states = torch.randn(3, 2, 2, 4, dtype=torch.float64, device=device)

    def function(input, state):
        return module(input, (state, state))[0]

    with Recorder() as recorder:
        actual = func.vmap(func.vmap(function), in_dims=(0, None))(input, states)
    assert len(recorder.calls) == 1
    for a in range(2):
        for b in range(3):
            torch.testing.assert_close(actual[a, b], function(input[a, b], states[b]))


@pytest.mark.parametrize("form", ["unbatched", "batch_first", "packed", "cell"])
def test_other_forms_of_input(form: str, device: str):
    place = {"dtype": torch.float64, "device": device}
    cls = lstm_fused.LSTMCell if form == "cell" else lstm_fused.LSTM
    module = cls(3, 4, **place) if form == "cell" else cls(3, 4, batch_first=form == "batch_first", **place)
    if form == "packed":
        packed = pack_sequence([torch.randn(n, 3, **place) for n in (2, 4, 1)], enforce_sorted=False)
        input = torch.randn(5, *packed.data.shape, **place)
    else:
        input = torch.randn(5, *{"unbatched": (6, 3), "batch_first": (2, 6, 3), "cell": (2, 3)}[form], **place)

    def function(input):
        if form == "packed":
            output, (h, c) = module(PackedSequence(input, *packed[1:]))
            return output.data, h, c
        output, states = module(input)
        return (output, states) if form == "cell" else (output, *states)

    torch.testing.assert_close(func.vmap(function)(input), one_by_one(function, [input], [0], 5))
    gradients = func.vmap(func.grad(sum_of_squares(function)))(input)
    exact = torch.stack([func.grad(sum_of_squares(function))(member) for member in input])
    torch.testing.assert_close(gradients, exact)
    tangent = func.jvp(function, (input[0],), (torch.ones_like(input[0]),))[1]
    columns = func.jacrev(function)(input[0])
    torch.testing.assert_close(tangent, tuple(c.flatten(-input.dim() + 1).sum(-1) for c in columns))


def test_randomness_of_dropout():
    """vmap's own rule: refused unless asked for, then one mask for all members or one for each."""
    module = lstm_fused.LSTM(3, 8, num_layers=2, dropout=0.5)
    members = torch.randn(5, 2, 3).expand(4, 5, 2, 3)

    def output(input):
        return module(input)[0]

    with pytest.raises(RuntimeError, match="randomness"):
        func.vmap(output)(members)
    same = func.vmap(output, randomness="same")(members)
    assert all(torch.equal(member, same[0]) for member in same[1:])
    different = func.vmap(output, randomness="different")(members)
    assert not any(torch.equal(member, different[0]) for member in different[1:])
    module.eval()
    torch.testing.assert_close(func.vmap(output)(members)[0], output(members[0]))


def test_no_reserve_without_gradients():
    """Batched inference keeps nothing for backward."""
    module = lstm_fused.LSTM(3, 4)
    for enabled in (True, False):
        with Recorder() as recorder, torch.set_grad_enabled(enabled):
            func.vmap(lambda x: module(x)[0])(torch.randn(6, 5, 2, 3))
        (call,) = recorder.calls
        assert (call[0] is torch.ops.lstm_fused.forward.default) and call[1][8] is enabled


# ---- ensembles and per-sample gradients


class Tagger(nn.Module):
    def __init__(self, cls: type = lstm_fused.LSTM) -> None:
        super().__init__()
        self.lstm = cls(3, 4, num_layers=2, bidirectional=True, batch_first=True, dtype=torch.float64)
        self.head = nn.Linear(8, 2, dtype=torch.float64)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(input)[0])


@pytest.mark.parametrize("shared_input", [True, False])
def test_ensemble(shared_input: bool, device: str):
    models = [Tagger().to(device) for _ in range(3)]
    parameters, buffers = func.stack_module_state(models)
    skeleton = Tagger().to("meta")
    input = torch.randn(*(() if shared_input else (3,)), 2, 5, 3, dtype=torch.float64, device=device)

    def call(parameters, buffers, input):
        return func.functional_call(skeleton, (parameters, buffers), (input,))

    actual = func.vmap(call, (0, 0, None if shared_input else 0))(parameters, buffers, input)
    exact = torch.stack([m(input if shared_input else input[n]) for n, m in enumerate(models)])
    torch.testing.assert_close(actual, exact)
    exact.square().sum().backward()
    gradients = torch.autograd.grad(actual.square().sum(), list(parameters.values()))
    for name, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(gradient, torch.stack([m.get_parameter(name).grad for m in models]))


Parameters = dict[str, torch.Tensor]


def sample_loss(model: nn.Module) -> Callable[[Parameters, torch.Tensor, torch.Tensor], torch.Tensor]:
    def loss(parameters: Parameters, sample: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        output = func.functional_call(model, parameters, (sample.unsqueeze(0),))
        return nn.functional.cross_entropy(output.flatten(0, 1), target)

    return loss


def test_per_sample_gradients(device: str):
    model = Tagger().to(device, torch.float64)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    samples = torch.randn(6, 5, 3, device=device, dtype=torch.float64)
    targets = torch.randint(2, (6, 5), device=device)
    loss = sample_loss(model)
    gradients = func.vmap(func.grad(loss), (None, 0, 0))(parameters, samples, targets)
    for n in range(6):
        exact = torch.autograd.grad(loss(dict(model.named_parameters()), samples[n], targets[n]), [*model.parameters()])
        for ours, gradient in zip(gradients.values(), exact, strict=True):
            torch.testing.assert_close(ours[n], gradient)


def test_per_sample_gradients_in_bfloat16(device: str):
    """Gradients of one sample are sums that cancel: by the rule of all results, not to some digits of each other."""
    model = Tagger().to(device, torch.bfloat16)
    samples = torch.randn(6, 5, 3, device=device, dtype=torch.bfloat16)
    targets = torch.randint(2, (6, 5), device=device)
    case = Case(5, 6, 3, 4, dtype=torch.bfloat16)

    def each(package_lstm: type[nn.Module], dtype: torch.dtype) -> list[list[torch.Tensor]]:
        other = Tagger(package_lstm).to(device, dtype)
        other.load_state_dict(model.state_dict())
        loss, own = sample_loss(other), dict(other.named_parameters())
        return [
            list(torch.autograd.grad(loss(own, samples[n].to(dtype), targets[n]), [*own.values()])) for n in range(6)
        ]

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    actual = func.vmap(func.grad(sample_loss(model)), (None, 0, 0))(parameters, samples, targets)
    plain, exact = each(nn.LSTM, torch.bfloat16), each(nn.LSTM, torch.float64)
    for at, (name, gradients) in enumerate(actual.items()):
        ours, theirs = Errors(case), Errors(case)
        for n in range(6):
            ours.add(gradients[n], exact[n][at].cpu().numpy())
            theirs.add(plain[n][at], exact[n][at].cpu().numpy())
        assert ours.norms()["rms"] <= 2 * theirs.norms()["rms"] + 0.5, name


def test_per_sample_gradients_are_those_of_torch():
    """Against torch.nn.LSTM, which has no vmap: one sample after the other."""
    model, theirs = Tagger(), Tagger(nn.LSTM)
    theirs.load_state_dict(model.state_dict())
    samples = torch.randn(4, 5, 3, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, sample):
        return func.functional_call(model, parameters, (sample.unsqueeze(0),)).square().sum()

    gradients = func.vmap(func.grad(loss), (None, 0))(parameters, samples)
    for n, sample in enumerate(samples):
        exact = torch.autograd.grad(theirs(sample.unsqueeze(0)).square().sum(), list(theirs.parameters()))
        torch.testing.assert_close([g[n] for g in gradients.values()], list(exact))
