"""Rows that can be gone through again and again; those that have numbers."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from made_fast.arguments import is_finite
from made_fast.training.layout import Layout, Parts, like_model
from made_fast.training.processes import ALONE, Processes

__all__ = ["WHOLE", "Batch", "DatasetRows", "NumberedRows", "Rows", "TensorRows"]

WHOLE = slice(None)  # of a minibatch
_CHUNK = 1 << 14  # rows that are looked at together


class Batch(NamedTuple):
    """The rows that this process has of a minibatch.

    Attributes:
        rows: what they are.
        number: of rows of the whole minibatch.
        part: which of those these are.
        copies: how many processes have the same rows, because there are fewer rows than processes.
    """

    rows: Parts
    number: int
    part: slice
    copies: int = 1


class Rows(ABC):
    """Rows that can be gone through again and again.

    Args:
        name: of the argument that they are, for messages.
        layout: that they must have.
    """

    def __init__(self, name: str, layout: Layout) -> None:
        self.name, self.layout = name, layout

    @abstractmethod
    def minibatches(
        self, size: int, generator: torch.Generator | None, processes: Processes, epoch: int
    ) -> Iterator[Batch]:
        """Those of an epoch, counted from 1; in an order from the generator where the order is ours."""

    @abstractmethod
    def in_order(self, size: int, processes: Processes = ALONE, epoch: int = 1) -> Iterator[Parts]:
        """All rows that are this process's to be evaluated, some at a time."""

    def num_batches(self, size: int) -> int | None:
        """How many minibatches an epoch has, where that is known."""
        return None

    def digest(self, model: nn.Module) -> str | None:
        """SHA-256 of all that the model sees of them; None where they cannot be compared."""
        return None

    def summary(self) -> tuple[object, ...]:
        """By what processes find that they have others; never all rows."""
        return (type(self).__name__,)


class NumberedRows(Rows):
    """Rows that can be taken by their numbers, in an order of ours."""

    @abstractmethod
    def __len__(self) -> int:
        """How many."""

    @abstractmethod
    def take(self, numbers: Tensor | range) -> Parts:
        """Those of these numbers."""

    def minibatches(
        self, size: int, generator: torch.Generator | None, processes: Processes, epoch: int
    ) -> Iterator[Batch]:
        """See ``Rows``."""
        for numbers in torch.randperm(len(self), generator=generator).split(size):
            number = numbers.shape[0]
            if processes.count == 1:
                yield Batch(self.take(numbers), number, WHOLE)
            elif number < processes.count:
                yield Batch(self.take(numbers), number, WHOLE, processes.count)
            else:
                part = processes.part(number)
                yield Batch(self.take(numbers[part]), number, part)

    def in_order(self, size: int, processes: Processes = ALONE, epoch: int = 1) -> Iterator[Parts]:
        """See ``Rows``."""
        own = range(len(self))[processes.part(len(self))]
        for start in range(0, len(own), size):
            yield self.take(own[start : start + size])

    def num_batches(self, size: int) -> int:
        """See ``Rows``."""
        return -(-len(self) // size)


class TensorRows(NumberedRows):
    """Rows in tensors, or in memory-mapped ones."""

    def __init__(self, name: str, layout: Layout, names: Sequence[str], parts: Parts) -> None:
        super().__init__(name, layout)
        layout.check(name, names, parts)
        if parts.weight is not None and not parts.weight.any():
            raise ValueError(f"{names[1]} must not be 0 in all rows, got {len(parts.weight)} zeros")
        self.parts, self.alone = parts, parts.context is None and parts.weight is None
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self.parts.x)

    def take(self, numbers: Tensor | range) -> Parts:
        """See ``NumberedRows``."""
        if not isinstance(numbers, Tensor):
            part = slice(numbers.start, numbers.stop)
            return self.parts.mapped(itemgetter(part))
        if self.alone:
            x = self.parts.x
            return Parts(x[numbers.to(x.device)], None, None)
        return self.parts.mapped(lambda each: each[numbers.to(each.device)])

    def digest(self, model: nn.Module) -> str:
        """See ``Rows``; computed once."""
        if self._digest is None:
            like = next(model.parameters())
            shapes = [tuple(each.shape) for each in self.parts if each is not None]
            digest = hashlib.sha256(repr(shapes).encode())
            for part in self.in_order(_CHUNK):
                for each in part:
                    if each is not None:
                        digest.update(like_model(like, each).double().cpu().contiguous().numpy().data)
            self._digest = digest.hexdigest()
        return self._digest

    def summary(self) -> tuple[object, ...]:
        """See ``Rows``."""
        few = self.sample(1000)
        return len(self), *(None if each is None else float(each.double().nan_to_num().sum()) for each in few)

    def sample(self, most: int) -> Parts:
        """So many rows at most, evenly spaced."""
        step = -(-len(self) // most)
        return self.parts.mapped(itemgetter(slice(None, None, step)))

    def strange(self) -> int | None:
        """The number of the first row with a number that is not finite, its context included; None if there is none."""
        for start in range(0, len(self), _CHUNK):
            part = self.take(range(start, start + _CHUNK))
            for each in (part.x, part.context):
                if each is not None and each.is_floating_point() and not is_finite(each):
                    return start + int((~torch.isfinite(each)).any(-1).nonzero()[0, 0])
        return None


class DatasetRows(NumberedRows):
    """Rows of a data set with ``__len__`` and ``__getitem__``."""

    def __init__(self, name: str, layout: Layout, dataset: Any) -> None:
        super().__init__(name, layout)
        self.dataset = dataset
        if not len(dataset):
            raise ValueError(f"{name} must have at least one row, got an empty {type(dataset).__name__}")

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, numbers: Tensor | range) -> Parts:
        """See ``NumberedRows``."""
        listed = numbers.tolist() if isinstance(numbers, Tensor) else list(numbers)
        together = getattr(self.dataset, "__getitems__", None)
        items = together(listed) if callable(together) else [self.dataset[number] for number in listed]
        return self.layout.checked(self.name, default_collate(items))

    def summary(self) -> tuple[object, ...]:
        """See ``Rows``."""
        return type(self.dataset).__name__, len(self)
