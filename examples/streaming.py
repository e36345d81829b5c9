"""A language model that reads along: after every byte of a text, as it comes in, it says what it expects next.

A byte goes through the same model in several ways, in turn: lstm_fused.Stream with weights of 32, 16 and 8 bit (the
last also with activations of 8 bit), torch's LSTMCell, and torch's int8 LSTM (quantize_dynamic). What is timed is the
LSTM's step alone, each by itself, so that the slow ones among thousands show; what is predicted shows what fewer bits
cost. The model is that of char_lm.py, trained for a few seconds before.

    python examples/streaming.py                        # about a minute on two CPU cores
    python examples/streaming.py --hidden 1024 --layers 1 --steps 60
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from char_lm import ByteModel, Trainer, read_windows
from char_lm_cli import whole
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import lstm_fused

Step = Callable[[Tensor], Tensor]  # x (1, I) to h (1, H); the state stays inside
COLOURS = ["#0072b2", "#56b4e9", "#009e73", "#004d40", "#999999", "#e69f00"]
SHOWN = 48  # bytes of the text in the picture


@dataclass
class Reader:
    """One way through the LSTM, and what it did."""

    name: str
    step: Step
    seconds: list[float] = field(default_factory=list)  # one a byte
    bits: list[float] = field(default_factory=list)  # by which each byte surprised it

    def read(self, model: ByteModel, byte: int, coming: int) -> None:
        x = model.embedding.weight[byte].unsqueeze(0)
        begin = time.perf_counter()
        h = self.step(x)
        self.seconds.append(time.perf_counter() - begin)
        self.bits.append(-model.linear(h)[0].log_softmax(0)[coming].item() / math.log(2))

    def slower_than(self, part: float) -> float:
        """Microseconds that this part of the steps stayed within."""
        ordered = sorted(self.seconds)
        return ordered[max(0, math.ceil(part * len(ordered)) - 1)] * 1e6


def stream_of(lstm: nn.LSTM, weights: torch.dtype | None) -> Step:
    return lstm_fused.Stream(lstm, weights=weights)


def cells_of(lstm: nn.LSTM) -> Step:
    """torch.nn.LSTMCell, one for each layer."""
    weights = lstm.state_dict()
    cells: list[nn.LSTMCell] = []
    for layer in range(lstm.num_layers):
        of_layer = {n.removesuffix(f"_l{layer}"): w for n, w in weights.items() if n.endswith(f"_l{layer}")}
        cells.append(nn.LSTMCell(of_layer["weight_ih"].size(1), lstm.hidden_size))
        cells[-1].load_state_dict(of_layer)
    states: list[tuple[Tensor, Tensor] | None] = [None] * len(cells)

    def step(x: Tensor) -> Tensor:
        for n, cell in enumerate(cells):
            states[n] = cell(x, states[n])
            x = states[n][0]
        return x

    return step


def torch_int8_of(lstm: nn.LSTM) -> Step:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and what people use
        quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(lstm), {nn.LSTM}, torch.qint8)[0]
    state = None

    def step(x: Tensor) -> Tensor:
        nonlocal state
        output, state = quantized(x.unsqueeze(0), state)
        return output[0]

    return step


def trained(args: argparse.Namespace, console: Console) -> tuple[ByteModel, bytes]:
    """A model, and text that it has not seen."""
    windows, held_out = read_windows(args.text, batch=16, window=64)
    torch.manual_seed(args.seed)
    model = lstm_fused.convert(ByteModel(args.hidden, args.layers))
    trainer = Trainer("lstm_fused.LSTM", model, lr=3e-3)
    trainer.plan(args.steps)
    begin = time.perf_counter()
    for step in range(args.steps):
        place = step % len(windows)
        trainer.step(windows[place].long(), from_start=place == 0)
    seconds = time.perf_counter() - begin
    loss = trainer.record.losses[-1]
    console.print(f"trained for {args.steps} steps in {seconds:.0f} s, loss {loss:.3f} nats per byte", highlight=False)
    row = torch.cat([window[:-1, 0] for window in held_out])
    return lstm_fused.revert(model).eval(), bytes(row[: args.bytes + 1].tolist())


def results_table(readers: list[Reader]) -> Table:
    table = Table(title="One byte after the other", title_style="bold")
    for title in ("LSTM step", "p50 us", "p99 us", "p99.9 us", "bits per byte", "perplexity"):
        table.add_column(title, justify="left" if title == "LSTM step" else "right", no_wrap=True)
    for reader in readers:
        times = [f"{reader.slower_than(part):.1f}" for part in (0.5, 0.99, 0.999)]
        bits = sum(reader.bits) / len(reader.bits)
        table.add_row(reader.name, *times, f"{bits:.4f}", f"{2**bits:.4f}")
    return table


def draw(readers: list[Reader], text: bytes, title: str, path: Path) -> None:
    """The part of the steps that took longer than a time, and how much each byte of the text's end surprised."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    latency, surprise = figure.subplots(1, 2, width_ratios=(1, 1.4))
    count = len(readers[0].seconds)
    for reader, colour in zip(readers, COLOURS):
        thick = 2.4 if reader.name.startswith("Stream") else 1.3
        times = [seconds * 1e6 for seconds in sorted(reader.seconds)]
        latency.plot(times, [1 - n / count for n in range(count)], color=colour, linewidth=thick, label=reader.name)
    latency.set(xscale="log", yscale="log", xlabel="us", ylabel="part of the steps that took longer")
    latency.set_title("latency of a step")
    latency.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    shown = min(SHOWN, count)
    places = range(shown)
    surprise.bar(places, readers[0].bits[-shown:], color=COLOURS[0], label=readers[0].name)
    surprise.plot(places, readers[2].bits[-shown:], "o", color=COLOURS[2], markersize=4, label=readers[2].name)
    names = {32: "\N{OPEN BOX}", 10: "\\n"}
    characters = [chr(byte) if 32 < byte < 127 else names.get(byte, "?") for byte in text[-shown:]]
    surprise.set_xticks(places, characters, family="monospace", fontsize=8)
    surprise.set(title="surprise of a byte, after those to its left", ylabel="bits", xlim=(-0.7, shown - 0.3))
    for axes in (latency, surprise):
        axes.grid(alpha=0.25, axis="both" if axes is latency else "y")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser("streaming.py", description=__doc__.split("\n\n")[0])
    add, size, count = parser.add_argument, whole(1, 2**16), whole(1, 10**9)
    add("--text", type=Path, metavar="FILE", help="instead of the standard library's source")
    add("--hidden", type=size, default=256, metavar="N", help="width of the LSTM (256)")
    add("--layers", type=size, default=2, metavar="N", help="its layers (2)")
    add("--steps", type=count, default=300, metavar="N", help="of training (300)")
    add("--bytes", type=count, default=4000, metavar="N", help="of text to read (4000)")
    add("--seed", type=whole(0, 2**63 - 1), default=0, metavar="N", help="of the initial weights (0)")
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="where the picture goes (out)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def main() -> None:
    args = parse_args()
    console = Console()
    model, text = trained(args, console)
    lstm = model.lstm
    rounding = []
    try:
        both = lstm_fused.Stream(lstm, weights=torch.int8, activations=torch.int8)
        rounding.append(Reader("Stream, int8 x int8", both))
    except ValueError as error:  # of this CPU
        console.print(error, highlight=False)
    readers = [
        Reader("Stream, float32", stream_of(lstm, None)),
        Reader("Stream, bfloat16", stream_of(lstm, torch.bfloat16)),
        Reader("Stream, int8", stream_of(lstm, torch.int8)),
        *rounding,
        Reader("torch.nn.LSTMCell", cells_of(lstm)),
        Reader("torch int8", torch_int8_of(lstm)),
    ]
    with torch.inference_mode():
        for byte, coming in zip(text, text[1:]):
            for reader in readers:
                reader.read(model, byte, coming)
    threads = torch.get_num_threads()
    title = f"{args.layers} layers, hidden {args.hidden}; CPU, {threads} {'thread' if threads == 1 else 'threads'}"
    console.print(f"{title}; {len(text) - 1} bytes of text", highlight=False)
    console.print(results_table(readers))
    path = args.out / "streaming.png"
    draw(readers, text, title, path)
    console.print(f"Picture: {path}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
