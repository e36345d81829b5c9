"""torch.func and forward mode: the same numbers as plain autograd and finite differences give. vmap: test_vmap.py."""

from __future__ import annotations

import re

import pytest
import torch
from cases import Case
from functions import SEVERAL, SMALL, as_function, as_plain_function, sum_of_squares
from torch import func
from torch.autograd import forward_ad

import lstm_fused

RICH = SMALL.but(num_layers=2, bidirectional=True, reset=0.4, return_cells=True)


def functions_and_inputs(case: Case):
    """Ours, the same in torch's own operations, and what to call them with."""
    ours, inputs = as_function(case)
    return ours, as_plain_function(case), tuple(t.detach().to(case.device) for t in inputs)


# ---- derivatives


@pytest.mark.parametrize("case", [SMALL, RICH], ids=str)
@pytest.mark.parametrize("transform", ["grad", "vjp", "jacrev", "jvp", "jacfwd"])
def test_first_derivatives(transform: str, case: Case, device: str):
    ours, plain, inputs = functions_and_inputs(case.but(device=device))
    everything = tuple(range(len(inputs)))
    results = []
    for function in (ours, plain):
        if transform == "grad":
            results.append(func.grad(sum_of_squares(function), everything)(*inputs))
        elif transform == "vjp":
            values, pullback = func.vjp(function, *inputs)
            results.append(pullback(tuple(torch.ones_like(v) for v in values)))
        elif transform == "jvp":
            results.append(func.jvp(function, inputs, tuple(t.cos() for t in inputs)))
        else:
            results.append(getattr(func, transform)(function, everything)(*inputs))
    torch.testing.assert_close(*results)


def test_linearize():
    ours, _, inputs = functions_and_inputs(SMALL)
    tangents = tuple(t.cos() for t in inputs)
    values, pushforward = func.linearize(ours, *inputs)
    torch.testing.assert_close((values, pushforward(*tangents)), func.jvp(ours, inputs, tangents))


@pytest.mark.parametrize("outer", [func.jacfwd, func.jacrev])
@pytest.mark.parametrize("inner", [func.jacfwd, func.jacrev])
def test_hessian(outer, inner, device: str):
    """All four ways to it; torch.func.hessian is jacfwd of jacrev."""
    ours, plain, inputs = functions_and_inputs(Case(2, 1, 2, 1, dtype=torch.float64, device=device))
    everything = tuple(range(len(inputs)))
    exact = torch.autograd.functional.hessian(sum_of_squares(plain), inputs)
    torch.testing.assert_close(outer(inner(sum_of_squares(ours), everything), everything)(*inputs), exact)


@pytest.mark.parametrize("options", SEVERAL, ids=str)
def test_forward_mode_against_finite_differences(options: dict, device: str):
    function, inputs = as_function(SMALL.but(device=device, **options))
    modes = {
        "check_forward_ad": True,
        "check_batched_forward_grad": not options.get("dropout"),
    }  # it takes no generator
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True, check_batched_grad=True, **modes)


def test_forward_over_reverse_against_finite_differences(device: str):
    function, inputs = as_function(SMALL.but(device=device, bidirectional=True))
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True, check_fwd_over_rev=True)


def test_dual_tensors(device: str):
    """One tensor with a tangent is enough, and a parameter that is trained does not stand in the way."""
    ours, plain, inputs = functions_and_inputs(RICH.but(device=device))
    for carrier in (0, 1, 2, 3):
        tangent = inputs[carrier].cos()
        exact = func.jvp(lambda t, n=carrier: plain(*inputs[:n], t, *inputs[n + 1 :]), (inputs[carrier],), (tangent,))[
            1
        ]
        with forward_ad.dual_level():
            duals = [t.clone().requires_grad_() for t in inputs]
            duals[carrier] = forward_ad.make_dual(duals[carrier], tangent)
            results = [forward_ad.unpack_dual(result) for result in ours(*duals)]
            torch.testing.assert_close([r.tangent.detach() for r in results], list(exact))
            assert all(r.primal.requires_grad for r in results)


