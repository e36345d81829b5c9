"""Turns measurements into a terminal table, Markdown, JSON and a plot."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.cases import Case
from bench.floor import Rates
from bench.timing import Timing

TEXT_COLUMNS = {"dtype", "case", "peer", "group", "mode", "worst case"}
LEGEND = (
    "Microseconds per call, minima of interleaved repetitions (medians: in the JSON). ours: lstm_fused.LSTM, torch: "
    "torch.nn.LSTM. torch/ours: above 1 where lstm_fused is faster."
)
ONNXRUNTIME_LEGEND = (
    " ORT: ONNX Runtime, inference in float32, which has packed the weights before its first call; the others do in "
    "every call."
)
FLOOR_LEGEND = " floor: what this machine could do at best, by the rates below and the formula in bench/floor.py."
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
    theirs: Timing  # torch.nn.LSTM
    difference: float  # largest relative difference of any output or gradient between ours and another side
    float16: Timing | None = None  # theirs in float16
    onnxruntime: Timing | None = None
    floor: float | None = None  # seconds

    @property
    def ratio(self) -> float:
        """theirs / ours, of the minima: the figure that other programs on the machine disturb least."""
        return self.theirs.minimum / self.ours.minimum

    @property
    def onnxruntime_ratio(self) -> float | None:
        return self.onnxruntime and self.onnxruntime.minimum / self.ours.minimum

    @property
    def over_floor(self) -> float | None:
        """ours / floor."""
        return self.floor and self.ours.minimum / self.floor


@dataclass(frozen=True)
class Report:
    environment: dict[str, Any]
    settings: dict[str, Any]
    results: list[Result]
    left_out: list[str]  # names of cases that would not have fitted the time limit
    failed: list[str] = dataclasses.field(default_factory=list)  # names of cases, and what went wrong
    rates: Rates | None = None  # what the floors were computed from

    def has(self, name: str) -> bool:
        """Whether any result has this optional field."""
        return any(getattr(result, name) is not None for result in self.results)

    @property
    def columns(self) -> dict[str, Callable[[Result], str]]:
        """Titles of the tables, and the text of a cell. Columns that would be empty are left out."""

        def time_of(name: str) -> Callable[[Result], str]:
            return lambda result: microseconds(side.minimum) if (side := getattr(result, name)) else ""

        def number(name: str) -> Callable[[Result], str]:
            return lambda result: "" if (value := getattr(result, name)) is None else f"{value:.2f}"

        columns = [
            ("dtype", lambda result: result.case.dtype, True),
            ("case", lambda result: result.case.shape, True),
            ("ours us", time_of("ours"), True),
            ("torch us", time_of("theirs"), True),
            ("float16 us", time_of("float16"), self.has("float16")),
            ("ORT us", time_of("onnxruntime"), self.has("onnxruntime")),
            ("floor us", lambda result: microseconds(result.floor) if result.floor else "", self.has("floor")),
            ("GFLOP/s", lambda result: f"{result.case.flops / result.ours.minimum / 1e9:.1f}", True),
            ("torch/ours", number("ratio"), True),
            ("ORT/ours", number("onnxruntime_ratio"), self.has("onnxruntime")),
            ("ours/floor", number("over_floor"), self.has("floor")),
        ]
        return {title: text for title, text, wanted in columns if wanted}

    @property
    def legend(self) -> str:
        further = [
            (FLOAT16_LEGEND, self.has("float16")),
            (ONNXRUNTIME_LEGEND, self.has("onnxruntime")),
            (FLOOR_LEGEND, self.has("floor")),
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

    def summary(self) -> list[dict[str, str]]:
        """By title: for each peer one row for each group and mode, and one for everything."""
        rows = []
        for peer, ratio in (("torch", "ratio"), ("ORT", "onnxruntime_ratio")):
            for (group, mode), results in [*self.by_table().items(), (("all", ""), self.results)]:
                measured = [result for result in results if getattr(result, ratio) is not None]
                if measured:
                    rows.append(self._summary_row(peer, ratio, group, mode, measured))
        return rows

    def _summary_row(self, peer: str, ratio: str, group: str, mode: str, results: list[Result]) -> dict[str, str]:
        ratios = [getattr(result, ratio) for result in results]
        worst = results[ratios.index(min(ratios))].case
        row = {"peer": peer, "group": group, "mode": mode, "cases": str(len(results))}
        row |= {"geometric mean": f"{geometric_mean(ratios):.2f}", "worst": f"{min(ratios):.2f}"}
        row["worst case"] = f"{worst.dtype} {worst.shape}" if mode else worst.name
        if self.has("floor"):
            floors = [result.over_floor for result in results if result.over_floor is not None]
            row["ours/floor"] = f"{geometric_mean(floors):.2f}" if floors else ""
        return row


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f}" if seconds < 1e-3 else f"{seconds * 1e6:,.0f}"


def geometric_mean(values: Iterable[float]) -> float:
    """The right mean of ratios: 2x faster here and 2x slower there make 1."""
    logarithms = [math.log(value) for value in values]
    return math.exp(math.fsum(logarithms) / len(logarithms))


def headline(environment: dict[str, Any]) -> str:
    commit = (environment["commit"] or "no commit")[:12] + (" + changes" if environment["dirty"] else "")
    where = f"{environment['device']}; torch {environment['torch']}, "
    if environment.get("driver"):
        where += f"cuDNN {environment['cudnn']}, driver {environment['driver']}"
    else:
        where += f"onnxruntime {environment['onnxruntime']}, " if environment.get("onnxruntime") else ""
        where += environment["cpu_capability"]
    load = f"load {environment['load']:.1f} on {environment['cores']} cores at the start"
    return f"{where}; {load}; {commit}, csrc {environment['csrc'][:12]}; {environment['date']}"


def rates_line(rates: Rates) -> str:
    products = ", ".join(f"{value / 1e9:.0f} in {dtype}" for dtype, value in sorted(rates.flops.items()))
    sizes = [f"{size // 2**10} KB" if size < 2**20 else f"{size // 2**20} MB" for size in rates.reading]
    reading = ", ".join(f"{size}: {value / 1e9:.0f}" for size, value in zip(sizes, rates.reading.values()))
    return f"This machine: products at GFLOP/s: {products}; reading a buffer at GB/s: {reading}."


def print_report(report: Report, console: Console) -> None:
    def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
        grid = Table(title=title, title_justify="left", header_style="bold")
        for column in columns:
            grid.add_column(column, justify="left" if column in TEXT_COLUMNS else "right", no_wrap=True)
        for row in rows:
            grid.add_row(*row)
        console.print(grid)

    for (group, mode), results in report.by_table().items():
        table(f"{group}, {mode}", report.columns, cells(report, results))
    summary = report.summary()
    table("peer / ours", summary[0], (row.values() for row in summary))
    console.print(report.legend)
    if report.rates:
        console.print(rates_line(report.rates), highlight=False)
    for text, names in ((LEFT_OUT, report.left_out), (FAILED, report.failed)):
        if names:
            console.print(f"{text} {'; '.join(names)}", highlight=False, markup=False)
    console.print(headline(report.environment), highlight=False)


def cells(report: Report, results: Iterable[Result]) -> list[list[str]]:
    return [[text(result) for text in report.columns.values()] for result in results]


def markdown_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    titles = list(columns)
    return [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]


def markdown(report: Report) -> str:
    """The tables as Markdown, the summary first."""
    summary = report.summary()
    lines = [f"# {report.environment['device']}", "", headline(report.environment), "", report.legend, ""]
    lines += [rates_line(report.rates), ""] if report.rates else []
    lines += markdown_table(summary[0], (row.values() for row in summary))
    for (group, mode), results in report.by_table().items():
        lines += ["", f"## {group}, {mode}", "", *markdown_table(report.columns, cells(report, results))]
    for text, names in ((LEFT_OUT, report.left_out), (FAILED, report.failed)):
        if names:
            lines += ["", text, "", *(f"- {name}" for name in names)]
    return "\n".join(lines) + "\n"


def to_json(report: Report) -> str:
    """Everything that was measured, and per case what follows from it (name, flops, ratios), which reading ignores."""
    derived = ("ratio", "onnxruntime_ratio", "over_floor")
    results = [
        {**dataclasses.asdict(r), "name": r.case.name, "flops": r.case.flops, **{n: getattr(r, n) for n in derived}}
        for r in report.results
    ]
    return json.dumps({**dataclasses.asdict(report), "results": results, "summary": report.summary()}, indent=1) + "\n"


def from_json(text: str) -> Report:
    """Results from before a field was added read as results without it."""
    data = json.loads(text)

    def timing(values: dict[str, Any] | None) -> Timing | None:
        return None if values is None else Timing(**values)

    def result(r: dict[str, Any]) -> Result:
        sides = [timing(r["ours"]), timing(r["theirs"]), r["difference"]]
        return Result(Case(**r["case"]), *sides, timing(r.get("float16")), timing(r.get("onnxruntime")), r.get("floor"))

    rates = data.get("rates")
    if rates:
        rates = Rates(rates["flops"], {int(size): value for size, value in rates["reading"].items()})
    results = [result(r) for r in data["results"]]
    return Report(data["environment"], data["settings"], results, data["left_out"], data.get("failed", []), rates)


def write(report: Report, folder: Path, name: str) -> list[Path]:
    """Writes `<name>.json`, `.md` and `.png` into the folder, made where it is missing, and returns their paths."""
    from bench.plot import plot  # matplotlib takes a while to import

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}{suffix}" for suffix in (".json", ".md", ".png")]
    paths[0].write_text(to_json(report))
    paths[1].write_text(markdown(report))
    plot(report, paths[2])
    return paths
