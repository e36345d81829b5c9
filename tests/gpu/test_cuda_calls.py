"""A call on a GPU as a citizen of CUDA: the same bits every time, streams, graphs, no waiting, no memory of its own."""

from __future__ import annotations

import pytest
import torch
from cases import DTYPES, Case, Problem, draw
from numerics import fused
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lstm_fused
from lstm_fused.explain import cuda_device

gpu = pytest.mark.gpu
STACK = {"num_layers": 2, "bidirectional": True}
# `block` with its input fused and with a product before it, a projection, H too large for one block or one cluster, and
# layers side by side.
KINDS = [
    Case(20, 9, 16, 64, **STACK),
    Case(20, 9, 200, 128),
    Case(6, 5, 16, 24, proj_size=7, **STACK),
    Case(6, 9, 40, 300),
    Case(6, 9, 40, 600),
    Case(6, 9, 40, 300, num_layers=3),
]
EXTRAS = {"lengths": True, "reset": 0.2, "return_cells": True}
NAP_CYCLES = 400_000_000  # a fifth of a second on a GPU of 2 GHz: longer than any call below takes to issue


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name].cpu(), b[name].cpu()), name


def module_and_inputs(problem: Problem) -> tuple[lstm_fused.LSTM, Tensor, dict]:
    """A module with the weights of the problem, its input, and what else it takes."""
    module = lstm_fused.LSTM(**problem.case.options()).to(problem.case.device)
    module.load_state_dict({name: problem.leaves[name] for name in module.state_dict()})
    options = {"lengths": problem.lengths, "reset": problem.reset, "return_cells": problem.case.return_cells}
    return module, problem.leaves["input"], options


def train(module: lstm_fused.LSTM, input: Tensor, options: dict) -> dict[str, Tensor]:
    """Results and gradients of a sum of squares."""
    input = input.detach().requires_grad_()
    output, (h_n, c_n), *cells = module(input, **options)
    results = [output, h_n, c_n, *cells]
    loss = sum(result.float().square().sum() for result in results)
    gradients = torch.autograd.grad(loss, [input, *module.parameters()])
    return dict(enumerate([*(result.detach() for result in results), *gradients]))


def infer(module: lstm_fused.LSTM, input: Tensor, options: dict) -> dict[str, Tensor]:
    with torch.no_grad():
        output, (h_n, c_n), *cells = module(input, **options)
    return dict(enumerate([output, h_n, c_n, *cells]))


# ---- what comes out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_same_bits_every_time(case: Case, dtype: torch.dtype, device: str):
    problem = draw(case.but(dtype=dtype, device=device, **EXTRAS))
    first = fused(problem)
    for _ in range(20 if device == "cuda" else 2):
        same_bits(fused(problem), first)


@gpu
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_inference_and_training_agree(case: Case):
    """One kernel may round what the other keeps in registers, so bits may differ by that."""
    for dtype in DTYPES:
        module, input, options = module_and_inputs(draw(case.but(dtype=dtype, device="cuda", **EXTRAS)))
        trained, inferred = train(module, input, options), infer(module, input, options)
        for name, result in inferred.items():
            torch.testing.assert_close(trained[name], result)


@gpu
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_lengths_on_the_gpu_are_clamped(case: Case):
    """Nobody looks at them before the kernel does: that would be a synchronisation."""
    case = case.but(device="cuda", dtype=torch.float64, lengths=True, seq_len=6)
    problem = draw(case)
    clamped = torch.tensor([6, 1, 6, 4] * 3, device="cuda")[: case.rows]
    wild = clamped.clone()
    wild[0], wild[2] = 7, 2**40
    problem.lengths = clamped
    expected = fused(problem)
    problem.lengths = wild
    same_bits(fused(problem), expected)


