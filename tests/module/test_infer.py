"""The short way of a call without gradients: the operator first, the checks only if it refuses."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode

import lstm_fused
from lstm_fused import ops

OPTIONS: list[dict] = [
    {},
    {"bias": False, "num_layers": 2},
    {"bidirectional": True, "num_layers": 2, "batch_first": True},
    {"proj_size": 3, "bidirectional": True, "bias": False},
]


def flat(result) -> tuple[torch.Tensor, ...]:
    output, (h_n, c_n) = result
    return output, h_n, c_n


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_same_bits_as_forward(options: dict, dtype: torch.dtype) -> None:
    """With states, without them, and with gradients; at sizes of every kernel."""
    module = lstm_fused.LSTM(20, 5, dtype=dtype, **options)
    states = module.num_layers * (2 if module.bidirectional else 1)
    for steps, rows in ((1, 1), (3, 2), (9, 8), (2, 0)):
        input = torch.randn((rows, steps, 20) if module.batch_first else (steps, rows, 20), dtype=dtype)
        zeros = torch.zeros(states, rows, module.proj_size or 5, dtype=dtype), torch.zeros(states, rows, 5, dtype=dtype)
        expected = flat(module(input))
        with torch.no_grad():
            for actual in (flat(module(input)), flat(module(input, zeros))):
                assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
                assert [a.stride() for a in actual] == [b.stride() for b in expected]
                assert not any(a.requires_grad for a in actual)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_opcheck(options: dict) -> None:
    module = lstm_fused.LSTM(4, 5, **options).requires_grad_(False)
    states, width = module.num_layers * (2 if module.bidirectional else 1), module.proj_size or 5
    h_0, c_0 = torch.randn(states, 2, width), torch.randn(states, 2, 5)
    for given in ((h_0, c_0), (None, None), (h_0, None), (None, c_0)):
        args = (torch.randn(3, 2, 4), *given, list(module.parameters()), module.num_layers, module.bidirectional, False)
        torch.library.opcheck(torch.ops.lstm_fused.infer.default, args)


def test_the_operator_itself_refuses() -> None:
    """A direct call reads nowhere that it should not."""
    infer, input = torch.ops.lstm_fused.infer, torch.randn(3, 2, 4)
    weights = [torch.randn(20, 4), torch.randn(20, 5), torch.randn(20), torch.randn(20)]
    state = torch.zeros(1, 2, 5)
    bad = [
        (input, None, None, [], 1, False, False),
        (input, None, None, weights, 0, False, False),
        (input, None, None, weights, -1, False, False),
        (input, None, None, weights, 3, False, False),
        (input, None, None, weights, 1, True, False),
        (input, None, None, weights[:1], 1, False, False),
        (input, None, None, [weights[0], torch.randn(3, 5)], 1, False, False),
        (input, None, None, [weights[0], torch.randn(20)], 1, False, False),
        (input, None, state[:, :1], weights, 1, False, False),
        (input, state.double(), None, weights, 1, False, False),
        (input[0], None, None, weights, 1, False, False),
        (input[:0], None, None, weights, 1, False, False),
        (input.long(), None, None, weights, 1, False, False),
    ]
    for args in bad:
        with pytest.raises(RuntimeError, match="lstm_fused"):
            infer(*args)


class Failure(RuntimeError):
    """Of the kernels, not of the arguments."""


@pytest.mark.parametrize("error", [Failure("no memory"), MemoryError(), KeyboardInterrupt()], ids=repr)
def test_an_error_of_the_kernels_is_not_retried(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    module, calls = lstm_fused.LSTM(4, 5), []

    def fail(*args: object) -> None:
        calls.append(args)
        raise error

    monkeypatch.setattr(ops, "infer", fail)
    monkeypatch.setattr(ops, "forward", fail)
    with torch.no_grad(), pytest.raises(type(error)) as caught:
        module(torch.randn(3, 2, 4))
    assert caught.value is error and len(calls) == 1


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
def test_a_trace_can_be_trained() -> None:
    module, input = lstm_fused.LSTM(4, 5), torch.randn(3, 2, 4)
    with torch.no_grad():
        traced = torch.jit.trace(module, input, check_trace=False)
    (gradient,) = torch.autograd.grad(traced(input)[0].sum(), module.weight_hh_l0)
    assert gradient.any()


def test_an_empty_hx_is_refused() -> None:
    with torch.no_grad():
        for hx in ((), (torch.zeros(1, 2, 5),) * 3):
            with pytest.raises((IndexError, RuntimeError)):
                lstm_fused.LSTM(4, 5)(torch.randn(3, 2, 4), hx)


class Seen(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.functions: list[object] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.functions.append(function)
        return function(*args, **(kwargs or {}))


class Marked(torch.Tensor):
    """A tensor whose functions return tensors of its kind."""


def test_torch_function_sees_the_call() -> None:
    """Modes and subclasses may ask to see every operator."""
    module, input, states = lstm_fused.LSTM(4, 5), torch.randn(3, 2, 4), torch.zeros(1, 2, 5)
    with torch.no_grad():
        expected = flat(module(input))
        with Seen() as seen:
            module(input)
        assert torch.ops.lstm_fused.forward.default in seen.functions
        for hx in ((states.as_subclass(Marked), states), (states, states.as_subclass(Marked))):
            actual = flat(module(input, hx))
            assert all(type(a) is Marked and torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
