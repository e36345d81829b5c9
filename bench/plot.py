"""One picture of a report: every case's peers and its floor in units of our time, a panel for each mode and dtype."""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.report import Report, Result, geometric_mean, headline

FASTER, SLOWER = "#0072b2", "#d55e00"  # told apart by colour-blind readers too
ROW_INCHES = 0.24
FARTHEST_FLOOR = 0.1


def plot(report: Report, path: Path) -> None:
    """Draws times over ours on a logarithmic axis, one row for each shape, so that panels compare along a row."""
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
    shown = [ratio for result in report.results for ratio in (1.0, result.ratio, result.onnxruntime_ratio) if ratio]
    # A floor far below us, as that of a call of microseconds is, may lie outside.
    shown += [max(1 / result.over_floor, FARTHEST_FLOOR) for result in report.results if result.over_floor]
    axes[0].set_xlim(min(shown) / 1.3, max(shown) * 2.2)  # room for the numbers beside the dots
    title = "torch.nn.LSTM time / lstm_fused.LSTM time (above 1: lstm_fused is faster)"
    title += "; diamonds: ONNX Runtime's in its place" if report.has("onnxruntime") else ""
    title += "; bars: the machine's best" if report.has("floor") else ""
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
            (max(ratio, 1), y),  # what lies to the left of 1 keeps its place for the other marks
            (6, 0),
            textcoords="offset points",
            va="center",
            ha="left",
            fontsize=7,
        )
        if result.onnxruntime_ratio:
            color = FASTER if result.onnxruntime_ratio >= 1 else SLOWER
            axis.plot(result.onnxruntime_ratio, y, "D", color=color, markersize=4, markerfacecolor="white")
        if result.over_floor:
            axis.plot(1 / result.over_floor, y, "|", color="black", markersize=7)
    for y in range(1, len(rows)):
        if rows[y][0] != rows[y - 1][0]:
            axis.axhline(y - 0.5, color="0.6", linewidth=0.8, linestyle="--")
    means = f"geometric mean {geometric_mean(result.ratio for result in results):.2f}"
    if of_onnxruntime := [result.onnxruntime_ratio for result in results if result.onnxruntime_ratio]:
        means += f", ONNX Runtime {geometric_mean(of_onnxruntime):.2f}"
    axis.set_title(f"{title}\n{means}", fontsize=9)
