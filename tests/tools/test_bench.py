"""The parts of bench/ that need no clock: the grid, the arithmetic, the repetitions, the files."""

import dataclasses
import json
import math
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench import environment, floor, peer_onnxruntime
from bench.__main__ import run_case
from bench.cases import CPU_GRID, CUDA_GRID, MODES, Case, Grid
from bench.constants import __main__ as constants
from bench.pair import Disagreement, build, check_agreement, precision, relative_difference
from bench.report import Report, Result, from_json, geometric_mean, to_json
from bench.tables import markdown, write
from bench.timing import MAX_REPETITIONS, Timing, interleave

CPU = torch.device("cpu")
RATES = floor.Rates({"float32": 1e8, "bfloat16": 2e8}, {2**16: 8e6, 2**20: 2e6})
needs_onnxruntime = pytest.mark.skipif(
    not peer_onnxruntime.version(), reason="onnxruntime or onnx is not installed (requirements-dev.txt)"
)


def small_report() -> Report:
    case = Case("sizes", "inference", "float32", seq_len=32, batch=8, hidden_size=256)
    slower = dataclasses.replace(case, mode="training", num_layers=2)
    fast, slow = Timing(1e-4, 1.5e-4, 7, 10), Timing(4e-4, 5e-4, 7, 2)
    where = {
        "device": "a machine",
        "torch": "2.13.0",
        "cpu_capability": "AVX2",
        "threads": 2,
        "cores": 2,
        "commit": None,
    }
    where |= {"dirty": True, "load": 0.1, "csrc": "0" * 64, "date": "2026-01-01"}
    results = [Result(case, fast, slow, 1e-7), Result(slower, slow, fast, 2e-7)]
    return Report(where, {"quick": True}, results, ["sizes training float32 T256 B64 H1024"])


def report_with_onnxruntime_and_floors() -> Report:
    plain = small_report()
    inference, training = (dataclasses.replace(result, floor=5e-5) for result in plain.results)
    inference = dataclasses.replace(inference, onnxruntime=Timing(8e-5, 9e-5, 7, 1))
    where = plain.environment | {"onnxruntime": "1.32.0"}
    return dataclasses.replace(plain, environment=where, results=[inference, training], rates=RATES)


@pytest.mark.parametrize("grid", [CPU_GRID, CUDA_GRID], ids=["cpu", "cuda"])
def test_grid_holds_every_group_and_mode_once(grid: Grid):
    cases = grid.cases()
    assert len({case.name for case in cases}) == len(cases)
    expected = {(group, mode) for group in grid.groups for mode in MODES}
    assert {(case.group, case.mode) for case in cases} == expected
    quick = grid.cases(quick=True)
    assert {(case.group, case.mode) for case in quick} == expected
    assert set(quick) < set(cases)
    assert {case.dtype for case in quick} == set(grid.dtypes)


def test_a_part_of_the_grid():
    sizes = CPU_GRID.cases(["sizes"])
    assert len(sizes) == 2 * 2 * 3 * 3 * 3  # modes, dtypes, T, B, H
    (only,) = CPU_GRID.cases(pattern="sizes training float32 T1 B8 H64$")
    assert only.name == "sizes training float32 T1 B8 H64"
    assert CUDA_GRID.cases(["sizes"]) == []


def test_flops():
    case = Case("sizes", "inference", "float32", seq_len=3, batch=5, hidden_size=7)
    layer = 2 * 3 * 5 * (4 * 7) * (7 + 7)
    assert case.flops == layer
    assert dataclasses.replace(case, mode="training").flops == 3 * layer
    assert dataclasses.replace(case, num_layers=3).flops == 3 * layer
    assert dataclasses.replace(case, num_directions=2).flops == 2 * layer
    # The second layer of a bidirectional stack reads both directions of the first.
    second = 2 * 3 * 5 * (4 * 7) * (14 + 7)
    assert dataclasses.replace(case, num_layers=2, num_directions=2).flops == 2 * (layer + second)


