"""torch.export and AOTInductor: one program for every length and batch, in Python and in C++ without Python."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toolchain
import torch
from places import ROOT
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import lstm_fused
from lstm_fused import _library

SIZES = [(6, 4), (9, 2), (3, 7), (1, 4), (4, 1), (1, 1)]  # T, B
T, B, N = Dim("T"), Dim("B"), Dim("N")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = lstm_fused.LSTM(5, 7, num_layers=2, bidirectional=True, dropout=0.5, proj_size=3)
        self.head = nn.Linear(6, 4)

    def forward(self, input: Tensor, lengths: Any = None, reset: Any = None) -> tuple[Tensor, ...]:
        output, states = self.lstm(input, lengths=lengths, reset=reset)
        return self.head(output), *states


class Packed(nn.Module):
    """The tensors of a PackedSequence are what a program can take: torch's own pytree cannot take it apart."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = lstm_fused.LSTM(5, 7, bidirectional=True)

    def forward(self, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        (data, *_), states = self.lstm(PackedSequence(*tensors))  # Dynamo of torch 2.12 finds no field by name
        return data, *states


def inputs(steps: int, batch: int, device: str) -> tuple[Tensor, ...]:
    """input, lengths, reset"""
    tensors = torch.randn(steps, batch, 5), torch.arange(batch) % steps + 1, torch.rand(steps, batch) < 0.3
    return tuple(tensor.to(device) for tensor in tensors)


def exported(model: Model, device: str, strict: bool = False) -> ExportedProgram:
    shapes = ({0: T, 1: B}, {0: B}, {0: T, 1: B})
    return torch.export.export(model, inputs(*SIZES[0], device), dynamic_shapes=shapes, strict=strict)


def packed(lengths: list[int], is_sorted: bool, device: str) -> tuple[Tensor | None, ...]:
    rows = [torch.randn(length, 5, device=device) for length in lengths]
    return tuple(pack_sequence(rows, enforce_sorted=is_sorted))


def exported_packed(model: Packed, is_sorted: bool, device: str, strict: bool = False) -> ExportedProgram:
    order = None if is_sorted else {0: B}
    shapes = (({0: N}, {0: T}, order, order),)
    return torch.export.export(model, packed([5, 3, 1], is_sorted, device), dynamic_shapes=shapes, strict=strict)


@pytest.mark.parametrize("strict", [False, True])
def test_one_program_for_all_sizes(strict: bool, device: str) -> None:
    model = Model().to(device).eval()
    program = exported(model, device, strict).module()
    for sizes in SIZES:
        args = inputs(*sizes, device)
        torch.testing.assert_close(program(*args), model(*args))
    input, lengths, reset = args
    with pytest.raises(RuntimeError):
        program(input[:0], lengths, reset[:0])


def test_a_program_keeps_nothing_for_backward_and_can_be_trained(device: str) -> None:
    model = Model().to(device).eval()
    program = exported(model, device)
    (call,) = (node for node in program.graph.nodes if node.target is torch.ops.lstm_fused.forward.default)
    cells, reserve = call.meta["val"][3:]
    assert cells.numel() == reserve.numel() == 0
    args = inputs(7, 3, device)
    gradients = []
    for module in (model, program.module()):
        loss = sum(result.square().sum() for result in module(*args))
        loss.backward()
        gradients.append([module.get_parameter(name).grad for name, _ in model.named_parameters()])
    torch.testing.assert_close(*gradients)


def test_opcheck_of_a_call_that_keeps_nothing(device: str) -> None:
    """As an exported program makes it, with inputs that want gradients."""
    lstm = Model().lstm.to(device)
    tensors = torch.randn(6, 4, 5), torch.randn(4, 4, 3), torch.randn(4, 4, 7)
    args = [tensor.to(device).requires_grad_() for tensor in tensors]
    weights = [weight.detach().requires_grad_() for weight in lstm.parameters()]
    options = (True, None, None, None, False, True, False)
    torch.library.opcheck(torch.ops.lstm_fused.forward.default, (*args, weights, *options))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("is_sorted", [True, False])
def test_packed_tensors(is_sorted: bool, strict: bool, device: str) -> None:
    model = Packed().to(device).eval()
    program = exported_packed(model, is_sorted, device, strict).module()
    for lengths in ([4, 2], [1], [7, 7, 3, 2, 1], [3, 3, 3]):
        tensors = packed(lengths, is_sorted, device)
        torch.testing.assert_close(program(*tensors), model(*tensors))


@pytest.mark.slow
def test_package(tmp_path: Path, device: str) -> None:
    model = Model().to(device).eval()
    path = torch._inductor.aoti_compile_and_package(exported(model, device), package_path=str(tmp_path / "model.pt2"))
    package = torch._inductor.aoti_load_package(path)
    for sizes in SIZES:
        args = inputs(*sizes, device)
        torch.testing.assert_close(tuple(package(*args)), model(*args))


@pytest.mark.slow
def test_package_of_packed_tensors(tmp_path: Path, device: str) -> None:
    model = Packed().to(device).eval()
    program = exported_packed(model, False, device)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    package = torch._inductor.aoti_load_package(path)
    for lengths in ([2, 4], [1], [1, 2, 7, 7, 3]):
        tensors = packed(lengths, False, device)
        torch.testing.assert_close(tuple(package(*tensors)), model(*tensors))


@pytest.mark.slow
def test_cpp_program(tmp_path: Path) -> None:
    """Built as docs/pytorch.md says. It holds no Python: libpython is not even loaded."""
    model = Model().eval()
    exported_model = torch.export.export(model, inputs(*SIZES[0], "cpu")[:1], dynamic_shapes=({0: T, 1: B},))
    package = torch._inductor.aoti_compile_and_package(exported_model, package_path=str(tmp_path / "model.pt2"))
    trace = str(tmp_path / "model.pt")
    torch.jit.trace(model, inputs(*SIZES[0], "cpu")[:1]).save(trace)

    torch_root, program = toolchain.find_torch().root, tmp_path / "run_packaged"
    build = [*toolchain.find_compiler(), "-std=c++20", ROOT / "examples/cpp/run_packaged.cpp", "-o", program]
    build += ["-isystem", torch_root / "include", f"-L{torch_root / 'lib'}", f"-Wl,-rpath,{torch_root / 'lib'}"]
    build += ["-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10", "-ldl"]
    subprocess.run(build, check=True)
    assert "libpython" not in subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for file, (steps, batch) in itertools.product((package, trace), SIZES):
        input = torch.randn(steps, batch, 5)
        command = [program, file, _library.PATH, *map(str, input.shape)]
        done = subprocess.run(command, input=input.numpy().tobytes(), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        expected = torch.cat([result.detach().flatten() for result in model(input)])
        torch.testing.assert_close(torch.from_numpy(np.frombuffer(done.stdout, np.float32).copy()), expected)
    done = subprocess.run([program, package, tmp_path / "none.so", "1", "1", "5"], capture_output=True, text=True)
    assert done.returncode == 1 and "none.so" in done.stderr
