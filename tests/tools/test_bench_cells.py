"""bench.cells: a small run of everything that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import cells, environment


def test_the_grid() -> None:
    found = cells.cases()
    assert len(found) == len(set(found)) == 8 * len(cells.OPTIONS) * 2
    assert set(cells.cases(quick=True)) < set(found)


@pytest.mark.parametrize("option", cells.OPTIONS)
def test_the_loop_is_the_cell(option: str) -> None:
    """run_case raises where it is not; forward and backward of all sides."""
    result = cells.run_case(cells.Case(option, "training", 3, 2, 5), cells.loop, budget_s=0.0)
    assert set(result.seconds) == set(cells.SIDES) and result.ratio > 0 and result.price > 0


def test_a_loop_that_is_not_the_cell_ends_the_run() -> None:
    with pytest.raises(SystemExit, match="the loop differs by"):
        cells.run_case(cells.Case("zoneout", "inference", 3, 2, 5), lambda *args: 2 * cells.loop(*args), budget_s=0.0)


def test_what_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """torch.jit.script compiles the loop."""
    some = [cells.Case("layer_norm", mode, 3, 2, 5) for mode in cells.MODES]
    monkeypatch.setattr(cells, "cases", lambda quick: some)
    monkeypatch.setattr("sys.argv", ["bench.cells", "--quick", "--out", str(tmp_path)])
    assert cells.main() == 0
    name = f"cells-{environment.slug(environment.device_name(torch.device('cpu')))}"
    assert len(json.loads((tmp_path / f"{name}.json").read_text())["results"]) == len(some)
    text = (tmp_path / f"{name}.md").read_text()
    assert text.startswith("# Cells beyond the plain one on ") and text.count("| layer_norm | training |") == 2
