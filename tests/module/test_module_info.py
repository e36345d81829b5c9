"""PyTorch's own description of torch.nn.LSTM and torch.nn.LSTMCell (its ModuleInfo), put to ours.

torch ships the samples, the errors and the reference functions (torch.testing._internal.common_modules), but not the
tests that use them (test/test_modules.py, whose names the tests here have). Which of those there are is in
docs/pytorch.md.
"""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch.testing._internal.common_modules import ModuleErrorEnum, ModuleInfo, module_db

import lstm_fused

OURS = {torch.nn.LSTM: lstm_fused.LSTM, torch.nn.LSTMCell: lstm_fused.LSTMCell}


def entry(theirs: type) -> ModuleInfo:
    """torch's entry with our class, and without the failures that torch expects of its own."""
    (found,) = (info for info in module_db if info.module_cls is theirs)
    info = copy.copy(found)
    info.module_cls, info.decorators = OURS[theirs], []
    return info


INFOS = [entry(theirs) for theirs in OURS]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
infos = pytest.mark.parametrize("info", INFOS, ids=lambda info: info.module_cls.__name__)


def samples(info: ModuleInfo, device: str = "cpu", dtype=torch.float64, requires_grad=False, training=True):
    """Each sample: a module in place, and the arguments of its call."""
    options = {"device": device, "dtype": dtype, "requires_grad": requires_grad, "training": training}
    found = info.module_inputs_func(info, **options)
    assert found
    for sample in found:
        construction, call = sample.constructor_input, sample.forward_input
        module = info.module_cls(*construction.args, **construction.kwargs).to(device, dtype).train(training)
        yield sample, module, call.args, call.kwargs


def tensors_in(value) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


@infos
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward(info: ModuleInfo, dtype: torch.dtype, training: bool, device: str):
    """Each sample against the reference function that torch gives with it."""
    for sample, module, args, kwargs in samples(info, device, dtype, training=training):
        torch.testing.assert_close(module(*args, **kwargs), sample.reference_fn(module, *args, **kwargs))


@infos
def test_against_the_class_it_replaces(info: ModuleInfo, device: str):
    for sample, module, args, kwargs in samples(info, device):
        theirs = {ours: theirs for theirs, ours in OURS.items()}[info.module_cls]
        twin = theirs(*sample.constructor_input.args, **sample.constructor_input.kwargs).to(device, torch.float64)
        twin.load_state_dict(module.state_dict())
        torch.testing.assert_close(module(*args, **kwargs), twin(*args, **kwargs))
        assert repr(module) == repr(twin)


@infos
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_factory_kwargs(info: ModuleInfo, dtype: torch.dtype):
    """device and dtype reach every parameter and buffer."""
    for sample, *_ in samples(info):
        construction = sample.constructor_input
        for place in ("cpu", "meta"):
            module = info.module_cls(*construction.args, **construction.kwargs, device=place, dtype=dtype)
            held = [*module.parameters(), *module.buffers()]
            assert held and all(t.dtype == dtype and t.device.type == place for t in held)


@infos
def test_pickle_and_save_load(info: ModuleInfo):
    for _, module, args, kwargs in samples(info):
        exact = module(*args, **kwargs)
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        for twin in (pickle.loads(pickle.dumps(module)), torch.load(buffer, weights_only=False)):
            torch.testing.assert_close(twin(*args, **kwargs), exact, rtol=0, atol=0)


@infos
def test_to_and_to_empty(info: ModuleInfo):
    """Another dtype, another device, with the parameters' identity or without."""
    for _, module, args, kwargs in samples(info):
        exact, state = module(*args, **kwargs), module.state_dict()
        assert all(p.dtype == torch.float32 for p in copy.deepcopy(module).to(torch.float32).parameters())
        hollow = copy.deepcopy(module).to("meta").to_empty(device="cpu")
        assert all(p.device.type == "cpu" for p in hollow.parameters())
        hollow.load_state_dict(state)
        torch.testing.assert_close(hollow(*args, **kwargs), exact, rtol=0, atol=0)


