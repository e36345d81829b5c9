"""bench.keras and bench.torchrl, small: every side agrees, is timed, and stands in the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import bench.keras
import bench.torchrl
from bench import beside


@pytest.mark.filterwarnings("ignore")  # TorchRL's, about its own
@pytest.mark.parametrize(("package", "peers"), [("keras", ["keras"]), ("torchrl", ["pad", "scan"])])
def test_a_small_run(package: str, peers: list[str], tmp_path: Path) -> None:
    module = getattr(bench, package)
    arguments = ["--quick", "--device", "cpu", "--budget", "0.001", "--out", str(tmp_path)]
    assert beside.main(package, module.__doc__, module.LEGEND, module.rows, arguments) == 0
    (report,) = (json.loads(path.read_text()) for path in tmp_path.glob(f"{package}-*.json"))
    assert [r["name"] for r in report["results"]] == [row.name for row in module.rows(torch.device("cpu"), True)]
    for result in report["results"]:
        assert list(result["times"]) == ["ours", *peers]
        assert all(timing["minimum"] > 0 for timing in result["times"].values())
        assert result["difference"] < beside.TOLERANCE
    (table,) = (path.read_text() for path in tmp_path.glob(f"{package}-*.md"))
    assert all(f"| {result['name']} |" in table for result in report["results"])


def test_sides_that_disagree_end_the_run() -> None:
    row = beside.Row("row", ["other"], lambda side: lambda: [torch.ones(2) * (side == "ours")])
    with pytest.raises(SystemExit, match="row: the results differ"):
        beside.measure(row, torch.device("cpu"), 0.001)
