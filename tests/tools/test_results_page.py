"""docs/results.md: its tables are those of bench/results and of the planner."""

import dataclasses
import re

import pytest

from bench import page
from bench.report import Report


@pytest.fixture(scope="module")
def report() -> Report:
    return page.cpu_report()


def test_the_tables_are_what_was_measured(report: Report):
    """If not: python -m bench.page."""
    text = page.PAGE.read_text()
    places = re.findall(r"<!-- (?!end)(\w+) -->", text)
    assert places == list(page.tables(report))
    assert page.filled(text, page.tables(report)) == text


def test_another_measurement_is_another_page(report: Report):
    slower = dataclasses.replace(report.results[0], ours=dataclasses.replace(report.results[0].ours, minimum=1.0))
    changed = dataclasses.replace(report, results=[slower, *report.results[1:]])
    before, after = page.tables(report), page.tables(changed)
    assert {name for name in before if before[name] != after[name]} == {"regimes", "losses"}
    assert len(after["losses"]) >= len(before["losses"])


def test_every_case_is_in_one_regime_and_every_loss_is_told(report: Report):
    for result in report.results:
        assert sum(belongs(result.case) for belongs in page.REGIMES.values()) == 1, result.case.name
    ratios = [r for result in report.results for r in (result.ratio, result.onnxruntime_ratio) if r is not None]
    assert len(page.losses(report)) == 2 + sum(ratio < 1 for ratio in ratios)


def test_a_place_without_a_table_is_an_error():
    with pytest.raises(KeyError, match="nothing"):
        page.filled("<!-- nothing -->\n<!-- end -->", {})
