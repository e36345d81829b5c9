"""A policy that has to remember, trained with `reset=`: T-mazes whose episodes end at different times.

A sign at the start of a corridor says left or right. At its end, 10 to 40 steps later, the policy has to turn the right
way: reward 1, else -1, and the next episode begins at once, in that maze alone. 32 mazes run side by side, 64 steps at
a time, so that episodes begin and end anywhere inside. The gradient of such a window takes one call with `reset=`; the
usual way is a loop that calls the LSTM step by step and zeroes states. Both are compared and timed.

    python examples/recurrent_policy.py                 # about ten seconds on two CPU cores
    python examples/recurrent_policy.py --hidden 128 --mazes 64
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from char_lm_cli import whole
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import lstm_fused

SHORTEST, LONGEST = 10, 40  # steps to the end of a corridor
State = tuple[Tensor, Tensor]


class Mazes:
    """Many at once. What is seen: sign left, sign right, the junction; actions: 0 is left, 1 right."""

    def __init__(self, count: int) -> None:
        self.left_to_go = torch.zeros(count, dtype=torch.int64)
        self.sign = torch.zeros(count, dtype=torch.int64)
        self.starts = torch.ones(count, dtype=torch.bool)  # this step is the first of an episode

    def see(self) -> Tensor:
        fresh = torch.randint(SHORTEST, LONGEST + 1, self.sign.shape)
        self.left_to_go = torch.where(self.starts, fresh, self.left_to_go)
        self.sign = torch.where(self.starts, torch.randint(2, self.sign.shape), self.sign)
        seen = torch.zeros(len(self.sign), 3)
        seen[self.starts, self.sign[self.starts]] = 1
        seen[self.left_to_go == 0, 2] = 1
        return seen

    def act(self, actions: Tensor) -> Tensor:
        """The rewards. In the corridor all actions lead on."""
        self.starts = self.left_to_go == 0
        rewards = torch.where(self.starts, (actions == self.sign) * 2.0 - 1, torch.zeros(len(actions)))
        self.left_to_go = self.left_to_go - 1
        return rewards


class Policy(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = lstm_fused.LSTM(3, hidden)
        self.actions = nn.Linear(hidden, 2)
        with torch.no_grad():
            self.lstm.bias_ih_l0[hidden : 2 * hidden] += 2  # forget gates that start open


class Window(NamedTuple):
    """What 64 steps of all mazes left: (T, B, ...)."""

    seen: Tensor
    starts: Tensor
    actions: Tensor
    rewards: Tensor
    state: State  # before the first step


@torch.no_grad()
def play(policy: Policy, mazes: Mazes, steps: int, state: State) -> tuple[Window, State]:
    first, rows = state, []
    for _ in range(steps):
        starts, seen = mazes.starts, mazes.see()
        h, state = policy.lstm(seen.unsqueeze(0), state, reset=starts.unsqueeze(0))
        actions = torch.distributions.Categorical(logits=policy.actions(h[0])).sample()
        rows.append((seen, starts, actions, mazes.act(actions)))
    return Window(*map(torch.stack, zip(*rows)), first), state


def one_call(policy: Policy, window: Window) -> Tensor:
    return policy.lstm(window.seen, window.state, reset=window.starts)[0]


def loop(policy: Policy, window: Window) -> Tensor:
    """As code for torch.nn.LSTM has it."""
    outputs, state = [], window.state
    for seen, starts in zip(window.seen, window.starts):
        kept = (~starts).to(seen.dtype).view(1, -1, 1)
        output, state = policy.lstm(seen.unsqueeze(0), (state[0] * kept, state[1] * kept))
        outputs.append(output)
    return torch.cat(outputs)


def gradients(policy: Policy, window: Window, way: Callable[[Policy, Window], Tensor]) -> list[Tensor]:
    """Of REINFORCE: the junctions' actions, by their rewards. An action in the corridor changes nothing."""
    chosen = torch.distributions.Categorical(logits=policy.actions(way(policy, window))).log_prob(window.actions)
    ends = window.rewards != 0
    baseline = window.rewards[ends].mean() if ends.any() else 0.0
    loss = -(chosen * (window.rewards - baseline) * ends).sum() / ends.sum().clamp(min=1)
    policy.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in policy.parameters() if p.grad is not None]


