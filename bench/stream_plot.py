"""The picture of a stream report: of each way to run a step, the part of its calls that took longer than a time."""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from bench.report import headline
from bench.stream import PARTS, StreamReport

# Colours that colour-blind readers tell apart; ours are drawn thick.
STYLES = {
    "float32": ("#0072b2", 2.4),
    "bfloat16": ("#56b4e9", 2.4),
    "int8": ("#009e73", 2.4),
    "int8 x int8": ("#004d40", 2.4),
    "module": ("#cc79a7", 1.2),
    "torch": ("#000000", 1.2),
    "LSTMCell": ("#999999", 1.2),
    "ORT": ("#d55e00", 1.2),
    "torch int8": ("#e69f00", 1.2),
    "ORT int8": ("#b8860b", 1.2),
}


def plot(report: StreamReport, path: Path) -> None:
    """A panel for each H (columns) and for T = 1 and the longest chunk at B = 1 (rows)."""
    one_row = [result for result in report.results if result.case.batch == min(r.case.batch for r in report.results)]
    sizes = sorted({result.case.hidden_size for result in one_row})
    steps = sorted({result.case.seq_len for result in one_row})
    steps = list(dict.fromkeys([steps[0], steps[-1]]))
    figure = Figure(figsize=(max(7.0, 3.6 * len(sizes)), 1.2 + 3.2 * len(steps)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(steps), len(sizes), sharey=True, squeeze=False)
    for result in one_row:
        if result.case.seq_len not in steps:
            continue
        axis = axes[steps.index(result.case.seq_len)][sizes.index(result.case.hidden_size)]
        for side, times in result.sides.items():
            color, width = STYLES[side]
            shown = [(s * 1e6, 1 - part) for s, part in zip(times.times, PARTS) if times.at(part) and part < 1]
            axis.plot(*zip(*shown), color=color, linewidth=width, drawstyle="steps-post", label=side)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_ylim(4e-4, 1.1)
        axis.grid(color="0.9")
        axis.set_axisbelow(True)
        axis.set_title(result.case.shape, fontsize=9)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("us per call", fontsize=8)
    for row in axes:
        row[0].set_ylabel("part of the calls that took longer", fontsize=8)
    handles = {label: h for row in axes for a in row for h, label in zip(*a.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=10, fontsize=8)
    subtitle = textwrap.fill(headline(report.environment), int(12 * figure.get_figwidth()))
    figure.suptitle(f"Latency of a call of an LSTM that goes on step by step\n{subtitle}", fontsize=9)
    figure.savefig(path, dpi=110)