@given(st.integers(1, 300), st.integers(1, 70))
def test_ragged_lengths_are_sorted_and_counted(seq_len: int, batch: int):
    case = Case("lengths", "inference", "float32", seq_len, batch, hidden_size=4, ragged=True)
    assert len(case.lengths) == batch
    assert case.lengths[0] == seq_len
    assert case.lengths == sorted(case.lengths, reverse=True)
    assert min(case.lengths) >= max(1, seq_len // 4)
    assert case.flops == 2 * sum(case.lengths) * (4 * 4) * (4 + 4)


def test_geometric_mean():
    assert geometric_mean([2, 0.5]) == pytest.approx(1)
    assert geometric_mean([3]) == pytest.approx(3)
    assert geometric_mean(iter([1, 10, 100])) == pytest.approx(10)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=200))
def test_geometric_mean_of_inverses_is_the_inverse(values: list[float]):
    assert math.isclose(geometric_mean(values) * geometric_mean([1 / value for value in values]), 1, rel_tol=1e-9)


def test_report_survives_json_and_markdown(tmp_path):
    report = small_report()
    assert from_json(to_json(report)) == report
    data = json.loads(to_json(report))
    assert [result["ratio"] for result in data["results"]] == pytest.approx([4, 0.25])
    assert [row["geometric mean"] for row in data["summary"]] == ["4.00", "0.25", "1.00"]
    assert data["summary"][-1]["worst case"] == "sizes training float32 T32 B8 H256 L2"

    lines = markdown(report).splitlines()
    assert "| dtype | case | ours us | torch us | GFLOP/s | torch/ours |" in lines
    assert "| float32 | T32 B8 H256 | 100.0 | 400.0 | 2684.4 | 4.00 |" in lines
    assert "- sizes training float32 T256 B64 H1024" in lines

    paths = write(report, tmp_path / "new", "machine")
    assert [path.name for path in paths] == ["machine.json", "machine.md", "machine.png"]
    assert from_json(paths[0].read_text()) == report
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_report_with_a_second_peer_and_floors(tmp_path):
    report = report_with_onnxruntime_and_floors()
    assert from_json(to_json(report)) == report
    data = json.loads(to_json(report))
    assert data["results"][0]["onnxruntime_ratio"] == pytest.approx(0.8)
    assert data["results"][0]["over_floor"] == pytest.approx(2)
    assert data["results"][1]["onnxruntime_ratio"] is None
    # A row for everything of each peer; a case without ONNX Runtime is none of its cases.
    of_all = [row for row in data["summary"] if row["group"] == "all"]
    assert [(row["peer"], row["cases"], row["geometric mean"]) for row in of_all] == [
        ("torch", "2", "1.00"),
        ("ORT", "1", "0.80"),
    ]
    assert [row["ours/floor"] for row in of_all] == ["4.00", "2.00"]
    lines = markdown(report).splitlines()
    assert "| float32 | T32 B8 H256 | 100.0 | 400.0 | 80.0 | 50.0 | 2684.4 | 4.00 | 0.80 | 2.00 |" in lines
    assert "| float32 | T32 B8 H256 L2 | 400.0 | 100.0 |  | 50.0 | 4026.5 | 0.25 |  | 8.00 |" in lines
    assert "onnxruntime 1.32.0" in lines[2] and "ORT: ONNX Runtime" in lines[4] and "64 KB: 0" in lines[6]
    assert write(report, tmp_path, "machine")[2].read_bytes().startswith(b"\x89PNG")


