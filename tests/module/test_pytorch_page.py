"""docs/pytorch.md: its table says what happens. Each row is one trial, made with our LSTM and with torch's."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import DTYPES
from places import ROOT
from test_distributed import run_in_two_processes
from test_training_tools import WRAPS, bytes_kept
from torch import Tensor, func, nn
from torch.autograd import forward_ad
from torch.export import Dim
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import lstm_fused
import lstm_fused.onnx

PAGE = ROOT / "docs" / "pytorch.md"
MODULES = [lstm_fused.LSTM, nn.LSTM]  # in the order of the table's columns
STEPS, ROWS = Dim("T"), Dim("B")
Make = Callable[..., nn.Module]
TRIALS: dict[str, Callable[[Make], Any]] = {}


def trial(row: str) -> Callable[[Callable[[Make], Any]], Callable[[Make], Any]]:
    """Enters a function under the row's first cell. It raises where something does not work, or gives wrong numbers."""
    return lambda function: TRIALS.setdefault(row, function)


class Ragged(nn.Module):
    """Rows that end early, as each module wants them."""

    def __init__(self, make: Make):
        super().__init__()
        self.lstm = make(5, 7)

    def forward(self, input: Tensor, lengths: Tensor) -> Tensor:
        if isinstance(self.lstm, lstm_fused.LSTM):
            return self.lstm(input, lengths=lengths)[0]
        packed = pack_padded_sequence(input, lengths, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], total_length=input.size(0))[0]


def ragged(steps: int, batch: int) -> tuple[Tensor, Tensor]:
    return torch.randn(steps, batch, 5), torch.arange(batch) % steps + 1


def agree(module: Callable[..., Any], other: Callable[..., Any], *args: Any) -> None:
    torch.testing.assert_close(module(*args), other(*args))


@trial("`torch.compile(fullgraph=True)`")
def _(make: Make) -> None:
    lstm = make(5, 7)
    agree(torch.compile(lstm, fullgraph=True, backend="aot_eager"), lstm, torch.randn(6, 3, 5))


@trial("the same with `torch._dynamo.config.allow_rnn` (experimental), training")
def _(make: Make) -> None:
    lstm = make(5, 7)
    with torch._dynamo.config.patch(allow_rnn=True):
        agree(torch.compile(lstm, fullgraph=True, backend="aot_eager"), lstm, torch.randn(6, 3, 5))


@trial("the same, inference")
@torch.no_grad()
def _(make: Make) -> None:
    lstm = make(5, 7)
    with torch._dynamo.config.patch(allow_rnn=True):
        agree(torch.compile(lstm, fullgraph=True, backend="aot_eager"), lstm, torch.randn(6, 3, 5))


@trial("the same, inference, one compilation for every T")
@torch.no_grad()
def _(make: Make) -> None:
    lstm = make(5, 7)
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(lstm, fullgraph=True, backend="aot_eager", dynamic=True)
        agree(compiled, lstm, torch.randn(6, 3, 5))
        with torch.compiler.set_stance("fail_on_recompile"):
            agree(compiled, lstm, torch.randn(9, 3, 5))


@trial("`torch.compile`, rows that end early")
def _(make: Make) -> None:
    model = Ragged(make)
    agree(torch.compile(model, fullgraph=True, backend="aot_eager"), model, *ragged(6, 3))


@trial("`torch.compile`, `PackedSequence` in and out")
def _(make: Make) -> None:
    lstm = make(5, 7)
    packed = pack_sequence([torch.randn(length, 5) for length in (2, 4)], enforce_sorted=False)
    assert isinstance(lstm(packed)[0], PackedSequence)
    agree(torch.compile(lstm, fullgraph=True, backend="aot_eager"), lstm, packed)


@trial("`torch.export`, fixed sizes")
def _(make: Make) -> None:
    lstm, input = make(5, 7).eval(), torch.randn(6, 3, 5)
    agree(torch.export.export(lstm, (input,)).module(), lstm, input)


@trial("`torch.export`, any B")
def _(make: Make) -> None:
    lstm = make(5, 7).eval()
    program = torch.export.export(lstm, (torch.randn(6, 3, 5),), dynamic_shapes=({1: ROWS},))
    agree(program.module(), lstm, torch.randn(6, 9, 5))


@trial("`torch.export`, any T")
def _(make: Make) -> None:
    lstm = make(5, 7).eval()
    program = torch.export.export(lstm, (torch.randn(6, 3, 5),), dynamic_shapes=({0: STEPS},))
    agree(program.module(), lstm, torch.randn(9, 3, 5))


@trial("`torch.export`, rows that end early")
def _(make: Make) -> None:
    model = Ragged(make).eval()
    agree(torch.export.export(model, ragged(6, 3)).module(), model, *ragged(6, 3))


@trial("ONNX's LSTM operator (`dynamo=True`)")
def _(make: Make) -> None:
    lstm, args = make(5, 7).eval(), (torch.randn(6, 3, 5),)
    export = lstm_fused.onnx.export if make is lstm_fused.LSTM else torch.onnx.export
    program = export(lstm, args, verbose=False)
    assert "LSTM" in [node.op_type for node in program.model.graph]
    torch.testing.assert_close(program(*args)[0], lstm(*args)[0].detach())


