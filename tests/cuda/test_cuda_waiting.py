"""What the blocks and threads of a CUDA kernel wait for, on the simulator: every wait is needed, and ends."""

from __future__ import annotations

import re

import pytest
import torch
from cases import Case, draw
from kernel_kinds import SEEDS
from numerics import fused
from places import ROOT
from simulated import Simulator


def barriers() -> list[tuple[str, int, str]]:
    """File, line and text of every barrier in the kernels."""
    sources = sorted((ROOT / "csrc" / "kernels").glob("*.cuh"))
    return [
        (source.name, line, text.strip())
        for source in sources
        if "primitives" not in source.name
        for line, text in enumerate(source.read_text().splitlines(), 1)
        if re.search(r"(block|warp|named)_barrier\(", text)
    ]


@pytest.mark.parametrize(
    ("num_layers", "file_name", "line", "text"),
    [
        (layers, *barrier)
        for barrier in barriers()
        if not barrier[0].startswith("variant_")  # test_cuda_variants.py
        for layers in {"group.cuh": [1, 2], "group_exchange.cuh": [1, 2]}.get(barrier[0], [1])
    ],
)
def test_no_barrier_may_be_missing(simulator: Simulator, num_layers: int, file_name: str, line: int, text: str) -> None:
    """Without it, every schedule ends in a report."""
    case = Case(3, 9, 5, 17, num_layers=num_layers, lengths=True, dtype=torch.bfloat16)
    num_sms = 0
    if file_name == "group_pairs.cuh":  # five tiles of rows with as many steps
        case, num_sms = case.but(seq_len=2, batch=33, lengths=False), 2
    elif "named" in text:  # of warps that share units: `cluster` in float32 beyond H 128
        case = case.but(hidden_size=130, dtype=torch.float32)
    if "sums in one place" in text:  # of `group`: not in 16 bit
        case = case.but(dtype=torch.float32)
    elif "last turn" in text and num_sms == 0:  # of three tiles, taken by one half of the warps and then by the other
        case, num_sms = case.but(seq_len=2, batch=17, lengths=False), 2
    problem = draw(case)
    kind = re.split(r"[_.]", file_name)[0]
    for seed in range(SEEDS if case.hidden_size == 17 else 2):
        with (
            simulator.without_barrier(file_name, line),
            simulator.running(kind, seed=seed, num_sms=num_sms),
            pytest.raises(RuntimeError, match=r"race: |never written"),
        ):
            fused(problem)


# By what the blocks of a kind wait for one another, where that is sent, and in what they wait.
MESSAGES = {
    "cluster": ("cluster_exchange.cuh", "store_remote_async(", "mbarrier_wait"),
    "group": ("group_exchange.cuh", "store_relaxed_if(exists", "spin_wait"),
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
    """What the blocks of a group send lies in memory that is filled anew for every launch."""
    problem, filled = draw(Case(3, 9, 5, 17, dtype=torch.bfloat16)), []
    with simulator.running("group"):
        wanted = fused(problem)
        with lost_messages(simulator, "group"), pytest.raises(RuntimeError, match="in spin_wait"):
            fused(problem)
        results = fused(problem)
    assert all(torch.equal(tensor, results[name]) for name, tensor in wanted.items())

    def left_over(tensor: torch.Tensor, value: float) -> torch.Tensor:
        if tensor.dtype == torch.int32:
            filled.append(value)
        tensor.view(torch.uint8).numpy()[...] = 0 if tensor.dtype == torch.int32 else 255  # other fresh memory is NaN
        return tensor

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("fill_.Scalar", left_over, "CPU")
        with simulator.running("group"):
            results = fused(problem)
    assert filled
    assert not torch.equal(wanted["output"], results["output"])


def line_of(file_name: str, text: str) -> int:
    lines = (ROOT / "csrc" / "kernels" / file_name).read_text().splitlines()
    (line,) = (n for n, found in enumerate(lines, 1) if text in found)
    return line


@pytest.mark.parametrize(  # of rows, in turns
    "batch", [3, 9, 27, 33], ids=["one tile", "two tiles", "two blocks on an SM", "five tiles in pairs of turns"]
)
@pytest.mark.parametrize("text", ["spin_wait(", "fence_gpu()", "store_relaxed_if(!"], ids=["wait", "fence", "clearing"])
def test_what_blocks_of_a_group_see_of_each_other(simulator: Simulator, text: str, batch: int) -> None:
    """Without the wait, words that nobody has sent are multiplied; without the others, those of a round before."""
    problem = draw(Case(40, batch, 5, 33, dtype=torch.bfloat16))  # more steps than there are slots
    file_name = "group_pairs.cuh" if batch == 33 and "fence" in text else "group_exchange.cuh"
    place, one_group = (file_name, line_of(file_name, text)), 3
    without = simulator.without_messages if "store" in text else simulator.without_barrier
    with torch.no_grad():
        with simulator.running("group", num_sms=one_group):
            wanted = fused(problem)["output"]
        for seed in range(3):
            with simulator.running("group", seed=seed, num_sms=one_group):
                assert torch.equal(fused(problem)["output"], wanted)
            with without(*place), simulator.running("group", seed=seed, num_sms=one_group):
                assert not torch.equal(fused(problem)["output"], wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_any_bits_may_be_sent(simulator: Simulator, dtype: torch.dtype) -> None:
    """Those of a NaN that stand for what is missing, too: as h_0 or as a gradient nobody waits for them."""
    problem = draw(Case(3, 9, 5, 33, num_layers=2, dtype=dtype, lengths=True))
    whole = torch.int16 if dtype.itemsize == 2 else torch.int32
    with torch.no_grad():
        problem.leaves["h_0"].view(whole)[:, 1::2] = -1
    with simulator.running("group"):
        results = fused(problem)
    with simulator.running("step"):
        wanted = fused(problem)
    for name, tensor in wanted.items():
        assert torch.equal(tensor.isnan(), results[name].isnan()), name
    assert wanted["output"].isnan().any()
    assert not wanted["output"].isnan().all()
