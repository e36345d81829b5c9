"""What the blocks and threads of a CUDA kernel wait for, on the simulator: every wait is needed, and ends."""

from __future__ import annotations

import re

import pytest
import torch
from cases import Case, draw
from numerics import fused
from places import ROOT
from simulated import Simulator
from test_cuda_kernels import SEEDS


def barriers() -> list[tuple[str, int, str]]:
    """File, line and text of every barrier in the kernels, and of every wait, acquire and release."""
    sources = sorted((ROOT / "csrc" / "kernels").glob("*.cuh"))
    return [
        (source.name, line, text.strip())
        for source in sources
        if "primitives" not in source.name
        for line, text in enumerate(source.read_text().splitlines(), 1)
        if re.search(r"((block|warp|named)_barrier|spin_wait|load_acquire|atomic_add_release)\(", text)
    ]


@pytest.mark.parametrize(
    ("num_layers", "file_name", "line", "text"),
    [
        (layers, *barrier)
        for barrier in barriers()
        if not barrier[0].startswith("variant_")  # test_cuda_variants.py
        for layers in {"group_stack.cuh": [2], "group.cuh": [1, 2], "group_exchange.cuh": [1, 2]}.get(barrier[0], [1])
    ],
)
def test_no_barrier_may_be_missing(simulator: Simulator, num_layers: int, file_name: str, line: int, text: str) -> None:
    """Without it, every schedule ends in a report."""
    case = Case(3, 9, 5, 17, num_layers=num_layers, lengths=True, dtype=torch.bfloat16)
    if "named" in text:  # of warps that share units: `cluster` in float32 beyond H 128
        case = case.but(hidden_size=130, dtype=torch.float32)
    problem = draw(case)
    kind = re.split(r"[_.]", file_name)[0]
    for seed in range(SEEDS if case.hidden_size == 17 else 2):
        with (
            simulator.without_barrier(file_name, line),
            simulator.running(kind, seed=seed),
            pytest.raises(RuntimeError, match=r"race: |never written"),
        ):
            fused(problem)


# By what the blocks of a kind wait for one another, where that is sent, and in what they wait.
MESSAGES = {
    "cluster": ("cluster_exchange.cuh", "store_remote_async(", "mbarrier_wait"),
    "group": ("group_exchange.cuh", "atomic_add_release(", "spin_wait"),
}


def lost_messages(simulator: Simulator, kind: str):
    file_name, call, _ = MESSAGES[kind]
    lines = (ROOT / "csrc" / "kernels" / file_name).read_text().splitlines()
    (line,) = (n for n, text in enumerate(lines, 1) if call in text)
    return simulator.without_messages(file_name, line)


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_wait_for_what_never_comes_ends(simulator: Simulator, kind: str) -> None:
    """By the watchdog of a debug build, which ends nothing else. Without it nobody can go on."""
    problem, wait = draw(Case(3, 9, 5, 17, dtype=torch.bfloat16)), MESSAGES[kind][2]
    with simulator.running(kind):
        wanted = fused(problem)
    for seed in range(3):
        with simulator.watched(), simulator.running(kind, seed=seed):
            results = fused(problem)
        assert all(torch.equal(tensor, results[name]) for name, tensor in wanted.items())
        with lost_messages(simulator, kind), simulator.running(kind, seed=seed):
            with pytest.raises(RuntimeError, match=f"in {wait} at {kind}"):
                fused(problem)
            with simulator.watched(), pytest.raises(RuntimeError, match=f"has waited too long in {wait}"):
                fused(problem)


def test_nothing_of_an_aborted_run_is_read(simulator: Simulator) -> None:
    """The counts of a group are zeros of torch's, new for every launch; what fresh memory holds would break it."""
    problem, zeroed = draw(Case(3, 9, 5, 17, dtype=torch.bfloat16)), []
    with simulator.running("group"):
        wanted = fused(problem)
        with lost_messages(simulator, "group"), pytest.raises(RuntimeError, match="in spin_wait"):
            fused(problem)
        results = fused(problem)
    assert all(torch.equal(tensor, results[name]) for name, tensor in wanted.items())

    def left_over(like: torch.Tensor, size: list[int], dtype: torch.dtype | None = None, **_) -> torch.Tensor:
        zeroed.append(dtype)
        return torch.full(size, 1, dtype=dtype or like.dtype)

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("new_zeros", left_over, "CPU")
        with simulator.running("group"), pytest.raises(RuntimeError, match=r"race: |never written"):
            fused(problem)
    assert torch.int32 in zeroed
