"""bench/floor.py, without a clock: its formula, and which of the machine's rates it takes."""

import dataclasses
import math

import pytest
import torch

from bench import floor
from bench.cases import Case

RATES = floor.Rates({"float32": 1e8, "bfloat16": 2e8}, {2**16: 8e6, 2**20: 2e6})


def test_floor_is_the_slower_of_products_and_memory():
    case = Case("sizes", "inference", "float32", seq_len=1, batch=1, hidden_size=64)
    weights, activations = 4 * 8 * 64 * 64, 4 * (64 + 64)
    assert floor.traffic(case) == (weights + activations, 0, 4 * 4 * 64 * 64)
    assert floor.floor_s(case, RATES) == pytest.approx((weights + activations) / 8e6)
    # More steps read W_hh again, which is 64 KB; with many rows the products take longer than that.
    long = dataclasses.replace(case, seq_len=11)
    once, again, w_hh = floor.traffic(long)
    assert (once, again) == (weights + 11 * activations, 10 * w_hh)
    assert floor.floor_s(long, RATES) == pytest.approx((once + again) / 8e6)
    many = dataclasses.replace(long, batch=10_000)
    assert floor.floor_s(many, RATES) == pytest.approx(many.flops / 1e8)
    assert floor.floor_s(dataclasses.replace(many, dtype="bfloat16"), RATES) == pytest.approx(many.flops / 2e8)
    # H = 256: W_hh of 1 MB comes at the rate of the larger buffer.
    wide = dataclasses.replace(long, hidden_size=256)
    assert floor.floor_s(wide, RATES) == pytest.approx(sum(floor.traffic(wide)[:2]) / 2e6)


def test_traffic_of_layers_directions_and_training():
    case = Case("layers", "inference", "bfloat16", 3, 5, 8, num_layers=2, num_directions=2)
    w_hh = 2 * 4 * 8 * 8
    weights = 4 * w_hh + 2 * w_hh + 2 * 2 * w_hh  # W_hh, W_ih of the first layer, W_ih of the second, twice as wide
    activations = 2 * 3 * 5 * (8 + 2 * 16)
    assert floor.traffic(case) == (weights + activations, 2 * 4 * w_hh, w_hh)
    training = dataclasses.replace(case, mode="training")
    assert floor.traffic(training) == (3 * weights + 2 * activations, 2 * 2 * 4 * w_hh, w_hh)
    ragged = dataclasses.replace(case, ragged=True)
    assert floor.traffic(case)[0] - floor.traffic(ragged)[0] == 2 * (15 - sum(ragged.lengths)) * (8 + 2 * 16)


def test_measured_rates_cover_every_dtype_and_never_rise_with_the_size(monkeypatch):
    monkeypatch.setattr(floor, "MATRICES", (8,))
    monkeypatch.setattr(floor, "BUDGET_S", 0)
    monkeypatch.setattr(floor, "SIZES", (2**8, 2**12, 2**14))
    rates = floor.measure(["bfloat16", "float64"])
    assert rates.flops.keys() == {"bfloat16", "float64", "float32"}
    assert rates.flops["bfloat16"] >= rates.flops["float32"] > 0
    assert list(rates.reading) == [2**8, 2**12, 2**14]
    assert list(rates.reading.values()) == sorted(rates.reading.values(), reverse=True)
    assert rates.bytes_per_s(2**13) == rates.reading[2**12]
    assert rates.bytes_per_s(1) == rates.reading[2**8]
    better = floor.Rates(rates.flops | {"float64": math.inf}, rates.reading | {2**8: 0.0})
    assert rates.best_of(better) == floor.Rates(better.flops, rates.reading)


def test_the_peak_is_that_of_the_faster_library(monkeypatch):
    a, b = torch.randn(5, 7), torch.randn(3, 7)
    if torch.backends.mkldnn.is_available():
        torch.testing.assert_close(floor._onednn_product(a, b), a @ b.T)
    with pytest.raises(RuntimeError):  # for a dtype that it does not have, as for a torch that does not have it
        floor._onednn_product(a.double(), b.double())
    seconds = {torch.mm: 0.5, floor._onednn_product: 0.25}
    monkeypatch.setattr(floor, "MATRICES", (8,))
    monkeypatch.setattr(floor, "_best_s", lambda call: seconds[call.func])
    assert floor._product_rate(torch.float32) == 2 * 8**3 / 0.25
    seconds[torch.mm] = 0.125
    assert floor._product_rate(torch.float32) == 2 * 8**3 / 0.125
