"""docs/other-code.md: the table of packages. Each row is a trial, in files of this folder by subject."""

from __future__ import annotations

import control  # noqa: F401
import pytest
import series  # noqa: F401
import speech  # noqa: F401
import text  # noqa: F401
import torch
from test_other_code_page import rows
from trials import TRIALS, difference

HEAD = "| package | what ran | our LSTM comes by | difference | speed |"
BOUND = 1e-5  # the page names it


@pytest.mark.parametrize("name", TRIALS)
@pytest.mark.filterwarnings("ignore")  # those of other packages, about others
def test_same_results_and_gradients(name: str) -> None:
    theirs, ours = (TRIALS[name].prepare(is_ours)() for is_ours in (False, True))
    assert all(torch.isfinite(tensor).all() for tensor in theirs)
    assert difference(ours, theirs) < BOUND


def test_the_page_has_a_row_for_each() -> None:
    trials = [(f"{t.package} {t.version()}", t.what, t.way) for t in TRIALS.values()]
    assert [tuple(cells[:3]) for cells in rows(HEAD)] == trials
    assert all(float(cells[3]) < BOUND for cells in rows(HEAD))
