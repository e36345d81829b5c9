"""`python -m bench.static`: instructions and cycles of a time step, where the kernels run as PTX."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ptx
import pytest
from simulated import Simulator

from bench import static
from bench.static_page import page, total

pytestmark = pytest.mark.skipif(ptx.CUDA is None, reason="no CUDA toolkit found: nothing to compile PTX with")


@pytest.fixture(scope="module")
def h100() -> Simulator:
    return Simulator(static.ARCHITECTURE)


def find(name: str) -> static.Run:
    return next(run for run in static.RUNS if run.name == name)


def test_a_step_is_counted_exactly(h100: Simulator) -> None:
    """block, H = 64, I = 32: 16 tiles of 16 rows of W, each 4 products of h and 4 of x, whose K is padded to 64."""
    row = static.measure(h100, find("block 64 8 bfloat16 inference"))
    step, launch = row["instructions"]["step"], row["instructions"]["launch"]
    assert row["warps"] == 8
    assert step["mma"] == 16 * (4 + 4) / row["warps"]
    assert launch["mma"] == 16 * 4 / row["warps"]  # x is a step ahead: of one step more
    assert step["barriers"] == 1
    assert all(number >= 0 for number in step.values())
    committed = json.loads(static.OUT.with_suffix(".json").read_text())
    assert committed["architecture"] == static.ARCHITECTURE
    if (committed["csrc"], committed["nvcc"]) == (static.source_hash(), ptx.CUDA.version):
        assert committed["cases"][0].items() >= row.items()


@pytest.mark.parametrize("kind", static.SHAPES)
def test_cycles_are_the_same_for_every_seed_and_enough(h100: Simulator, kind: str) -> None:
    """More than the slots and the tensor cores need that a scheduler's share of a block's warps has."""
    smallest = static.Run(kind, 64, 8, "bfloat16", "inference")
    first, second = (static.launch(h100, smallest, static.LENGTHS[0], seed) for seed in (1, 2))
    assert first == second
    longer = static.launch(h100, smallest, static.LENGTHS[1])
    step = static.per_step(first.cycles, longer.cycles)["step"]
    assert all(number >= 0 for name, number in step.items() if name in ("product", "barrier"))
    warps_of_a_block, schedulers, product_rate = 8, 4, 6
    counts = static.per_step(first.instructions, longer.instructions, longer.kernel[1])["step"]
    least = counts["mma"] * product_rate * min(warps_of_a_block, longer.kernel[1] / static.WARP) / schedulers
    assert sum(step.values()) > max(least, 33 * 4)  # a chain of products of K = 64


def test_what_was_saved_is_compared(
    h100: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(static, "Simulator", lambda machine, kernels: h100)
    saved, before = tmp_path / "saved.json", static.OUT.with_suffix(".json").read_text()
    for options in (["--save", str(saved)], ["--compare", str(saved)]):
        monkeypatch.setattr(sys, "argv", ["static", "--filter", "block 64 8 bfloat16 inference", *options])
        static.main()
    first, second, compared = capsys.readouterr().out.splitlines()
    row = json.loads(saved.read_text())["cases"][0]
    assert first == second == static.line(row, None)
    assert f"step {total(row, 'cycles', 'step'):6.0f}, " in first
    assert "(1.00 times)" in compared
    assert static.OUT.with_suffix(".json").read_text() == before


def test_a_filter_that_matches_nothing_says_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["static", "--filter", "nothing"])
    with pytest.raises(SystemExit):
        static.main()
    assert "block 64 8 bfloat16 inference\n" in capsys.readouterr().err


def test_the_page_is_that_of_the_figures() -> None:
    report = json.loads(static.OUT.with_suffix(".json").read_text())
    assert static.OUT.with_suffix(".md").read_text() == page(report)
    assert all(row["spilled_bytes"] == 0 < row["registers"] <= 255 for row in report["cases"])
    assert [static.name_of(row) for row in report["cases"]] == [run.name for run in static.RUNS]