@gpu
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_rows_without_steps(case: Case):
    """Length 0 or less, possible on a GPU only: h_n and c_n are hx, the output is zero, all else as without them."""
    problem = draw(case.but(device="cuda", dtype=torch.float64, lengths=True, seq_len=6))
    problem.lengths = torch.tensor([6, 0, 3, -5, 1] * 3, device="cuda")[: case.rows]
    filled = problem.lengths > 0
    results = fused(problem)
    for state in ("h", "c"):
        assert torch.equal(results[f"{state}_n"][:, ~filled], problem.leaves[f"{state}_0"][:, ~filled])
        assert torch.equal(results[f"grad {state}_0"][:, ~filled], problem.cotangents[f"{state}_n"][:, ~filled])
    assert (results["output"][:, ~filled] == 0).all() and (results["grad input"][:, ~filled] == 0).all()

    def of_filled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        by_row = ("output", "h_n", "c_n", "input", "h_0", "c_0")
        return {name: t[:, filled] if name.removeprefix("grad ") in by_row else t for name, t in tensors.items()}

    rest = Problem(
        problem.case.but(batch=int(filled.sum())),
        of_filled(problem.leaves),
        of_filled(problem.cotangents),
        problem.lengths[filled],
        None,
        None,
    )
    torch.testing.assert_close(of_filled(results), fused(rest))


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_padding_is_never_read(case: Case, device: str):
    """NaN past the end of a row reaches nothing, and what lies there is zero in every result."""
    problem = draw(case.but(device=device, return_cells=True, lengths=True))
    steps = torch.arange(case.seq_len, device=device).unsqueeze(1)
    padding = (steps >= problem.lengths).unsqueeze(2)
    clean = fused(problem)
    nan = float("nan")
    problem.leaves["input"] = problem.leaves["input"].masked_fill(padding, nan)
    for name in ("output", "cells"):
        problem.cotangents[name] = problem.cotangents[name].masked_fill(padding, nan)
    poisoned = fused(problem)
    same_bits(poisoned, clean)
    for name in ("output", "cells", "grad input"):
        assert (poisoned[name].masked_select(padding) == 0).all()


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_a_poisoned_row_stays_alone(case: Case, device: str):
    problem = draw(case.but(device=device))
    clean = fused(problem)
    problem.leaves["input"][1, 1] = float("nan")
    sick = fused(problem)
    others = [row for row in range(case.rows) if row != 1]
    for name in ("output", "h_n", "c_n", "grad input", "grad h_0", "grad c_0"):
        assert torch.equal(sick[name][:, others], clean[name][:, others]), name
    assert sick["output"][:, 1].isnan().any()


def test_rows_do_not_depend_on_the_batch_around_them(device: str):
    """The same row has the same bits wherever in a tile it lies. One kernel does all here: torch's products may not."""
    problem = draw(Case(20, 3, 16, 64, bidirectional=True, device=device))
    module, input, _ = module_and_inputs(problem)
    alone = module(input)[0]
    for batch in (4, 8, 9, 17):
        order = torch.arange(batch, device=device) % 3
        assert torch.equal(module(input[:, order].contiguous())[0], alone[:, order]), batch


@gpu
def test_offsets_past_two_to_the_31():
    """The gates of this call have 2.3e9 elements. All rows are copies of eight, and must come out as these do."""
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free device memory")
    steps, batch, hidden = 1100, 8192, 64
    module = lstm_fused.LSTM(8, hidden, device="cuda", dtype=torch.bfloat16)
    few = torch.randn(steps, 8, 8, device="cuda", dtype=torch.bfloat16)
    results = []
    for input in (few, few.repeat(1, batch // 8, 1)):
        input.requires_grad_()
        output = module(input)[0]
        (gradient,) = torch.autograd.grad(output, [input], torch.ones_like(output))
        results.append((output.detach(), gradient))
    (output, gradient), (outputs, gradients) = results
    copies = (steps, batch // 8, 8, -1)
    assert torch.equal(outputs.view(copies), output.unsqueeze(1).expand(copies))
    torch.testing.assert_close(gradients.view(copies), gradient.unsqueeze(1).expand(copies))  # a product by torch


def test_packed_sequences(device: str):
    """The same steps as with lengths."""
    lengths = torch.tensor([20, 3, 20, 7, 1, 9, 15, 2, 11])
    module, input, _ = module_and_inputs(draw(KINDS[0].but(device=device)))
    packed = pack_padded_sequence(input, lengths, enforce_sorted=False)
    output, states = module(packed)
    padded, padded_states = module(input, lengths=lengths.to(device))
    torch.testing.assert_close(pad_packed_sequence(output)[0], padded)
    torch.testing.assert_close(states, padded_states)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype: torch.dtype, device: str):
    module, input, _ = module_and_inputs(draw(KINDS[1].but(device=device)))
    with torch.autocast(device, dtype=dtype):
        output = module(input)[0]
    output.float().sum().backward()
    assert output.dtype == dtype
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in module.parameters())
    assert torch.equal(output, module.to(dtype)(input.to(dtype))[0])


def test_double_backward(device: str):
    problem = draw(Case(3, 2, 2, 2, num_layers=2, bidirectional=True, dtype=torch.float64, device=device))
    module, input, _ = module_and_inputs(problem)

    def function(input: Tensor) -> tuple[Tensor, ...]:
        output, states = module(input)
        return output, *states

    input = input.requires_grad_()
    assert torch.autograd.gradcheck(function, input, nondet_tol=0)
    assert torch.autograd.gradgradcheck(function, input, fast_mode=True)


def test_compile(device: str):
    torch._dynamo.reset()
    module, input, _ = module_and_inputs(draw(KINDS[0].but(device=device)))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    same_bits(train(compiled, input, {}), train(module, input, {}))


def test_convert_keeps_parameters_where_they_are(device: str):
    theirs = torch.nn.Sequential(torch.nn.LSTM(5, 7, device=device))
    input = torch.randn(4, 3, 5, device=device)
    before, expected = dict(theirs.named_parameters()), theirs(input)[0]
    ours = lstm_fused.convert(theirs)
    assert all(parameter is before[name] for name, parameter in ours.named_parameters())
    torch.testing.assert_close(ours(input)[0], expected)


# ---- how it runs


@gpu
def test_the_device_is_what_torch_says():
    """The library has a CUDA runtime of its own, beside torch's; both must see one and the same device."""
    for index in range(torch.cuda.device_count()):
        ours, theirs = cuda_device(index), torch.cuda.get_device_properties(index)
        assert ours.num_sms == theirs.multi_processor_count
        assert ours.compute_capability == 10 * theirs.major + theirs.minor
        assert ours.l2_bytes == theirs.L2_cache_size


@gpu
@pytest.mark.parametrize("run", [infer, train])
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_runs_on_the_current_stream(case: Case, run):
    """While the default stream sleeps, a call on another one finishes; while its own sleeps, it waits."""
    module, input, options = module_and_inputs(draw(case.but(device="cuda", **EXTRAS)))
    expected = run(module, input, options)
    late_input = torch.zeros_like(input)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):  # memory is kept per stream: this stream has some from here on
        run(module, input, options)
    torch.cuda.synchronize()

    torch.cuda._sleep(NAP_CYCLES)
    with torch.cuda.stream(side):
        done = run(module, input, options)
        side.synchronize()
    assert not torch.cuda.default_stream().query(), "the call waited for another stream, or NAP_CYCLES are too few"
    same_bits(done, expected)

    with torch.cuda.stream(side):
        torch.cuda._sleep(NAP_CYCLES)
        late_input.copy_(input)
        done = run(module, late_input, options)
    side.synchronize()
    same_bits(done, expected)


