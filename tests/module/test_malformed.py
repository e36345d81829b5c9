"""PackedSequences that are none, and states of a wrong kind: refused where torch.nn.LSTM refuses them, as it does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils._pytree import tree_leaves

import lstm_fused

ROWS = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))


class States(NamedTuple):
    h: Tensor
    c: Tensor


def sizes(*values: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def outcomes(call: Callable[[nn.Module], Any]) -> list[Any]:
    """What ours and torch's, of the same weights, return or raise."""
    ours, theirs = lstm_fused.LSTM(4, 5), nn.LSTM(4, 5)
    ours.load_state_dict(theirs.state_dict())
    results: list[Any] = []
    for module in (ours, theirs):
        try:
            results.append(call(module))
        except Exception as error:
            results.append(error)
    return results


def assert_alike(ours: Any, theirs: Any) -> None:
    if isinstance(ours, Exception) or isinstance(theirs, Exception):
        assert type(ours) is type(theirs) and str(ours), (ours, theirs)
    else:
        torch.testing.assert_close(tree_leaves(ours), tree_leaves(theirs))


MALFORMED: dict[str, Any] = {
    "goes up": sizes(3, 1, 3),
    "goes up at once": sizes(1, 3, 3),
    "goes up at the end": sizes(3, 1, 1, 2),
    "zero between": sizes(4, 0, 3),
    "zero first": sizes(0, 4, 3),
    "zero last": sizes(4, 3, 0),
    "zeros": sizes(0, 0, 0),
    "negative": sizes(4, 4, -1),
    "negative first": sizes(-1, 4, 4),
    "empty": sizes(),
    "too many": sizes(3, 3, 3),
    "too few": sizes(3, 3),
    "overflowing": sizes(2**62, 2**62, 2**62, 2**62 + 7),
    "int32": sizes(3, 3, 1, dtype=torch.int32),
    "uint8": sizes(3, 3, 1, dtype=torch.uint8),
    "bool": sizes(1, 1, 1, 1, 1, 1, 1, dtype=torch.bool),
    "float32": sizes(3, 3, 1, dtype=torch.float32),
    "float64": sizes(3, 3, 1, dtype=torch.float64),
    "meta": sizes(3, 3, 1).to("meta"),
    "0-D": torch.tensor(7),
    "a row": sizes(3, 3, 1)[None],
    "a column": sizes(3, 3, 1)[:, None],
    "list": [3, 3, 1],
    "None": None,
}
TORCH_RUNS = ["zero last", "a column", "goes up at once"]  # the last with hx, and returns nine rows
if torch.__version__ < (2, 13):
    TORCH_RUNS += ["zeros", "too few", "a row"]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("name", MALFORMED)
def test_batch_sizes(name: str, with_hx: bool, grad: bool) -> None:
    packed = pack_sequence([ROWS[:3], ROWS[3:5], ROWS[5:]])._replace(batch_sizes=MALFORMED[name])
    hx = (torch.randn(1, 3, 5), torch.randn(1, 3, 5)) if with_hx else None
    with torch.set_grad_enabled(grad):
        ours, theirs = outcomes(lambda module: module(packed, hx))
    assert isinstance(ours, Exception) and "lstm_fused" not in str(ours)
    assert type(ours) is type(theirs) or name in TORCH_RUNS, (ours, theirs)


def test_every_other_step_of_a_tensor() -> None:
    """Values are what counts, not where they lie."""
    packed = pack_sequence([ROWS[:3], ROWS[3:5], ROWS[5:]])
    strided = packed._replace(batch_sizes=torch.tensor([3, 0, 3, 0, 1])[::2])
    module = lstm_fused.LSTM(4, 5)
    assert torch.equal(module(strided)[0].data, module(packed)[0].data)


DATA: dict[str, Tensor] = {
    "0-D": ROWS[0, 0],
    "1-D": ROWS[:, 0],
    "3-D": ROWS[:, None],
    "no rows": ROWS[:0],
    "wide": torch.randn(7, 5),
    "long": ROWS.long(),
    "double": ROWS.double(),
    "meta": ROWS.to("meta"),
}


@pytest.mark.parametrize("name", DATA)
def test_data(name: str) -> None:
    packed = pack_sequence([ROWS[:3], ROWS[3:5], ROWS[5:]])._replace(data=DATA[name])
    ours, theirs = outcomes(lambda module: module(packed))
    assert isinstance(ours, Exception) and type(ours) is type(theirs)


