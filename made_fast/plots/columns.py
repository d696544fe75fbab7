"""Columns of two tables in common places: bins of numbers and moments, and categories beside each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from made_fast.arguments import shown, tensor_of, with_values
from made_fast.tables.cells import Cells
from made_fast.tables.frames import read

__all__ = ["Shared", "shared_columns"]

Array = NDArray[Any]

_BINS = 40  # even
_FEW = 32  # values of a column of numbers that are shown one by one
_LABELS = 24  # categories that are shown, the rarest of more as one
_TAIL = 0.001  # share of the rows at each end that bins need not reach; they count in the outermost ones
_DAY = 86_400e6  # microseconds


@dataclass(frozen=True)
class Shared:
    """One column of the real and of the drawn table.

    Attributes:
        name: of the column.
        real, drawn: (N,), (M,) where each cell lies: the number itself, days since 1970, or the number of a label; nan where
            the cell is missing.
        edges: (bins + 1,) of the bins; of labels those around each.
        labels: of the categories, from place 0; None for numbers and moments.
        moments: whether places are days since 1970.
    """

    name: str
    real: Array
    drawn: Array
    edges: Array
    labels: tuple[str, ...] | None
    moments: bool = False

    def coarser(self) -> Shared:
        """The same in half as many bins; labels stay."""
        return self if self.labels is not None else replace(self, edges=self.edges[::2])

    def counts(self, places: Array) -> Array:
        """The share of all rows in each bin, (bins,); what lies beyond the outermost bins counts there."""
        inside = np.clip(places[~np.isnan(places)], self.edges[0], self.edges[-1])
        found: Array = np.histogram(inside, self.edges)[0] / max(1, len(places))
        return found


def shared_columns(
    real: Any, drawn: Any, columns: Sequence[str | int] | None, names: Sequence[str] | None, least: int, most: int
) -> list[Shared]:
    """The columns that are to be compared.

    Args:
        real, drawn: data frames, mappings from names to arrays, or tensors (N, D) and (M, D).
        columns: names or numbers of those that are wanted; all if left out.
        names: of the columns of tensors.
        least, most: how many there may be.

    Raises:
        ValueError: the tables have no rows, other columns than each other, or too few or too many of them.
        ImportError: narwhals is needed for a frame and is not installed.
    """
    left, right = _cells("real", real, names), _cells("drawn", drawn, names)
    if list(left) != list(right):
        missing = [name for name in left if name not in right] or [name for name in right if name not in left]
        why = f"column {missing[0]!r} is in one alone" if missing else "their order differs"
        raise ValueError(f"drawn must have the columns of real, got {len(left)} and {len(right)}: {why}")
    known = list(left)
    chosen = known if columns is None else _chosen(columns, known)
    if not least <= len(chosen) <= most:
        raise ValueError(f"columns must name {least} to {most} columns for one picture, got {len(chosen)}")
    return [_shared(name, left[name], right[name]) for name in chosen]


def _chosen(columns: Sequence[str | int], known: list[str]) -> list[str]:
    if isinstance(columns, str) or not isinstance(columns, Sequence):
        raise ValueError(f"columns must be a sequence of names or numbers, got {shown(columns)}")
    found = []
    for each in columns:
        number = isinstance(each, int) and not isinstance(each, bool) and 0 <= each < len(known)
        if not number and each not in known:
            raise ValueError(f"columns must be among {', '.join(known[:12])}, or their numbers, got {shown(each)}")
        found.append(known[each] if isinstance(each, int) else each)
    return found


def _cells(argument: str, data: Any, names: Sequence[str] | None) -> dict[str, Cells]:
    """The columns of a table by name."""
    plain = isinstance(data, (Tensor, np.ndarray, list, tuple))
    if plain:
        x = with_values(argument, tensor_of(argument, data)).detach().double().cpu().numpy()
        if x.ndim != 2:
            raise ValueError(f"{argument} must be a data frame or have shape (N, D), got {x.shape}")
        if np.isinf(x).any():
            raise ValueError(f"{argument} must be finite or nan, found inf")
        titles = [f"x{number}" for number in range(x.shape[1])] if names is None else [*map(str, names)]
        if len(titles) != x.shape[1] or len(set(titles)) < len(titles):
            raise ValueError(f"names must be {x.shape[1]} different ones, one for each column, got {shown(names)}")
        cells = {title: Cells(x[:, place], ~np.isnan(x[:, place]), "number") for place, title in enumerate(titles)}
    else:
        try:
            cells = read(data)[0]
        except ValueError as error:
            raise ValueError(f"{argument} cannot be read as a table: {error}") from None
        if names is not None and list(names) != list(cells):
            raise ValueError(f"names must be left out for a frame, which has its own, got {shown(names)}")
    if not cells or not len(next(iter(cells.values()))):
        raise ValueError(f"{argument} must have at least one row and one column, got none")
    return cells


def _shared(name: str, real: Cells, drawn: Cells) -> Shared:
    """One column in common places, and its bins or labels."""
    kinds = {each.of for each in (real, drawn) if each.present.any()}
    if len(kinds) > 1:
        raise ValueError(f"column {name!r} must hold the same in both tables, got {real.of} and {drawn.of}")
    kind = kinds.pop() if kinds else "text"
    values = [np.asarray(each.values)[each.present] for each in (real, drawn)]
    if kind in ("text", "flag"):
        return _labelled(name, real, drawn, list(map(str, real.categories or ())))
    if kind == "number" and len(distinct := np.unique(np.concatenate(values))) <= _FEW:
        return _labelled(name, real, drawn, [f"{each:g}" for each in distinct])
    scale = _DAY if kind == "moment" else 1.0
    places = [np.where(each.present, each.values, np.nan).astype(np.float64) / scale for each in (real, drawn)]
    inner = [np.nanquantile(each, [_TAIL, 1 - _TAIL]) for each in places if not np.isnan(each).all()]
    low, high = min(each[0] for each in inner), max(each[1] for each in inner)
    edges = np.histogram_bin_edges([low, high], bins=_BINS)
    return Shared(name, places[0], places[1], edges, None, kind == "moment")


def _labelled(name: str, real: Cells, drawn: Cells, ordered: list[str]) -> Shared:
    """Values as labels: in the order that they have, else by how often the real table has them."""
    texts = [
        [_text(value) if here else None for value, here in zip(each.values, each.present, strict=True)]
        for each in (real, drawn)
    ]
    counted = Counter(text for text in texts[0] if text is not None)
    others = {text for text in texts[1] if text is not None} - set(counted)
    labels = ordered or [label for label, _ in counted.most_common()] + sorted(others)
    kept = labels if len(labels) <= _LABELS or ordered else [*labels[: _LABELS - 1], "all others"]
    place: Mapping[str | None, float] = {None: np.nan, **{label: float(number) for number, label in enumerate(kept)}}
    last = float(len(kept) - 1)
    left, right = (np.array([place.get(text, last) for text in each], dtype=np.float64) for each in texts)
    return Shared(name, left, right, np.arange(len(kept) + 1) - 0.5, tuple(kept))


def _text(value: Any) -> str:
    """A value as its label."""
    return f"{value:g}" if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) else str(value)