def test_a_graph_from_outside_takes_tangents(device: str):
    """A cotangent may be a dual tensor even where the forward call knew nothing of it."""
    ours, plain, inputs = functions_and_inputs(SMALL.but(device=device))
    results = []
    for function in (ours, plain):
        values, pullback = func.vjp(function, *inputs)
        ones = tuple(torch.ones_like(v) for v in values)
        results.append(func.jvp(pullback, (ones,), (tuple(v.cos() for v in values),)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_in_forward_mode(dtype: torch.dtype, device: str):
    """Computed in float32: one rounding away from the kernels' result, and the tangent as close to float64's."""
    case = Case(20, 4, 5, 7, num_layers=2, dtype=dtype, device=device)
    ours, inputs = as_function(case)
    inputs = tuple(t.detach() for t in inputs)
    plain = as_plain_function(case)
    tangents = tuple(t.cos() for t in inputs)
    values, actual = func.jvp(ours, inputs, tangents)
    exact_values, exact = func.jvp(plain, *(tuple(t.double() for t in side) for side in (inputs, tangents)))
    epsilon = torch.finfo(dtype).eps
    for a, b in zip((*values, *actual), (*exact_values, *exact), strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=epsilon, atol=epsilon / 8 * float(b.abs().max()))


def test_under_autocast(device: str):
    """Forward mode follows the autocast rule of the kernels: bfloat16 in and out."""
    module = lstm_fused.LSTM(4, 6, device=device)
    input = torch.randn(5, 3, 4, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        expected = module(input)[0]
        output, tangent = func.jvp(lambda x: module(x)[0], (input,), (torch.ones_like(input),))
    exact = func.jvp(lambda x: module(x)[0], (input,), (torch.ones_like(input),))[1]
    assert output.dtype == tangent.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(tangent.float(), exact, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("trained", [True, False])
def test_compiled_code_drops_no_tangents(trained: bool):
    """Right, or refused by torch: a function that trains always is ("jvp"), since 2.14 any ("wrap a dual tensor")."""
    torch._dynamo.reset()
    module = lstm_fused.LSTM(3, 4).requires_grad_(trained)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    input = torch.randn(5, 2, 3)
    compiled(input)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(input, torch.ones_like(input))
        try:
            tangents = [forward_ad.unpack_dual(m(dual)[0]).tangent for m in (module, compiled)]
        except (NotImplementedError, torch._dynamo.exc.Unsupported) as refusal:
            assert re.search("jvp" if isinstance(refusal, NotImplementedError) else "dual tensor", str(refusal))
        else:
            torch.testing.assert_close(*tangents)
            assert tangents[0].abs().sum() > 0


@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap"])
def test_transforms_inside_compiled_code(transform: str):
    torch._dynamo.reset()
    module = lstm_fused.LSTM(3, 4)
    input = torch.randn(2, 2, 3)  # tracing unrolls time

    def function(input):
        if transform == "grad":
            return func.grad(lambda x: module(x)[0].square().sum())(input)
        if transform == "jvp":
            return func.jvp(lambda x: module(x)[0], (input,), (torch.ones_like(input),))[1]
        return func.vmap(lambda x: module(x)[0], in_dims=1, out_dims=1)(input)

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(input), function(input))


# ---- what others build on these


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("place", range(4))
def test_an_operator_called_by_hand_refuses_tangents(place: int, trained: bool, device: str):
    """Its registered formula would drop them. Without one, forward mode around the call changes nothing."""
    tensors = [torch.randn(*shape, device=device) for shape in ((6, 3, 4), (1, 3, 5), (1, 3, 5), (20, 4), (20, 5))]
    if trained:
        tensors[3].requires_grad_()
    options = (False, None, None, None, True, False, False)

    def call(*tensors):
        return torch.ops.lstm_fused.forward(*tensors[:3], tensors[3:], *options)

    output, *_, reserve = exact = call(*tensors)
    with forward_ad.dual_level():
        assert all(map(torch.equal, call(*tensors), exact))
        dual = forward_ad.make_dual(tensors[place], torch.ones_like(tensors[place]))
        tensors[place] = dual
        with pytest.raises(NotImplementedError, match=r"lstm_fused\.forward has no forward-mode derivative"):
            call(*tensors)
        with pytest.raises(NotImplementedError, match=r"lstm_fused\.backward has no forward-mode derivative"):
            torch.ops.lstm_fused.backward(
                output, None, None, None, *tensors[:3], tensors[3:], *options[:4], reserve, True, True, False
            )


def test_an_operator_called_by_hand_refuses_transforms():
    tensors = [torch.randn(*shape) for shape in ((6, 3, 4), (1, 3, 5), (1, 3, 5), (20, 4), (20, 5))]

    def call(input):
        options = (False, None, None, None, False, False, False)
        return torch.ops.lstm_fused.forward(input, *tensors[1:3], tensors[3:], *options)[0]

    for transform in (lambda: func.jvp(call, (tensors[0],), (tensors[0],)), lambda: func.jacfwd(call)(tensors[0])):
        with pytest.raises(NotImplementedError, match="forward-mode"):
            transform()


def test_vectorized_jacobians_and_hessians():
    """torch.autograd.functional batches in a way of its own."""
    function, inputs = as_function(Case(2, 1, 2, 1, dtype=torch.float64))
    jacobian, hessian = torch.autograd.functional.jacobian, torch.autograd.functional.hessian
    inputs = tuple(t.detach() for t in inputs)
    exact = jacobian(as_plain_function(Case(2, 1, 2, 1, dtype=torch.float64)), inputs)
    for strategy in ("reverse-mode", "forward-mode"):
        torch.testing.assert_close(jacobian(function, inputs, vectorize=True, strategy=strategy), exact)
    scalar = sum_of_squares(function)
    exact = hessian(scalar, inputs)
    for strategy in ("reverse-mode", "forward-mode"):
        torch.testing.assert_close(hessian(scalar, inputs, vectorize=True, outer_jacobian_strategy=strategy), exact)


def test_functionalize():
    module, input = lstm_fused.LSTM(3, 4), torch.randn(5, 2, 3)
    output = func.functionalize(lambda x: module(x)[0])(input)
    assert torch.equal(output, module(input)[0])
    wanted = list(module.parameters())
    for a, b in zip(*(torch.autograd.grad(o.square().sum(), wanted) for o in (output, module(input)[0])), strict=True):
        torch.testing.assert_close(a, b)
