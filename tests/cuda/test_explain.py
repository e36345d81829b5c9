"""explain(): what it reads of a module, what it says, and what it refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

import lstm_fused
from lstm_fused import _plan
from lstm_fused.explain import built_kernels

DEVICES = [device.name for device in _plan.known_devices()]


def test_explain_says_what_becomes_of_the_weights() -> None:
    texts = [str(lstm_fused.explain(torch.nn.LSTM(size, 512), (steps, 1, size))) for steps, size in ((1, 128), (18, 8))]
    assert all("W_hh       read where it lies" in text for text in texts)
    assert "x W_ih^T   by our own product" in texts[0]
    assert "x W_ih^T   by a product beforehand" in texts[1]
    assert "W_hh       packed once per call" in str(lstm_fused.explain(torch.nn.LSTM(8, 8), (100, 1, 8)))


@pytest.mark.parametrize("package", [lstm_fused, torch.nn])
def test_explain_reads_the_module(package) -> None:
    lstm = package.LSTM(8, 16, num_layers=2, bidirectional=True, proj_size=4)
    problem = lstm_fused.explain(lstm, (5, 3, 8)).problem
    assert (problem.seq_len, problem.batch, problem.input_size, problem.hidden_size) == (5, 3, 8, 16)
    assert (problem.proj_size, problem.num_layers, problem.num_directions) == (4, 2, 2)
    assert (problem.dtype, problem.training) == ("float32", True)
    first = package.LSTM(8, 16, batch_first=True)
    assert lstm_fused.explain(first, torch.Size((3, 5, 8))).problem.seq_len == 5
    assert lstm_fused.explain(first, [7, 8]).problem.seq_len == 7
    assert lstm_fused.explain(lstm, [7, 8]).problem.batch == 1
    with torch.no_grad():
        inference = lstm_fused.explain(first, (3, 5, 8), torch.float16, "h100")
    assert (inference.problem.training, inference.problem.dtype) == (False, "float16")
    assert inference.device.name == "H100"
    cell = lstm_fused.explain(package.LSTMCell(8, 16), (3, 8)).problem
    assert (cell.seq_len, cell.batch, cell.hidden_size, cell.num_layers) == (1, 3, 16, 1)
    assert lstm_fused.explain(package.LSTMCell(8, 16), (8,)).problem.batch == 1


def test_explain_on_this_cpu(threads) -> None:
    threads(2)
    found = lstm_fused.explain(torch.nn.LSTM(1024, 1024), (32, 4, 1024))
    assert (found.kernel, found.cpu.split, found.device.cpu.num_threads) == ("cpu", "gates", 2)
    assert str(found.device.cpu.vector_bytes) in str(found)
    facts = ("LEVEL1_DCACHE_SIZE", "l1_bytes", 32 << 10), ("LEVEL2_CACHE_SIZE", "l2_bytes", 1 << 20)
    for name, bytes_of, unknown in facts:
        asked = subprocess.run(["getconf", name], capture_output=True, text=True, check=True).stdout
        assert getattr(found.device.cpu, bytes_of) == (int(asked) or unknown)
    assert lstm_fused.explain(torch.nn.LSTM(4, 4), (1, 1, 4), device=torch.device("cpu")).kernel == "cpu"


@pytest.mark.parametrize("name", DEVICES)
def test_explain_for_a_gpu_that_is_not_there(name: str) -> None:
    found = lstm_fused.explain(torch.nn.LSTM(64, 64), (9, 2, 64), torch.bfloat16, name)
    assert found.device.name == name
    assert name in str(found)
    legal = {c.kind for c in found.candidates if c.legal}
    assert "step" in legal
    assert found.kernel == "none" or found.chosen.built


LSTM = torch.nn.LSTM(8, 16)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.nn.GRU(8, 16), (5, 3, 8)), TypeError, r"module: expected an LSTM or LSTMCell .*, got GRU$"),
        ((torch.nn.GRUCell(8, 16), (3, 8)), TypeError, r"module: .*, got GRUCell$"),
        (("lstm", (5, 3, 8)), TypeError, r"module: .*, got str$"),
        ((LSTM, (5, 3, 9)), ValueError, r"input_shape: expected \(T, B, 8\) or \(T, 8\), got \(5, 3, 9\)"),
        ((LSTM, (8,)), ValueError, r"input_shape: expected \(T, B, 8\) or \(T, 8\), got \(8,\)"),
        ((LSTM, ()), ValueError, r"input_shape: expected .*, got \(\)"),
        ((LSTM, (5, -3, 8)), ValueError, r"input_shape: expected .*, got \(5, -3, 8\)"),
        ((LSTM, (0, 3, 8)), ValueError, "input_shape: expected at least one time step"),
        ((torch.nn.LSTM(8, 16, batch_first=True), (5, 8, 3)), ValueError, r"input_shape: expected \(B, T, 8\) or"),
        ((torch.nn.LSTMCell(8, 16), (1, 2, 8)), ValueError, r"input_shape: expected \(B, 8\) or \(8,\), got"),
        ((LSTM, 5), TypeError, "input_shape: expected a sequence of ints, got 5"),
        ((LSTM, (5, 3.0, 8)), TypeError, "input_shape: expected a sequence of ints, got"),
        ((LSTM, (True, 3, 8)), TypeError, "input_shape: expected a sequence of ints, got"),
        ((LSTM, (5, 3, 8), torch.int32), ValueError, "dtype: expected one of torch.float16, .*, got torch.int32"),
        ((LSTM, (5, 3, 8), "float32"), TypeError, "dtype: expected one of torch.float16, .*, got 'float32'"),
        ((LSTM, (5, 3, 8), None, "H9000"), ValueError, "device: expected cpu, cuda or one of A100, H100, .*'H9000'"),
        ((LSTM, (5, 3, 8), None, "meta"), ValueError, "device: expected cpu, cuda or one of .*, got 'meta'"),
        ((LSTM, (5, 3, 8), None, 3), TypeError, "device: expected a torch.device or a string, got int"),
        ((LSTM, (5, 3, 8), None, "cuda:99"), ValueError, r"device: torch sees \d+ CUDA devices, got 'cuda:99'"),
    ],
)
def test_bad_input_to_explain(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        lstm_fused.explain(*arguments)


@pytest.mark.gpu
def test_explain_on_a_real_gpu() -> None:
    build = json.loads(Path(lstm_fused.__file__).with_name("_build.json").read_text())
    if build["cuda"] is None:
        with pytest.raises(RuntimeError, match="has no CUDA"):
            lstm_fused.explain(LSTM, (5, 3, 8), device="cuda")
        return
    found = lstm_fused.explain(LSTM, (5, 3, 8), device="cuda")
    assert found.device.num_sms == torch.cuda.get_device_properties(0).multi_processor_count
    assert found.device.compute_capability // 10 == torch.cuda.get_device_capability()[0]


def test_explain_says_what_a_cell_costs_and_rules_out() -> None:
    lstm = lstm_fused.LSTM(8, 16, zoneout=0.1, layer_norm=True)
    found = lstm_fused.explain(lstm, (5, 3, 8))
    assert found.kernel == "variant" and found.problem.hidden_size == 16 and found.cpu.split == "rows"
    text = str(found)
    assert "besides    no direct and one_step kernels" in text and "zoneout: in training masks" in text
    assert "layer_norm: mean and variance" in text and "peephole" not in text
    on_gpu = lstm_fused.explain(lstm, (5, 3, 8), device="H100")
    assert on_gpu.kernel == ("variant" if built_kernels() else "none")
    assert "refused: layer_norm: only step has all of a row at hand" in str(on_gpu) and "H100" in str(on_gpu)
    assert on_gpu.launches == 14 and "launches   14 forward" in str(on_gpu)


@pytest.mark.parametrize(
    ("hidden_size", "dtype", "kernel", "launches"),
    [
        (32, torch.float32, "block", 2),
        (192, torch.bfloat16, "cluster", 2),  # in float32
        (1024, torch.float16, "group", 3),
        (16, torch.float64, "variant", 8),
    ],
)
def test_explain_of_cells_in_the_persistent_kernels(
    hidden_size: int, dtype: torch.dtype, kernel: str, launches: int
) -> None:
    """What runs is a direction of a layer, in float32 where half types are."""
    lstm = lstm_fused.LSTM(8, hidden_size, 3, bidirectional=True, zoneout=0.1, peephole=True)
    found = lstm_fused.explain(lstm, (5, 16, 8), dtype=dtype, device="H100")
    if not built_kernels():
        assert found.kernel == "none" and "CUDA tensors are refused" in str(found)
        return
    assert found.kernel == kernel and f"kernel     {kernel}, one direction of one layer at a time" in str(found)
    assert found.launches == 6 * launches
    assert "3 layers, 2 directions" in str(found) and "not measured" in str(found)


def test_explain_of_what_is_off() -> None:
    """Recurrent dropout is nothing in inference, and weight dropout is before the kernels."""
    lstm = lstm_fused.LSTM(8, 16, recurrent_dropout=0.1, weight_dropout=0.1)
    assert lstm_fused.explain(lstm, (5, 3, 8)).kernel == "variant"
    assert lstm_fused.explain(lstm.eval(), (5, 3, 8)).kernel == "cpu"
    assert lstm_fused.explain(lstm_fused.LSTM(8, 16, weight_dropout=0.1), (5, 3, 8)).kernel == "cpu"
