"""Extreme values and extreme sizes."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch
from cases import DTYPES, Case, Problem, draw
from numerics import Results, assert_accurate, expected, fused
from torch._subclasses.fake_tensor import FakeTensorMode

import lstm_fused

CASE = Case(5, 4, 6, 9, num_layers=2, bidirectional=True, return_cells=True)


def scaled(problem: Problem, factor: float, names: str) -> Problem:
    leaves = {n: (t.double() * factor if names in n else t.double()) for n, t in problem.leaves.items()}
    limits = torch.finfo(problem.case.dtype)
    problem.leaves = {n: t.clamp(limits.min, limits.max).to(problem.case.dtype) for n, t in leaves.items()}
    return problem


def assert_as_good_as_torch(problem: Problem) -> None:
    """The rule in absolute terms: some gradients are denormal or zero here, so one rounding is the smallest number."""
    exact, plain, actual = expected(problem, torch.float64), expected(problem, problem.case.dtype), fused(problem)
    limits = torch.finfo(problem.case.dtype)
    for name, wanted in exact.items():
        assert wanted.isfinite().all()
        error, plain_error = ((t[name].double() - wanted).abs().max() for t in (actual, plain))
        rounding = max(limits.eps / 2 * wanted.abs().max().item(), limits.smallest_normal)
        spare = 8 * limits.eps * wanted.abs().max() if problem.case.dtype == torch.float64 else 0  # see numerics.py
        assert error <= 2 * plain_error + rounding + spare, f"{name}: {error} against {plain_error}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("factor", [0.0, 1e-30, 1e-6, 30.0, 1000.0])
@pytest.mark.parametrize("names", ["input", "bias_ih", "weight_hh", "c_0"])
def test_scaled_values(names: str, factor: float, dtype: torch.dtype):
    """From all zeros and denormals to gates that are fully open or shut: finite, and as good as torch's."""
    if dtype == torch.float16 and factor == 1000.0:
        factor = 300.0  # the pre-activations must not overflow, in torch.nn.LSTM either
    assert_as_good_as_torch(scaled(draw(CASE.but(dtype=dtype)), factor, names))


@pytest.mark.parametrize("dtype", DTYPES[:2] + DTYPES[3:], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_saturated_to_the_end(dtype: torch.dtype, sign: int):
    """Pre-activations of +-1e30: exp() must neither overflow into NaN nor leave a gradient behind."""
    module = lstm_fused.LSTM(3, 4, dtype=dtype)
    with torch.no_grad():
        module.bias_ih_l0.fill_(sign * 1e30)
    input = torch.randn(5, 2, 3, dtype=dtype).requires_grad_()
    output, (h_n, c_n) = module(input)
    wanted = torch.arange(1, 6, dtype=dtype)[:, None, None].expand(5, 2, 4) if sign > 0 else torch.zeros(5, 2, 4)
    assert torch.equal(c_n[0], wanted[-1].to(dtype))
    torch.testing.assert_close(output, wanted.to(dtype).tanh() if sign > 0 else wanted.to(dtype))
    gradients = torch.autograd.grad(output.sum(), [input, *module.parameters()])
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[0] == 0).all()


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_infinities_are_those_of_torch(value: float):
    """An infinite or NaN input gives what the formulas give: the same as torch.nn.LSTM, element by element."""
    ours, theirs = lstm_fused.LSTM(3, 4), torch.nn.LSTM(3, 4)
    theirs.load_state_dict(ours.state_dict())
    input = torch.randn(5, 2, 3)
    input[2, 1, 0] = value
    for a, b in zip(ours(input)[1], theirs(input)[1], strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_a_long_sequence():
    """200,000 steps: no recursion, no cost that grows faster than T, and errors that do not add up."""

    def inference(problem: Problem) -> Results:
        with torch.no_grad():
            module = lstm_fused.LSTM(2, 3)
            module.load_state_dict({n: problem.leaves[n] for n in module.state_dict()})
            output, (h_n, c_n) = module(problem.leaves["input"], (problem.leaves["h_0"], problem.leaves["c_0"]))
        return {"output": output, "h_n": h_n, "c_n": c_n}

    problem = draw(Case(200_000, 1, 2, 3))
    actual = inference(problem)
    with torch.no_grad():
        modules = []
        for dtype in (torch.float32, torch.float64):
            module = torch.nn.LSTM(2, 3, dtype=dtype)
            module.load_state_dict({n: problem.leaves[n] for n in module.state_dict()})
            leaves = problem.to(dtype).leaves
            modules.append(module(leaves["input"], (leaves["h_0"], leaves["c_0"]))[0])
    plain, exact = modules
    bound = 2 * (plain - exact).abs().max() + torch.finfo(torch.float32).eps / 2 * exact.abs().max()
    assert (actual["output"] - exact).abs().max() <= bound


def test_training_on_a_long_sequence():
    assert_accurate(Case(3000, 1, 2, 5, reset=0.001), times=1)


@pytest.mark.parametrize(("seq_len", "batch", "hidden"), [(2**33, 1, 1), (2**20, 2**12, 64), (3, 2**31 + 7, 2)], ids=str)
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