INDICES: dict[str, Any] = {
    "short": sizes(0, 1),
    "long": sizes(0, 1, 2, 2),
    "twice": sizes(0, 1, 1),
    "out of range": sizes(0, 1, 3),
    "negative": sizes(0, 1, -1),
    "2-D": sizes(0, 1, 2)[None],
    "int32": sizes(2, 0, 1, dtype=torch.int32),
    "int16": sizes(0, 1, 2, dtype=torch.int16),
    "float": sizes(0, 1, 2, dtype=torch.float32),
    "bool": sizes(0, 1, 1, dtype=torch.bool),
    "list": [0, 1, 2],
    "None": None,
    "no inverse": sizes(2, 0, 1),
}


@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("which", ["sorted_indices", "unsorted_indices"])
@pytest.mark.parametrize("name", INDICES)
def test_indices(name: str, which: str, with_hx: bool) -> None:
    """torch selects rows of the states by them, whatever they are, and looks no further."""
    packed = pack_sequence([ROWS[:1], ROWS[1:4], ROWS[4:]], enforce_sorted=False)._replace(**{which: INDICES[name]})
    hx = (torch.randn(1, 3, 5), torch.randn(1, 3, 5)) if with_hx else None

    def call(module: nn.Module) -> Any:
        output, states = module(packed, hx)
        return output.data, states

    assert_alike(*outcomes(call))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(backend: str) -> None:
    module = lstm_fused.LSTM(4, 5)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=backend)

    def call(batch_sizes: Tensor, *hx: Tensor) -> Tensor:
        return compiled(PackedSequence(ROWS, batch_sizes), hx or None)[0].data

    assert torch.allclose(call(sizes(4, 2, 1)), module(PackedSequence(ROWS, sizes(4, 2, 1)))[0].data)
    for name in ("goes up", "zero between", "zero last", "negative", "too many", "too few"):
        with pytest.raises(RuntimeError, match="batch_sizes"):
            call(MALFORMED[name])
        with pytest.raises(RuntimeError, match="batch_sizes"):
            call(MALFORMED[name], torch.randn(1, 4, 5), torch.randn(1, 4, 5))


H, C = torch.randn(2, 1, 3, 5, generator=torch.Generator().manual_seed(2))
KINDS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda h, c: (h, c),
    "list": lambda h, c: [h, c],
    "named tuple": States,
    "no c": lambda h, c: (h, None),
    "no h": lambda h, c: (None, c),
    "neither": lambda h, c: (None, None),
    "no c in a list": lambda h, c: [h, None],
    "three": lambda h, c: (h, c, c),
    "one": lambda h, c: (h,),
    "none": lambda h, c: (),
    "tensor": lambda h, c: torch.stack([h, c]),
    "tensor of three": lambda h, c: torch.stack([h, c, c]),
    "h": lambda h, c: h,
    "string": lambda h, c: "hc",
    "strings": lambda h, c: ("h", "c"),
    "dictionary": lambda h, c: {0: h, 1: c},
    "dictionary of names": lambda h, c: {"h": h, "c": c},
    "generator": lambda h, c: (state for state in (h, c)),
    "deque": lambda h, c: deque([h, c]),
    "numbers": lambda h, c: (0.0, 0.0),
    "arrays": lambda h, c: (h.numpy(), c.numpy()),
    "lists": lambda h, c: (h.tolist(), c.tolist()),
    "nested": lambda h, c: ((h, c), (h, c)),
    "number": lambda h, c: 0,
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("form", ["padded", "unbatched", "packed", "packed in another order"])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_hx(kind: str, form: str, grad: bool) -> None:
    """Taken or refused as torch does in this form; so in every grad mode the same."""
    input: Any = torch.randn(6, 3, 4)
    h, c = H, C
    if form == "unbatched":
        input, h, c = input[:, 0], H[:, 0], C[:, 0]
    elif form == "packed":
        input = pack_sequence([ROWS[:3], ROWS[3:5], ROWS[5:]])
    elif form == "packed in another order":
        input = pack_sequence([ROWS[:1], ROWS[1:4], ROWS[4:]], enforce_sorted=False)

    def call(module: nn.Module) -> Any:
        with torch.set_grad_enabled(grad):
            output, states = module(input, KINDS[kind](h, c))
        return output.data, states

    assert_alike(*outcomes(call))
