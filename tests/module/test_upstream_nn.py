"""What PyTorch's test/test_nn.py asks of torch.nn.LSTM, beyond the samples of its ModuleInfo, asked of ours.

Under the names it has there. docs/pytorch.md lists them all, with those that are tested elsewhere or left out.
"""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lstm_fused


def tensors_of(result) -> list[torch.Tensor]:
    output, states = result
    return [output, *states]


def test_partial_flat_weights():
    """A parameter may be taken off and put back as a plain tensor: it is used, and gets its gradient."""
    module, input = lstm_fused.LSTM(3, 4), torch.randn(5, 2, 3)
    expected = module(input)[0]
    weight = module.weight_hh_l0
    del module.weight_hh_l0
    assert not hasattr(module, "weight_hh_l0")
    with pytest.raises(AttributeError, match="weight_hh_l0"):
        module(input)
    module.weight_hh_l0 = weight.detach().clone().requires_grad_()
    output = module(input)[0]
    assert torch.equal(output, expected)
    output.sum().backward()
    assert module.weight_hh_l0.grad.abs().sum() > 0


def test_RNN_change_dropout():
    module, input = lstm_fused.LSTM(3, 16, num_layers=2, dropout=0.5), torch.randn(5, 2, 3)
    assert not torch.equal(module(input)[0], module(input)[0])
    module.dropout = 0
    assert torch.equal(module(input)[0], module(input)[0])
    module.dropout = 1.0
    assert torch.equal(module(input)[0], module(torch.zeros_like(input))[0])  # nothing reaches the second layer


def test_rnn_initial_hidden_state():
    for options in ({}, {"proj_size": 3, "bidirectional": True}):
        module, input = lstm_fused.LSTM(3, 4, num_layers=2, **options), torch.randn(5, 2, 3)
        output, states = module(input)
        zeros = tuple(torch.zeros_like(state) for state in states)
        torch.testing.assert_close(module(input, zeros), (output, states), rtol=0, atol=0)


def test_rnn_retain_variables():
    module, input = lstm_fused.LSTM(10, 20, num_layers=2), torch.randn(5, 6, 10, requires_grad=True)
    output, gradients = module(input)[0], []
    for _ in range(3):
        module.zero_grad()
        input.grad = None
        output.sum().backward(retain_graph=True)
        gradients.append([input.grad.clone(), *(p.grad.clone() for p in module.parameters())])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
    torch.testing.assert_close(gradients[0], gradients[2], rtol=0, atol=0)


@pytest.mark.parametrize("which", [0, 1])
def test_lstmcell_backward_only_one_output_grad(which: int, device: str):
    cell = lstm_fused.LSTMCell(3, 4, device=device)
    states = torch.randn(2, 2, 4, device=device)
    cell(torch.randn(2, 3, device=device), tuple(states))[which].sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in cell.parameters())


@pytest.mark.parametrize("place", ["rows of the input", "rows", "input_size", "hidden_size", "layers"])
@pytest.mark.parametrize("proj_size", [0, 2])
def test_rnn_args_check(proj_size: int, place: str):
    """With projections, too (projections_lstm_args_check): each size wrong in turn, in h_0, in c_0 and in both."""
    module = lstm_fused.LSTM(3, 5, num_layers=2, proj_size=proj_size)
    input, shapes = (6, 4, 3), [(2, 4, proj_size or 5), (2, 4, 5)]
    if place in ("rows of the input", "input_size"):
        wrong = (6, 7, 3) if place == "rows of the input" else (6, 4, 7)
        calls = [(wrong, *shapes)]
    else:
        dim = {"layers": 0, "rows": 1, "hidden_size": 2}[place]
        bad = [(*shape[:dim], 7, *shape[dim + 1 :]) for shape in shapes]
        calls = [(input, bad[0], shapes[1]), (input, shapes[0], bad[1]), (input, *bad)]
    for sizes in calls:
        input_, h_0, c_0 = map(torch.randn, sizes)
        with pytest.raises(RuntimeError):
            module(input_, (h_0, c_0))


