"""lstm_fused.keras.LSTM beside keras.layers.LSTM on the torch backend: every option, mask and gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from keras_results import MASKS, Results, compute, make_mask, pair

from lstm_fused.keras import LSTM

pytestmark = pytest.mark.filterwarnings("error:lstm_fused")  # none of these runs in Keras's loop


@pytest.fixture(autouse=True, scope="module")
def exact_products() -> Iterator[None]:
    """keras.ops.matmul computes the products of float64 in float32."""
    of_keras = keras.src.ops.matmul
    keras.src.ops.matmul = lambda a, b: torch.matmul(a, b) if a.dtype == torch.float64 else of_keras(a, b)
    yield
    keras.src.ops.matmul = of_keras


def assert_same(ours: Results, theirs: Results) -> None:
    """In float64, where both round alike but for the order of sums."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape and ours[name].dtype == expected.dtype, name
        scale = max(float(expected.abs().max()) if expected.numel() else 0.0, 1e-3)
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=2e-13 * scale, msg=lambda m: f"{name}: {m}")  # noqa: B023


SIZES = {
    "batch": st.sampled_from([1, 2, 5, 17]),
    "steps": st.sampled_from([1, 2, 3, 9, 33]),
    "width": st.sampled_from([1, 3, 8, 19]),
    "units": st.sampled_from([1, 2, 7, 16, 33]),
}
FLAGS = ("return_sequences", "return_state", "go_backwards", "use_bias", "zero_output_for_mask", "unroll", "stateful")


@settings(max_examples=60)
@given(
    sizes=st.fixed_dictionaries(SIZES),
    options=st.fixed_dictionaries({name: st.booleans() for name in FLAGS}),
    dropout=st.sampled_from([0.0, 0.4]),
    mask=st.sampled_from(MASKS),
    call=st.fixed_dictionaries({"training": st.booleans()}),
    given_states=st.booleans(),
)
def test_every_option(
    sizes: dict[str, int],
    options: dict[str, Any],
    dropout: float,
    mask: str,
    call: dict[str, Any],
    given_states: bool,
) -> None:
    # What Keras cannot do: flip the mask of an unrolled loop, and train a stateful layer outside of its slower loop.
    assume(not (options["unroll"] and options["go_backwards"] and mask != "none"))
    torch.manual_seed(0)
    batch, steps, width, units = sizes.values()
    x = torch.randn(batch, steps, width, dtype=torch.float64)
    states = [torch.randn(batch, units, dtype=torch.float64) for _ in range(2)] if given_states else None
    call = {**call, "mask": make_mask(mask, batch, steps)}
    options |= {"dropout": dropout, "dtype": "float64", "use_cudnn": False if options["stateful"] else "auto"}
    layers = pair(units, x.shape, **options)
    for _ in range(2):  # a stateful layer goes on, and the next dropout mask is another one
        theirs, ours = (compute(layer, x, states, **call) for layer in layers)
        assert_same(ours, theirs)


@pytest.mark.parametrize("mask", ["none", "right", "left", "holes", "empty rows"])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("merge_mode", ["concat", "sum", "ave", "mul", None])
def test_bidirectional(merge_mode: str | None, return_sequences: bool, mask: str) -> None:
    x, options = torch.randn(5, 9, 3, dtype=torch.float64), {"return_state": True, "return_sequences": return_sequences}
    wrap = lambda layer: keras.layers.Bidirectional(layer, merge_mode=merge_mode, dtype="float64")  # noqa: E731
    layers = pair(7, x.shape, wrap, dtype="float64", **options)
    assert type(layers[1].forward_layer) is type(layers[1].backward_layer) is LSTM
    states = [torch.randn(5, 7, dtype=torch.float64) for _ in range(4)]
    call = {"mask": make_mask(mask, 5, 9)}
    theirs, ours = (compute(layer, x, states, **call) for layer in layers)
    assert_same(ours, theirs)


def test_forms_of_masks() -> None:
    x, mask = torch.randn(4, 6, 3, dtype=torch.float64), make_mask("holes", 4, 6)
    theirs, ours = pair(5, x.shape, dtype="float64", return_sequences=True)
    expected = compute(theirs, x, mask=mask)
    for form in (mask.int(), mask.double(), mask.numpy(), mask.unsqueeze(-1)):
        assert_same(compute(ours, x, mask=form), expected)


def test_a_nan_in_a_masked_step_reaches_nothing() -> None:
    x, mask = torch.randn(4, 6, 3, dtype=torch.float64), make_mask("empty rows", 4, 6)
    _, ours = pair(5, x.shape, dtype="float64", return_sequences=True, return_state=True)
    clean = compute(ours, x, mask=mask)
    assert_same(compute(ours, x.masked_fill(~mask.unsqueeze(-1), float("nan")), mask=mask), clean)


@pytest.mark.parametrize("mask", ["none", "holes"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_error_at_most_twice_that_of_keras(dtype: str, mask: str) -> None:
    """Against float64, of each output and gradient: the root of the mean square, and one rounding of the largest."""
    x = torch.randn(16, 20, 24).to(torch.bfloat16).double()
    exact, _ = pair(32, x.shape, dtype="float64", return_sequences=True, return_state=True)
    layers = pair(32, x.shape, dtype=dtype, return_sequences=True, return_state=True)
    for layer in (exact, *layers):  # weights that all of these dtypes hold
        layer.set_weights([w.value.detach().to(torch.bfloat16).double() for w in exact.weights])
    x = x.to(getattr(torch, layers[0].variable_dtype))
    call = {"mask": make_mask(mask, 16, 20)}
    reference, theirs, ours = (compute(layer, x, **call) for layer in (exact, *layers))
    for name, expected in reference.items():
        assert ours[name].dtype == theirs[name].dtype, name
        errors = [float((r[name].double() - expected).square().mean().sqrt()) for r in (ours, theirs)]
        rounding = torch.finfo(getattr(torch, layers[0].compute_dtype)).eps / 2 * float(expected.abs().max())
        assert errors[0] <= 2 * errors[1] + rounding, name


def test_what_keras_cannot() -> None:
    """docs/keras.md names it: train a stateful layer, and flip the mask of an unrolled loop."""
    x, mask = torch.randn(4, 6, 3, dtype=torch.float64), make_mask("holes", 4, 6)
    theirs, ours = pair(5, x.shape, dtype="float64", stateful=True)
    exact, _ = pair(5, x.shape, dtype="float64", stateful=True, use_cudnn=False)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        compute(theirs, x)
    for _ in range(2):
        assert_same(compute(ours, x), compute(exact, x))
    theirs, ours = pair(5, x.shape, dtype="float64", unroll=True, go_backwards=True)
    rolled, _ = pair(5, x.shape, dtype="float64", go_backwards=True)
    with pytest.raises(AttributeError, match="'tuple' object has no attribute 'shape'"):
        compute(theirs, x, mask=mask)
    assert_same(compute(ours, x, mask=mask), compute(rolled, x, mask=mask))


def test_keras_multiplies_float64_in_float32() -> None:
    a, b = torch.randn(4, 4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    product = keras.src.backend.numpy.matmul(a, b)
    assert 1e-10 < (product - a @ b).abs().max() < 1e-5


def test_compiled() -> None:
    x, mask = torch.randn(4, 6, 3), make_mask("holes", 4, 6)
    _, ours = pair(5, x.shape, return_sequences=True)
    compiled = torch.compile(lambda x, mask: ours(x, mask=mask))
    torch.testing.assert_close(compiled(x, mask), ours(x, mask=mask))
