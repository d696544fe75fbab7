"""What does not fit as rows of a run: a sentence each. Columns that are far from 0 and 1: a warning."""

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from rows_of_runs import (
    BITS,
    CONTEXT,
    OPTIONS,
    REALS,
    TRAIN,
    VALID,
    WEIGHT,
    D,
    Numbered,
    Stream,
    bits,
    flow,
    given_context,
)
from torch import Tensor
from torch.utils.data import TensorDataset

from made_fast import MADE, training
from made_fast.flows import MaskedAutoregressiveFlow


class Exhausted:
    """Begins where the last pass ended."""

    def __init__(self) -> None:
        self.rest = iter(BITS[TRAIN].split(20))

    def __iter__(self) -> Iterator[Tensor]:
        return self.rest


def with_nan(rows: Tensor, row: int, value: float = float("nan")) -> Tensor:
    rows = rows.clone()
    rows[row, 3] = value
    return rows


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "context of another length": (
        given_context, {"context": CONTEXT[:69]}, r"context must have shape (70, 2), got (69, 2)"
    ),
    "context of another width": (
        given_context, {"context": CONTEXT[TRAIN, :1]}, r"context must have shape (70, 2), got (70, 1)"
    ),
    "context for a model without": (
        bits, {"context": CONTEXT[TRAIN]}, "context must be None for a model without context_features, got torch.float32"
    ),
    "no context": (given_context, {}, "context must be given for a model with context_features=2, got None"),
    "no context of valid": (
        given_context,
        {"context": CONTEXT[TRAIN]},
        "valid_context must be given for a model with context_features=2, got None",
    ),
    "weights of another length": (bits, {"weight": WEIGHT}, "weight must have shape (70,), got (90,)"),
    "weights of another shape": (bits, {"weight": WEIGHT[TRAIN, None]}, "weight must have shape (70,), got (70, 1)"),
    "negative weights": (
        bits, {"weight": WEIGHT[TRAIN] - 0.5}, "weight must be finite and 0 or more, got -"
    ),
    "weights that are nan": (
        bits, {"valid_weight": WEIGHT[VALID] / 0 * 0}, "valid_weight must be finite and 0 or more, got nan in row 0"
    ),
    "weights that are text": (bits, {"weight": ["1"] * 70}, "weight must be a torch tensor, an array"),
    "no weight": (bits, {"weight": torch.zeros(70)}, "weight must not be 0 in all rows, got 70 zeros"),
    "no weight in batches": (
        bits, {"train": [(BITS, None, torch.zeros(90))]}, "weight of train must not be 0 in all rows, got nothing but zeros"
    ),
    "no weight in batches of valid": (
        bits, {"valid": [(BITS, None, torch.zeros(90))]}, "weight of valid must not be 0 in all rows"
    ),
    "a list without batches": (bits, {"train": []}, r"train must have shape (N, D) with N of 1 or more, got (0,)"),
    "a loader without batches": (
        bits, {"train": Stream()}, "train must give at least one batch each time it is gone through, got none in pass 1"
    ),
    "a data set without rows": (bits, {"valid": Numbered(BITS[:0])}, "valid must have at least one row, got an empty"),
    "a generator": (
        bits,
        {"train": iter(BITS.split(20))},
        "train must begin anew each time that it is gone through, as a DataLoader or a list does, got a tuple_iterator",
    ),
    "a generator in disguise": (
        bits,
        {"train": Exhausted()},
        "train must give at least one batch each time it is gone through, got none in pass 2, after 4 in the last",
    ),
    "single rows": (
        bits, {"train": Stream(*BITS)}, r"train must give batches (B, D), got x of shape (5,): put it into a DataLoader"
    ),
    "a batch of another width": (
        bits, {"train": Stream(BITS, BITS[:, :3])}, "train must have 5 columns like valid, got 3"
    ),
    "a first batch of another width": (
        bits, {"train": [BITS[:, :3]], "valid": [BITS]}, "x must have shape (..., 5), got (90, 3)"
    ),
    "rows beside their contexts": (
        given_context, {"train": (BITS, CONTEXT), "valid": [BITS]}, "context of train must be given for a model with"
    ),
    "labels": (
        bits,
        {"train": TensorDataset(BITS, CONTEXT)},
        "context must be None for a model without context_features, got torch.float32 (90, 2)",
    ),
    "four tensors": (bits, {"train": [[BITS] * 4]}, "train must give batches x or (x, context, weight), got a list of 4"),
    "another name": (
        bits, {"train": [{"x": BITS, "labels": BITS}]}, "train must give mappings with x, and context and weight if there are"
    ),
    "a batch of text": (bits, {"train": Stream("abc")}, "x of train must be a torch tensor, an array"),
    "a batch that is None": (bits, {"train": Stream(None)}, "train must give batches x or (x, context, weight), got None"),
    "text": (bits, {"train": "train.parquet"}, "train must be a torch tensor, an array"),
    "a number": (bits, {"train": 3.5}, r"train must have shape (N, D) with N of 1 or more, got ()"),
    "complex rows": (bits, {"train": BITS.to(torch.complex64)}, "train must be a dense tensor of real numbers"),
    "contexts beside a loader": (
        given_context,
        {"train": [BITS], "context": CONTEXT},
        "context must come with the rows where train is no tensor, as (x, context, weight), got both",
    ),
    "nan": (bits, {"train": with_nan(BITS, 17)}, "train must be finite, got nan in row 17, column 3"),
    "nan in valid": (bits, {"valid": with_nan(BITS, 71)}, "valid must be finite, got nan in row 71, column 3"),
    "inf in a flow": (
        flow,
        {"train": with_nan(REALS[TRAIN], 9, float("inf")), "context": CONTEXT[TRAIN], "valid_context": CONTEXT[VALID]},
        "train must be finite, got inf in row 9, column 3",
    ),
    "nan in a context": (
        given_context,
        {"context": CONTEXT[TRAIN] / (torch.arange(70) != 6)[:, None], "valid_context": CONTEXT[VALID]},
        "context of train must be finite, got inf in row 6, column 0",
    ),
    "nan in a batch": (
        bits, {"train": [with_nan(BITS, 8)]}, "train must be finite, got nan in row of a batch, 8, column 3"
    ),
    "nan in a batch of valid": (
        bits, {"valid": [BITS[:20], with_nan(BITS, 8)]}, "valid must be finite, got nan in row 28, column 3"
    ),
    "a device that there is not": (
        bits, {"device": "quantum"}, "device must be one that this machine has, got 'quantum': Expected one of cpu"
    ),
    "a device without numbers": (bits, {"device": "meta"}, "device must be one that this machine has, got 'meta'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_sentence(case: str) -> None:
    make, change, message = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        training.fit(make(), **{"train": BITS[TRAIN], "valid": BITS[VALID], **OPTIONS, **change})
    assert "\n" not in str(raised.value)


def test_a_device_of_cuda_without_one_is_one_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match=r"device must be one that this machine has, got 'cuda': (Torch not|No CUDA)"):
        training.fit(bits(), BITS, BITS, device="cuda")