@pytest.mark.parametrize("proj_size", [0, 2])
@pytest.mark.parametrize("grad", [True, False])
def test_rnn_check_device(grad: bool, proj_size: int):
    """With projections, too (projections_lstm_check_device). The other device is one without data."""
    module = lstm_fused.LSTM(3, 5, num_layers=2, proj_size=proj_size)
    input, states = torch.randn(6, 4, 3), (torch.randn(2, 4, proj_size or 5), torch.randn(2, 4, 5))
    with torch.set_grad_enabled(grad):
        for there, here in ((module, input.to("meta")), (copy.deepcopy(module).to("meta"), input)):
            with pytest.raises(RuntimeError, match="Input and parameter tensors are not at the same device"):
                there(here)
        for n in range(2):
            moved = [state.to("meta") if n == m else state for m, state in enumerate(states)]
            with pytest.raises(RuntimeError, match="Input and hidden tensors are not at the same device"):
                module(input, tuple(moved))


def test_cudnn_forward_exception():
    for options in ({}, {"proj_size": 10}):
        module, states = lstm_fused.LSTM(10, 20, batch_first=True, **options), (torch.zeros(1, 2, 19),) * 2
        with pytest.raises(RuntimeError, match=r"Expected hidden.*size.*got"):
            module(torch.randn(2, 3, 10), states)
        with pytest.raises(RuntimeError, match=r"input.size\(-1\) must be equal to input_size"):
            module(torch.randn(2, 3, 3), states)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_error_RNN_seq_len_zero(bidirectional: bool, device: str):
    module = lstm_fused.LSTM(5, 6, bidirectional=bidirectional, device=device)
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
        module(torch.ones(0, 10, 5, device=device))


def test_RNN_input_size_zero(device: str):
    """No rows, that is; backward raises no error either."""
    output = lstm_fused.LSTM(3, 4, device=device)(torch.zeros(5, 0, 3, device=device))[0]
    assert output.shape == (5, 0, 4)
    output.sum().backward()


def test_RNN_cell_no_broadcasting():
    """Nothing of size 1 stands for more."""
    cell, good, input = lstm_fused.LSTMCell(10, 20), torch.randn(3, 20), torch.randn(3, 10)
    for bad in (torch.randn(1, 20), torch.randn(3, 1)):
        for states in ((bad, good), (good, bad)):
            with pytest.raises(RuntimeError):
                cell(input, states)
    with pytest.raises(RuntimeError):
        cell(torch.randn(3, 1), (good, good))


def test_cudnn_weight_format():
    """A weight moved to memory of its own is still the one that is used, and trained."""
    for options in ({}, {"proj_size": 10}):
        module, input = lstm_fused.LSTM(10, 20, batch_first=True, **options), torch.randn(5, 4, 10)
        expected = module(input)[0]
        expected.sum().backward()
        gradients = [p.grad.clone() for p in module.parameters()]
        elsewhere = module.weight_hh_l0.detach().clone()
        with torch.no_grad():
            module.weight_hh_l0.set_(elsewhere)
        module.zero_grad()
        output = module(input)[0]
        output.sum().backward()
        torch.testing.assert_close(output, expected, rtol=0, atol=0)
        torch.testing.assert_close([p.grad for p in module.parameters()], gradients, rtol=0, atol=0)
        elsewhere.fill_(4)
        assert torch.equal(module.weight_hh_l0, elsewhere)


@pytest.mark.parametrize("proj_size", [0, 10])
def test_cudnn_weight_tying(proj_size: int):
    """Both directions share a bias, and a step of the optimizer moves it once."""
    ours, theirs = (
        cls(10, 20, batch_first=True, bidirectional=True, proj_size=proj_size)
        for cls in (lstm_fused.LSTM, torch.nn.LSTM)
    )
    theirs.load_state_dict(ours.state_dict())
    input, outputs = torch.randn(5, 4, 10), []
    for module in (ours, theirs):
        module.bias_ih_l0_reverse = module.bias_ih_l0
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        module(input)[0].sum().backward()
        optimizer.step()
        outputs.append(tensors_of(module(input)))
    torch.testing.assert_close(*outputs)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(("name", "proj_size"), [("weight_hh_l0", 0), ("weight_hr_l0", 3)])
