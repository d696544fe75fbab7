"""MaskPlan: what a mask keeps, laid out so that whole blocks of it can be skipped.

Sort rows and columns of a nested mask (every MADE mask is one: connected iff ``row_degree >= column_degree``) and what is
kept becomes a staircase: a group of 16 rows reads a run of columns, all of them but those on the step. A mask that is not
nested gets, for each group, the list of the columns that any of its rows reads. Both are made for the mask and for its
transpose, since the gradient of the input goes the other way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["GROUP_ROWS", "GroupColumn", "MaskPlan", "MaskSide", "plan_from_degrees", "plan_from_mask"]

GROUP_ROWS = 16  # as in csrc/plan/mask_view.h
_PANEL_ROWS = 8


IntArray = NDArray[np.int64]


BoolArray = NDArray[np.bool_]


class GroupColumn(IntEnum):
    """Columns of ``MaskSide.groups``; they are those of csrc/plan/codes.h."""

    POSITIONS = 0  # start of its list in ``positions``
    BITS = 1  # start of its words in ``bits``
    SIZE = 2  # length of the list
    PARTIAL_FROM = 3  # [from, to) in the list: columns that some of the rows do not read; all read the others
    PARTIAL_TO = 4
    FIRST_FROM = 5  # [from, to) in the list: what its first 8 rows go through
    FIRST_TO = 6
    SECOND_FROM = 7  # and its second 8 rows
    SECOND_TO = 8
    NUM_ROWS = 9


@dataclass(frozen=True)
class MaskSide:
    """One side of a mask: its rows in groups, and the columns that each group reads.

    Attributes:
        rows: (n,) sorted place -> row.
        columns: (m,) sorted place -> column.
        groups: (G, 10) int64, a row for each 16 sorted rows; the columns are those of ``GroupColumn``.
        positions: the lists, sorted places of columns.
        bits: for each partial column, which rows of the group read it.
        contiguous: whether each list is a run of successive places.
        bounds: of a nested mask, ``(starts, ends)``: the sorted row ``i`` reads the places ``[starts[i], ends[i])``, and
            neither falls from one row to the next. None for any other mask.
    """

    rows: IntArray
    columns: IntArray
    groups: IntArray
    positions: IntArray
    bits: NDArray[np.uint16]
    contiguous: bool
    bounds: tuple[IntArray, IntArray] | None = None

    @cached_property
    def longest_first(self) -> IntArray:
        """(G,) groups by the length of their lists."""
        return np.argsort(-self.groups[:, GroupColumn.SIZE], kind="stable")

    @cached_property
    def rows_in_order(self) -> bool:
        """Whether the sorted order of the rows is that of memory."""
        return bool((self.rows == np.arange(len(self.rows))).all())

    @cached_property
    def columns_in_order(self) -> bool:
        """Whether the sorted columns are those of memory and each row reads a run of them."""
        return self.bounds is not None and bool((self.columns == np.arange(len(self.columns))).all())

    @property
    def macs(self) -> int:
        """Multiply-adds for one row of the batch, the fill of panels included."""
        of = self.groups.T
        first = of[GroupColumn.FIRST_TO] - of[GroupColumn.FIRST_FROM]
        second = of[GroupColumn.SECOND_TO] - of[GroupColumn.SECOND_FROM]
        return _PANEL_ROWS * int((first + second).sum())


@dataclass(frozen=True)
class MaskPlan:
    """Both sides of a mask: ``forward`` has its rows in groups, ``backward`` its columns.

    Attributes:
        shape: (out, in).
        kept: number of connections.
        nested: whether the mask is a staircase once sorted.
    """

    shape: tuple[int, int]
    kept: int
    nested: bool
    forward: MaskSide
    backward: MaskSide
    made: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)  # what backends made from it

    @cached_property
    def pays(self) -> bool:
        """Whether skipping blocks is quicker than a dense product."""
        return self.density < 0.8

    @cached_property
    def density(self) -> float:
        """Work of the forward pass as a share of the dense one's."""
        return self.forward.macs / max(1, self.shape[0] * self.shape[1])

    @property
    def mask(self) -> Tensor:
        """The mask itself, bool (out, in)."""
        side, kept = self.forward, np.zeros(self.shape, dtype=np.bool_)
        for number, group in enumerate(side.groups.tolist()):
            start, size, count = (group[k] for k in (GroupColumn.POSITIONS, GroupColumn.SIZE, GroupColumn.NUM_ROWS))
            low, high = group[GroupColumn.PARTIAL_FROM], group[GroupColumn.PARTIAL_TO]
            rows = side.rows[number * GROUP_ROWS :][:count]
            columns = side.columns[side.positions[start : start + size]]
            read = np.ones((count, size), dtype=np.bool_)
            words = side.bits[group[GroupColumn.BITS] :][: high - low]
            read[:, low:high] = (words[None, :] >> np.arange(count, dtype=np.uint16)[:, None]) & 1
            kept[np.ix_(rows, columns)] = read
        return torch.from_numpy(kept)


