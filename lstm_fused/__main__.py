"""`python -m lstm_fused`: what a bug report needs, and a self-check on every device. Exit code 1 if a check fails."""

from __future__ import annotations

import json
import platform
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

import lstm_fused

from .explain import built_kernels, cuda_device

# T, B, I, H, options of the constructor: small, and between them every path of the kernels
CHECKS: list[tuple[int, int, int, int, dict]] = [
    (1, 1, 3, 5, {}),
    (7, 3, 16, 33, {"num_layers": 2, "bidirectional": True}),
    (5, 9, 8, 24, {"proj_size": 7, "bias": False}),
    (20, 2, 64, 128, {}),
]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def print_facts() -> None:
    """Version, build, torch, CPU and CUDA, one line each."""
    build = json.loads(Path(__file__).with_name("_build.json").read_text())
    architectures = ", ".join(build["cuda_architectures"] or [])
    cuda = f"CUDA {build['cuda']} for {architectures}" if build["cuda"] else "no CUDA"
    print(f"lstm_fused  {build['version']}")
    print(f"build       {build['compiler']}; {cuda}")
    built_against = f"targets {build['torch_target']} and later, built against {build['torch']}"
    print(f"torch       {built_against}, found {torch.__version__}")
    print(f"python      {platform.python_version()} on {platform.system()} {platform.machine()}")
    isa = torch.ops.lstm_fused.cpu_isa()
    print(f"cpu         {torch.backends.cpu.get_cpu_capability()} by torch, kernels run {isa}")
    print(f"threads     {torch.get_num_threads()}")
    print(f"kernels     {', '.join(sorted(built_kernels())) or 'no CUDA kernels in this build'}")
    for index in range(torch.cuda.device_count()):
        try:
            facts = cuda_device(index)
            print(f"cuda:{index}      {facts.name}, sm_{facts.compute_capability}, {facts.num_sms} SMs")
        except RuntimeError as error:
            print(f"cuda:{index}      {torch.cuda.get_device_name(index)}: {str(error).splitlines()[0]}")
    if not torch.cuda.device_count():
        print("cuda        torch sees no device")


def results(lstm: torch.nn.Module, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Output, h_n, c_n, and the gradients of input, h_0, c_0 and parameters of a sum of squares, in float64."""
    input, h_0, c_0 = (tensor.detach().clone().requires_grad_() for tensor in inputs)
    output, (h_n, c_n) = lstm(input, (h_0, c_0))
    loss = torch.stack([tensor.double().square().sum() for tensor in (output, h_n, c_n)]).sum()
    gradients = torch.autograd.grad(loss, [input, h_0, c_0, *lstm.parameters()])
    return [tensor.detach().double().cpu() for tensor in (output, h_n, c_n, *gradients)]


def check(sizes: Sequence[int], options: dict, dtype: torch.dtype, device: str) -> tuple[float, float, bool]:
    """Largest error of lstm_fused and of torch.nn.LSTM, relative to each tensor's largest value, and if all is right.

    Right: every tensor has at most twice torch's error and one rounding (in float64 the reference's own error, 1e-13).
    """
    seq_len, batch, input_size, hidden_size = sizes
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(input_size, hidden_size, **options).to(device, dtype)
    ours = lstm_fused.LSTM(input_size, hidden_size, **options).to(device, dtype)
    exact = torch.nn.LSTM(input_size, hidden_size, **options).double()
    ours.load_state_dict(theirs.state_dict())
    exact.load_state_dict(theirs.state_dict())
    rounding = max(torch.finfo(dtype).eps, 1e-13)
    states = theirs.num_layers * (2 if theirs.bidirectional else 1)
    shapes = [
        (seq_len, batch, input_size),
        (states, batch, theirs.proj_size or hidden_size),
        (states, batch, hidden_size),
    ]
    inputs = [torch.randn(shape).to(device, dtype) for shape in shapes]
    wanted = results(exact, *(tensor.double().cpu() for tensor in inputs))
    worst_ours, worst_theirs, good = 0.0, 0.0, True
    for want, our, their in zip(wanted, results(ours, *inputs), results(theirs, *inputs), strict=True):
        scale = want.abs().max().item()
        error, error_of_torch = ((tensor - want).abs().max().item() / scale for tensor in (our, their))
        good &= error <= 2 * error_of_torch + rounding  # false for NaN, too
        worst_ours, worst_theirs = max(worst_ours, error), max(worst_theirs, error_of_torch)
    return worst_ours, worst_theirs, good


def self_check(device: str) -> bool:
    """Runs and prints all checks on one device."""
    all_good = True
    for dtype in DTYPES:
        for *sizes, options in CHECKS:
            label = "T {}, B {}, I {}, H {}".format(*sizes)
            label += "".join(f", {name}={value}" for name, value in options.items())
            try:
                ours, theirs, good = check(sizes, options, dtype, device)
                verdict = f"error {ours:.1e}, torch {theirs:.1e}  {'OK' if good else 'FAILED'}"
            except RuntimeError as error:
                good, verdict = False, f"FAILED: {str(error).splitlines()[0]}"
            print(f"{device:8}  {str(dtype).removeprefix('torch.'):9} {label:55} {verdict}")
            all_good &= good
    return all_good


def main() -> int:
    print_facts()
    print("\nself-check: outputs and all gradients against float64, errors relative to each tensor's largest value")
    warnings.filterwarnings("ignore", "LSTM with projections")  # torch about its own speed
    good = self_check("cpu")
    for index in range(torch.cuda.device_count()):
        if built_kernels():
            good &= self_check(f"cuda:{index}")
        else:
            print(f"cuda:{index}    not checked: no CUDA kernels in this build, CUDA tensors raise an error")
    print("all OK" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
