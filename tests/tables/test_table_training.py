"""What ``Table.fit`` hands on to training: weights of rows, optimizers, a device."""

from typing import Any

import numpy as np
import pytest
import torch

from made_fast.tables import Table

ROWS = 400
COIN = np.random.default_rng(0).random(ROWS) < 0.5
FRAME = {"coin": COIN, "size": np.where(COIN, 1.0, -1.0) + np.random.default_rng(1).normal(0, 0.1, ROWS)}
OPTIONS: dict[str, Any] = {"epochs": 15, "averaging": 0.9, "hidden_features": (8,), "components": 2, "batch_size": 50}


def test_rows_of_weight_3_count_as_three() -> None:
    weight = torch.from_numpy(np.where(COIN, 3.0, 1.0))
    table = Table.fit(FRAME, weight=weight, learning_rate=0.02, **OPTIONS)
    expected = float((weight * torch.from_numpy(COIN)).sum() / weight.sum())
    assert float(table.probability({"coin": [True]}, seed=0).value) == pytest.approx(expected, abs=0.04)
    valid = {name: each[:50] for name, each in FRAME.items()}
    same = Table.fit(FRAME, valid, weight=weight, valid_weight=weight[:50], learning_rate=0.02, **OPTIONS)
    nll = -same.log_prob(valid)
    assert same.history is not None
    weighted = float((weight[:50] * nll).sum() / weight[:50].sum())
    assert same.history.best.valid_nll == pytest.approx(weighted, rel=1e-4)


def test_an_optimizer_and_a_device() -> None:
    table = Table.fit(FRAME, optimizer=lambda of: torch.optim.Adam(of, lr=0.02), device="cpu", **OPTIONS)
    assert table.history is not None
    assert table.history.epochs[0].learning_rate == 0.02
    assert table.history.best.valid_nll < table.history.epochs[0].valid_nll


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": np.ones(ROWS - 1)}, r"weight must have shape \(400,\), got \(399,\)"),
        ({"weight": -np.ones(ROWS)}, r"weight must be finite and 0 or more, got -1\.0 in row 0"),
        ({"valid_weight": np.ones(40)}, "valid_weight must be None where valid is, got weights"),
        ({"device": "quantum"}, "device must be one that this machine has, got 'quantum'"),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Table.fit(FRAME, **{**OPTIONS, **options})