@trial("the same operator, any T")
def _(make: Make) -> None:
    lstm, shapes = make(5, 7).eval(), ({0: STEPS},)
    export = lstm_fused.onnx.export if make is lstm_fused.LSTM else torch.onnx.export
    program = export(lstm, (torch.randn(6, 3, 5),), dynamic_shapes=shapes, verbose=False)
    longer = torch.randn(9, 3, 5)
    torch.testing.assert_close(program(longer)[0], lstm(longer)[0].detach())


def tensors(make: Make, dtype: torch.dtype = torch.float32) -> tuple[Callable[..., Tensor], nn.Module, Tensor]:
    """The output as a function of the input and, if given, of the parameters; the module; an input."""
    lstm = make(3, 4).to(dtype)

    def function(input: Tensor, parameters: dict[str, Tensor] | None = None) -> Tensor:
        return func.functional_call(lstm, parameters or {}, (input,))[0]

    return function, lstm, torch.randn(4, 2, 3, dtype=dtype)


@trial("`func.grad`, `vjp`, `jacrev`")
def _(make: Make) -> None:
    function, _, input = tensors(make)
    leaf = input.clone().requires_grad_()
    (exact,) = torch.autograd.grad(function(leaf).square().sum(), leaf)
    torch.testing.assert_close(func.grad(lambda x: function(x).square().sum())(input), exact)
    output, pullback = func.vjp(function, input)
    torch.testing.assert_close(pullback(2 * output)[0], exact)
    jacobian = func.jacrev(function)(input)
    torch.testing.assert_close((jacobian * 2 * output[..., None, None, None]).sum((0, 1, 2)), exact)


def forward_mode(make: Make, dtype: torch.dtype) -> None:
    function, _, input = tensors(make, dtype)
    jacobian = func.jacrev(function)(input)
    direction = torch.randn_like(input)
    exact = (jacobian * direction).sum((3, 4, 5))
    torch.testing.assert_close(func.jvp(function, (input,), (direction,))[1], exact)
    with forward_ad.dual_level():
        output = forward_ad.unpack_dual(function(forward_ad.make_dual(input, direction)))
    torch.testing.assert_close(output.tangent, exact)
    torch.testing.assert_close(func.jacfwd(function)(input), jacobian)
    scalar = lambda x: function(x).square().sum()  # noqa: E731
    torch.testing.assert_close(func.hessian(scalar)(input), func.jacrev(func.jacrev(scalar))(input))


@trial("`func.jvp`, `jacfwd`, `hessian`, dual tensors")
def _(make: Make) -> None:
    forward_mode(make, torch.float32)


@trial("the same in float64")
def _(make: Make) -> None:
    forward_mode(make, torch.float64)


@trial("`func.vmap` over inputs")
def _(make: Make) -> None:
    function, _, input = tensors(make)
    inputs = torch.stack([input, 2 * input])
    torch.testing.assert_close(func.vmap(function)(inputs), torch.stack([function(x) for x in inputs]))


@trial("`func.vmap` over weights (ensembles)")
def _(make: Make) -> None:
    function, _, input = tensors(make)
    models = [make(3, 4) for _ in range(3)]
    stacked, _ = func.stack_module_state(models)
    outputs = func.vmap(lambda parameters: function(input, parameters))(stacked)
    torch.testing.assert_close(outputs, torch.stack([model(input)[0] for model in models]))


def per_sample(make: Make, dtype: torch.dtype) -> None:
    function, lstm, _ = tensors(make, dtype)
    samples, parameters = torch.randn(5, 4, 2, 3, dtype=dtype), dict(lstm.named_parameters())

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return function(sample, parameters).square().sum()

    gradients = func.vmap(func.grad(loss), (None, 0))(parameters, samples)
    for n, sample in enumerate(samples):
        exact = torch.autograd.grad(lstm(sample)[0].square().sum(), list(parameters.values()))
        torch.testing.assert_close([g[n] for g in gradients.values()], list(exact))


@trial("per-sample gradients, `vmap(grad)`")
def _(make: Make) -> None:
    per_sample(make, torch.float32)


@trial("the same gradients in float64")
def _(make: Make) -> None:
    per_sample(make, torch.float64)


def vectorized(make: Make, strategy: str) -> None:
    function, _, input = tensors(make)
    jacobian = torch.autograd.functional.jacobian
    torch.testing.assert_close(jacobian(function, input, vectorize=True, strategy=strategy), jacobian(function, input))


@trial("`jacobian(vectorize=True)`, `is_grads_batched`")
def _(make: Make) -> None:
    vectorized(make, "reverse-mode")


@trial("the same in forward mode")
def _(make: Make) -> None:
    vectorized(make, "forward-mode")


@trial("double backward, gradient penalties")
def _(make: Make) -> None:
    function, lstm, input = tensors(make, torch.float64)
    input.requires_grad_()
    assert torch.autograd.gradgradcheck(function, input)
    (gradient,) = torch.autograd.grad(function(input).sum(), input, create_graph=True)
    (gradient.flatten(1).norm(dim=1) - 1).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in lstm.parameters())