@gpu
@pytest.mark.parametrize("run", [infer, train])
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_the_host_never_waits(case: Case, run):
    """Neither by torch, which can tell, nor by the library: a call returns while the GPU has not begun with it."""
    module, input, options = module_and_inputs(draw(case.but(device="cuda", **EXTRAS)))
    run(module, input, options)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(NAP_CYCLES)
        run(module, input, options)
        assert not torch.cuda.current_stream().query(), "the call waited for the GPU, or NAP_CYCLES are too few"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()


@gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("run", [infer, train])
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_cuda_graph(case: Case, run, dtype: torch.dtype):
    """Captured once, replayed on new numbers."""
    module, input, options = module_and_inputs(draw(case.but(device="cuda", dtype=dtype, **EXTRAS)))
    other = draw(case.but(device="cuda", dtype=dtype, **EXTRAS), replica=1)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(module, input, options)
    torch.cuda.current_stream().wait_stream(side)

    static, lengths, reset = input.clone(), options["lengths"].clone(), options["reset"].clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(module, static, options | {"lengths": lengths, "reset": reset})
    for problem in (other, draw(case.but(device="cuda", dtype=dtype, **EXTRAS))):
        new_options = options | {"lengths": problem.lengths, "reset": problem.reset}
        expected = run(module, problem.leaves["input"], new_options)
        static.copy_(problem.leaves["input"])
        lengths.copy_(problem.lengths)
        reset.copy_(problem.reset)
        for _ in range(3):
            graph.replay()
        torch.cuda.synchronize()
        same_bits(captured, expected)


@gpu
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_every_device_in_turn(case: Case):
    """The device of the tensors counts, not the current one."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    first = fused(draw(case.but(device="cuda:0", **EXTRAS)))
    with torch.cuda.device(0):
        second = fused(draw(case.but(device="cuda:1", **EXTRAS)))
        assert torch.cuda.current_device() == 0
    assert all(result.device == torch.device("cuda:1") for result in second.values())
    same_bits(second, first)


# ---- what is refused


@gpu
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda module, input: module(input.cpu()), "device"),
        (lambda module, input: module(input.half()), "dtype|type"),
        (lambda module, input: module(input[..., :3]), "input"),
        (lambda module, input: module(input, (torch.zeros(1, 3, 7), torch.zeros(1, 3, 7))), "device"),
        (lambda module, input: module(input, lengths=torch.ones(2, device="cuda").long()), "lengths"),
        (lambda module, input: module(input, reset=torch.zeros(4, 3, dtype=torch.bool)), "reset"),
        (lambda module, input: module(input[:0]), "length"),
    ],
)  # fmt: skip
def test_bad_calls_raise_and_the_device_lives_on(change, says: str):
    module, input = lstm_fused.LSTM(5, 7, device="cuda"), torch.randn(4, 3, 5, device="cuda")
    expected = module(input)[0]
    with pytest.raises((RuntimeError, ValueError, TypeError), match=says):
        change(module, input)
    torch.cuda.synchronize()
    assert torch.equal(module(input)[0], expected)