def test_calls_take_turns_until_the_budget_is_spent():
    order = []

    def block(call, calls):
        order.append((call(), calls))
        cold = 0.010 if calls == 1 else 0.0
        return ({"a": 0.010, "b": 0.030}[call()] + cold) * calls

    a, b = interleave([lambda: "a", lambda: "b"], block, budget_s=0.2, block_s=0.06)
    sizing, rounds = order[:4], order[4:]
    assert sizing == [("a", 1), ("b", 1), ("a", 3), ("b", 2)]  # alone a call is slower than in a block
    assert rounds == [("a", 6), ("b", 2)] * (len(rounds) // 2)
    assert (a.minimum, b.minimum) == pytest.approx((0.010, 0.030))
    # A round is 0.06 + 0.06 s and the budget 0.4 s for both: the fourth round passes it.
    assert a.repetitions == b.repetitions == 4
    assert (a.calls, b.calls) == (6, 2)


def test_a_slow_call_runs_the_least_number_of_times_and_a_free_one_ends():
    seconds = count(100)
    (slow,) = interleave([lambda: None], lambda call, calls: float(next(seconds)), budget_s=1.0)
    assert slow == Timing(100.0, 101.0, 3, 1)  # the first round counts where blocks hold one call
    (free,) = interleave([lambda: None], lambda call, calls: 0.0, budget_s=1.0, block_s=0.0)
    assert free.repetitions == MAX_REPETITIONS


def test_source_hash_follows_names_and_contents(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cell.h").write_text("int a;")
    (tmp_path / "cpu" / "forward.cpp").write_text("int b;")
    first = environment.source_hash(tmp_path)
    assert first == environment.source_hash(tmp_path)

    (tmp_path / "cpu" / "forward.o").write_bytes(b"built")
    assert environment.source_hash(tmp_path) == first
    (tmp_path / "cpu" / "forward.cpp").write_text("int c;")
    changed = environment.source_hash(tmp_path)
    assert changed != first
    (tmp_path / "cpu" / "forward.cpp").rename(tmp_path / "cpu" / "backward.cpp")
    assert environment.source_hash(tmp_path) not in (first, changed)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("AMD EPYC", "AMD EPYC (family 26, model 2)"),  # as virtual machines have it, whatever the generation
        ("Intel(R) Xeon(R) Platinum 8481C", "Intel(R) Xeon(R) Platinum 8481C"),
    ],
)
def test_a_cpu_is_named_so_that_it_can_be_told_from_others(model: str, name: str, tmp_path: Path):
    cpuinfo = tmp_path / "cpuinfo"
    core = f"vendor_id\t: x\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: {model}\n\n"
    cpuinfo.write_text(2 * core)
    assert environment.cpu_name(cpuinfo) == name


def test_environment_is_json_and_names_the_machine():
    where = environment.describe(CPU)
    assert json.loads(json.dumps(where)) == where
    assert where["torch"] == torch.__version__
    assert where["threads"] == torch.get_num_threads()
    assert len(where["csrc"]) == 64
    assert environment.slug("Intel(R) Xeon(R) CPU @ 2.50GHz, 2 threads") == "intel-xeon-cpu-2-50ghz-2-threads"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
def test_the_two_sides_agree_and_a_wrong_one_is_caught(mode: str, dtype: str, ragged: bool):
    case = Case("lengths", mode, dtype, 9, 3, 16, num_layers=2, num_directions=2, ragged=ragged)
    ours, theirs = build(case, CPU)
    assert check_agreement(case, ours, torch=theirs) < 0.02
    with torch.no_grad():
        ours.parameters[0][1][0] += 1
    with pytest.raises(Disagreement, match=f"lengths {mode} {dtype} .* differs by .* torch's"):
        check_agreement(case, ours, torch=theirs)


@needs_onnxruntime
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
def test_onnxruntime_computes_the_same_and_a_wrong_one_is_caught(layers: int, directions: int, ragged: bool):
    case = Case("lengths", "inference", "float32", 9, 3, 16, layers, directions, ragged)
    ours, theirs = build(case, CPU)
    theirs.parameters[0][1].data[0] += 1  # a weight of layer 0 alone: every later one would hide it less
    wrong = peer_onnxruntime.build(case, theirs)
    assert check_agreement(case, ours, ORT=peer_onnxruntime.build(case, ours)) < 2e-5
    with pytest.raises(Disagreement, match=r"lengths inference float32 .* differs by .* ORT's"):
        check_agreement(case, ours, ORT=wrong)


