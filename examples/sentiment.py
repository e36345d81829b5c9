"""A bidirectional LSTM that reads whole sentences of any length: `lengths=` beside packing.

The reviews are made here, from a small grammar: each has several opinions, some of them negated, and says of one,
before or after it, that it counts. So the order of words decides, in both directions, and counting them does not help.
The same model is trained twice from the same weights on the same batches: with torch.nn.LSTM, sequences packed, and
with lstm_fused.LSTM and lengths.

    python examples/sentiment.py                        # about half a minute on two CPU cores
    python examples/sentiment.py --hidden 256 --steps 60
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass, field

import torch
from char_lm_cli import whole
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lstm_fused

THINGS = "plot acting music ending humour pace dialogue camera story cast".split()
GOOD = "great lovely moving clever brilliant wonderful fresh gripping".split()
BAD = "dull awful clumsy boring weak dreadful stale hollow".split()
FILLER = "well frankly perhaps indeed somehow after all in the second half of this long evening at the cinema".split()


def review(rng: random.Random) -> tuple[list[str], int]:
    """Words, and 1 where it likes the thing that it says counts."""
    things = rng.sample(THINGS, rng.randint(2, 5))
    counts, likes = rng.choice(things), 0
    words: list[str] = []
    for thing in things:
        good, negated = rng.random() < 0.5, rng.random() < 0.4
        opinion = ["the", thing, "was", *["not"] * negated, rng.choice(GOOD if good != negated else BAD)]
        if thing == counts:
            likes = int(good)
            opinion = ["above", "all", *opinion] if rng.random() < 0.5 else [*opinion, "and", "that", "counts"]
        words += [*rng.sample(FILLER, rng.randint(0, 8)), *opinion]
    return words, likes


@dataclass
class Batch:
    words: Tensor  # (T, B), padded with 0
    lengths: Tensor  # (B,)
    labels: Tensor  # (B,)


def batches(count: int, size: int, seed: int) -> list[Batch]:
    rng = random.Random(seed)
    index = {word: n for n, word in enumerate(vocabulary(), 1)}
    found = []
    for _ in range(count):
        texts = [review(rng) for _ in range(size)]
        rows = [torch.tensor([index[word] for word in words]) for words, _ in texts]
        lengths = torch.tensor([len(row) for row in rows])
        labels = torch.tensor([float(label) for _, label in texts])
        found.append(Batch(nn.utils.rnn.pad_sequence(rows), lengths, labels))
    return found


def vocabulary() -> list[str]:
    return sorted({*THINGS, *GOOD, *BAD, *FILLER, *"the was not above all and that counts".split()})


class Reader(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(vocabulary()) + 1, 32)
        self.lstm = nn.LSTM(32, hidden, num_layers=2, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, 1)

    def forward(self, batch: Batch) -> Tensor:
        x = self.embedding(batch.words)
        if isinstance(self.lstm, lstm_fused.LSTM):
            output, _ = self.lstm(x, lengths=batch.lengths)
        else:
            packed = pack_padded_sequence(x, batch.lengths, enforce_sorted=False)
            output, _ = pad_packed_sequence(self.lstm(packed)[0])
        valid = torch.arange(len(x)).unsqueeze(1) < batch.lengths  # padding is zero, and no maximum
        pooled = output.masked_fill(~valid.unsqueeze(2), -torch.inf).amax(0)
        return self.linear(pooled).squeeze(1)


@dataclass
class Trainer:
    name: str
    model: Reader
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.model.parameters(), 3e-3)

    def step(self, batch: Batch) -> None:
        begin = time.perf_counter()
        loss = nn.functional.binary_cross_entropy_with_logits(self.model(batch), batch.labels)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - begin)
        self.losses.append(loss.item())

    @torch.no_grad()
    def accuracy(self, unseen: list[Batch]) -> float:
        right = [((self.model(batch) > 0) == (batch.labels > 0)).float() for batch in unseen]
        return float(torch.cat(right).mean())


def main() -> None:
    parser = argparse.ArgumentParser("sentiment.py", description=__doc__.split("\n\n")[0])
    add, size = parser.add_argument, whole(1, 2**16)
    add("--hidden", type=size, default=64, metavar="N", help="width of each direction (64)")
    add("--batch", type=size, default=32, metavar="N", help="reviews in a batch (32)")
    add("--steps", type=whole(1, 10**9), default=200, metavar="N", help="of training (200)")
    add("--seed", type=whole(0, 2**63 - 1), default=0, metavar="N", help="of weights and text (0)")
    args, console = parser.parse_args(), Console()

    torch.manual_seed(args.seed)
    plain = Trainer("torch.nn.LSTM, packed", Reader(args.hidden))
    fused = Trainer("lstm_fused.LSTM, lengths", Reader(args.hidden))
    fused.model.load_state_dict(plain.model.state_dict())
    lstm_fused.convert(fused.model)

    training, unseen = batches(args.steps, args.batch, args.seed), batches(8, 64, args.seed + 1)
    shortest, longest = (int(f(torch.cat([b.lengths for b in training]))) for f in (torch.min, torch.max))
    console.print(f"{args.steps * args.batch:,} reviews of {shortest} to {longest} words, as", highlight=False)
    console.print(f"  {' '.join(review(random.Random(args.seed))[0])}", highlight=False)
    for batch in track(training, console=console, transient=True, description="training both"):
        for trainer in (plain, fused):
            trainer.step(batch)

    table = Table(title="Same initial weights, same batches", title_style="bold")
    for title in ("", "accuracy on new reviews", "last 20 losses", "ms per step", "fastest"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for trainer in (plain, fused):
        last = trainer.losses[-20:]
        median = sorted(trainer.seconds)[len(trainer.seconds) // 2]
        numbers = [f"{trainer.accuracy(unseen):.1%}", f"{sum(last) / len(last):.4f}"]
        table.add_row(trainer.name, *numbers, f"{median * 1e3:.1f}", f"{min(trainer.seconds) * 1e3:.1f}")
    console.print(table)
    first = abs(plain.losses[0] - fused.losses[0])
    console.print(f"first loss: {plain.losses[0]:.6f}, difference {first:.1e}", highlight=False)
    if not first < 1e-5:
        sys.exit("sentiment.py: error: the models disagree")


if __name__ == "__main__":
    main()
