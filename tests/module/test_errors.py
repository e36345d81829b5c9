"""Bad calls: torch.nn.LSTM's own errors where it has them; for the new arguments, the name, the wish and the fact."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import lstm_fused

X = torch.zeros(6, 3, 4)
PACKED = pack_sequence([torch.zeros(6, 4), torch.zeros(2, 4)])


def zeros(*sizes: int) -> torch.Tensor:
    return torch.zeros(sizes)


def error_of(function) -> Exception:
    with pytest.raises(Exception) as caught:
        function()
    return caught.value


BAD_CONSTRUCTIONS: list[tuple[tuple, dict]] = [
    ((0, 5), {}),
    ((4, 0), {}),
    ((-4, 5), {}),
    ((4, -5), {}),
    ((4.0, 5), {}),
    ((4, 5.0), {}),
    (("4", 5), {}),
    ((4, 5), {"num_layers": 0}),
    ((4, 5), {"num_layers": -1}),
    ((4, 5), {"bias": 1}),
    ((4, 5), {"bias": None}),
    ((4, 5), {"batch_first": 0}),
    ((4, 5), {"dropout": -0.1}),
    ((4, 5), {"dropout": 1.5}),
    ((4, 5), {"dropout": True}),
    ((4, 5), {"proj_size": -1}),
    ((4, 5), {"proj_size": 5}),
    ((4, 5), {"proj_size": 9}),
    ((4, 5), {"dropout": "much"}),
]


# torch 2.10 lets these pass, to fail in the call if at all; ours are refused as by later ones.
LATELY_REFUSED = {
    "input_size": (ValueError, "input_size must be greater than zero"),
    "bias": (TypeError, "bias should be of type bool, got: "),
    "batch_first": (TypeError, "batch_first should be of type bool, got: "),
}


@pytest.mark.parametrize(("args", "options"), BAD_CONSTRUCTIONS, ids=str)
def test_construction(args: tuple, options: dict):
    ours = error_of(lambda: lstm_fused.LSTM(*args, **options))
    try:
        nn.LSTM(*args, **options)
    except Exception as theirs:
        assert type(ours) is type(theirs) and str(ours) == str(theirs)
    else:
        kind, text = LATELY_REFUSED[next(iter(options), "input_size")]
        assert type(ours) is kind and str(ours).startswith(text)


@pytest.mark.parametrize(("args", "options"), [((), {}), ((4,), {}), ((4, 5), {"gates": 4})], ids=str)
def test_construction_with_missing_or_unknown_arguments(args: tuple, options: dict):
    for cls in (lstm_fused.LSTM, nn.LSTM, lstm_fused.LSTMCell, nn.LSTMCell):
        with pytest.raises(TypeError, match="argument"):
            cls(*args, **options)


def test_dropout_with_one_layer_warns():
    messages = []
    for cls in (lstm_fused.LSTM, nn.LSTM):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cls(4, 5, dropout=0.5)
        messages.append([(w.category, str(w.message)) for w in caught])
    assert messages[0] == messages[1] and len(messages[0]) == 1


BAD_CALLS: dict[str, tuple[dict, tuple]] = {
    "1-D": ({}, (zeros(4),)),
    "4-D": ({}, (zeros(2, 6, 3, 4),)),
    "0-D": ({}, (zeros(),)),
    "width": ({}, (zeros(6, 3, 5),)),
    "width, unbatched": ({}, (zeros(6, 5),)),
    "double": ({}, (X.double(),)),
    "long": ({}, (X.long(),)),
    "bfloat16": ({}, (X.bfloat16(),)),
    "no steps": ({}, (zeros(0, 3, 4),)),
    "no steps, batch_first": ({"batch_first": True}, (zeros(3, 0, 4),)),
    "no steps, unbatched": ({}, (zeros(0, 4),)),
    "h batch": ({}, (X, (zeros(1, 2, 5), zeros(1, 3, 5)))),
    "c batch": ({}, (X, (zeros(1, 3, 5), zeros(1, 2, 5)))),
    "h width": ({}, (X, (zeros(1, 3, 4), zeros(1, 3, 5)))),
    "c width": ({}, (X, (zeros(1, 3, 5), zeros(1, 3, 6)))),
    "h layers": ({"num_layers": 2}, (X, (zeros(1, 3, 5), zeros(2, 3, 5)))),
    "c directions": ({"bidirectional": True}, (X, (zeros(2, 3, 5), zeros(1, 3, 5)))),
    "h unprojected": ({"proj_size": 2}, (X, (zeros(1, 3, 5), zeros(1, 3, 5)))),
    "c projected": ({"proj_size": 2}, (X, (zeros(1, 3, 2), zeros(1, 3, 2)))),
    "hx batch_first": ({"batch_first": True}, (X, (zeros(6, 1, 5), zeros(6, 1, 5)))),
    "hx 2-D": ({}, (X, (zeros(1, 5), zeros(1, 5)))),
    "hx mixed": ({}, (X, (zeros(1, 3, 5), zeros(1, 5)))),
    "hx 3-D, unbatched": ({}, (zeros(6, 4), (zeros(1, 1, 5), zeros(1, 1, 5)))),
    "hx size, unbatched": ({}, (zeros(6, 4), (zeros(1, 4), zeros(1, 5)))),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", BAD_CALLS)
def test_call(name: str, grad: bool):
    """Without gradients the operator may see a call first; what it refuses is said as always."""
    options, args = BAD_CALLS[name]
    with torch.set_grad_enabled(grad):
        ours, theirs = (error_of(lambda cls=cls: cls(4, 5, **options)(*args)) for cls in (lstm_fused.LSTM, nn.LSTM))
    assert type(ours) is type(theirs)
    if str(theirs).startswith("input must have the type"):  # torch 2.10; ours says what to do about it, as later ones
        assert str(ours).startswith(f"RNN input dtype ({args[0].dtype}) does not match weight dtype (torch.float32)")
    else:
        assert str(ours) == str(theirs)


BAD_DEEP_CALLS: dict[str, tuple] = {
    "nothing": (None,),
    "hx double": (X, (zeros(1, 3, 5).double(), zeros(1, 3, 5).double())),
    "packed width": (PACKED._replace(data=zeros(8, 5)),),
    "packed double": (PACKED._replace(data=zeros(8, 4).double()),),
    "packed hx batch": (PACKED, (zeros(1, 3, 5), zeros(1, 3, 5))),
    "packed hx width": (PACKED, (zeros(1, 2, 4), zeros(1, 2, 5))),
    "one state": (X, (zeros(1, 3, 5),)),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", BAD_DEEP_CALLS)
def test_call_that_torch_refuses_deep_inside(name: str, grad: bool):
    """torch's messages there speak of its internals; only the type is shared."""
    args = BAD_DEEP_CALLS[name]
    with torch.set_grad_enabled(grad):
        ours, theirs = (error_of(lambda cls=cls: cls(4, 5)(*args)) for cls in (lstm_fused.LSTM, nn.LSTM))
    assert type(ours) is type(theirs) and str(ours)


