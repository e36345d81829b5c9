"""Turns measurements into a terminal table, Markdown, JSON and a plot."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.cases import Case
from bench.timing import Timing

COLUMNS = ("dtype", "case", "ours us", "median", "theirs us", "median", "ours GFLOP/s", "theirs GFLOP/s", "ratio")
SUMMARY_COLUMNS = ("group", "mode", "cases", "geometric mean", "worst", "worst case")
LEGEND = (
    "ours: lstm_fused.LSTM, theirs: torch.nn.LSTM, in microseconds per call, minimum and median of interleaved "
    "repetitions; ratio: theirs / ours of the minima, above 1 where lstm_fused is faster."
)
FLOAT16_COLUMN = "float16 us"  # of torch.nn.LSTM, beside every bfloat16 case on CUDA
FLOAT16_LEGEND = (
    " float16: torch.nn.LSTM in float16, beside its time in bfloat16, as cuDNN may have faster kernels for it."
)
GRAPH_LEGEND = " Both sides are replays of CUDA graphs."
CACHE_LEGEND = " Every call has the same input and weights; what fits L2 is there, unless the run used --clear-l2."
LEFT_OUT = "Left out, as they did not fit the time limit:"
FAILED = "Failed, and not measured:"


@dataclass(frozen=True)
class Result:
    """One measured case."""

    case: Case
    ours: Timing
    theirs: Timing
    difference: float  # largest relative difference of any output or gradient between the two sides
    float16: Timing | None = None  # theirs in float16

    @property
    def ratio(self) -> float:
        """theirs / ours, of the minima: the figure that other programs on the machine disturb least."""
        return self.theirs.minimum / self.ours.minimum

    def row(self, with_float16: bool = False) -> list[str]:
        gflops = [f"{self.case.flops / side.minimum / 1e9:.1f}" for side in (self.ours, self.theirs)]
        times = [t for side in (self.ours, self.theirs) for t in (side.minimum, side.median)]
        row = [self.case.dtype, self.case.shape, *map(microseconds, times), *gflops, f"{self.ratio:.2f}"]
        if with_float16:
            row.append(microseconds(self.float16.minimum) if self.float16 else "")
        return row


@dataclass(frozen=True)
class Report:
    environment: dict[str, Any]
    settings: dict[str, Any]
    results: list[Result]
    left_out: list[str]  # names of cases that would not have fitted the time limit
    failed: list[str] = dataclasses.field(default_factory=list)  # names of cases, and what went wrong

    @property
    def with_float16(self) -> bool:
        return any(result.float16 for result in self.results)

    @property
    def columns(self) -> tuple[str, ...]:
        return (*COLUMNS, FLOAT16_COLUMN) if self.with_float16 else COLUMNS

    @property
    def legend(self) -> str:
        further = [
            (FLOAT16_LEGEND, self.with_float16),
            (GRAPH_LEGEND, self.settings.get("graph")),
            (CACHE_LEGEND, self.environment.get("driver")),
        ]
        return LEGEND + "".join(text for text, wanted in further if wanted)

    def by_table(self) -> dict[tuple[str, str], list[Result]]:
        """Results by (group, mode), in the order in which they were measured."""
        tables: dict[tuple[str, str], list[Result]] = {}
        for result in self.results:
            tables.setdefault((result.case.group, result.case.mode), []).append(result)
        return tables

    def summary(self) -> list[list[str]]:
        """One row for each group and mode, and one for everything."""
        rows = [summary_row(*key, results) for key, results in self.by_table().items()]
        return [*rows, summary_row("all", "", self.results)]


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f}" if seconds < 1e-3 else f"{seconds * 1e6:,.0f}"


def geometric_mean(values: Iterable[float]) -> float:
    """The right mean of ratios: 2x faster here and 2x slower there make 1."""
    logarithms = [math.log(value) for value in values]
    return math.exp(math.fsum(logarithms) / len(logarithms))


def summary_row(group: str, mode: str, results: Sequence[Result]) -> list[str]:
    worst = min(results, key=lambda result: result.ratio)
    name = f"{worst.case.dtype} {worst.case.shape}" if mode else worst.case.name
    mean = geometric_mean(result.ratio for result in results)
    return [group, mode, str(len(results)), f"{mean:.2f}", f"{worst.ratio:.2f}", name]


def headline(environment: dict[str, Any]) -> str:
    commit = (environment["commit"] or "no commit")[:12] + (" + changes" if environment["dirty"] else "")
    where = f"{environment['device']}; torch {environment['torch']}, "
    if environment.get("driver"):
        where += f"cuDNN {environment['cudnn']}, driver {environment['driver']}"
    else:
        where += environment["cpu_capability"]
    load = f"load {environment['load']:.1f} on {environment['cores']} cores at the start"
    return f"{where}; {load}; {commit}, csrc {environment['csrc'][:12]}; {environment['date']}"


def print_report(report: Report, console: Console) -> None:
    def table(title: str, columns: Sequence[str], rows: Iterable[list[str]], left: int) -> None:
        grid = Table(title=title, title_justify="left", header_style="bold")
        for index, column in enumerate(columns):
            grid.add_column(column, justify="left" if index < left or column == "worst case" else "right", no_wrap=True)
        for row in rows:
            grid.add_row(*row)
        console.print(grid)

    for (group, mode), results in report.by_table().items():
        rows = (result.row(report.with_float16) for result in results)
        table(f"{group}, {mode}", report.columns, rows, left=2)
    table("theirs / ours", SUMMARY_COLUMNS, report.summary(), left=2)
    console.print(report.legend)
    for text, names in ((LEFT_OUT, report.left_out), (FAILED, report.failed)):
        if names:
            console.print(f"{text} {'; '.join(names)}", highlight=False, markup=False)
    console.print(headline(report.environment), highlight=False)


def markdown(report: Report) -> str:
    """The tables as Markdown, the summary first; docs/ may include it as it is."""

    def table(columns: Sequence[str], rows: Iterable[list[str]]) -> list[str]:
        return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]

    lines = [f"# {report.environment['device']}", "", headline(report.environment), "", report.legend, ""]
    lines += table(SUMMARY_COLUMNS, report.summary())
    for (group, mode), results in report.by_table().items():
        rows = (result.row(report.with_float16) for result in results)
        lines += ["", f"## {group}, {mode}", "", *table(report.columns, rows)]
    for text, names in ((LEFT_OUT, report.left_out), (FAILED, report.failed)):
        if names:
            lines += ["", text, "", *(f"- {name}" for name in names)]
    return "\n".join(lines) + "\n"


def to_json(report: Report) -> str:
    """Everything that was measured, and per case what follows from it (shape, flops, ratio), which reading ignores."""
    results = [
        {**dataclasses.asdict(r), "name": r.case.name, "flops": r.case.flops, "ratio": r.ratio} for r in report.results
    ]
    summary = [dict(zip(SUMMARY_COLUMNS, row, strict=True)) for row in report.summary()]
    return json.dumps({**dataclasses.asdict(report), "results": results, "summary": summary}, indent=1) + "\n"


def from_json(text: str) -> Report:
    data = json.loads(text)

    def timing(values: dict[str, Any] | None) -> Timing | None:
        return None if values is None else Timing(**values)

    results = [
        Result(Case(**r["case"]), timing(r["ours"]), timing(r["theirs"]), r["difference"], timing(r.get("float16")))
        for r in data["results"]
    ]
    return Report(data["environment"], data["settings"], results, data["left_out"], data.get("failed", []))


def write(report: Report, folder: Path, name: str) -> list[Path]:
    """Writes `<name>.json`, `.md` and `.png` into the folder, made where it is missing, and returns their paths."""
    from bench.plot import plot  # matplotlib takes a while to import

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}{suffix}" for suffix in (".json", ".md", ".png")]
    paths[0].write_text(to_json(report))
    paths[1].write_text(markdown(report))
    plot(report, paths[2])
    return paths
