"""bench.stream and bench.widths: percentiles, and a small run of everything that they write."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from instruction_sets import needs_bytes

from bench import environment, floor, page, stream, stream_peers, widths
from bench.cases import Case

CASE = Case("stream", "inference", "float32", seq_len=1, batch=2, hidden_size=16)
RATES = floor.Rates({"float32": 1e8}, {2**10: 1e9, 2**16: 5e8})


def test_the_grid() -> None:
    cases = stream.cases()
    assert len(cases) == len({case.name for case in cases}) == 3 * 3 * 4
    assert set(stream.cases(quick=True)) < set(cases)


def test_a_distribution_has_the_percentiles_of_its_samples() -> None:
    samples = list(np.random.default_rng(0).permutation(np.arange(1, 2001) / 1000))
    times = stream.Distribution.of(samples)
    for part in stream.PARTS:
        assert times.times[stream.PARTS.index(part)] == np.quantile(samples, part, method="inverted_cdf")
    assert (times.minimum, times.at(0.5), times.at(0.999)) == (0.001, 1.0, 1.998)
    few = stream.Distribution.of(samples[:100])
    assert few.at(0.99) is not None and few.at(0.995) is None and few.at(0.999) is None


def test_timing_takes_turns_and_keeps_every_call() -> None:
    seen: list[str] = []
    calls = {name: (lambda name=name: seen.append(name)) for name in "ab"}
    found = stream.time_calls(calls, budget_s=0.001)
    assert seen[:2] == ["a", "b"] and seen[2] == "a"
    assert all(times.calls >= stream.MIN_CALLS for times in found.values())
    assert sum(times.calls for times in found.values()) < len(seen)  # the first rounds do not count


@pytest.fixture(scope="module")
def report() -> stream.StreamReport:
    cases = [CASE, dataclasses.replace(CASE, seq_len=4, batch=1)]
    results = [stream.run_case(case, list(stream.SIDES), budget_s=0.01) for case in cases]
    where = environment.describe(torch.device("cpu")) | {"onnxruntime": "1.0"}
    return stream.StreamReport(where, {}, results, RATES)


def test_all_sides_agree_and_are_timed(report: stream.StreamReport) -> None:
    first, second = report.results
    assert "LSTMCell" in first.sides and "LSTMCell" not in second.sides
    assert ("ORT int8" in first.sides) == stream_peers.HAS_ONNXRUNTIME
    assert first.differences["float32"] < 1e-6 < first.differences["bfloat16"] < first.differences["int8"] < 0.1
    assert first.ratio("torch int8", "int8") == first.sides["torch int8"].minimum / first.sides["int8"].minimum
    assert first.likest("torch int8") == (stream.BYTES if stream.BYTES in first.sides else "int8")
    assert first.likest("int8") is None and first.likest("ORT") in (None, "float32")
    # 4 * 16 * 16 weights of one byte, read as W_ih once and as W_hh once a step.
    assert stream.reading_s(first, "int8", RATES) == pytest.approx(2048 / 1e9)
    assert stream.reading_s(second, "int8", RATES) == pytest.approx((2048 + 3 * 1024) / 1e9)


def test_a_side_that_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dataclasses.replace(stream.SIDES["module"], build=lambda lstm, x: lambda: torch.ones_like(x))
    monkeypatch.setitem(stream.SIDES, "module", wrong)
    with pytest.raises(SystemExit, match=r"module is .* off float64"):
        stream.run_case(CASE, ["module"], 0.01)


def test_what_is_written(report: stream.StreamReport, tmp_path: Path) -> None:
    paths = stream.write(report, tmp_path / "new")
    assert [path.suffix for path in paths] == [".json", ".md", ".png"]
    data = json.loads(paths[0].read_text())
    assert len(data["results"]) == 2 and data["parts"] == list(stream.PARTS)
    text = paths[1].read_text()
    for line in stream.rows(report) + stream.summary(report):
        assert f"| {' | '.join(line)} |" in text
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_the_results_of_streams_are_no_report_of_the_grid() -> None:
    assert any(path.name.startswith("stream") for path in page.RESULTS.glob("*.json"))
    assert all(report.results for report in page.cpu_reports())


@needs_bytes
def test_errors_of_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    assert widths.errors(torch.tensor([1.0, -2.5]), torch.tensor([1.0, -2.0])) == (0.25, math.sqrt(0.03125))
    monkeypatch.setattr(widths, "SIZES", (16,))
    monkeypatch.setattr(widths, "STEPS", (1, 3))
    _, _, *rows = widths.table()
    assert [row.split(" | ")[:2] for row in rows] == [["| 16", "1"], ["| 16", "3"]]
    for row in rows:
        bfloat16, _, int8, _, of_both, _, of_torch, _ = map(float, row.strip("| ").split(" | ")[2:])
        assert 0 < bfloat16 < int8 < 0.1 and 0 < of_both < 0.1 and 0 < of_torch < 0.2
