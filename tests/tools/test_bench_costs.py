"""`python -m bench.costs`: the planner's constants are those of the committed model cycles, and say what these say."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from bench import costs, static
from bench.static import Run
from bench.static_page import total

STATIC = json.loads(static.OUT.with_suffix(".json").read_text())
ROWS = json.loads(costs.OUT.read_text())["cases"]
CLOSE = 0.1  # 7.6 % at worst where this was written


def name_of(row: dict[str, Any]) -> str:
    return static.name_of(row).replace(" ", "-")


def test_cost_cpp_holds_what_the_results_say() -> None:
    """If not: python -m bench.costs."""
    text, cycles = costs.COST.read_text(), costs.fit(ROWS)
    assert costs.filled(text, cycles) == text
    assert set(re.findall(r'\{"([\w ]+)", \{', text)) == set(cycles)
    assert all(value >= 0 for values in cycles.values() for value in values)
    assert [row["run"] for row in ROWS] == [run.name for run in costs.RUNS]


# Of what bench.static found, on its own: kernels that have changed, or a planner that takes other launches, show here.
@pytest.mark.parametrize("row", [row for row in STATIC["cases"] if row["pass"] == "inference"], ids=name_of)
def test_estimates_agree_with_the_model(row: dict[str, Any]) -> None:
    """If not: python -m bench.costs, build, python -m bench.static."""
    run = static.run_of(row)
    plan = costs._plan.plan(costs.problem_of(run), costs.H100)
    found = next(candidate for candidate in plan.candidates if candidate.kind == run.kind)
    modelled = total(row, "cycles", "step") / STATIC["clock_mhz"]
    assert found.us_per_step - found.launch_us_per_step == pytest.approx(modelled, rel=CLOSE)
    assert "modelled from the compiled kernels" in str(plan)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["run"].replace(" ", "-"))
def test_parts_add_up_to_what_was_modelled(row: dict[str, Any]) -> None:
    assert costs.parts(Run.of(row["run"])) == row["parts"], "the planner takes another launch now"
    assert costs.reckoned(row, costs.fit(ROWS)) == pytest.approx(row["cycles"], rel=CLOSE)


def test_a_constant_that_cost_cpp_does_not_have_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        costs.filled(costs.COST.read_text(), {"nothing": [0, 0, 0]})