def plan_from_degrees(row_degrees: IntArray, column_degrees: IntArray) -> MaskPlan:
    """Plans the mask ``row_degrees[:, None] >= column_degrees[None, :]`` without making it.

    Args:
        row_degrees: (out,).
        column_degrees: (in,).
    """
    rows, columns = np.argsort(row_degrees, kind="stable"), np.argsort(column_degrees, kind="stable")
    sorted_rows, sorted_columns = row_degrees[rows], column_degrees[columns]
    ends = np.searchsorted(sorted_columns, sorted_rows, side="right")  # a row reads the columns before
    starts = np.searchsorted(sorted_rows, sorted_columns, side="left")  # a column is read by the rows from here on
    return MaskPlan(
        (len(rows), len(columns)),
        int(ends.sum()),
        True,
        _staircase(rows, columns, np.zeros_like(ends), ends),
        _staircase(columns, rows, starts, np.full_like(starts, len(rows))),
    )


def plan_from_mask(mask: BoolArray) -> MaskPlan:
    """Plans any mask, bool (out, in)."""
    row_counts, column_counts = mask.sum(1), mask.sum(0)
    rows, columns = np.argsort(row_counts, kind="stable"), np.argsort(-column_counts, kind="stable")
    staircase = np.arange(mask.shape[1])[None, :] < row_counts[rows][:, None]
    if np.array_equal(mask[rows][:, columns], staircase):
        places = np.empty_like(columns)
        places[columns] = np.arange(len(columns))
        return plan_from_degrees(row_counts, places + 1)
    return MaskPlan(mask.shape, int(row_counts.sum()), False, _listed(mask), _listed(np.ascontiguousarray(mask.T)))