RESET, LENGTHS = torch.zeros(6, 3, dtype=torch.bool), torch.tensor([6, 1, 2])
BAD_EXTRAS: dict[str, tuple[dict, tuple, dict, str]] = {
    "lengths too few": ({}, (X,), {"lengths": LENGTHS[:2]}, r"lengths.*3.*2"),
    "lengths 2-D": ({}, (X,), {"lengths": LENGTHS[None]}, r"lengths.*3.*1, 3"),
    "lengths float": ({}, (X,), {"lengths": LENGTHS.float()}, r"lengths.*int.*float32"),
    "lengths bool": ({}, (X,), {"lengths": LENGTHS > 1}, r"lengths.*int.*bool"),
    "lengths list": ({}, (X,), {"lengths": [6, 1, 2]}, r"lengths.*tensor.*list"),
    "lengths 0": ({}, (X,), {"lengths": torch.tensor([6, 0, 2])}, r"lengths.*1.*6.*0"),
    "lengths 7": ({}, (X,), {"lengths": torch.tensor([7, 1, 2])}, r"lengths.*1.*6.*7"),
    "lengths of T": ({"batch_first": True}, (X,), {"lengths": LENGTHS}, r"lengths.*6.*3"),
    "lengths, packed": ({}, (PACKED,), {"lengths": LENGTHS[:2]}, r"lengths.*PackedSequence"),
    "reset long": ({}, (X,), {"reset": RESET.long()}, r"reset.*bool.*int64"),
    "reset list": ({}, (X,), {"reset": RESET.tolist()}, r"reset.*tensor.*list"),
    "reset 1-D": ({}, (X,), {"reset": RESET[:, 0]}, r"reset.*6, 3.*6"),
    "reset transposed": ({}, (X,), {"reset": RESET.t()}, r"reset.*6, 3.*3, 6"),
    "reset batch_first": ({"batch_first": True}, (X,), {"reset": RESET.t()}, r"reset.*6, 3.*3, 6"),
    "reset unbatched": ({}, (X[:, 0],), {"reset": RESET}, r"reset.*6.*6, 3"),
    "reset short": ({}, (X,), {"reset": RESET[1:]}, r"reset.*6, 3.*5, 3"),
    "reset device": ({}, (X,), {"reset": RESET.to("meta")}, r"reset.*cpu.*meta"),
}


@pytest.mark.parametrize("name", BAD_EXTRAS)
def test_extras(name: str):
    """The message names the argument, then what was expected, then what came."""
    options, args, extras, message = BAD_EXTRAS[name]
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        lstm_fused.LSTM(4, 5, **options)(*args, **extras)


def test_extras_are_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        lstm_fused.LSTM(4, 5)(X, None, LENGTHS)
    with pytest.raises(TypeError, match="masks"):
        lstm_fused.LSTM(4, 5)(X, masks=RESET)


@pytest.mark.parametrize("grad", [True, False])
def test_weights_of_the_stateless_form(grad: bool):
    """Shapes, number and dtype of weights are checked: a wrong list never reaches a kernel."""
    good = [torch.zeros(20, 4), torch.zeros(20, 5), torch.zeros(20), torch.zeros(20)]
    lstm_fused.functional.lstm(X, None, good)
    bad = [
        [],
        good[:3],
        good[:2],
        [torch.zeros(19, 4), *good[1:]],
        [good[0], torch.zeros(20, 6), *good[2:]],
        [*good[:3], torch.zeros(21)],
        [*good[:3], good[3].double()],
        [*good[:2], torch.zeros(20, 1), good[3]],
        [torch.zeros(20, 0), *good[1:]],
        [torch.zeros(0, 4), torch.zeros(0, 0), torch.zeros(0), torch.zeros(0)],
    ]
    for weights in bad:
        with torch.set_grad_enabled(grad), pytest.raises((TypeError, ValueError, RuntimeError), match="weights"):
            lstm_fused.functional.lstm(X[:, :, : weights[0].size(1)] if weights else X, None, weights)
