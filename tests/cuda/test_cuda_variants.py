"""The CUDA kernels of cells beyond the plain one, without a GPU: their own source on the simulator of tests/sim."""

from __future__ import annotations

import pytest
import torch
from cases import Case
from kernel_kinds import SEEDS
from simulated import Simulator
from test_cuda_waiting import barriers
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only
from variant_loop import ALL, NAMES, PAIRS, Call, all_of, assert_accurate, assert_same, make, options_of, ours

import lstm_fused
from lstm_fused import ops, variant_ops, variants
from lstm_fused.options import CellOptions, Options

SMALL = Case(3, 3, 4, 5, dtype=torch.float64)
STACK = {"num_layers": 2, "bidirectional": True, "lengths": True, "reset": 0.3, "dropout": 0.3}
# Alone the others leave the cell the plain one.
OWN = [name for name in NAMES if name not in ("weight_dropout", "forget_bias")]


def launches(case: Case, norms: bool, passes: int = 2) -> int:
    """Of all layers and directions; passes: forward alone, or both."""
    a_step = 1 + norms + (case.proj_size > 0)
    forward = (
        a_step * case.seq_len + 2 + norms
    )  # the states before the first step and behind the last, the input's norm
    return case.num_layers * case.directions * (forward + (a_step * case.seq_len + 1 if passes == 2 else 0))


def check(simulator: Simulator, call: Call, seed: int = 0) -> None:
    """Every result and gradient against the loop by hand."""
    with simulator.running("step", seed=seed):
        assert_same(call)
        assert simulator.launches() == launches(call.case, call.module.cell_options.layer_norm)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("names", [*OWN, *(pair for pair in PAIRS if set(pair.split()) <= set(OWN)), ALL])
def test_options(simulator: Simulator, names: str, training: bool) -> None:
    if training or names != "recurrent_dropout":  # nothing in inference
        check(simulator, make(SMALL, training, **options_of(names)))


@pytest.mark.parametrize("form", [{}, {"proj_size": 3}, {"proj_size": 4, "bias": False, "hx": False}], ids=str)
@pytest.mark.parametrize("names", [*OWN, "peephole layer_norm cell_clip", ALL])
def test_with_all_that_the_plain_one_has(simulator: Simulator, names: str, form: dict) -> None:
    options = options_of(names)
    if not form.get("bias", True):
        options.pop("forget_bias", None)
    check(simulator, make(SMALL.but(**STACK, **form), **options), seed=len(names))


