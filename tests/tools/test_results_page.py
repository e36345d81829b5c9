"""docs/results.md: its tables are those of bench/results and of the planner."""

import dataclasses
import re

import pytest

from bench import page
from bench.environment import slug
from bench.report import Report


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    return page.cpu_reports()


@pytest.fixture(scope="module")
def report(reports: list[Report]) -> Report:
    return page.most_threads(reports)[0]


def test_the_tables_are_what_was_measured(reports: list[Report]):
    """If not: python -m bench.page."""
    text = page.PAGE.read_text()
    places = re.findall(r"<!-- (?!end)([\w -]+?) -->", text)
    assert sorted(places) == sorted(page.tables(reports))
    assert page.filled(text, page.tables(reports)) == text


def test_another_measurement_is_another_page(reports: list[Report], report: Report):
    slower = dataclasses.replace(report.results[0], ours=dataclasses.replace(report.results[0].ours, minimum=1.0))
    changed = dataclasses.replace(report, results=[slower, *report.results[1:]])
    before = page.tables(reports)
    after = page.tables([changed if other is report else other for other in reports])
    cpu = slug(report.environment["cpu"])
    assert {name for name in before if before[name] != after[name]} == {"runs", f"regimes {cpu}", f"losses {cpu}"}
    assert len(after[f"losses {cpu}"]) >= len(before[f"losses {cpu}"])


def test_each_cpu_is_shown_by_its_run_with_the_most_threads(reports: list[Report]):
    shown = page.most_threads(reports)
    assert len({report.environment["cpu"] for report in reports}) == len(shown)
    for report in reports:
        (of_cpu,) = [other for other in shown if other.environment["cpu"] == report.environment["cpu"]]
        assert of_cpu.environment["threads"] >= report.environment["threads"]


def test_every_case_is_in_one_regime_and_every_loss_is_told(report: Report):
    for result in report.results:
        assert sum(belongs(result.case) for belongs in page.REGIMES.values()) == 1, result.case.name
    ratios = [r for result in report.results for r in (result.ratio, result.onnxruntime_ratio) if r is not None]
    assert len(page.losses(report)) == 2 + sum(ratio < 1 for ratio in ratios)


def test_a_place_without_a_table_is_an_error():
    with pytest.raises(KeyError, match="nothing"):
        page.filled("<!-- nothing -->\n<!-- end -->", {})
