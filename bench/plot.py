"""One picture of a report: the ratio of every case, a panel for each mode and dtype."""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.report import Report, Result, geometric_mean, headline

FASTER, SLOWER = "#0072b2", "#d55e00"  # told apart by colour-blind readers too
ROW_INCHES = 0.24


def plot(report: Report, path: Path) -> None:
    """Draws theirs / ours on a logarithmic axis, one row for each shape, so that panels compare along a row."""
    rows = list(dict.fromkeys((result.case.group, result.case.shape) for result in report.results))
    panels: dict[tuple[str, str], list[Result]] = {}
    for result in report.results:
        panels.setdefault((result.case.mode, result.case.dtype), []).append(result)

    width = max(8.0, 2.2 + 3.2 * len(panels))
    figure = Figure(figsize=(width, 1.8 + ROW_INCHES * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, ((mode, dtype), results) in zip(axes, panels.items(), strict=True):
        _panel(axis, f"{mode}, {dtype}", results, rows)
    axes[0].set_yticks(range(len(rows)), [shape for _, shape in rows], fontsize=8)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    low = min(min(result.ratio for result in report.results), 1.0)
    high = max(max(result.ratio for result in report.results), 1.0)
    axes[0].set_xlim(low / 1.8, high * 2.2)  # room for the numbers beside the dots
    title = "torch.nn.LSTM time / lstm_fused.LSTM time (above 1: lstm_fused is faster)"
    subtitle = textwrap.fill(headline(report.environment), int(13 * width))
    figure.suptitle(f"{title}\n{subtitle}", fontsize=9)
    figure.savefig(path, dpi=110)


def _panel(axis: Axes, title: str, results: list[Result], rows: list[tuple[str, str]]) -> None:
    axis.set_xscale("log")
    axis.axvline(1, color="black", linewidth=0.8)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for result in results:
        y, ratio = rows.index((result.case.group, result.case.shape)), result.ratio
        color = FASTER if ratio >= 1 else SLOWER
        axis.plot([1, ratio], [y, y], color=color, linewidth=2)
        axis.plot(ratio, y, "o", color=color, markersize=5)
        axis.annotate(
            f"{ratio:.2f}",
            (ratio, y),
            (6 if ratio >= 1 else -6, 0),
            textcoords="offset points",
            va="center",
            ha="left" if ratio >= 1 else "right",
            fontsize=7,
        )
    for y in range(1, len(rows)):
        if rows[y][0] != rows[y - 1][0]:
            axis.axhline(y - 0.5, color="0.6", linewidth=0.8, linestyle="--")
    axis.set_title(f"{title}\ngeometric mean {geometric_mean(result.ratio for result in results):.2f}", fontsize=9)