def test_evaluate_names_the_row() -> None:
    with pytest.raises(ValueError, match="data must be finite, got nan in row 55, column 3"):
        training.evaluate(bits(), with_nan(BITS, 55), 10)


def test_a_model_that_has_a_probability_for_nan_is_fitted() -> None:
    class Missing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(torch.zeros(D))

        def log_prob(self, x: Tensor) -> Tensor:
            terms = torch.distributions.Bernoulli(logits=self.logits).log_prob(x.nan_to_num())
            return torch.where(x.isnan(), 0, terms).sum(-1)

    history = training.fit(Missing(), with_nan(BITS, 3), with_nan(BITS, 5), **OPTIONS)
    assert history.best.valid_nll < D * np.log(2)


SCALES: list[tuple[str, dict[str, Any], Tensor, list[int]]] = [
    ("plain", {"output": "normal"}, REALS, []),
    ("ten times", {"output": "normal"}, REALS * 10, [0, 1, 2, 3, 4]),
    ("twice", {"output": "normal"}, REALS * 2 + 5, []),
    ("a far mean", {"output": "normal"}, REALS + torch.tensor([0, 5000, 0, 0, 0]), [1]),
    ("wide", {"output": "normal"}, REALS * torch.tensor([1, 1, 1, 300, 1]), [3]),
    ("narrow", {"output": "normal"}, REALS * torch.tensor([1e-4, 1, 1, 300, 1]), [0, 3]),
    (
        "counts",
        {"output": {"name": "mixture_of_logistics", "components": 2, "levels": 1000}},
        (REALS.abs() * 300).round().clamp(max=999),
        [],
    ),
    ("bits", {}, torch.zeros(90, D), []),
]


@pytest.mark.parametrize(("name", "options", "rows", "columns"), SCALES, ids=[case[0] for case in SCALES])
def test_columns_far_from_0_and_1_are_named(name: str, options: Any, rows: Tensor, columns: list[int]) -> None:
    for data in (rows, [rows]):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            training.fit(MADE(D, (8,), **options), data, rows, **{**OPTIONS, "epochs": 1})
        assert len(caught) == bool(columns)
        if columns:
            text = str(caught[0].message)
            assert [int(each) for each in re.findall(r"(\d+) \(mean", text)] == columns
            assert text.startswith("columns of train are far from mean 0 and deviation 1")
            assert caught[0].filename == __file__


def test_a_flow_warns_too() -> None:
    with pytest.warns(UserWarning, match=r"column 2 \(mean 1e\+03"):
        training.fit(
            MaskedAutoregressiveFlow(D, 2, (8,)),
            REALS + 1000 * (torch.arange(D) == 2),
            REALS,
            **{**OPTIONS, "epochs": 1},
        )
