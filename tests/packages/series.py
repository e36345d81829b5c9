"""Trials of packages for time series."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from trials import Step, trial, whole

ALONE: dict[str, Any] = {"accelerator": "cpu"} | dict.fromkeys(
    ["enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"], False
)  # lightning's trainer writes and prints nothing


def waves(groups: int, steps: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    phases, noise = generator.uniform(0, 6, (groups, 1)), generator.normal(size=(groups, steps))
    return (np.sin(np.arange(steps) / 5 + phases) + 0.1 * noise).astype(np.float32)


def darts_fit(name: str, **options: Any) -> Any:
    """Weights after two epochs, and a forecast."""
    import darts.models
    from darts import TimeSeries

    series = TimeSeries.from_values(waves(1, 400)[0])
    options |= {"input_chunk_length": 40, "model": "LSTM", "hidden_dim": 64, "n_rnn_layers": 2, "dropout": 0.1}
    model = getattr(darts.models, name)(n_epochs=2, random_state=0, pl_trainer_kwargs=ALONE, **options)
    model.fit(series)
    return [p.detach() for p in model.model.parameters()], torch.from_numpy(model.predict(30).values())


@whole("darts", "RNNModel, fit and predict")
def _() -> Any:
    return darts_fit("RNNModel", training_length=60)


@whole("darts", "BlockRNNModel, fit and predict")
def _() -> Any:
    return darts_fit("BlockRNNModel", output_chunk_length=10)


def forecaster(name: str, **options: Any) -> tuple[nn.Module, Step]:
    """A model of pytorch-forecasting, whose LSTM is a subclass of torch.nn.LSTM."""
    import pandas
    import pytorch_forecasting

    groups, steps = 20, 60
    columns = {"time": np.tile(np.arange(steps), groups), "group": np.repeat(np.arange(groups), steps).astype(str)}
    data = pytorch_forecasting.TimeSeriesDataSet(
        pandas.DataFrame(columns | {"value": waves(groups, steps).ravel()}),
        time_idx="time", target="value", group_ids=["group"], min_encoder_length=10, max_encoder_length=40,
        max_prediction_length=10, time_varying_unknown_reals=["value"],
    )  # fmt: skip
    model = getattr(pytorch_forecasting, name).from_dataset(data, hidden_size=64, dropout=0.1, **options)
    batch, _ = next(iter(data.to_dataloader(train=True, batch_size=64, shuffle=False)))
    return model, lambda model: model(batch)["prediction"]


@trial("pytorch-forecasting", "DeepAR")
def _() -> tuple[nn.Module, Step]:
    return forecaster("DeepAR")


@trial("pytorch-forecasting", "TemporalFusionTransformer")
def _() -> tuple[nn.Module, Step]:
    return forecaster("TemporalFusionTransformer")
