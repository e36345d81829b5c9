"""A byte-level language model, trained twice: with torch.nn.LSTM and with lstm_fused.LSTM.

Both models start from the same weights and see the same batches, one step of each in turn, so that the clock is fair
and the two loss curves can be laid over each other. The text is the source of the running Python's standard library.

Training magnifies rounding: in float32 the two curves drift apart slowly, as far as torch.nn.LSTM drifts from itself
when its first weights are changed in the last bit. With --dtype float64 it is below 1e-11 after 200 steps.

    python examples/char_lm.py                                  # about two minutes on two CPU cores
    python examples/char_lm.py --text book.txt --steps 2000 --minutes 10
    torchrun --nproc_per_node=2 examples/char_lm.py             # DistributedDataParallel: a share of the batch each
"""

from __future__ import annotations

import copy
import gc
import math
import os
import random
import statistics
import sys
import sysconfig
import time
from pathlib import Path

import torch
import torch.distributed as dist
from char_lm_cli import RANK, WORLD, Record, draw, fail, parse_args, results_table
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text
from torch import Tensor, nn

import lstm_fused

State = tuple[Tensor, Tensor]

LOCAL_RANK, LOCAL_WORLD = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

MAX_STDLIB_BYTES = 4_000_000
HELD_OUT = 0.05  # the part of the text, at its end, that is never trained on
HELD_OUT_WINDOWS = 64  # at most so many windows of it are measured
NOT_PROSE = {"test", "tests", "site-packages", "dist-packages", "idlelib", "encodings", "pydoc_data"}


# Text


def read_stdlib() -> bytes:
    """The standard library's source, files in a fixed but shuffled order, so that its end is like the rest."""
    root = Path(sysconfig.get_path("stdlib"))
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = set(folders) - NOT_PROSE
        names += [Path(folder, file).relative_to(root).as_posix() for file in files if file.endswith(".py")]
    names.sort()
    random.Random(0).shuffle(names)
    text = bytearray()
    for name in names:
        text += (root / name).read_bytes()
        if len(text) >= MAX_STDLIB_BYTES:
            break
    return bytes(text[:MAX_STDLIB_BYTES])


def read_text(path: Path | None) -> bytes:
    if path is None:
        return read_stdlib() or fail("this Python comes without the source of its standard library: give --text FILE")
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"argument --text: cannot read {path}: {error.strerror}")


def cut(text: bytes, batch: int, window: int) -> Tensor:
    """Cuts the text into `batch` streams and each stream into windows: uint8, (N, window + 1, batch).

    Window n + 1 goes on where window n ended (they share one byte), so the LSTM's state carries from one to the next.
    """
    length = len(text) // batch
    streams = torch.frombuffer(bytearray(text), dtype=torch.uint8)[: batch * length].view(batch, length)
    return streams.unfold(1, window + 1, window).permute(1, 2, 0)


def read_windows(path: Path | None, batch: int, window: int) -> tuple[Tensor, Tensor]:
    """The windows to train on and the held-out ones."""
    text = read_text(path)
    train_bytes = int(len(text) * (1 - HELD_OUT))
    if len(text) - train_bytes < batch * (window + 1):
        need = math.ceil(batch * (window + 1) / HELD_OUT) + 1
        fail(f"the text is too short: --batch {batch} and --window {window} need {need} bytes, got {len(text)}")
    return cut(text[:train_bytes], batch, window), cut(text[train_bytes:], batch, window)[:HELD_OUT_WINDOWS]


# Model and training


