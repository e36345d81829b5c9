"""The CPU kernels of the cell's variants: any number of threads, every instruction set, tensors that lie anywhere."""

from __future__ import annotations

import pytest
import torch
from cases import Case
from instruction_sets import each_instruction_set
from torch import Tensor
from variant_loop import ALL, all_of, assert_accurate, assert_same, by_hand, make, options_of, ours

# Rows for every thread, and one row whose hidden units the threads share; past every block, panel and range of steps.
SPLITS = [
    Case(5, 17, 33, 65, bidirectional=True, lengths=True, reset=0.2),
    Case(6, 1, 40, 160, proj_size=48),
    Case(9, 70, 130, 150),
    Case(300, 3, 9, 33, reset=0.1),
    Case(6, 2, 12, 300, lengths=True),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("names", ["zoneout peephole cell_clip", ALL])
@pytest.mark.parametrize("case", SPLITS, ids=str)
def test_any_number_of_threads_gives_the_same_bits(case: Case, names: str, dtype: torch.dtype, threads):
    call = make(case.but(dtype=dtype), **options_of(names))
    results = []
    for number in (1, 2, 3, 7):
        threads(number)
        results.append(all_of(ours, call))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("number_of_threads", [1, 2])
@pytest.mark.parametrize("case", [SPLITS[1].but(seq_len=3), SPLITS[4]], ids=str)
def test_shared_units_are_right(case: Case, number_of_threads: int, threads):
    threads(number_of_threads)
    assert_same(make(case.but(dtype=torch.float64), **options_of(ALL)))


HOSTILE = [
    Case(1, 1, 1, 1),
    Case(7, 3, 17, 17, proj_size=9),
    Case(4, 15, 5, 33, bidirectional=True, lengths=True, reset=0.3),
    Case(3, 2, 9, 130, hx=False, bias=False),
    Case(1, 20, 3, 515, proj_size=1),
]


@each_instruction_set
@pytest.mark.parametrize("case", HOSTILE, ids=str)
def test_hostile_sizes(case: Case):
    options = options_of(ALL if case.bias else ALL.replace("forget_bias", ""))
    assert_same(make(case.but(dtype=torch.float64), **options))


@pytest.mark.parametrize("kernel", ["packed", "direct"])
@pytest.mark.parametrize("names", ["zoneout recurrent_dropout", "cell_clip peephole", "layer_norm zoneout", ALL])
@pytest.mark.parametrize("mode", ["gradients", "masks alone", "neither"])
@pytest.mark.parametrize(
    "case",
    [
        Case(9, 4, 7, 37, proj_size=21, lengths=True, reset=0.3, bidirectional=True),
        Case(4, 6, 20, 70, lengths=True, reset=0.3, return_cells=True),
        Case(3, 17, 5, 1024, reset=0.3),  # rows of h that meet in one set of a cache have another place besides
    ],
    ids=str,
)
def test_either_kernel(monkeypatch: pytest.MonkeyPatch, case: Case, names: str, mode: str, kernel: str):
    monkeypatch.setenv("LSTM_FUSED_KERNEL", kernel)
    call = make(case.but(dtype=torch.float64), mode != "neither", **options_of(names))
    if mode == "gradients":
        assert_same(call)
    with torch.no_grad():  # nothing is kept
        expected, found = by_hand(call), ours(call)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@each_instruction_set
@pytest.mark.parametrize("names", ["cell_clip peephole", ALL])
def test_accuracy(names: str):
    assert_accurate(Case(4, 5, 6, 37), times=6, **options_of(names))


def within_nan(tensor: Tensor, offset: int) -> Tensor:
    """The same values at an odd address, with NaN on either side."""
    flat = torch.full((tensor.numel() + offset + 70,), float("nan"), dtype=tensor.dtype)
    return flat[offset : offset + tensor.numel()].copy_(tensor.flatten()).view(tensor.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", [SPLITS[0], HOSTILE[1]], ids=str)
def test_what_lies_around_is_never_read(case: Case, dtype: torch.dtype):
    call = make(case.but(dtype=dtype), **options_of(ALL))
    expected = all_of(ours, call)
    for offset in (1, 3):
        for tensor in call.leaves():
            tensor.data = within_nan(tensor.data, offset)
        assert all(torch.equal(a, b) for a, b in zip(expected, all_of(ours, call), strict=True))


def test_memory_that_nobody_wrote_is_never_read():
    """torch fills what it allocates with NaN: results, reserve and scratch."""
    call = make(SPLITS[0], **options_of(ALL))
    expected = all_of(ours, call)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        results = all_of(ours, call)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(expected, results, strict=True))


def test_backward_twice_gives_the_same_bits():
    """What forward kept is only read."""
    call = make(SPLITS[0], **options_of(ALL))
    results = ours(call)
    grads = [torch.ones_like(t) for t in results]
    first = torch.autograd.grad(results, call.leaves(), grads, retain_graph=True)
    assert all(
        torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(results, call.leaves(), grads), strict=True)
    )


def test_results_are_the_callers():
    """Whoever changes them in place does not change what backward reads."""
    call = make(SPLITS[0], **options_of("zoneout layer_norm"))
    expected = torch.autograd.grad(sum(t.sum() for t in ours(call)), call.leaves())
    results = ours(call)
    total = sum(t.sum() for t in results)
    with torch.no_grad():
        for t in results:
            t.zero_()
    for a, b in zip(torch.autograd.grad(total, call.leaves()), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"c_0": torch.zeros(2, 6)}, "c_0 has another size"),
        ({"zoneout_h_mask": torch.zeros(4, 3, 7)}, "zoneout_h_mask has another size"),
        ({"recurrent_mask": torch.zeros(3, 6).double()}, "recurrent_mask has another size"),
        ({"weights": []}, "weights must hold"),
        ({"lengths": torch.zeros(2, dtype=torch.int64)}, "lengths has another size"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_operator_refuses_what_does_not_fit(changes: dict, says: str):
    call = {
        "x": torch.zeros(4, 3, 5), "h_0": torch.zeros(3, 6), "c_0": torch.zeros(3, 6),
        "weights": [torch.zeros(24, 5), torch.zeros(24, 6)], "reverse": False, "lengths": None, "reset": None,
        "zoneout_h_mask": None, "zoneout_c_mask": None, "recurrent_mask": None, "zoneout_h": 0.1, "zoneout_c": 0.0,
        "cell_clip": 0.0, "peephole": False, "layer_norm": False, "training": False,
    }  # fmt: skip
    with pytest.raises(RuntimeError, match=says):
        torch.ops.lstm_fused.variant(**(call | changes))


def test_opcheck():
    call = make(Case(3, 2, 4, 6, proj_size=2, lengths=True, reset=0.3), **options_of("zoneout layer_norm peephole"))
    module, (h_0, c_0) = call.module, call.hx
    weights = [getattr(module, name) for name in module._flat_weights_names]
    masks = (torch.ones(3, 2, 2), torch.zeros(3, 2, 6), torch.ones(2, 2))
    args = (call.input, h_0[0], c_0[0], weights, True, call.lengths, call.reset, *masks, 0.0, 0.0, 1.0, True, True)
    torch.library.opcheck(torch.ops.lstm_fused.variant, (*args, True), raise_exception=True)
    torch.library.opcheck(
        torch.ops.lstm_fused.variant,
        (
            *[a.detach() if isinstance(a, Tensor) else a for a in args[:3]],
            [w.detach() for w in weights],
            *args[4:],
            False,
        ),
    )
