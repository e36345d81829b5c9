"""Cells beyond the plain one in the persistent CUDA kernels, without a GPU: their own source on the simulator."""

from __future__ import annotations

import pytest
import torch
from cases import Case
from kernel_kinds import SEEDS
from simulated import Simulator
from test_cuda_variants import arguments
from variant_loop import ALL, OPTIONS, Call, all_of, assert_accurate, make, options_of, ours

KINDS = ["block", "cluster", "group"]
HOW = [(kind, arithmetic) for kind in KINDS for arithmetic in ("float32", "tf32")]
OWN = [name for name in OPTIONS if name not in ("weight_dropout", "forget_bias", "layer_norm")]
PAIRS = [f"{a} {b}" for n, a in enumerate(OWN) for b in OWN[n + 1 :]]
EVERY = ALL.replace("layer_norm ", "")
STACK = {"num_layers": 2, "bidirectional": True, "lengths": True, "reset": 0.3, "dropout": 0.3}


def of_group(kind: str, num_sms: int = 1) -> int:
    """SMs: a group has so few blocks that they take all tiles of rows in turns."""
    return num_sms if kind == "group" else 0


@pytest.fixture(params=HOW, ids="-".join)
def how(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The kind of kernel and its arithmetic."""
    return request.param


def accurate(
    simulator: Simulator, how: tuple[str, str], case: Case, names: str, times: int = 2, num_sms: int = 0
) -> None:
    """By the rule of numerics.py, against the loop by hand; in one launch for each layer, direction and pass."""
    kind, tf32 = how[0], how[1] == "tf32"
    with simulator.running(kind, tf32, num_sms=num_sms):
        assert_accurate(case, times, tf32, **options_of(names))
        assert simulator.launches() == 2 * times * case.num_layers * case.directions


@pytest.mark.parametrize("names", [*OWN, *PAIRS, EVERY])
def test_options(simulator: Simulator, how: tuple[str, str], names: str) -> None:
    accurate(simulator, how, Case(3, 3, 4, 5, lengths=True, reset=0.3, bidirectional=True), names, times=6)


@pytest.mark.compiled
def test_everything_at_once(simulator: Simulator, how: tuple[str, str]) -> None:
    """Rows past a tile, units past a warp, and tiles of a group in turns."""
    accurate(simulator, how, Case(4, 9, 7, 20, **STACK), EVERY, num_sms=of_group(how[0], 2))


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (7, 1, 17, 17), (2, 17, 3, 1), (3, 8, 9, 64), (2, 33, 1, 33)], ids=str)
def test_sizes(simulator: Simulator, how: tuple[str, str], size: tuple[int, ...]) -> None:
    case = Case(*size, lengths=True, reset=0.2, bidirectional=True)
    accurate(simulator, how, case, EVERY, times=20 if case.hidden_size == 1 else 4)  # of few numbers many draws


@pytest.mark.parametrize("arithmetic", ["float32", "tf32"])
@pytest.mark.parametrize(
    ("kind", "size"),
    # The two splits of a cluster's warps, and weights of a group in shared memory
    [("cluster", (2, 9, 5, 111)), ("cluster", (2, 3, 5, 129)), ("group", (2, 3, 5, 300)), ("group", (3, 17, 5, 129))],
    ids=str,
)
def test_large_sizes(simulator: Simulator, kind: str, size: tuple[int, ...], arithmetic: str) -> None:
    accurate(
        simulator,
        (kind, arithmetic),
        Case(*size, lengths=True, reset=0.2, bias=False),
        EVERY.replace("forget_bias", ""),
        times=4,  # of one, a single c~ at the edge of the clip, on whose other side no gradient passes, may decide
    )


def test_more_steps_than_slots(simulator: Simulator, how: tuple[str, str]) -> None:
    """And rows of all lengths, in either direction."""
    accurate(simulator, how, Case(40, 9, 3, 17, lengths=True, reset=0.1, bidirectional=True), EVERY, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_inference(simulator: Simulator, kind: str) -> None:
    """Without gradients nothing is kept, and no bit is another."""
    for training in (True, False):
        call = make(Case(3, 5, 9, 33, **STACK), training, **options_of("zoneout peephole cell_clip"))
        with simulator.running(kind):
            expected = ours(call)
            with torch.no_grad():
                results = ours(call)
            assert simulator.launches() == 8
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_every_schedule_gives_the_same_bits(simulator: Simulator, how: tuple[str, str]) -> None:
    kind, tf32 = how[0], how[1] == "tf32"
    call = make(Case(3, 9, 5, 24, lengths=True, reset=0.3), **options_of(EVERY))
    results = []
    for seed in range(SEEDS):
        with simulator.running(kind, tf32, seed=seed, num_sms=of_group(kind, 2)):
            results.append(all_of(ours, call))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("what", ["warp", "block", "last"])
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_end_whoever_is_held_up(simulator: Simulator, kind: str, what: str) -> None:
    call = make(Case(3, 9, 5, 24, lengths=True, reset=0.3), **options_of(EVERY))
    with simulator.running(kind, num_sms=of_group(kind, 2)):
        wanted = all_of(ours, call)
    for starved in simulator.starved(what):
        with simulator.running(kind, seed=starved, num_sms=of_group(kind, 2)):
            assert all(torch.equal(a, b) for a, b in zip(wanted, all_of(ours, call), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_never_read(simulator: Simulator, kind: str) -> None:
    call = make(Case(5, 4, 6, 17, lengths=True, bidirectional=True, reset=0.2), **options_of(EVERY))
    with simulator.running(kind):
        clean = all_of(ours, call)
        assert not any(t.isnan().any() for t in clean)
        with torch.no_grad():
            for b, length in enumerate(call.lengths.tolist()):
                call.input[length:, b] = float("nan")
        assert all(torch.equal(a, b) for a, b in zip(clean, all_of(ours, call), strict=True))


def same_as_step(simulator: Simulator, kind: str, call: Call, **how: int) -> int:
    """Kernels that launch at every step leave the same, to a few roundings; returns the number of launches."""
    with simulator.running("step"):
        wanted = all_of(ours, call)
    with simulator.running(kind, **how):
        found, launches = all_of(ours, call), simulator.launches()
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    return launches


@pytest.mark.parametrize(("kind", "room"), [("cluster", 1), ("group", 2)])
def test_no_room_for_all_blocks(simulator: Simulator, kind: str, room: int) -> None:
    """Kernels that launch at every step run then."""
    call = make(Case(3, 5, 4, 65, lengths=True), **options_of(EVERY))
    assert same_as_step(simulator, kind, call, room=room) == (3 + 2) + (3 + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_what_they_cannot_do_is_done_step_by_step(simulator: Simulator, kind: str) -> None:
    """Norms and projections, and float64."""
    for case, names in ((Case(3, 2, 4, 9), ALL), (Case(3, 2, 4, 9, proj_size=5), EVERY)):
        assert same_as_step(simulator, kind, make(case, **options_of(names))) > 2
    assert same_as_step(simulator, kind, make(Case(3, 2, 4, 9, dtype=torch.float64), **options_of(EVERY))) > 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_half_types_are_float32_rounded_once(simulator: Simulator, kind: str, dtype: torch.dtype) -> None:
    names = EVERY.replace("weight_dropout", "")  # which is drawn, and rounded, in the dtype of W_hh
    call = make(Case(3, 3, 4, 9, dtype=dtype, lengths=True), **options_of(names))
    with simulator.running(kind):
        for a, b in zip(all_of(ours, call), all_of(ours, call.to(torch.float32)), strict=True):
            assert a.dtype == dtype
            torch.testing.assert_close(a, b.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_of_zero_and_no_rows(simulator: Simulator, kind: str) -> None:
    """A row without a step hands its states on, and their gradients back; without rows there is nothing to launch."""
    call = make(Case(3, 3, 4, 5, lengths=True), **options_of(EVERY))
    call.lengths[1] = 0
    for reverse in (False, True):
        own = arguments(call, reverse)
        with simulator.running(kind):
            *results, reserve = simulator.ops.variant(*own, True)
            grads = [torch.randn_like(t) for t in results]
            found = simulator.ops.variant_backward(*grads, *own, reserve, True, True)
        assert torch.equal(results[2][1], own[1][1]) and torch.equal(results[3][1], own[2][1])
        assert torch.equal(found[1][1], grads[2][1]) and torch.equal(found[2][1], grads[3][1])
        theirs = torch.ops.lstm_fused.variant(*own, True)
        both = torch.ops.lstm_fused.variant_backward(*grads, *own, theirs[-1], True, True)
        for a, b in zip([*results, *found[:3], *found[3]], [*theirs[:4], *both[:3], *both[3]], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    empty = make(Case(3, 0, 4, 5), **options_of(EVERY))
    with simulator.running(kind):
        results = all_of(ours, empty)
        assert simulator.launches() == 0
    assert all(not t.any() for t in results)


def test_backward_twice_gives_the_same_bits(simulator: Simulator) -> None:
    """What forward kept is only read; and who changes results in place does not change what backward reads."""
    call = make(Case(3, 4, 6, 17, lengths=True, reset=0.2), **options_of(EVERY))
    for kind in KINDS:
        with simulator.running(kind):
            results = ours(call)
            grads = [torch.ones_like(t) for t in results]
            first = torch.autograd.grad(results, call.leaves(), grads, retain_graph=True)
            with torch.no_grad():
                for t in results:
                    t.zero_()
            again = torch.autograd.grad(results, call.leaves(), grads)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