@needs_onnxruntime
def test_onnxruntime_has_torchs_threads(threads):
    for number in (1, 2):
        threads(number)
        case = Case("sizes", "inference", "float32", 1, 1, 8)
        session = peer_onnxruntime.build(case, build(case, CPU)[1]).session
        options = session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (number, 1)


def test_a_case_is_timed_with_and_without_onnxruntime(monkeypatch):
    """Each side once per round; where ONNX Runtime is missing, or the case not one of its own, the others remain."""

    def sides(case: Case) -> dict[str, bool]:
        result = run_case(case, CPU, lambda call, calls: float(call() is None), budget_s=0.0, block_s=0.0)
        return {name: getattr(result, name) is not None for name in ("ours", "theirs", "onnxruntime")}

    case = Case("sizes", "inference", "float32", 2, 1, 8)
    installed = peer_onnxruntime.version() is not None
    assert sides(case) == {"ours": True, "theirs": True, "onnxruntime": installed}
    for other in ({"mode": "training"}, {"dtype": "bfloat16"}):
        assert not sides(dataclasses.replace(case, **other))["onnxruntime"]
    monkeypatch.setattr(peer_onnxruntime, "onnxruntime", None)
    assert peer_onnxruntime.version() is None
    assert sides(case) == {"ours": True, "theirs": True, "onnxruntime": False}


def test_relative_difference():
    ones = torch.ones(2, 3)
    assert relative_difference(ones, ones) == 0
    assert relative_difference(ones * 1.5, ones) == pytest.approx(0.5)
    assert relative_difference(ones[0], ones) == math.inf
    assert relative_difference(ones, ones * 0) == math.inf
    assert math.isnan(relative_difference(ones * math.nan, ones))


def test_constants_are_read_as_far_as_they_were_printed(tmp_path, monkeypatch):
    line = json.dumps({"name": "a", "value": 0.25, "unit": "ns", "question": "why"})
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho '{line}'\necho broken >&2\n${{HANG:+exec sleep 60}}\n")
    program.chmod(0o755)
    expected = [constants.Constant("a", 0.25, "ns", "why")]
    assert constants.measure(program) == (expected, "broken")
    monkeypatch.setenv("HANG", "yes")
    monkeypatch.setattr(constants, "RUN_LIMIT_S", 0.5)
    assert constants.measure(program) == (expected, "stopped after 0.5 s")
    text = constants.markdown(environment.describe(CPU), expected, "broken", {"bfloat16 T1": {"a_kernel": 3}})
    assert "| 0.25 | ns | why |" in text and "Not measured: broken" in text and "- 3 x `a_kernel`" in text


def test_report_of_a_gpu():
    """It names driver and cuDNN, has a column for float16 beside bfloat16, and lists what failed."""
    plain = small_report()
    half = dataclasses.replace(plain.results[0], float16=Timing(2e-5, 3e-5, 7, 1))
    where = plain.environment | {"driver": "580.1", "cudnn": 91300}
    report = Report(where, {"graph": True}, [half, plain.results[1]], [], ["block T1: h_n differs"])
    assert from_json(to_json(report)) == report
    text = markdown(report)
    assert "cuDNN 91300, driver 580.1" in text
    assert "replays of CUDA graphs" in text
    assert "| 100.0 | 400.0 | 20.0 | 2684.4 | 4.00 |" in text
    assert "- block T1: h_n differs" in text
    assert "float16" not in markdown(plain)


def test_precision_sets_torchs_switches_and_puts_them_back():
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    for dtype in ("tf32", "float32"):
        with precision(dtype):
            assert [switch.allow_tf32 for switch in switches] == [dtype == "tf32"] * 2
    assert [switch.allow_tf32 for switch in switches] == before
