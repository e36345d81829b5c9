"""How far back do they remember? torch.nn.RNN, torch.nn.GRU and lstm_fused.LSTM, at growing distances.

A symbol is shown at the first step, then noise. After the last step the network is to say which symbol it was. Measured
for each distance: accuracy after training, how much of the gradient reaches the first step before it, and the time of a
training step. The LSTM runs twice: as it is, and with a forget gate that starts open for about the distance
(log-uniform biases, Tallec and Ollivier 2018).

    python examples/long_memory.py                      # about two minutes on two CPU cores
    python examples/long_memory.py --distances 10 100 --steps 400
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from char_lm_cli import whole
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

import lstm_fused

SYMBOLS, NOISE, BATCH, LEARNT = 4, 4, 32, 0.99
KINDS = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": lstm_fused.LSTM, "LSTM, open": lstm_fused.LSTM}
STYLES = {"RNN": ("#999999", "s"), "GRU": ("#e69f00", "^"), "LSTM": ("#56b4e9", "o"), "LSTM, open": ("#0072b2", "D")}


@dataclass
class Measured:
    """One network at one distance."""

    kind: str
    distance: int
    accuracy: float  # of 512 new sequences, after training
    steps: int  # of training, until the last 20 batches were right or none were left
    gradient: list[float]  # before training: the loss's, by the input of each step, relative to the last step's
    seconds: float  # of a training step, the fastest


class Recall(nn.Module):
    def __init__(self, kind: str, distance: int, hidden: int) -> None:
        super().__init__()
        self.network = KINDS[kind](SYMBOLS + NOISE, hidden)
        self.linear = nn.Linear(hidden, SYMBOLS)
        if kind == "LSTM, open":
            open_forget_gate(self.network, distance)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.network(x)[0][-1])


@torch.no_grad()
def open_forget_gate(lstm: nn.RNNBase, distance: int) -> None:
    """A cell with the bias b_f = log(n) loses a 1/(n + 1)th at each step: n is drawn up to the distance."""
    hidden = lstm.hidden_size
    bias = torch.empty(hidden).uniform_(1, max(2, distance)).log()
    lstm.bias_hh_l0.zero_()
    lstm.bias_ih_l0[:hidden], lstm.bias_ih_l0[hidden : 2 * hidden] = -bias, bias
    lstm.bias_ih_l0[2 * hidden :] = 0


def draw(distance: int, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x (distance + 1, batch, symbols and noise), and the symbols."""
    symbols = torch.randint(SYMBOLS, (batch,), generator=generator)
    x = torch.zeros(distance + 1, batch, SYMBOLS + NOISE)
    x[0, torch.arange(batch), symbols] = 1
    x[1:, :, SYMBOLS:] = torch.rand(distance, batch, NOISE, generator=generator) - 0.5
    return x, symbols


def gradient_by_step(model: Recall, distance: int) -> list[float]:
    """In float64: what reaches the first step is often smaller than any number in float32."""
    x, symbols = draw(distance, BATCH, torch.Generator().manual_seed(1))
    x = x.double().requires_grad_()
    nn.functional.cross_entropy(copy.deepcopy(model).double()(x), symbols).backward()
    norms = x.grad.norm(dim=(1, 2))
    return (norms / norms[-1]).tolist()


def measure(kind: str, distance: int, args: argparse.Namespace, progress: Progress) -> Measured:
    torch.manual_seed(args.seed)
    model, generator = Recall(kind, distance, args.hidden), torch.Generator().manual_seed(args.seed)
    gradient = gradient_by_step(model, distance)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    right: list[float] = []
    seconds = []
    task = progress.add_task(f"{kind}, distance {distance}", total=args.steps)
    for _ in range(args.steps):
        x, symbols = draw(distance, BATCH, generator)
        begin = time.perf_counter()
        logits = model(x)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, symbols).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
        right.append(float((logits.argmax(1) == symbols).float().mean()))
        progress.advance(task)
        if len(right) >= 20 and sum(right[-20:]) >= 20 * LEARNT:
            break
    progress.remove_task(task)
    with torch.no_grad():
        x, symbols = draw(distance, 512, torch.Generator().manual_seed(2))
        accuracy = float((model(x).argmax(1) == symbols).float().mean())
    return Measured(kind, distance, accuracy, len(right), gradient, min(seconds))


def results_table(results: list[Measured]) -> Table:
    table = Table(title="Which of 4 symbols was it?", title_style="bold")
    for title in ("distance", "network", "accuracy", "steps", "gradient", "ms per step"):
        table.add_column(title, justify="left" if title == "network" else "right", no_wrap=True)
    for n, r in enumerate(results):
        last = n + 1 == len(results) or results[n + 1].distance != r.distance
        cells = [f"{r.accuracy:.1%}", str(r.steps), f"{r.gradient[0]:.0e}", f"{r.seconds * 1e3:.1f}"]
        table.add_row(str(r.distance), r.kind, *cells, end_section=last)
    return table


def draw_results(results: list[Measured], title: str, path: Path) -> None:
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    accuracy, gradient, speed = figure.subplots(1, 3)
    shown = sorted({r.distance for r in results})
    middle = shown[len(shown) // 2]
    for kind, (colour, marker) in STYLES.items():
        own = [r for r in results if r.kind == kind]
        style = {"color": colour, "marker": marker, "markersize": 5, "label": kind}
        accuracy.plot([r.distance for r in own], [r.accuracy for r in own], **style)
        speed.plot([r.distance for r in own], [r.seconds * 1e3 for r in own], **style)
        (of_middle,) = (r for r in own if r.distance == middle)
        gradient.plot([max(g, 1e-40) for g in of_middle.gradient], color=colour, label=kind)
    accuracy.axhline(1 / SYMBOLS, color="#bbbbbb", linestyle=":", zorder=0)
    accuracy.set(xscale="log", xlabel="distance", ylabel="accuracy", ylim=(0, 1.04), title="after training")
    gradient.set(yscale="log", xlabel="step", ylabel="part of the last step's", ylim=(1e-30, 10))
    gradient.set_title(f"gradient of the loss before training, distance {middle}")
    speed.set(xscale="log", yscale="log", xlabel="distance", ylabel="ms", title="a training step")
    for axes in (accuracy, speed):
        axes.set_xticks(shown, [str(distance) for distance in shown])
        axes.minorticks_off()
    for axes in (accuracy, gradient, speed):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser("long_memory.py", description=__doc__.split("\n\n")[0])
    add, count = parser.add_argument, whole(1, 10**6)
    add("--distances", type=count, nargs="+", default=[10, 30, 100, 300, 500], metavar="N", help="(10 30 100 300 500)")
    add("--hidden", type=whole(1, 2**16), default=32, metavar="N", help="width of the networks (32)")
    add("--steps", type=count, default=300, metavar="N", help="of training, at most (300)")
    add("--seed", type=whole(0, 2**63 - 1), default=0, metavar="N", help="of weights and data (0)")
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="where the picture goes (out)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def main() -> None:
    args, console = parse_args(), Console()
    results = []
    with Progress(console=console, transient=True) as progress:
        cells = [(distance, kind) for distance in sorted(set(args.distances)) for kind in KINDS]
        for distance, kind in progress.track(cells, description="all"):
            results.append(measure(kind, distance, args, progress))
    threads = torch.get_num_threads()
    title = f"{args.hidden} units, batches of {BATCH}; CPU, {threads} {'thread' if threads == 1 else 'threads'}"
    console.print(results_table(results))
    console.print(title, highlight=False)
    path = args.out / "long_memory.png"
    draw_results(results, title, path)
    console.print(f"Picture: {path}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
