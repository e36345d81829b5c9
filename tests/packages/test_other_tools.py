"""docs/other-code.md: what tools say of a model whose LSTM is ours."""

from __future__ import annotations

import copy
import pickle
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from series import ALONE
from test_other_code_page import rows
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import lstm_fused
from lstm_fused import convert, revert

pytestmark = pytest.mark.filterwarnings("ignore")  # those of other packages, about others


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def pair(**options: bool) -> tuple[Tagger, Tagger]:
    """With torch's LSTM and with ours, from the same weights."""
    theirs = Tagger()
    return theirs, convert(copy.deepcopy(theirs), **options)


def data() -> TensorDataset:
    return TensorDataset(torch.randn(32, 10, 8), torch.randint(3, (32,)))


@pytest.mark.parametrize("method", ["IntegratedGradients", "Saliency", "GradientShap", "FeatureAblation", "DeepLift"])
def test_captum(method: str) -> None:
    import captum.attr

    x, attributions = torch.randn(4, 10, 8), []
    more = {"baselines": torch.zeros(2, 10, 8)} if method == "GradientShap" else {}
    for model in pair():
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002 (captum draws from it)
        attributions.append(getattr(captum.attr, method)(model).attribute(x, target=1, **more))
    torch.testing.assert_close(attributions[1], attributions[0])


def test_captum_of_layers() -> None:
    from captum.attr import LayerConductance, NeuronGradient

    x, found = torch.randn(4, 10, 8), []
    for model in pair():
        conductance = LayerConductance(model, model.head).attribute(x, target=1)
        found.append((conductance, NeuronGradient(model, model.head).attribute(x, 2)))
    torch.testing.assert_close(found[1], found[0])


def test_lightning() -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net, self.losses = net, []

        def training_step(self, batch: Any, _: int) -> Tensor:
            loss = functional.cross_entropy(self.net(batch[0]), batch[1])
            self.losses.append(loss.detach())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 0.01)

    losses, loader = [], DataLoader(data(), batch_size=8)
    for net in pair():
        module = Module(net)
        lightning.Trainer(max_epochs=3, **ALONE).fit(module, loader)
        losses.append(torch.stack(module.losses))
    assert type(module.net.lstm) is lstm_fused.LSTM and losses[0][-1] < losses[0][0]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=0)


def test_skorch() -> None:
    """It builds the module itself, unless it is given a built one."""
    import skorch

    def fit(module: Any) -> skorch.NeuralNetClassifier:
        torch.manual_seed(0)
        module = module() if module is not Tagger else module
        options = {"criterion": nn.CrossEntropyLoss, "iterator_train__shuffle": False, "train_split": None}
        return skorch.NeuralNetClassifier(module, max_epochs=5, lr=0.1, verbose=0, **options).fit(x, y)

    x = np.random.default_rng(0).normal(size=(64, 10, 8)).astype(np.float32)
    y = np.random.default_rng(1).integers(0, 3, 64)
    plain, built = fit(Tagger), fit(lambda: convert(Tagger()))
    with lstm_fused.in_place_of_torch():
        inside = fit(Tagger)
    for net in (built, inside):
        assert isinstance(net.module_.lstm, lstm_fused.LSTM)
        np.testing.assert_allclose(net.history[:, "train_loss"], plain.history[:, "train_loss"], rtol=1e-4)
        again = pickle.loads(pickle.dumps(net))
        np.testing.assert_array_equal(again.predict_proba(x), net.predict_proba(x))


def test_accelerate(tmp_path: Path) -> None:
    from accelerate import Accelerator, cpu_offload, init_empty_weights, load_checkpoint_and_dispatch

    x, (theirs, ours) = torch.randn(4, 10, 8), pair()
    torch.testing.assert_close(cpu_offload(copy.deepcopy(ours), "cpu")(x), cpu_offload(theirs, "cpu")(x))
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(ours, torch.optim.SGD(ours.parameters(), 0.1))
    accelerator.backward(model(x).square().sum())
    optimizer.step()
    accelerator.save_state(tmp_path / "state")
    trained = model(x).detach()
    optimizer.step()
    accelerator.load_state(tmp_path / "state")
    torch.testing.assert_close(model(x), trained, rtol=0, atol=0)
    accelerator.save_model(model, tmp_path / "model")
    with init_empty_weights():
        empty = convert(Tagger())
    loaded = load_checkpoint_and_dispatch(empty, tmp_path / "model", device_map={"": "cpu"})
    torch.testing.assert_close(loaded(x), trained, rtol=0, atol=0)