def under_autocast(make: Make, dtype: torch.dtype, is_packed: bool) -> None:
    _, lstm, input = tensors(make)
    given = pack_padded_sequence(input, torch.tensor([4, 2])) if is_packed else input
    with torch.autocast("cpu", dtype=dtype):
        output, states = lstm(given)
    output = output.data if is_packed else output
    assert {t.dtype for t in (output, *states)} == {dtype}
    torch.amp.GradScaler("cpu").scale(output.float().square().sum()).backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.abs().sum() > 0 for p in lstm.parameters())


for half in (torch.bfloat16, torch.float16):
    for is_packed in (False, True):
        name = f"autocast to {str(half).removeprefix('torch.')}, {'packed' if is_packed else 'padded'}"
        trial(name)(lambda make, half=half, is_packed=is_packed: under_autocast(make, half, is_packed))


@trial("activation checkpointing, both kinds")
def _(make: Make) -> None:
    function, lstm, input = tensors(make)
    wanted = [input.requires_grad_(), *lstm.parameters()]
    exact = torch.autograd.grad(function(input).square().sum(), wanted)
    for use_reentrant in (True, False):
        for tensor in wanted:
            tensor.grad = None
        checkpoint(function, input, use_reentrant=use_reentrant).square().sum().backward()
        torch.testing.assert_close([t.grad for t in wanted], list(exact))


@trial("weight norm, spectral norm, orthogonal, pruning, tied weights")
def _(make: Make) -> None:
    for change in WRAPS.values():
        lstm = make(5, 5, num_layers=2)
        change(lstm)
        lstm(torch.randn(4, 3, 5))[0].square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in lstm.parameters())


@trial("backward in evaluation mode")
def _(make: Make) -> None:
    function, lstm, input = tensors(make)
    losses = [function(input).square().sum(), (lstm.eval(), function(input).square().sum())[1]]
    gradients = [torch.autograd.grad(loss, list(lstm.parameters())) for loss in losses]
    torch.testing.assert_close(*gradients)


@trial("DistributedDataParallel, FSDP2")
def _(make: Make) -> None:
    run_in_two_processes("cpu", "lstm_fused" if make is lstm_fused.LSTM else "torch")


@pytest.mark.slow  # all of it together
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("column", [0, 1], ids=["lstm_fused", "torch"])
@pytest.mark.parametrize("row", TRIALS)
def test_the_table_says_what_happens(row: str, column: int) -> None:
    said = {name: cells for name, *cells in rows("| | lstm_fused.LSTM | torch.nn.LSTM |")}[row][column]
    with_avx512, _, without = said.partition("; else ")
    cell = without if without and torch.backends.cpu.get_cpu_capability() != "AVX512" else with_avx512
    if column == 1 and row == "autocast to float16, padded" and torch.cpu.get_capabilities().get("avx512_fp16"):
        pytest.skip("the page says nothing of AVX512-FP16")
    torch._dynamo.reset()
    try:
        TRIALS[row](MODULES[column])
    except Exception as error:
        assert cell.startswith("no"), error
        for quoted in re.findall(r'"(.+?)"|`(\w+Error)`', cell):
            assert any(text and text in repr(error) for text in quoted), error
    else:
        assert cell.startswith("yes")


def test_every_row_is_tried() -> None:
    assert [name for name, *_ in rows("| | lstm_fused.LSTM | torch.nn.LSTM |")] == list(TRIALS)


def test_the_memory_table() -> None:
    """Our bytes on any CPU; torch's, which depend on oneDNN's choices, where the table was made."""
    values = {"True": True} | {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
    for sizes, form, options, *cells in rows("| T, B, I, H | input | options | lstm_fused | torch.nn.LSTM | ratio |"):
        seq_len, batch, input_size, hidden = map(int, sizes.split(","))
        keywords = dict(item.split("=") for item in options.split(", ") if item)
        keywords = {name: values.get(text) or int(text) for name, text in keywords.items()}
        input: Any = torch.randn(seq_len, batch, input_size, dtype=keywords.get("dtype"))
        if form == "packed":
            input = pack_padded_sequence(input, seq_len - torch.arange(batch))
        ours, theirs = (bytes_kept(cls(input_size, hidden, **keywords), input) for cls in MODULES)
        assert cells[0] == f"{ours:,}" and ours <= theirs
        if torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.__version__.startswith("2.13."):
            assert cells[1:] == [f"{theirs:,}", f"{ours / theirs:.2f}"]


def rows(head: str) -> list[list[str]]:
    """The cells of all lines below a table's head, of all tables that have it."""
    lines = PAGE.read_text().splitlines()
    begins = [n + 2 for n, line in enumerate(lines) if line == head]
    found = [line for n in begins for line in itertools.takewhile(lambda line: line.startswith("|"), lines[n:])]
    assert found
    return [split(line) for line in found]


def split(line: str) -> list[str]:
    """The cells of a table's line."""
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split(" | ")]
