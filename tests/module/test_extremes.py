"""Extreme values and extreme sizes."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap

import pytest
import torch
from cases import DTYPES, Case, draw
from instruction_sets import each_instruction_set
from numerics import assert_accurate, scaled
from torch._subclasses.fake_tensor import FakeTensorMode

import lstm_fused

CASE = Case(4, 16, 6, 64, num_layers=2, bidirectional=True)


@each_instruction_set
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("names", "factor"),
    [
        *[(names, small) for names in ("input", "weight", "h_0", "c_0") for small in (0.0, 1e-42, 1e-6)],
        *[("bias_ih", large) for large in (0.0, 30.0, 300.0)],
        *[("input", large) for large in (30.0, 300.0)],
        *[("c_0", large) for large in (30.0, 300.0)],
    ],
    ids=str,
)
def test_scaled_values(names: str, factor: float, dtype: torch.dtype):
    """From all zeros and denormals to gates that are fully open or shut: finite, and as good as torch's.

    Large recurrent weights are not here: they make the LSTM chaotic, and then every rounding error grows without bound.
    """
    often = {"times": 3, "orders": 8} if factor > 1 else {}  # few elements have nearly all of the error
    assert_accurate(CASE.but(dtype=dtype), make=scaled(names, factor), **often)


@pytest.mark.parametrize("dtype", DTYPES[:2] + DTYPES[3:], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_saturated_to_the_end(dtype: torch.dtype, sign: int):
    """Pre-activations of +-1e30: exp() must neither overflow into NaN nor leave a gradient behind."""
    module = lstm_fused.LSTM(3, 4, dtype=dtype)
    with torch.no_grad():
        module.bias_ih_l0.fill_(sign * 1e30)
    input = torch.randn(5, 2, 3, dtype=dtype).requires_grad_()
    output, (_, c_n) = module(input)
    cells = torch.arange(1, 6, dtype=dtype)[:, None, None].expand(5, 2, 4) if sign > 0 else torch.zeros(5, 2, 4)
    tiny = torch.finfo(dtype).smallest_normal  # what an exp() that stops at the denormals may leave of a shut gate
    torch.testing.assert_close(c_n[0], cells[-1].to(dtype), rtol=0, atol=tiny)
    torch.testing.assert_close(output, cells.to(dtype).tanh())
    gradients = torch.autograd.grad(output.sum(), [input, *module.parameters()])
    assert all(g.isfinite().all() for g in gradients)
    assert gradients[0].abs().max() <= tiny


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("seq_len", [1, 3])
@pytest.mark.parametrize("batch", [1, 5, 40])
def test_a_shut_gate_lets_nothing_through(dtype: torch.dtype, seq_len: int, batch: int):
    """However large what waits at it: a gate at a pre-activation of -1e4 is 0 and at 1e4 is 1, as torch's."""
    hidden = 19
    for gate, sign in [(0, -1), (1, -1), (1, 1), (3, -1)]:
        ours, theirs = lstm_fused.LSTM(3, hidden, dtype=dtype), torch.nn.LSTM(3, hidden, dtype=dtype)
        with torch.no_grad():
            ours.bias_ih_l0[gate * hidden : (gate + 1) * hidden] = sign * 1e4
        theirs.load_state_dict(ours.state_dict())
        huge = torch.full((1, batch, hidden), torch.finfo(dtype).max / 4, dtype=dtype)
        input, h_0 = torch.randn(seq_len, batch, 3, dtype=dtype), torch.randn(1, batch, hidden, dtype=dtype)
        results = []
        for module in (ours, theirs):
            leaves = [huge.clone().requires_grad_(), *module.parameters()]
            output, (h_n, c_n) = module(input, (h_0, leaves[0]))
            results.append([output, h_n, c_n, *torch.autograd.grad(output.sum(), leaves)])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)