def _staircase(rows: IntArray, columns: IntArray, starts: IntArray, ends: IntArray) -> MaskSide:
    """A side whose sorted row ``i`` reads the places ``[starts[i], ends[i])``, both growing with ``i``."""
    count = len(rows)
    first = np.arange(0, count, GROUP_ROWS)
    last = np.minimum(first + GROUP_ROWS, count) - 1
    middle = np.minimum(first + _PANEL_ROWS, count)  # first row of the second panel
    begin, end = starts[first], np.maximum(ends[last], starts[first])
    # Either the starts differ or the ends do, never both: one of these spans is empty.
    at_start = starts[last] > begin
    low = np.where(at_start, begin, np.minimum(ends[first], end))
    high = np.where(at_start, np.minimum(starts[last], end), end)
    second = starts[np.minimum(middle, count - 1)] if count else middle
    has_second = middle <= last
    sizes = high - low
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    group = np.repeat(np.arange(len(first)), sizes)
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes) + low[group]
    member = first[group][:, None] + np.arange(GROUP_ROWS)
    inside = np.minimum(member, count - 1)
    read = (member < count) & (starts[inside] <= place[:, None]) & (place[:, None] < ends[inside])
    words = (read.astype(np.uint16) << np.arange(GROUP_ROWS, dtype=np.uint16)).sum(1, dtype=np.uint16)
    groups = np.empty((len(first), len(GroupColumn)), dtype=np.int64)
    groups[:, GroupColumn.POSITIONS] = begin
    groups[:, GroupColumn.BITS] = offsets[:-1]
    groups[:, GroupColumn.SIZE] = end - begin
    groups[:, GroupColumn.PARTIAL_FROM] = low - begin
    groups[:, GroupColumn.PARTIAL_TO] = high - begin
    groups[:, GroupColumn.FIRST_FROM] = 0
    groups[:, GroupColumn.FIRST_TO] = ends[middle - 1] - begin
    groups[:, GroupColumn.SECOND_FROM] = np.where(has_second, second - begin, 0)
    groups[:, GroupColumn.SECOND_TO] = np.where(has_second, end - begin, 0)
    groups[:, GroupColumn.NUM_ROWS] = last - first + 1
    return MaskSide(rows, columns, groups, np.arange(len(columns)), words, True, (starts, ends))


def _listed(mask: BoolArray) -> MaskSide:
    """A side of a mask that is not nested: in the order of memory or by counts, whichever skips more."""
    by_count = np.argsort(mask.sum(1), kind="stable")
    natural = np.arange(mask.shape[0])
    rows = min((natural, by_count), key=lambda rows: _union_size(mask[rows]))
    columns = np.arange(mask.shape[1])
    groups, positions, words = [], [], []
    listed = bits = 0  # columns and words so far
    for first in range(0, len(rows), GROUP_ROWS):
        part = mask[rows[first : first + GROUP_ROWS]]
        full = np.flatnonzero(part.all(0))
        some = np.flatnonzero(part.any(0) & ~part.all(0))
        upper = part[:_PANEL_ROWS, some].any(0)
        some = np.concatenate([some[upper], some[~upper]])  # what the first panel reads, then the rest
        read = part[:, some]
        shifts = np.arange(len(part), dtype=np.uint16)[:, None]
        words.append((read.astype(np.uint16) << shifts).sum(0, dtype=np.uint16))
        positions.append(np.concatenate([full, some]))
        size, start = len(full) + len(some), len(full)
        lower = np.flatnonzero(read[_PANEL_ROWS:].any(0))
        second = (start + int(lower[-1]) + 1 if len(lower) else start) if len(part) > _PANEL_ROWS else 0
        group = {
            GroupColumn.POSITIONS: listed,
            GroupColumn.BITS: bits,
            GroupColumn.SIZE: size,
            GroupColumn.PARTIAL_FROM: start,
            GroupColumn.PARTIAL_TO: size,
            GroupColumn.FIRST_FROM: 0,
            GroupColumn.FIRST_TO: start + int(upper.sum()),
            GroupColumn.SECOND_FROM: 0,
            GroupColumn.SECOND_TO: second,
            GroupColumn.NUM_ROWS: len(part),
        }
        groups.append([group[column] for column in GroupColumn])
        listed, bits = listed + size, bits + len(some)
    empty = np.zeros(0, dtype=np.int64)
    return MaskSide(
        rows,
        columns,
        np.asarray(groups, dtype=np.int64).reshape(-1, len(GroupColumn)),
        np.concatenate([empty, *positions]),
        np.concatenate([np.zeros(0, dtype=np.uint16), *words]),
        False,
    )


def _union_size(mask: BoolArray) -> int:
    """How many (group, column) pairs have a connection."""
    starts = np.arange(0, mask.shape[0], GROUP_ROWS)
    return int(np.logical_or.reduceat(mask, starts, axis=0).sum()) if len(starts) else 0