def test_peft_low_rank_weights_of_an_lstm() -> None:
    """LoRA takes an LSTM's weights by their names, `target_parameters`; it knows no LSTM among `target_modules`."""
    import peft

    x, (theirs, ours), results = torch.randn(4, 10, 8), pair(), []
    options = {"r": 2, "init_lora_weights": False, "target_modules": [], "target_parameters": ["lstm.weight_hh_l0"]}
    for model in (theirs, ours):
        torch.manual_seed(1)
        adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**options))
        output = adapted(x)
        output.square().sum().backward()
        gradients = [p.grad for p in adapted.parameters() if p.requires_grad]
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(x), output)
        results.append((output, *gradients))
        assert (output - model(x)).abs().max() > 1e-3
        with pytest.raises(ValueError, match=r"Target module LSTM.* is not supported"):
            peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(target_modules=["lstm"]))
    torch.testing.assert_close(results[1], results[0])


def test_opacus_wants_revert_first() -> None:
    """Its validator looks the class up and finds nothing; per-sample gradients then fail, as with torch's LSTM."""
    from opacus import GradSampleModule, PrivacyEngine
    from opacus.layers import DPLSTM
    from opacus.validators import ModuleValidator

    for options in ({}, {"subclass": True}):
        theirs, ours = pair(**options)
        assert ModuleValidator.validate(theirs) and not ModuleValidator.validate(ours)
        for model in (theirs, copy.deepcopy(ours)):
            with pytest.raises(TypeError):
                GradSampleModule(model, strict=False)(torch.randn(4, 10, 8)).sum().backward()
        model = ModuleValidator.fix(revert(ours))
        assert type(model.lstm) is DPLSTM
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        private, optimizer, loader = PrivacyEngine().make_private(
            module=model, optimizer=optimizer, data_loader=DataLoader(data(), batch_size=8), noise_multiplier=1.0,
            max_grad_norm=1.0,
        )  # fmt: skip
        for x, y in loader:
            optimizer.zero_grad()
            functional.cross_entropy(private(x), y).backward()
            optimizer.step()


def test_thop_counts_by_exact_class() -> None:
    import thop

    x, (theirs, ours) = (torch.randn(4, 10, 8),), pair()
    right = thop.profile(theirs, x, verbose=False)
    rules = {lstm_fused.LSTM: thop.rnn_hooks.count_lstm}
    assert thop.profile(copy.deepcopy(ours), x, verbose=False)[0] < right[0]  # 0 for the LSTM, without a word
    assert thop.profile(copy.deepcopy(ours), x, verbose=False, custom_ops=rules) == right
    assert thop.profile(revert(ours), x, verbose=False) == right


def test_torchinfo() -> None:
    import torchinfo

    for options in ({}, {"subclass": True}):
        summaries = [str(torchinfo.summary(m, (4, 10, 8), verbose=0)) for m in pair(**options)]
        assert summaries[0] == summaries[1] and "LSTM: 1-1" in summaries[0]


def test_fvcore_counts_no_lstm() -> None:
    """Nor torch's: what it counts is the rest of the model."""
    from fvcore.nn import FlopCountAnalysis

    totals = []
    for model in pair():
        analysis = FlopCountAnalysis(model, torch.randn(4, 10, 8)).unsupported_ops_warnings(False)
        totals.append(analysis.total())
        assert len(analysis.unsupported_ops()) == 1
    assert totals == [4 * 32 * 3] * 2


def test_the_page_names_these_versions() -> None:
    named = [cells[0].rsplit(" ", 1) for cells in rows("| tool | with our LSTM |")]
    assert len(named) == 9 and all(version(name) == number for name, number in named)