def test_RNN_cudnn_weight_norm(name: str, proj_size: int):
    module, input = lstm_fused.LSTM(10, 6, num_layers=2, proj_size=proj_size), torch.randn(7, 6, 10)
    expected = tensors_of(module(input))
    for change in (torch.nn.utils.weight_norm, torch.nn.utils.remove_weight_norm):
        torch.testing.assert_close(tensors_of(change(module, name)(input)), expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_RNN_dropout_state(dropout: float, training: bool):
    """Every call draws anew where there is dropout, a loaded copy's too; without, all are equal."""
    module = lstm_fused.LSTM(10, 10, num_layers=2, bias=False, dropout=dropout).train(training)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    loaded.flatten_parameters()
    input, states = torch.rand(1, 1, 10), tuple(torch.rand(2, 2, 1, 10))
    first, *others = (m(input, states)[0] for m in (module, module, loaded))
    assert all(torch.equal(first, other) is not (dropout > 0 and training) for other in others)


def test_rnn_pruning():
    """The pruned weight is no parameter, its original is; removal puts it back."""
    module = lstm_fused.LSTM(8, 8)

    def parameters_in_use() -> int:
        return sum(isinstance(weight, torch.nn.Parameter) for weight in module._flat_weights)

    prune.l1_unstructured(module, "weight_ih_l0", 0.5)
    assert parameters_in_use() == 3
    pruned = module(torch.ones(2, 1, 8))[0]
    prune.remove(module, "weight_ih_l0")
    assert parameters_in_use() == 4
    names = dict(module.named_parameters())
    assert "weight_ih_l0" in names and "weight_ih_l0_orig" not in names
    assert (module.weight_ih_l0 == 0).sum() == 128
    assert torch.equal(module(torch.ones(2, 1, 8))[0], pruned)


def test_save_lstm_compatibility():
    """A module as PyTorch 1.7 wrote it, which knew no proj_size."""
    module, input = lstm_fused.LSTM(2, 3), torch.randn(32, 5, 2)
    expected = tensors_of(module(input))
    state = module.__dict__
    del state["proj_size"]
    loaded = lstm_fused.LSTM(2, 3)
    loaded.__setstate__(state)
    torch.testing.assert_close(tensors_of(loaded(input)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("proj_size", [0, 2])
@pytest.mark.parametrize("with_states", [True, False])
@pytest.mark.parametrize(
    ("is_sorted", "lengths"),
    [(True, [5]), (False, [5]), (True, [10, 10, 6, 2, 2, 1, 1]), (False, [2, 1, 3, 2, 10, 5, 3])],
    ids=str,
)
def test_variable_sequence(is_sorted: bool, lengths: list[int], with_states: bool, proj_size: int, device: str):
    """Packed rows against one call for each."""
    packing, alone = (lstm_fused.LSTM(3, 4, 2, bidirectional=True, proj_size=proj_size).to(device) for _ in range(2))
    alone.load_state_dict(packing.state_dict())
    states = tuple(torch.randn(4, len(lengths), width, device=device) for width in (proj_size or 4, 4))
    results = []
    for module in (packing, alone):
        torch.manual_seed(1)
        input = torch.randn(max(lengths), len(lengths), 3).to(device).requires_grad_()
        if module is packing:
            packed = pack_padded_sequence(input, lengths, enforce_sorted=is_sorted)
            packed, found = module(packed, states if with_states else None)
            output = pad_packed_sequence(packed)[0]
        else:
            rows = []
            for n, length in enumerate(lengths):
                own = tuple(s[:, n : n + 1].contiguous() for s in states) if with_states else None
                rows.append(module(input[:length, n : n + 1], own))
            output = torch.nn.utils.rnn.pad_sequence([row[0][:, 0] for row in rows])
            found = tuple(torch.cat(parts, 1) for parts in zip(*(row[1] for row in rows), strict=True))
        output.sum().backward()
        results.append([output, *found, input.grad, *(p.grad for p in module.parameters())])
    torch.testing.assert_close(*results, rtol=1e-5, atol=2e-5)


def test_LSTM_differentiable_backward_using_oneDNN():
    """A penalty on the gradient through twenty layers, against torch without oneDNN."""
    ours, theirs = (cls(3, 3, 20, batch_first=True) for cls in (lstm_fused.LSTM, torch.nn.LSTM))
    theirs.load_state_dict(ours.state_dict())
    results = []
    for module in (ours, theirs):
        torch.manual_seed(1)
        input = torch.rand(10, 12, 3, requires_grad=True)
        with torch.backends.mkldnn.flags(enabled=False):
            output = module(input)[0]
            (gradient,) = torch.autograd.grad(output.sum(), input, create_graph=True)
            gradient.sum().backward()
        results.append([gradient, input.grad])
    torch.testing.assert_close(*results)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
def test_LSTM_grad_and_gradgrad(bias: bool):
    module = lstm_fused.LSTM(4, 4, bias=bias, dtype=torch.float64)
    input = torch.rand(1, 3, 4, dtype=torch.float64, requires_grad=True)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x: tuple(tensors_of(module(x))), input)
