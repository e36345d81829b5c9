"""`python -m bench.cells`: cells beyond the plain one against what people run for them, a Python loop over time.

Each option of lstm_fused.LSTM's cell against the same equations in torch operations, once as they are and once compiled
by torch.jit.script, in one process, taking turns; and against our plain cell, which is an option's price. CPU only.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn.functional import dropout, layer_norm, linear

import lstm_fused
from bench import environment, page
from bench.__main__ import BUSY, WIDTH
from bench.report import geometric_mean, headline
from bench.tables import markdown_table, microseconds
from bench.timing import cpu_block, interleave

OPTIONS: dict[str, dict[str, Any]] = {
    "zoneout": {"zoneout": (0.1, 0.1)},
    "recurrent_dropout": {"recurrent_dropout": 0.2},
    "weight_dropout": {"weight_dropout": 0.2},
    "cell_clip": {"cell_clip": 3.0},
    "peephole": {"peephole": True},
    "layer_norm": {"layer_norm": True},
    "all": {"zoneout": (0.1, 0.1), "recurrent_dropout": 0.2, "weight_dropout": 0.2, "cell_clip": 3.0}
    | {"peephole": True, "layer_norm": True},
}
STEPS, BATCHES, SIZES, MODES = (32, 256), (1, 32), (64, 256), ("inference", "training")
BUDGET_S, QUICK_BUDGET_S = 0.3, 0.01  # of each side of a case
OWN_REPETITIONS = 9
SIDES = ("ours", "plain", "script", "loop")


def loop(
    x: Tensor,
    weights: list[Tensor],  # w_ih, w_hh, b_ih, b_hh, [peepholes], [six of the norms]
    p_h: float,
    p_c: float,
    recurrent_dropout: float,
    weight_dropout: float,
    clip: float,
    peephole: bool,
    norms: bool,
    training: bool,
) -> Tensor:
    """One direction from a zero state. All that can be is done for all steps at once: W_ih x and the masks."""
    w_ih, w_hh, bias = weights[0], dropout(weights[1], weight_dropout, training), weights[2] + weights[3]
    steps, batch, hidden = x.size(0), x.size(1), w_hh.size(1)
    own, of_norms = weights[4:5], weights[len(weights) - 6 :]
    from_x = linear(x, w_ih)
    if norms:
        from_x = layer_norm(from_x, [4 * hidden], of_norms[0], of_norms[1])
    from_x = from_x + bias
    h = x.new_zeros(batch, hidden)
    c = x.new_zeros(batch, hidden)
    mask = dropout(torch.ones_like(h), recurrent_dropout, training)
    stays_h = torch.bernoulli(x.new_ones(steps, batch, hidden), p_h) if training and p_h > 0 else x
    stays_c = torch.bernoulli(x.new_ones(steps, batch, hidden), p_c) if training and p_c > 0 else x
    results: list[Tensor] = []
    for t in range(steps):
        from_h = linear(h * mask if training and recurrent_dropout > 0 else h, w_hh)
        if norms:
            from_h = layer_norm(from_h, [4 * hidden], of_norms[2], of_norms[3])
        i, f, g, o = (from_x[t] + from_h).chunk(4, 1)
        if peephole:
            i, f = i + own[0][0] * c, f + own[0][1] * c
        new = f.sigmoid() * c + i.sigmoid() * g.tanh()
        if clip > 0:
            new = new.clamp(-clip, clip)
        if peephole:
            o = o + own[0][2] * new
        seen = layer_norm(new, [hidden], of_norms[4], of_norms[5]) if norms else new
        out = o.sigmoid() * seen.tanh()
        if p_h > 0:
            out = stays_h[t] * h + (1 - stays_h[t]) * out if training else p_h * h + (1 - p_h) * out
        if p_c > 0:
            new = stays_c[t] * c + (1 - stays_c[t]) * new if training else p_c * c + (1 - p_c) * new
        h, c = out, new
        results.append(h)
    return torch.stack(results)


@dataclass(frozen=True)
class Case:
    option: str
    mode: str
    seq_len: int
    batch: int
    hidden_size: int

    @property
    def shape(self) -> str:
        return f"T{self.seq_len} B{self.batch} H{self.hidden_size}"


@dataclass(frozen=True)
class Result:
    case: Case
    seconds: dict[str, float]  # of each side, the least of its repetitions

    @property
    def ratio(self) -> float:
        """Of the faster loop to ours."""
        return min(self.seconds["script"], self.seconds["loop"]) / self.seconds["ours"]

    @property
    def price(self) -> float:
        return self.seconds["ours"] / self.seconds["plain"]


def cases(quick: bool = False) -> list[Case]:
    grid = [(32, 1, 64)] if quick else itertools.product(STEPS, BATCHES, SIZES)
    return [Case(option, mode, *shape) for shape in grid for option, mode in itertools.product(OPTIONS, MODES)]


def run_case(case: Case, scripted: Any, budget_s: float) -> Result:
    torch.manual_seed(0)
    size = case.hidden_size
    module = lstm_fused.LSTM(size, size, **OPTIONS[case.option])
    plain = lstm_fused.LSTM(size, size)
    x = torch.randn(case.seq_len, case.batch, size)
    weights = [getattr(module, name) for name in module._flat_weights_names]
    cell = module.cell_options
    assert cell is not None
    numbers = (*cell.zoneout, cell.recurrent_dropout, cell.weight_dropout, cell.cell_clip or 0.0)
    flags = (cell.peephole, cell.layer_norm)
    with torch.no_grad():
        few = x[:32]  # a norm's steps amplify what either side rounds
        expected = module.eval()(few)[0]
        for function in (scripted, loop):
            difference = float((function(few, weights, *numbers, *flags, False) - expected).abs().max())
            if not difference < 1e-4:
                raise SystemExit(f"{case}: the loop differs by {difference:.1e}")
    trains = case.mode == "training"
    module.train(trains)
    calls = {
        "ours": lambda: module(x)[0],
        "plain": lambda: plain(x)[0],
        "script": lambda: scripted(x, weights, *numbers, *flags, trains),
        "loop": lambda: loop(x, weights, *numbers, *flags, trains),
    }

    def call(name: str) -> Any:
        def train() -> None:
            parameters = list(plain.parameters()) if name == "plain" else weights
            torch.autograd.grad(calls[name]().sum(), parameters)

        return train if trains else calls[name]

    with torch.set_grad_enabled(trains):
        timed = {name: call(name) for name in SIDES}
        for _ in range(3):  # torch.jit.script compiles a second time, with what it has seen
            timed["script"]()
        loops = interleave([timed["script"], timed["loop"], timed["ours"]], cpu_block, budget_s)
        # A price is a smaller ratio than a gain, and these two are fast: more rounds of them.
        own = interleave([timed["ours"], timed["plain"]], cpu_block, budget_s, min_repetitions=OWN_REPETITIONS)
    seconds = {name: timing.minimum for name, timing in zip(("script", "loop", "ours"), loops, strict=True)}
    seconds["ours"] = min(seconds["ours"], own[0].minimum)
    return Result(case, seconds | {"plain": own[1].minimum})


COLUMNS = ["option", "mode", "case", "ours us", "script us", "loop us", "faster loop / ours", "ours / plain"]
LEGEND = (
    "float32, one layer, one direction. loop: the cell in torch operations, step by step in Python, W_ih x and all "
    "masks at once before; script: the same through torch.jit.script. plain: our own cell without options; ours / "
    "plain is an option's price. training: forward, and backward to all weights. Minima over repetitions."
)


def summary(results: Sequence[Result]) -> list[list[str]]:
    found = []
    for option, mode in itertools.product(OPTIONS, MODES):
        own = [r for r in results if (r.case.option, r.case.mode) == (option, mode)]
        if not own:
            continue
        ratios, prices = [r.ratio for r in own], [r.price for r in own]
        row = [
            f"{geometric_mean(ratios):.1f}",
            f"{min(ratios):.1f}",
            f"{geometric_mean(prices):.2f}",
            f"{max(prices):.2f}",
        ]
        found.append([option, mode, *row])
    return found


SUMMARY_COLUMNS = ["option", "mode", "faster loop / ours, mean", "least", "ours / plain, mean", "most"]


def markdown(where: dict[str, Any], results: Sequence[Result]) -> str:
    rows = []
    for r in results:
        times = [microseconds(r.seconds[name]) for name in ("ours", "script", "loop")]
        rows.append([r.case.option, r.case.mode, r.case.shape, *times, f"{r.ratio:.1f}", f"{r.price:.2f}"])
    lines = [f"# Cells beyond the plain one on {where['device']}", "", headline(where), "", LEGEND, ""]
    lines += [*markdown_table(SUMMARY_COLUMNS, summary(results)), "", *markdown_table(COLUMNS, rows)]
    return "\n".join(lines) + "\n"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.cells", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one shape, in a few seconds")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: bench/results for all of it, else out")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    where = environment.describe(torch.device("cpu"))
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if where["load"] > BUSY * where["cores"]:
        console.print(f"[yellow]The machine is busy (load {where['load']:.1f}): these times and ratios will mislead.")
    scripted = torch.jit.script(loop)
    budget_s = QUICK_BUDGET_S if options.quick else BUDGET_S
    chosen = cases(options.quick)
    results = [run_case(case, scripted, budget_s) for case in track(chosen, console=console, transient=True)]
    text = markdown(where, results)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    folder = options.out or (Path("out") if options.quick else page.RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"cells-{environment.slug(where['device'])}"
    (folder / f"{name}.md").write_text(text)
    as_data = {"environment": where, "results": [dataclasses.asdict(result) for result in results]}
    (folder / f"{name}.json").write_text(json.dumps(as_data, indent=1) + "\n")
    console.print(f"wrote {folder / name}.md and .json", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