SIZES = [
    # T, B, I, H: rows past a block's tile, units past a block's threads
    (1, 1, 1, 1),
    (7, 3, 17, 17),
    (2, 33, 1, 17),
    (2, 33, 3, 1),
    (3, 1, 9, 111),
    (2, 3, 5, 129),
    (1, 2, 3, 300),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("names", ["zoneout recurrent_dropout cell_clip peephole", ALL])
def test_sizes(simulator: Simulator, names: str, size: tuple[int, ...]) -> None:
    hidden_size = size[3]
    proj_size = hidden_size // 2 if hidden_size in (17, 129) else 0
    case = Case(*size, proj_size=proj_size, lengths=True, reset=0.2, bidirectional=True, dtype=torch.float64)
    check(simulator, make(case, **options_of(names)))


@pytest.mark.parametrize("names", ["zoneout peephole cell_clip", "layer_norm", ALL])
@pytest.mark.parametrize("size", [(2, 3, 3, 1), (3, 5, 17, 17), (2, 17, 1, 129), (4, 1, 111, 111)], ids=str)
def test_accuracy(simulator: Simulator, size: tuple[int, ...], names: str) -> None:
    """In float32, by the rule of numerics.py."""
    case = Case(*size, proj_size=size[3] // 3 if names == ALL and size[3] > 12 else 0, seed=3)
    with simulator.running("step"):
        assert_accurate(case, 20 if size[3] == 1 else 6 if max(size) < 20 else 2, **options_of(names))


@pytest.mark.compiled
@pytest.mark.parametrize("proj_size", [0, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_everything_at_once(simulator: Simulator, dtype: torch.dtype, proj_size: int) -> None:
    """Of float32 the rule allows what few elements ask for."""
    case = Case(3, 5, 9, 40, proj_size=proj_size, lengths=True, reset=0.3, dtype=dtype)
    with simulator.running("step"):
        if dtype == torch.float64:
            assert_same(make(case.but(bidirectional=True), **options_of(ALL)))
        else:
            assert_accurate(case, 2, **options_of(ALL))


@pytest.mark.parametrize("proj_size", [0, 3])
def test_the_plan_tells_the_truth(simulator: Simulator, proj_size: int) -> None:
    """Launches forward, less the input projections, which are torch's."""
    call = make(Case(4, 2, 3, 5, proj_size=proj_size, num_layers=2, bidirectional=True), **options_of(ALL))
    plan = lstm_fused.explain(call.module, (4, 2, 3), device="H100")
    with simulator.running("step"):
        ours(call)
        assert simulator.launches() == plan.launches - 4


def test_inference(simulator: Simulator) -> None:
    """Without gradients nothing is kept, and no bit is another."""
    for names in ("zoneout peephole", ALL):
        for proj_size in (0, 9):
            call = make(Case(3, 5, 9, 33, proj_size=proj_size, **STACK), training=False, **options_of(names))
            with simulator.running("step"):
                expected = ours(call)
                with torch.no_grad():
                    results = ours(call)
                passes = launches(call.case, "layer_norm" in names, passes=1)
                assert simulator.launches() == 2 * passes
            assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("proj_size", [0, 9])
def test_every_schedule_gives_the_same_bits(simulator: Simulator, proj_size: int, dtype: torch.dtype) -> None:
    call = make(Case(2, 3, 5, 40, proj_size=proj_size, lengths=True, reset=0.3, dtype=dtype), **options_of(ALL))
    results = []
    for seed in range(SEEDS):
        with simulator.running("step", seed=seed):
            results.append(all_of(ours, call))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("what", ["warp", "block"])
def test_kernels_end_whoever_is_held_up(simulator: Simulator, what: str) -> None:
    call = make(Case(2, 3, 5, 40, lengths=True), **options_of(ALL))
    with simulator.running("step"):
        wanted = all_of(ours, call)
    for starved in simulator.starved(what):
        with simulator.running("step", seed=starved):
            assert all(torch.equal(a, b) for a, b in zip(wanted, all_of(ours, call), strict=True))


@pytest.mark.parametrize(("file_name", "line", "text"), [b for b in barriers() if b[0].startswith("variant_")])
def test_no_barrier_may_be_missing(simulator: Simulator, file_name: str, line: int, text: str) -> None:
    call = make(Case(2, 2, 5, 40, lengths=True), **options_of("layer_norm"))
    for seed in range(SEEDS):
        with (
            simulator.without_barrier(file_name, line),
            simulator.running("step", seed=seed),
            pytest.raises(RuntimeError, match=r"race: |never written"),
        ):
            ours(call)


def test_padding_is_never_read(simulator: Simulator) -> None:
    call = make(Case(5, 4, 6, 17, proj_size=5, lengths=True, bidirectional=True, reset=0.2), **options_of(ALL))
    with simulator.running("step"):
        clean = all_of(ours, call)
        assert not any(t.isnan().any() for t in clean)
        with torch.no_grad():
            for b, length in enumerate(call.lengths.tolist()):
                call.input[length:, b] = float("nan")
        assert all(torch.equal(a, b) for a, b in zip(clean, all_of(ours, call), strict=True))


def test_backward_twice_gives_the_same_bits(simulator: Simulator) -> None:
    """What forward kept is only read; and who changes results in place does not change what backward reads."""
    call = make(Case(3, 4, 6, 17, lengths=True, reset=0.2), **options_of(ALL))
    with simulator.running("step"):
        results = ours(call)
        grads = [torch.ones_like(t) for t in results]
        first = torch.autograd.grad(results, call.leaves(), grads, retain_graph=True)
        with torch.no_grad():
            for t in results:
                t.zero_()
        again = torch.autograd.grad(results, call.leaves(), grads)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def arguments(call: Call, reverse: bool = False) -> tuple:
    """Of the op, all but `training`: weights are those of a module of one layer, and masks are drawn."""
    module, case = call.module, call.case
    weights = [getattr(module, name).detach() for name in module._flat_weights_names]
    (h_0, c_0), options = [t[0].detach() for t in call.hx], module.cell_options
    masks = [torch.randint(0, 2, (case.seq_len, *t.shape)).to(t.dtype) for t in (h_0, c_0)]
    given = call.input.detach(), h_0, c_0, weights, reverse, call.lengths, call.reset
    return (
        *given,
        *masks,
        torch.rand_like(h_0),
        0.0,
        0.0,
        options.cell_clip or 0.0,
        options.peephole,
        options.layer_norm,
    )


def test_lengths_of_zero_and_no_rows(simulator: Simulator) -> None:
    """A row without a step hands its states on, and their gradients back; without rows there is nothing to launch."""
    for proj_size in (0, 3):
        call = make(Case(3, 3, 4, 5, proj_size=proj_size, lengths=True, dtype=torch.float64), **options_of(ALL))
        call.lengths[1] = 0
        for reverse in (False, True):
            own = arguments(call, reverse)
            with simulator.running("step"):
                *results, reserve = simulator.ops.variant(*own, True)
                grads = [torch.randn_like(t) for t in results]
                found = simulator.ops.variant_backward(*grads, *own, reserve, True, True)
            assert torch.equal(results[2][1], own[1][1]) and torch.equal(results[3][1], own[2][1])
            assert torch.equal(found[1][1], grads[2][1]) and torch.equal(found[2][1], grads[3][1])
            theirs = torch.ops.lstm_fused.variant(*own, True)
            both = torch.ops.lstm_fused.variant_backward(*grads, *own, theirs[-1], True, True)
            for a, b in zip([*results, *found[:3], *found[3]], [*theirs[:4], *both[:3], *both[3]], strict=True):
                torch.testing.assert_close(a, b)
    empty = make(Case(3, 0, 4, 5, dtype=torch.float64), **options_of(ALL))
    with simulator.running("step"):
        results = all_of(ours, empty)
        assert simulator.launches() == 0
    assert all(not t.any() for t in results)


def test_what_is_not_needed_is_not_computed(simulator: Simulator) -> None:
    own = arguments(make(Case(2, 3, 4, 5), **options_of(ALL)))
    with simulator.running("step"):
        *results, reserve = simulator.ops.variant(*own, True)
        grads = *(torch.ones_like(t) for t in results[:2]), None, None
        everything = simulator.ops.variant_backward(*grads, *own, reserve, True, True)
        no_x = simulator.ops.variant_backward(*grads, *own, reserve, False, True)
        no_weights = simulator.ops.variant_backward(*grads, *own, reserve, True, False)
    assert no_x[0].numel() == 0 and no_weights[3] == []
    assert torch.equal(no_weights[0], everything[0])
    assert all(torch.equal(a, b) for a, b in zip(no_x[3], everything[3], strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_float32_rounded_once(simulator: Simulator, dtype: torch.dtype) -> None:
    names = ALL.replace("weight_dropout", "")  # which is drawn, and rounded, in the dtype of W_hh
    call = make(Case(3, 3, 4, 9, dtype=dtype, lengths=True, proj_size=3), **options_of(names))
    with simulator.running("step"):
        for a, b in zip(all_of(ours, call), all_of(ours, call.to(torch.float32)), strict=True):
            assert a.dtype == dtype
            torch.testing.assert_close(a, b.to(dtype), rtol=0, atol=0)


def test_packed_is_padded(simulator: Simulator) -> None:
    lstm = lstm_fused.LSTM(3, 6, 2, bidirectional=True, proj_size=4, **options_of(ALL))
    lengths, input = torch.tensor([5, 3, 3, 1]), torch.randn(5, 4, 3)
    results: list[list[Tensor]] = []
    with simulator.running("step"):
        for packs in (False, True):
            torch.manual_seed(1)
            packed = torch.nn.utils.rnn.pack_padded_sequence(input, lengths)
            output, states = lstm(packed) if packs else lstm(input, lengths=lengths)
            results.append([torch.nn.utils.rnn.pad_packed_sequence(output)[0] if packs else output, *states])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("names", ["zoneout", ALL])
def test_fake_tensors_know_the_reserve(simulator: Simulator, names: str) -> None:
    """The size that a compiler is told for CUDA tensors is the one that the op allocates."""
    own = arguments(make(Case(3, 5, 4, 7, proj_size=3, lengths=True), **options_of(names)))
    with simulator.running("step"):
        real = simulator.ops.variant(*own, True)
    with FakeTensorMode():
        on_gpu = tree_map_only(torch.Tensor, lambda t: torch.empty(t.shape, dtype=t.dtype, device="cuda"), own)
        fake = torch.ops.lstm_fused.variant(*on_gpu, True)
    assert [(t.shape, t.dtype) for t in real] == [(t.shape, t.dtype) for t in fake]


@pytest.mark.parametrize("allowed", [False, True])
def test_half_types_may_use_tf32(monkeypatch: pytest.MonkeyPatch, allowed: bool) -> None:
    """It has no fewer bits than they. For float32 torch's switch decides."""
    op, seen = variant_ops._VARIANT, []
    monkeypatch.setattr(variant_ops, "_VARIANT", lambda *args: seen.append(args[-1]) or op(*args))
    monkeypatch.setattr(ops, "allows_tf32", lambda: allowed)
    for device in ("cuda", "cpu"):
        for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
            with FakeTensorMode(), torch.no_grad():
                sizes = (2, 3, 4), (1, 3, 5), (1, 3, 5), (20, 4), (20, 5)
                input, h_0, c_0, *weights = (torch.empty(size, dtype=dtype, device=device) for size in sizes)
                variants.lstm(input, h_0, c_0, weights, Options(), CellOptions(cell_clip=0.5), training=False)
    assert seen == [True, True, allowed, False] + [False] * 4


def test_what_does_not_fit_is_refused(simulator: Simulator) -> None:
    own = list(arguments(make(Case(2, 3, 4, 5), **options_of("zoneout"))))
    with simulator.running("step"):
        *_, reserve = simulator.ops.variant(*own, True)
        with pytest.raises(RuntimeError, match="reserve of a call in training has another size"):
            simulator.ops.variant_backward(None, None, None, None, *own, reserve[1:], True, True)
        with pytest.raises(RuntimeError, match="a gradient has another size"):
            simulator.ops.variant_backward(torch.ones(2, 3, 6), None, None, None, *own, reserve, True, True)
        own[2] = own[2][:2]
        with pytest.raises(RuntimeError, match="c_0 has another size"):
            simulator.ops.variant(*own, True)
