"""Rows, contexts and weights of small runs, and models that are fitted to them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from made_fast import MADE
from made_fast.flows import MaskedAutoregressiveFlow
from made_fast.training import History

D, C = 5, 2
GENERATOR = torch.Generator().manual_seed(0)
CONTEXT = torch.randn(90, C, generator=GENERATOR)
REALS = torch.randn(90, D, generator=GENERATOR) + CONTEXT[:, :1]
BITS = (REALS > 0).float()
WEIGHT = torch.rand(90, generator=GENERATOR)
TRAIN, VALID = slice(0, 70), slice(70, 90)
OPTIONS: dict[str, Any] = {"epochs": 3, "batch_size": 20, "learning_rate": 0.01, "averaging": 0.5}


def bits() -> MADE:
    torch.manual_seed(0)
    return MADE(D, (16,))


def given_context() -> MADE:
    torch.manual_seed(0)
    return MADE(D, (16,), context_features=C)


def flow() -> MaskedAutoregressiveFlow:
    torch.manual_seed(0)
    return MaskedAutoregressiveFlow(D, 2, (16,), C)


def figures(history: History) -> list[tuple[float, float]]:
    return [(epoch.train_nll, epoch.valid_nll) for epoch in history.epochs]


class Numbered(Dataset):
    """Rows by number, in the way of data sets that read files."""

    def __init__(self, *parts: Tensor) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, number: int) -> Any:
        row = tuple(each[number] for each in self.parts)
        return row[0] if len(row) == 1 else row


class Stream(IterableDataset):
    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)