@infos
def test_non_contiguous_tensors(info: ModuleInfo, device: str):
    """Results and gradients from tensors with gaps between their elements."""
    for _, module, args, kwargs in samples(info, device):
        flat, spec = torch.utils._pytree.tree_flatten(args)
        gaps = [t.repeat_interleave(2, dim=-1)[..., ::2] if t.dim() else t for t in flat]
        assert all(not g.is_contiguous() or g.numel() <= 1 for g in gaps)
        both = []
        for leaves in (flat, gaps):
            leaves = [leaf.detach().requires_grad_() for leaf in leaves]
            results = tensors_in(module(*torch.utils._pytree.tree_unflatten(leaves, spec), **kwargs))
            wanted = [*leaves, *module.parameters()]
            both.append([*results, *torch.autograd.grad(sum(r.square().sum() for r in results), wanted)])
        torch.testing.assert_close(*both)


@infos
@pytest.mark.parametrize(
    "check", [torch.autograd.gradcheck, pytest.param(torch.autograd.gradgradcheck, marks=pytest.mark.slow)]
)
def test_grad_and_gradgrad(info: ModuleInfo, check, device: str):
    """By arguments and parameters, in training and in evaluation."""
    for training in (True, False):
        for number, (_, module, args, kwargs) in enumerate(
            samples(info, device, requires_grad=True, training=training)
        ):
            if check is torch.autograd.gradgradcheck and number % 4 != 2 * training:  # all options, in half the calls
                continue
            flat, spec = torch.utils._pytree.tree_flatten(args)
            names, parameters = zip(*module.named_parameters(), strict=True)

            def call(*leaves, module=module, names=names, spec=spec, kwargs=kwargs):
                weights = dict(zip(names, leaves[spec.num_leaves :], strict=True))
                inputs = torch.utils._pytree.tree_unflatten(leaves[: spec.num_leaves], spec)
                return tuple(tensors_in(torch.func.functional_call(module, weights, inputs, kwargs)))

            assert check(call, [*flat, *parameters], fast_mode=True)


@infos
def test_training_and_evaluation(info: ModuleInfo):
    """The samples have no dropout: both modes give the same."""
    for _, module, args, kwargs in samples(info):
        torch.testing.assert_close(module.train()(*args, **kwargs), module.eval()(*args, **kwargs), rtol=0, atol=0)


@infos
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_errors(info: ModuleInfo, dtype: torch.dtype, training: bool):
    """Type and message of every error that torch asks for."""
    found = info.module_error_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=training)
    assert found
    for error in found:
        construction, call = error.module_error_input.constructor_input, error.module_error_input.forward_input
        if error.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type, match=error.error_regex):
                info.module_cls(*construction.args, **construction.kwargs)
        else:
            module = info.module_cls(*construction.args, **construction.kwargs).to(dtype).train(training)
            with pytest.raises(error.error_type, match=error.error_regex):
                module(*call.args, **call.kwargs)


@pytest.mark.gpu
@infos
def test_cpu_gpu_parity(info: ModuleInfo):
    """Results and gradients of the same module on both."""
    for _, module, args, kwargs in samples(info):
        both = []
        for device in ("cpu", "cuda"):
            flat, spec = torch.utils._pytree.tree_flatten(args)
            leaves = [leaf.detach().to(device).requires_grad_() for leaf in flat]
            twin = copy.deepcopy(module).to(device)
            results = tensors_in(twin(*torch.utils._pytree.tree_unflatten(leaves, spec), **kwargs))
            gradients = torch.autograd.grad(sum(r.square().sum() for r in results), [*leaves, *twin.parameters()])
            both.append([t.cpu() for t in (*results, *gradients)])
        torch.testing.assert_close(*both)
