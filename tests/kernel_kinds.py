"""The kinds of CUDA kernels, each in every arithmetic, and how a test of one on the simulator is checked."""

from __future__ import annotations

import torch
from cases import Case, Problem
from numerics import Results, assert_accurate, expected, fused
from simulated import Simulator, planned

# How a kernel computes: the type of the tensors, or float32 with TF32 products.
ARITHMETICS = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "tf32": torch.float32,
    "float64": torch.float64,
}
KINDS = ["step", "block", "cluster", "group"]
HOW = [(kind, name) for kind in KINDS for name in ARITHMETICS if kind == "step" or name != "float64"]
SEEDS = 20
STACK = {"num_layers": 2, "bidirectional": True}


def arguments(problem: Problem) -> tuple:
    """The op's first five."""
    leaves = problem.leaves
    weights = [tensor for name, tensor in leaves.items() if "_l" in name]
    return leaves["input"], leaves["h_0"], leaves["c_0"], weights, problem.case.bidirectional


def inference(problem: Problem) -> Results:
    """The outputs of a call without gradients; torch's own stand in for the gradients."""
    with torch.no_grad():
        outputs = fused(problem)
    theirs = expected(problem, problem.case.dtype)
    return {
        name: theirs[name].to(outputs[name].dtype) if name.startswith("grad ") else outputs[name] for name in theirs
    }


def fitted(case: Case, kind: str, arithmetic: str) -> Case:
    """The case in this arithmetic; in the persistent kinds not projected, and no larger than they hold."""
    case = case.but(dtype=ARITHMETICS[arithmetic])
    if kind == "step":
        return case
    most = {"block": 256, "cluster": 1024, "group": 4096}[kind.removesuffix("_stack")] // case.dtype.itemsize
    return case.but(proj_size=0, hidden_size=min(case.hidden_size, most))


def check(
    simulator: Simulator, how: tuple[str, str], case: Case, times: int | None = None, run=fused, num_sms: int = 0
) -> None:
    """The rule of tests/numerics.py, every draw with a schedule of its own.

    TF32 keeps as many bits of a factor as float16 does, so its errors are held against torch.nn.LSTM in float16: on
    float16 numbers, and with one rounding to float16 of what comes out.
    """
    kind, arithmetic = how
    case = fitted(case, kind, arithmetic)
    calls = 0

    def counted(problem: Problem) -> Results:
        nonlocal calls
        calls += 1
        if arithmetic != "tf32":
            return run(problem)
        return {name: tensor.half() for name, tensor in run(problem.to(torch.float32)).items()}

    with simulator.running(kind, allow_tf32=arithmetic == "tf32", seed=case.seed, num_sms=num_sms):
        assert_accurate(case.but(dtype=torch.float16) if arithmetic == "tf32" else case, counted, times=times)
        plan = planned(kind, case, training=run is fused, allow_tf32=arithmetic == "tf32")
        forward = -(-case.num_layers // plan.layers_at_once)
        backward = -(-case.num_layers // (plan.backward_layers_at_once if run is fused else 1))
        launches = calls * (forward + (backward if run is not inference else 0))
        assert (simulator.launches() == launches) == (kind != "step")