class ByteModel(nn.Module):
    """bytes (T, B) -> embedding -> LSTM -> linear -> logits of the next byte (T, B, 256), and the LSTM's state."""

    def __init__(self, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, min(hidden, 128))
        self.lstm = nn.LSTM(self.embedding.embedding_dim, hidden, layers)
        self.linear = nn.Linear(hidden, 256)

    def forward(self, bytes_in: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        output, state = self.lstm(self.embedding(bytes_in), state)
        return self.linear(output), state


def loss_of(model: nn.Module, window: Tensor, state: State | None) -> tuple[Tensor, State]:
    """Mean cross-entropy in nats per byte over one window (T + 1, B), and the state to start the next window with."""
    logits, (h, c) = model(window[:-1], state)
    return nn.functional.cross_entropy(logits.flatten(0, 1), window[1:].flatten()), (h.detach(), c.detach())


def mean_over_ranks(value: float) -> float:
    """Also keeps the processes in step: none starts its next clock before all have stopped this one."""
    if WORLD == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(total)
    return total.item() / WORLD


class Trainer:
    """One model with its own optimizer, carried state and clock."""

    def __init__(self, name: str, model: ByteModel, lr: float) -> None:
        self.record = Record(name)
        self.model = model
        self.replica = nn.parallel.DistributedDataParallel(model) if WORLD > 1 else model
        self.device = model.linear.weight.device
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        self.state: State | None = None

    def prepare(self, window: Tensor) -> float:
        """Seconds of a step that learns nothing: what a library sets up at its first call is not part of the race."""
        begin = self.now()
        loss_of(self.replica, window, None)[0].backward()
        self.optimizer.zero_grad()
        return mean_over_ranks(self.now() - begin)

    def plan(self, steps: int) -> None:
        warm_up = max(1, steps // 20)

        def share_of_lr(step: int) -> float:  # a short linear rise, then half a cosine down to 2%
            return min((step + 1) / warm_up, 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, share_of_lr)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def step(self, window: Tensor, from_start: bool) -> None:
        begin = self.now()
        loss, self.state = loss_of(self.replica, window, None if from_start else self.state)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.record.seconds.append(self.now() - begin)
        self.record.losses.append(mean_over_ranks(loss.item()))
        self.schedule.step()

    @torch.no_grad()
    def measure_held_out(self, windows: Tensor) -> None:
        state, losses = None, []
        for window in windows:
            loss, state = loss_of(self.model, window, state)
            losses.append(loss.item())
        self.record.held_out_bits = mean_over_ranks(statistics.fmean(losses)) / math.log(2)


def fitting_steps(trainers: list[Trainer], window: Tensor, seconds: float) -> int:
    """How many steps of all this machine takes in that time, by three tries; an optimizer's share is a guess."""
    pace = min(sum(trainer.prepare(window) for trainer in trainers) for _ in range(3))
    return max(1, int(0.9 * seconds / pace))


def train(trainers: list[Trainer], windows: Tensor, steps: int, seconds: float, console: Console) -> None:
    """So many steps, or fewer where the machine's pace drops and the time is over."""
    numbers = (TextColumn("loss {task.fields[loss]:.3f}"), TextColumn("{task.fields[pace]:.1f} ms/step"))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *numbers, TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bars = [progress.add_task(f"{t.record.name:>15}", total=steps, loss=math.nan, pace=math.nan) for t in trainers]
        begin = time.perf_counter()
        for step in range(steps):
            if step % 10 == 0 and step > 0 and mean_over_ranks(time.perf_counter() - begin) > seconds:
                console.print(f"Stopped after {step} of {steps} steps: the time is over (--minutes).")
                break
            place = step % len(windows)
            window = windows[place].long()
            turns = list(zip(trainers, bars, strict=True))
            for trainer, bar in turns if step % 2 else reversed(turns):  # neither always goes first
                trainer.step(window, from_start=place == 0)
                loss, pace = (statistics.fmean(each[-20:]) for each in (trainer.record.losses, trainer.record.seconds))
                progress.update(bar, advance=1, loss=loss, pace=pace * 1e3)


@torch.no_grad()
def write(model: ByteModel, prompt: bytes, count: int, temperature: float, seed: int) -> str:
    """The prompt and `count` bytes that the model writes after it, one at a time."""
    generator = torch.Generator().manual_seed(seed)
    device = model.linear.weight.device
    text, state = bytearray(prompt), None
    unread = torch.tensor(list(prompt), device=device)[:, None]
    for _ in range(count):
        logits, state = model(unread, state)
        odds = (logits[-1, 0].double().cpu() / temperature).softmax(0)
        text.append(int(torch.multinomial(odds, 1, generator=generator)))
        unread = torch.tensor([[text[-1]]], device=device)
    written = text.decode("utf-8", errors="replace").expandtabs(4)
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in written)


def choose_device(wish: str, console: Console) -> torch.device:
    """The CUDA device where there is one that lstm_fused has kernels for, else the CPU, saying why."""
    if wish == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        reason = "there is no CUDA device"
    elif LOCAL_WORLD > torch.cuda.device_count():
        reason = f"{LOCAL_WORLD} processes need a CUDA device each, there are {torch.cuda.device_count()}"
    else:
        device = torch.device("cuda", LOCAL_RANK)
        torch.cuda.set_device(device)
        try:
            lstm_fused.LSTM(8, 8, device=device)(torch.zeros(1, 1, 8, device=device))[0].sum().backward()
            return device
        except NotImplementedError:
            reason = "lstm_fused has no kernels for the CUDA device yet"
    if wish == "cuda":
        fail(f"argument --device: {reason}")
    console.print(f"The CPU is used: {reason}.")
    return torch.device("cpu")


def main() -> None:
    args = parse_args(__doc__.split("\n\n")[0])
    windows, held_out = read_windows(args.text, args.batch, args.window)
    console = Console(quiet=RANK != 0)
    device = choose_device(args.device, console)
    if device.type == "cpu" and LOCAL_WORLD > 1:  # torchrun sets one thread each; all cores are shared out instead
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // LOCAL_WORLD))
    if WORLD > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        windows, held_out = (part.chunk(WORLD, dim=2)[RANK] for part in (windows, held_out))
    windows, held_out = windows.to(device), held_out.to(device)

    torch.manual_seed(args.seed)
    model = ByteModel(args.hidden, args.layers).to(device, getattr(torch, args.dtype))
    plain = Trainer("torch.nn.LSTM", copy.deepcopy(model), args.lr)
    fused = Trainer("lstm_fused.LSTM", lstm_fused.convert(model), args.lr)

    text_name = args.text or "the standard library of Python {}.{}".format(*sys.version_info)
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, threads: {torch.get_num_threads()}"
    set_up = f"{args.layers} layers, hidden {args.hidden}, batch {args.batch}, window {args.window}, {args.dtype}\n"
    set_up += place + (f", processes: {WORLD}" if WORLD > 1 else "")
    console.print(f"Byte-level language model of {text_name}\n{set_up}\n", highlight=False)

    seconds = 60 * args.minutes
    steps = min(args.steps, fitting_steps([plain, fused], windows[0].long(), seconds))
    if steps < args.steps:
        console.print(
            f"{steps} steps, not {args.steps}: as many as fit in {args.minutes:g} minutes here (--minutes).\n"
        )
    for trainer in (plain, fused):
        trainer.plan(steps)
    train([plain, fused], windows, steps, seconds, console)
    for trainer in (plain, fused):
        trainer.measure_held_out(held_out.long())
    if WORLD > 1:
        del plain.replica, fused.replica  # were they the last owners of the group, its end could wait for ever (gloo),
        gc.collect()  # or come with the interpreter's, and abort
        dist.destroy_process_group()
    if RANK == 0:
        console.print("\n", results_table(plain.record, fused.record, args.batch * args.window), sep="")
        sample = Text(write(fused.model, b"\ndef ", args.sample, args.temperature, args.seed).lstrip())
        console.print(Panel(sample, title=f"written by the lstm_fused.LSTM model, temperature {args.temperature:g}"))
        draw(plain.record, fused.record, set_up, args.out / "char_lm.png")
        console.print(f"Picture: {args.out / 'char_lm.png'}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
