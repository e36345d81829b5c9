"""Puts what bench/results holds into docs/results.md: python -m bench.page.

The page's own text stays; each table stands between a line `<!-- NAME -->` and the next `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench.cases import Case
from bench.environment import slug
from bench.report import Report, Result, from_json, geometric_mean
from bench.static_page import total
from bench.tables import markdown_table, microseconds

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
RESULTS = ROOT / "bench" / "results"
STATIC = RESULTS / "static-sm_90a.json"

REGIMES: dict[str, Callable[[Case], bool]] = {
    "one step (T = 1)": lambda c: c.group == "sizes" and c.seq_len == 1,
    "one row (B = 1)": lambda c: c.group == "sizes" and c.seq_len > 1 and c.batch == 1,
    "8 rows": lambda c: c.group == "sizes" and c.seq_len > 1 and c.batch == 8,
    "64 rows": lambda c: c.group == "sizes" and c.seq_len > 1 and c.batch == 64,
    "LSTMCell, one step": lambda c: c.group == "cell" and c.seq_len == 1,
    "LSTMCell, a loop of 20": lambda c: c.group == "cell" and c.seq_len > 1,
    "several layers": lambda c: c.group == "layers",
    "two directions": lambda c: c.group == "directions",
    "rows that end early": lambda c: c.group == "lengths",
}


def ratios(results: Sequence[Result], name: str) -> str:
    """The geometric mean of a ratio, the smallest and the largest one; nothing where none was measured."""
    values = [value for result in results if (value := getattr(result, name)) is not None]
    return f"{geometric_mean(values):.2f} ({min(values):.2f}-{max(values):.2f})" if values else ""


def regimes(report: Report) -> list[str]:
    """A row for each regime and mode; for each dtype and peer a column, empty ones left out."""
    dtypes = list(dict.fromkeys(result.case.dtype for result in report.results))
    columns = [(f"torch, {dtype}", "ratio", dtype) for dtype in dtypes]
    columns += [(f"ORT, {dtype}", "onnxruntime_ratio", dtype) for dtype in dtypes]
    rows = []
    for regime, belongs in REGIMES.items():
        for mode in ("inference", "training"):
            of_mode = [r for r in report.results if belongs(r.case) and r.case.mode == mode]
            cells = [ratios([r for r in of_mode if r.case.dtype == dtype], name) for _, name, dtype in columns]
            if of_mode:
                rows.append([regime, mode, *cells])
    kept = [n for n in range(2 + len(columns)) if any(row[n] for row in rows)]
    titles = ["regime", "mode", *(title for title, _, _ in columns)]
    return markdown_table([titles[n] for n in kept], ([row[n] for n in kept] for row in rows))


def losses(report: Report) -> list[str]:
    """Every case in which a peer was faster, the worst first."""
    peers = [("torch", "theirs", "ratio"), ("ORT", "onnxruntime", "onnxruntime_ratio")]
    found = []
    for result in report.results:
        for peer, side, name in peers:
            ratio = getattr(result, name)
            if ratio is not None and ratio < 1:
                times = (result.ours.minimum, getattr(result, side).minimum)
                found.append((ratio, [peer, result.case.mode, result.case.dtype, result.case.shape], times))
    rows = ([*names, *map(microseconds, times), f"{ratio:.2f}"] for ratio, names, times in sorted(found))
    return markdown_table(["peer", "mode", "dtype", "case", "ours us", "peer us", "peer/ours"], rows)


def modelled() -> list[str]:
    """What bench.static found for bfloat16, and what the planner expects of the same kind."""
    from lstm_fused import _plan

    report = json.loads(STATIC.read_text())
    keys = "kind", "hidden_size", "batch", "pass"
    found = {tuple(row[key] for key in keys): row for row in report["cases"] if row["type"] == "bfloat16"}
    device = next(known for known in _plan.known_devices() if known.name == "H100")
    rows = []
    for kind, hidden_size, batch in dict.fromkeys(key[:3] for key in found):
        of_passes = [found.get((kind, hidden_size, batch, name)) for name in ("inference", "training", "backward")]
        us = [f"{total(row, 'cycles', 'step') / report['clock_mhz']:.2f}" if row else "" for row in of_passes]
        problem = _plan.Problem(seq_len=256, batch=batch, hidden_size=hidden_size, dtype="bfloat16")
        planned = next(c for c in _plan.plan(problem, device).candidates if c.kind == kind)
        rows.append([kind, f"{hidden_size}, {batch}", *us, f"{planned.us_per_step:.2f}", "not measured"])
    return markdown_table(["kind", "H, B", "inference", "training", "backward", "the planner's", "measured"], rows)


def runs(reports: Iterable[Report]) -> list[str]:
    """A row for each run and peer: the mean over all of its cases, and the worst one."""
    rows = []
    for report in reports:
        for row in report.summary():
            if row["group"] == "all":
                where = [report.environment["device"], report.environment["date"][:10]]
                rows.append([*where, *(str(row[name]) for name in ("peer", "cases", "geometric mean", "worst"))])
                rows[-1].append(row["worst case"])
    return markdown_table(["machine", "date", "peer", "cases", "geometric mean", "worst", "worst case"], rows)


def tables(reports: Sequence[Report]) -> dict[str, list[str]]:
    """The tables of the page by name, three of each CPU. reports: of CPUs, the newest first."""
    found = {"runs": runs(reports)}
    for report in most_threads(reports):
        where, cpu = report.environment, slug(report.environment["cpu"])
        machine = f"{where['device']}, {where['cpu_capability']}, torch {where['torch']}, {where['date'][:10]}"
        size = f"{len(report.results)} cases measured, {len(report.left_out)} left out for their time"
        found |= {
            f"machine {cpu}": [f"{machine}: {size}."],
            f"regimes {cpu}": regimes(report),
            f"losses {cpu}": losses(report),
        }
    return found | {"modelled": modelled()}


def filled(page: str, tables: dict[str, Iterable[str]]) -> str:
    """The page with these tables in their places. KeyError for a place without a table."""

    def table(place: re.Match[str]) -> str:
        return "\n".join([place[1], *tables[place[2]], "<!-- end -->"])

    return re.sub(r"(<!-- (?!end)([\w -]+?) -->)\n.*?<!-- end -->", table, page, flags=re.S)


def cpu_reports() -> list[Report]:
    """Of CPUs, in bench/results: the newest first."""
    others = {path.stem for path in Path(__file__).parent.iterdir()}  # benches of their own: cells-..., stream-...
    timed = [path for path in RESULTS.glob("*.json") if path.name.split("-")[0] not in others]
    reports = [from_json(path.read_text()) for path in timed]
    of_cpus = [report for report in reports if not report.environment.get("driver")]
    return sorted(of_cpus, key=lambda report: report.environment["date"], reverse=True)


def most_threads(reports: Iterable[Report]) -> list[Report]:
    """Of each CPU the one with the most threads."""
    found: dict[str, Report] = {}
    for report in sorted(reports, key=lambda report: report.environment["threads"]):
        found[report.environment["cpu"]] = report
    return sorted(found.values(), key=lambda report: report.environment["date"], reverse=True)


def refresh() -> None:
    PAGE.write_text(filled(PAGE.read_text(), tables(cpu_reports())))


if __name__ == "__main__":
    refresh()
