"""docs/other-code.md: what it says of single packages, below their table."""

from __future__ import annotations

from pathlib import Path

import control
import numpy as np
import pytest
import series
import torch
from torch import nn

import lstm_fused

pytestmark = pytest.mark.filterwarnings("ignore")  # those of other packages, about others


def test_torchrl_asks_for_the_class() -> None:
    model, data = control.module_and_data(default_recurrent_mode=True)
    data["is_init"][0, 5] = True
    exact = model(data.clone())["out"]
    lstm_fused.convert(model)
    with pytest.raises(TypeError, match="mask"):
        model(data.clone())
    lstm_fused.convert(model, subclass=True)
    torch.testing.assert_close(model(data.clone())["out"], exact)


def test_pytorch_forecasting_has_a_class_of_its_own() -> None:
    from pytorch_forecasting.models.nn.rnn import LSTM

    model, _ = series.forecaster("DeepAR")
    lstm_fused.convert(model)
    assert type(model.rnn) is not LSTM and isinstance(model.rnn, LSTM) and isinstance(model.rnn, lstm_fused.LSTM)
    lstm_fused.revert(model)
    assert type(model.rnn) is LSTM


def test_darts_builds_its_model_in_fit_and_load(tmp_path: Path) -> None:
    from darts import TimeSeries
    from darts.models import RNNModel

    options = {"input_chunk_length": 10, "training_length": 15, "pl_trainer_kwargs": series.ALONE}
    model = RNNModel(model="LSTM", n_epochs=1, hidden_dim=8, random_state=0, **options)
    with lstm_fused.in_place_of_torch():
        model.fit(TimeSeries.from_values(series.waves(1, 60)[0]))
    model.save(str(tmp_path / "model"))
    outside = RNNModel.load(str(tmp_path / "model"))
    with lstm_fused.in_place_of_torch():
        inside = RNNModel.load(str(tmp_path / "model"))
    assert isinstance(model.model.rnn, lstm_fused.LSTM) and isinstance(inside.model.rnn, lstm_fused.LSTM)
    forecasts = [m.predict(5).values() for m in (model, inside, outside)]
    np.testing.assert_allclose(forecasts[1], forecasts[0], rtol=1e-5)
    np.testing.assert_allclose(forecasts[2], forecasts[0], rtol=1e-5)
    assert type(outside.model.rnn) is nn.LSTM


def test_asteroid_models_that_do_not_run() -> None:
    from asteroid.models import XUMX, DCCRNet

    with pytest.raises(TypeError, match="input_size should be of type int"):
        DCCRNet("DCCRN-CL")
    with pytest.raises(RuntimeError, match="XUMX is broken"):
        XUMX(["bass", "vocals"])
