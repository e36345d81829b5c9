"""A report as tables, in a terminal and in Markdown, and the files of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.floor import Rates
from bench.report import Report, Result, headline, to_json

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


def columns_of(report: Report) -> dict[str, Callable[[Result], str]]:
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
        ("float16 us", time_of("float16"), report.has("float16")),
        ("ORT us", time_of("onnxruntime"), report.has("onnxruntime")),
        ("floor us", lambda result: microseconds(result.floor) if result.floor else "", report.has("floor")),
        ("GFLOP/s", lambda result: f"{result.case.flops / result.ours.minimum / 1e9:.1f}", True),
        ("torch/ours", number("ratio"), True),
        ("ORT/ours", number("onnxruntime_ratio"), report.has("onnxruntime")),
        ("ours/floor", number("over_floor"), report.has("floor")),
    ]
    return {title: text for title, text, wanted in columns if wanted}


def legend_of(report: Report) -> str:
    further = [
        (FLOAT16_LEGEND, report.has("float16")),
        (ONNXRUNTIME_LEGEND, report.has("onnxruntime")),
        (FLOOR_LEGEND, report.has("floor")),
        (GRAPH_LEGEND, report.settings.get("graph")),
        (CACHE_LEGEND, report.environment.get("driver")),
    ]
    return LEGEND + "".join(text for text, wanted in further if wanted)


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f}" if seconds < 1e-3 else f"{seconds * 1e6:,.0f}"


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
        table(f"{group}, {mode}", columns_of(report), cells(report, results))
    summary = report.summary()
    table("peer / ours", summary[0], (row.values() for row in summary))
    console.print(legend_of(report))
    if report.rates:
        console.print(rates_line(report.rates), highlight=False)
    for text, names in ((LEFT_OUT, report.left_out), (FAILED, report.failed)):
        if names:
            console.print(f"{text} {'; '.join(names)}", highlight=False, markup=False)
    console.print(headline(report.environment), highlight=False)


def cells(report: Report, results: Iterable[Result]) -> list[list[str]]:
    return [[text(result) for text in columns_of(report).values()] for result in results]


def markdown_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    titles = list(columns)
    return [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]


def markdown(report: Report) -> str:
    """The tables as Markdown, the summary first."""
    summary = report.summary()
    lines = [f"# {report.environment['device']}", "", headline(report.environment), "", legend_of(report), ""]
    lines += [rates_line(report.rates), ""] if report.rates else []
    lines += markdown_table(summary[0], (row.values() for row in summary))
    for (group, mode), results in report.by_table().items():
        lines += ["", f"## {group}, {mode}", "", *markdown_table(columns_of(report), cells(report, results))]
    for text, names in ((LEFT_OUT, report.left_out), (FAILED, report.failed)):
        if names:
            lines += ["", text, "", *(f"- {name}" for name in names)]
    return "\n".join(lines) + "\n"


def write(report: Report, folder: Path, name: str) -> list[Path]:
    """Writes `<name>.json`, `.md` and `.png` into the folder, made where it is missing, and returns their paths."""
    from bench.plot import plot  # matplotlib takes a while to import

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}{suffix}" for suffix in (".json", ".md", ".png")]
    paths[0].write_text(to_json(report))
    paths[1].write_text(markdown(report))
    plot(report, paths[2])
    return paths
