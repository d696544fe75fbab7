"""Rows of any kind: tensors, data sets, and what gives batches when it is gone through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any, cast

import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from made_fast.arguments import tensor_of
from made_fast.training.layout import Layout, Parts, parts_of
from made_fast.training.processes import ALONE, Processes
from made_fast.training.rows import WHOLE, Batch, DatasetRows, Rows, TensorRows

__all__ = ["BatchRows", "rows_of"]


class BatchRows(Rows):
    """What gives batches when it is gone through: a ``DataLoader``, a list, anything that begins anew."""

    def __init__(self, name: str, layout: Layout, batches: Any) -> None:
        super().__init__(name, layout)
        self.batches, self._given = batches, 0
        samplers = [
            getattr(batches, "sampler", None),
            getattr(getattr(batches, "batch_sampler", None), "sampler", None),
        ]
        self._told = [batches, *samplers, getattr(batches, "dataset", None)]
        self._is_shared = any(isinstance(each, DistributedSampler) for each in samplers)

    def minibatches(
        self, size: int, generator: torch.Generator | None, processes: Processes, epoch: int
    ) -> Iterator[Batch]:
        """See ``Rows``; of several processes each takes its part of each batch, unless the loader has parted them."""
        batches = self.in_turn(epoch)
        if processes.count == 1:
            for rows in batches:
                yield Batch(rows, len(rows.x), WHOLE)
            return
        while True:
            rows = next(batches, None)  # type: ignore[assignment]
            if not self._is_next(rows, processes):
                return
            number = len(rows.x)
            if self._is_shared or number < processes.count:
                yield Batch(rows, number, WHOLE, 1 if self._is_shared else processes.count)
            else:
                part = processes.part(number)
                yield Batch(rows.mapped(itemgetter(part)), number, part)

    def in_order(self, size: int, processes: Processes = ALONE, epoch: int = 1) -> Iterator[Parts]:
        """See ``Rows``; of several processes each takes every so many batches."""
        for number, rows in enumerate(self.in_turn(epoch)):
            if self._is_shared or number % processes.count == processes.rank:
                yield rows

    def num_batches(self, size: int) -> int | None:
        """See ``Rows``."""
        try:
            return len(self.batches)
        except TypeError:  # a stream has no length
            return None

    def in_turn(self, epoch: int) -> Iterator[Parts]:
        """All batches, checked."""
        for each in self._told:
            if callable(getattr(each, "set_epoch", None)):
                cast(Any, each).set_epoch(epoch)
        given = 0
        for given, item in enumerate(self.batches, 1):  # noqa: B007 - counted
            yield self.layout.checked(self.name, item)
        if not given:
            before = f", after {self._given} in the last" if self._given else ""
            raise ValueError(
                f"{self.name} must give at least one batch each time it is gone through, got none in pass {epoch}{before}"
            )
        self._given = given

    def _is_next(self, rows: Parts | None, processes: Processes) -> bool:
        """Whether there is another batch, in all processes."""
        mark = 0.0 if rows is None or self._is_shared else float(rows.x.double().nan_to_num().sum())
        most, least, high, low = processes.most([rows is not None, rows is None, mark, -mark])
        if most and least:
            raise ValueError(f"{self.name} must give the same number of batches in every process, one has ended before")
        if high != -low:
            raise ValueError(
                f"{self.name} must give the same batches in every process, which takes its part of each, got others: "
                "rows that are parted already need a DataLoader with a DistributedSampler"
            )
        return bool(most)


def rows_of(
    name: str, data: object, layout: Layout, context: object = None, weight: object = None, *, once: bool = False
) -> Rows:
    """Rows of any kind.

    Args:
        name: of the argument, for messages; those of the others are ``context`` and ``weight``, after ``valid_`` for
            ``"valid"``.
        data: a tensor (N, D) or what gives one, a data set, or what gives batches.
        layout: that they must have.
        context: (N, C) beside a tensor, or None.
        weight: (N,) beside a tensor, or None.
        once: whether what ends after one pass will do.

    Raises:
        ValueError: it is no such thing, or the parts do not fit one another or the layout.
    """
    names = ["valid_context", "valid_weight"] if name == "valid" else ["context", "weight"]
    beside = dict(zip(names, (context, weight), strict=True))
    if type(data) is TensorDataset and len(data.tensors) <= len(Parts._fields) and context is None and weight is None:
        return TensorRows(name, layout, names, parts_of(name, data.tensors))
    if _is_tensor_like(data):
        parts = [None if each is None else tensor_of(of, each) for of, each in beside.items()]
        return TensorRows(name, layout, names, Parts(tensor_of(name, data), *parts))
    for of, each in beside.items():
        if each is not None:
            raise ValueError(
                f"{of} must come with the rows where {name} is no tensor, as (x, context, weight), got both"
            )
    listed = isinstance(data, (list, tuple))
    if (
        not isinstance(data, IterableDataset)
        and not listed
        and hasattr(data, "__getitem__")
        and hasattr(data, "__len__")
    ):
        return DatasetRows(name, layout, data)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise ValueError(f"{name} must have a length to be a data set of numbered rows, got a {type(data).__name__}")
    if not once and hasattr(data, "__next__"):
        raise ValueError(
            f"{name} must begin anew each time that it is gone through, as a DataLoader or a list does, got "
            f"a {type(data).__name__}, which ends after one pass"
        )
    return BatchRows(name, layout, data)


def _is_tensor_like(data: object) -> bool:
    """Whether it is a tensor, what gives one, or nothing that rows can come from, which ``tensor_of`` says."""
    if isinstance(data, (list, tuple)):
        return not data or not all(map(_is_batch, data))
    gives = hasattr(data, "__iter__") or hasattr(data, "__getitem__")
    return hasattr(data, "__array__") or isinstance(data, (str, bytes, Mapping)) or not gives


def _is_batch(item: Any) -> bool:
    """Whether an element of a list is a batch, and no row."""
    if isinstance(item, (list, tuple)) and item:
        item = item[0]
    return isinstance(item, Mapping) or (hasattr(item, "__array__") and item.ndim == 2)