@each_instruction_set
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seq_len", [1, 2])
@pytest.mark.parametrize("gate", ["sigmoid", "tanh"])
def test_every_value_of_a_gate(gate: str, seq_len: int, dtype: torch.dtype):
    """All finite numbers of a half type before the activation: after it the nearest one, by a twentieth of an ulp."""
    values = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    values = values[values.isfinite()]
    module = lstm_fused.LSTM(1, 3, dtype=dtype)
    bias = {"i": 60000.0, "f": -60000.0, "g": 60000.0, "o": 60000.0}  # c and h are 1 and tanh(1)
    swept = "o" if gate == "sigmoid" else "g"
    with torch.no_grad():
        for name, part in zip("ifgo", module.bias_ih_l0.chunk(4), strict=True):
            part.fill_(0 if name == swept else bias[name])
        for name, part in zip("ifgo", module.weight_ih_l0.chunk(4), strict=True):
            part.fill_(name == swept)
        for zero in (module.weight_hh_l0, module.bias_hh_l0):
            zero.zero_()
        output, (_, c_n) = module(values.expand(seq_len, -1)[..., None])
    exact = values.double()[:, None].expand(-1, 3)
    got, wanted = (output[-1], exact.sigmoid() * math.tanh(1)) if swept == "o" else (c_n[0], exact.tanh())
    half_an_ulp = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(got.double(), wanted, rtol=1.05 * half_an_ulp, atol=torch.finfo(dtype).smallest_normal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [2, 40])
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_infinities_are_those_of_torch(value: float, batch: int, dtype: torch.dtype):
    """An infinite or NaN input gives what the formulas give: the same as torch.nn.LSTM, element by element."""
    ours, theirs = lstm_fused.LSTM(3, 4, dtype=dtype), torch.nn.LSTM(3, 4, dtype=dtype)
    theirs.load_state_dict(ours.state_dict())
    input = torch.randn(5, batch, 3, dtype=dtype)
    input[2, 1, 0] = value
    few_ulps = 10 * torch.finfo(dtype).eps
    for a, b in zip(ours(input)[1], theirs(input)[1], strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, rtol=few_ulps, atol=few_ulps)


def test_a_long_sequence():
    """200,000 steps: no recursion, no cost that grows faster than T, and errors that do not add up.

    An LSTM like this one forgets within a few hundred steps, so torch.nn.LSTM, which takes seconds for all of it in
    float64, starts 1000 steps before the part that is compared.
    """
    problem = draw(Case(200_000, 1, 2, 3, hx=False))
    input = problem.leaves["input"]
    modules = lstm_fused.LSTM(2, 3), torch.nn.LSTM(2, 3), torch.nn.LSTM(2, 3).double()
    for module in modules:
        module.load_state_dict({n: problem.leaves[n] for n in module.state_dict()})
    with torch.no_grad():
        whole = modules[0](input)[0]
        for begin in (0, 100_000, 198_000):
            part = slice(max(0, begin - 1000), begin + 2000)
            plain, exact = (m(input[part].to(m.weight_ih_l0.dtype))[0][-2000:].double() for m in modules[1:])
            bound = 2 * (plain - exact).abs().max() + torch.finfo(torch.float32).eps / 2 * exact.abs().max()
            assert (whole[begin : begin + 2000] - exact).abs().max() <= bound


def test_training_on_a_long_sequence():
    assert_accurate(Case(3000, 1, 4, 16, reset=0.001), times=1)


@pytest.mark.parametrize(
    ("seq_len", "batch", "hidden"), [(2**33, 1, 1), (2**20, 2**12, 64), (3, 2**31 + 7, 2)], ids=str
)
def test_sizes_beyond_32_bits_have_the_right_shapes(seq_len: int, batch: int, hidden: int):
    """Fake tensors: what torch.compile and a planner see of a problem that fits no memory here."""
    with FakeTensorMode():
        module = lstm_fused.LSTM(2, hidden, num_layers=2, bidirectional=True)
        output, (h_n, c_n), cells = module(torch.empty(seq_len, batch, 2), return_cells=True)
        assert output.shape == cells.shape == (seq_len, batch, 2 * hidden)
        assert h_n.shape == c_n.shape == (4, batch, hidden)
        output.sum().backward()
        assert module.weight_ih_l0.grad.shape == (4 * hidden, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process, which needs Linux")
def test_sizes_beyond_memory_are_refused_cleanly():
    """An input of 2^33 steps (one number, expanded) needs more than the process may have: an error, not a crash."""
    script = """
        import resource, torch, lstm_fused
        torch.set_num_threads(1)
        module = lstm_fused.LSTM(1, 1)
        module(torch.zeros(3, 1, 1))
        resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
        for shape in ((2**33, 1, 1), (2**16, 2**17, 1), (1, 2**33, 1), (2**31, 2**31, 1)):
            for grad in (False, True):
                try:
                    with torch.set_grad_enabled(grad):
                        module(torch.zeros(1, 1, 1).expand(shape))
                except (RuntimeError, MemoryError) as error:
                    print("refused:", str(error).splitlines()[0])
                else:
                    print("computed")
        print(module(torch.zeros(3, 1, 1))[0].shape)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(lines) == 9 and all(line.startswith("refused: ") and line[9:].strip() for line in lines[:8]), lines
    assert lines[8] == "torch.Size([3, 1, 1])"
