"""TorchRL's LSTMModule and the same converted, trained on episodes that end inside the rows of a batch.

Each episode shows a symbol at its first step, and every step is to name it: what an earlier episode showed must be
forgotten. Both modules start from the same weights and see the same batches, one step of each in turn.

    pip install torchrl
    python examples/torchrl_recall.py                        # half a minute on two CPU cores
    python examples/torchrl_recall.py --hidden 256 --length 128
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from importlib.util import find_spec

import torch
from torch import Tensor, nn

if find_spec("torchrl") is None:
    sys.exit("torchrl_recall.py: error: the package torchrl is missing: pip install torchrl")

from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.modules import LSTMModule

import lstm_fused.torchrl

SYMBOLS = 4


def make_policy(hidden: int) -> TensorDictSequential:
    keys = {"in_keys": ["seen", "h", "c"], "out_keys": ["features", ("next", "h"), ("next", "c")]}
    lstm = LSTMModule(SYMBOLS, hidden, default_recurrent_mode=True, **keys)
    with torch.no_grad():
        lstm.lstm.bias_ih_l0.chunk(4)[1].fill_(2.0)  # a forget gate that starts open
    head = TensorDictModule(nn.Linear(hidden, SYMBOLS), in_keys=["features"], out_keys=["logits"])
    return TensorDictSequential(lstm, head)


def episodes(rows: int, length: int, hidden: int) -> tuple[TensorDict, Tensor]:
    """A batch (rows, length), an episode of 20 steps in the mean; and at each step the symbol that it began with."""
    starts = torch.rand(rows, length) < 0.05
    starts[:, 0] = True
    symbols = torch.randint(SYMBOLS, (rows, length))
    begin = torch.where(starts, torch.arange(length), 0).cummax(1).values
    seen = nn.functional.one_hot(symbols, SYMBOLS).float() * starts.unsqueeze(-1)
    zeros = torch.zeros(rows, length, 1, hidden)
    data = {"seen": seen, "h": zeros, "c": zeros, "is_init": starts.unsqueeze(-1)}
    return TensorDict(data, [rows, length]), symbols.gather(1, begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name, default in (("updates", 60), ("rows", 16), ("length", 64), ("hidden", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.manual_seed(0)
    theirs = make_policy(args.hidden)
    policies = {"LSTMModule": theirs, "converted": lstm_fused.torchrl.convert(copy.deepcopy(theirs))}
    optimizers = {name: torch.optim.Adam(policy.parameters(), lr=1e-2) for name, policy in policies.items()}
    losses: dict[str, list[float]] = {name: [] for name in policies}
    seconds: dict[str, list[float]] = {name: [] for name in policies}
    right: dict[str, float] = {}
    for _ in range(args.updates):
        data, targets = episodes(args.rows, args.length, args.hidden)
        for name, policy in policies.items():
            start = time.perf_counter()
            logits = policy(data.copy())["logits"]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
            seconds[name].append(time.perf_counter() - start)
            losses[name].append(loss.item())
            right[name] = (logits.argmax(-1) == targets).float().mean().item()

    print(f"{args.rows} rows of {args.length} steps, {args.hidden} units, threads: {torch.get_num_threads()}")
    print(f"{'':<12}{'ms per update':>15}{'first loss':>13}{'last loss':>12}{'right':>8}")
    for name in policies:
        pace = 1e3 * statistics.median(seconds[name])
        print(f"{name:<12}{pace:>15.1f}{losses[name][0]:>13.6f}{losses[name][-1]:>12.6f}{right[name]:>8.1%}")


if __name__ == "__main__":
    main()
