"""sb3-contrib's RecurrentPPO, with its loop over time as one call: `reset=` takes the episode starts.

An LSTM policy must forget at the start of an episode. RecurrentPPO calls torch.nn.LSTM for one step at a time, and
multiplies the state by 0 where an episode starts. lstm_fused.sb3.convert makes one call of it, in a built model.

Both policies start from the same weights. The results and gradients of a batch are compared, then both are timed in
turn, and at last both learn CartPole from the same seed.

    pip install sb3-contrib
    python examples/recurrent_ppo.py                  # about a minute on two CPU cores
    python examples/recurrent_ppo.py --hidden 512 --steps 256
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

if find_spec("sb3_contrib") is None:
    sys.exit("recurrent_ppo.py: error: the package sb3-contrib is missing: pip install sb3-contrib")

from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates

import lstm_fused.sb3


def make_model(args: argparse.Namespace) -> RecurrentPPO:
    sizes = {"lstm_hidden_size": args.hidden, "n_lstm_layers": args.layers}
    options = {"n_steps": 128, "batch_size": 128, "seed": 0, "device": "cpu"}
    return RecurrentPPO("MlpLstmPolicy", "CartPole-v1", policy_kwargs=sizes, **options)


def make_step(model: RecurrentPPO, args: argparse.Namespace) -> Callable[[], list[Tensor]]:
    """Forward and backward of one batch of sequences, with an episode start at every twentieth step on average."""
    torch.manual_seed(0)
    policy, count = model.policy, args.rows * args.steps
    observations, actions = torch.randn(count, 4), torch.randint(2, (count,))
    starts = (torch.rand(count) < 0.05).float()
    states = torch.randn(args.layers, args.rows, args.hidden), torch.randn(args.layers, args.rows, args.hidden)

    def step() -> list[Tensor]:
        policy.zero_grad()
        results = policy.evaluate_actions(observations, actions, RNNStates(states, states), starts)
        sum(result.square().mean() for result in results).backward()
        return [*results, *(p.grad for p in policy.parameters() if p.grad is not None)]

    return step


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Of all tensors, each relative to its largest value."""
    return max(float(((a - b).abs().max() / b.abs().max()).detach()) for a, b in zip(ours, theirs, strict=True))


def fastest(calls: list[Callable[[], object]], seconds: float) -> list[float]:
    """The shortest time of each, in turns, so that a disturbance of the machine meets all of them."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 3:
        for own, call in zip(times, calls, strict=True):
            start = time.perf_counter()
            call()
            own.append(time.perf_counter() - start)
    return [min(own) for own in times]


def report(what: str, theirs: float, ours: float) -> None:
    print(f"{what:<48}{theirs * 1e3:10.1f} ms{ours * 1e3:10.1f} ms{theirs / ours:8.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for name, value, meaning in (
        ("hidden", 256, "width of the LSTMs"),
        ("layers", 1, "layers of each"),
        ("rows", 8, "sequences in a batch"),
        ("steps", 128, "steps of each sequence"),
        ("timesteps", 1024, "steps of learning at the end"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=meaning)
    parser.add_argument("--seconds", type=float, default=10.0, metavar="X", help="how long a batch is timed")
    args = parser.parse_args()

    models = [make_model(args), lstm_fused.sb3.convert(make_model(args))]
    theirs, ours = (make_step(model, args) for model in models)
    difference = largest_difference(ours(), theirs())
    print(f"results and gradients: largest difference {difference:.1e} of the largest value")
    if difference > 1e-4:
        sys.exit("recurrent_ppo.py: error: the policies disagree")

    print(f"{'':<48}{'sb3-contrib':>13}{'reset=':>13}")
    report(f"a batch: {args.rows} sequences of {args.steps} steps", *fastest([theirs, ours], args.seconds))
    times = []
    for model in models:
        model.set_random_seed(0)
        start = time.perf_counter()
        model.learn(args.timesteps)
        times.append(time.perf_counter() - start)
    report(f"learn({args.timesteps}), environment included", *times)
    before, after = (list(model.policy.parameters()) for model in models)
    print(f"weights after it: largest difference {largest_difference(after, before):.1e} of the largest value")


if __name__ == "__main__":
    main()