def fastest(policy: Policy, window: Window, turns: int) -> list[float]:
    """Seconds of the two ways, forward and backward, in turns."""
    times: list[list[float]] = [[], []]
    for _ in range(turns):
        for own, way in zip(times, (one_call, loop)):
            begin = time.perf_counter()
            gradients(policy, window, way)
            own.append(time.perf_counter() - begin)
    return [min(own) for own in times]


def draw(rewards: list[float], seconds: list[float], title: str, path: Path) -> None:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    curve, bars = figure.subplots(1, 2, width_ratios=(2.2, 1))
    smooth = [sum(rewards[max(0, n - 9) : n + 1]) / len(rewards[max(0, n - 9) : n + 1]) for n in range(len(rewards))]
    curve.plot(rewards, color="#56b4e9", linewidth=0.8, alpha=0.6, label="one update")
    curve.plot(smooth, color="#0072b2", linewidth=2, label="mean of ten")
    curve.set(xlabel="update", ylabel="mean reward of an episode", ylim=(-1.05, 1.05), title="learning to remember")
    curve.legend(frameon=False, loc="lower right")
    bars.bar(
        ["reset=, one call", "loop over steps"], [s * 1e3 for s in seconds], color=["#0072b2", "#999999"], width=0.6
    )
    bars.set(ylabel="ms", title=f"gradient of a window: {seconds[1] / seconds[0]:.1f}x")
    for axes in (curve, bars):
        axes.grid(alpha=0.25, axis="both" if axes is curve else "y")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser("recurrent_policy.py", description=__doc__.split("\n\n")[0])
    add, size = parser.add_argument, whole(1, 2**16)
    add("--hidden", type=size, default=64, metavar="N", help="width of the LSTM (64)")
    add("--mazes", type=size, default=32, metavar="N", help="side by side (32)")
    add("--window", type=size, default=64, metavar="N", help="steps between updates (64)")
    add("--updates", type=whole(1, 10**9), default=80, metavar="N", help="of training (80)")
    add("--seed", type=whole(0, 2**63 - 1), default=0, metavar="N", help="of weights and mazes (0)")
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="where the picture goes (out)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def main() -> None:
    args, console = parse_args(), Console()
    torch.manual_seed(args.seed)
    policy, mazes = Policy(args.hidden), Mazes(args.mazes)
    optimizer = torch.optim.Adam(policy.parameters(), 5e-3)
    state: State = (torch.zeros(1, args.mazes, args.hidden), torch.zeros(1, args.mazes, args.hidden))
    rewards, largest = [], 0.0
    for update in track(range(args.updates), console=console, transient=True, description="playing"):
        window, state = play(policy, mazes, args.window, state)
        if update % 20 == 0:
            pairs = zip(gradients(policy, window, loop), gradients(policy, window, one_call))
            largest = max(largest, *(float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in pairs))
        else:
            gradients(policy, window, one_call)
        nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        optimizer.step()
        rewards.append(float(window.rewards.sum() / (window.rewards != 0).sum().clamp(min=1)))
    last = rewards[-20:]
    console.print(
        f"reward of an episode: {rewards[0]:.2f} at first, {sum(last) / len(last):.2f} at last", highlight=False
    )
    console.print(f"gradients of both ways: largest difference {largest:.1e} of the largest value", highlight=False)
    if not largest < 1e-3:
        sys.exit("recurrent_policy.py: error: the two ways disagree")
    seconds = fastest(policy, window, turns=20)
    console.print(
        f"a window's gradient: {seconds[0] * 1e3:.1f} ms with reset=, {seconds[1] * 1e3:.1f} ms by a loop over its "
        f"{args.window} steps: {seconds[1] / seconds[0]:.1f}x",
        highlight=False,
        soft_wrap=True,
    )
    threads = torch.get_num_threads()
    title = f"{args.mazes} mazes, {args.hidden} units; CPU, {threads} {'thread' if threads == 1 else 'threads'}"
    path = args.out / "recurrent_policy.png"
    draw(rewards, seconds, title, path)
    console.print(f"Picture: {path}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
