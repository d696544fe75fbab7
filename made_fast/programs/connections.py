"""Which rows of a term read which columns: by its mask, or by the degrees that make one, in far less time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from made_fast.programs.program import Affine, Program, Term

__all__ = ["Connections", "connections_of", "leading_columns"]

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.signedinteger]

_LOWEST = np.iinfo(np.int32).min


@dataclass(frozen=True)
class Connections:
    """Which of n rows read which of m columns.

    Attributes:
        shape: (n, m).
        mask: bool (n, m); or None where degrees say it.
        rows, columns: (n,) and (m,), the degrees: row i reads column j iff ``rows[i] >= columns[j]``. No rows: all do.
    """

    shape: tuple[int, int]
    mask: BoolArray | None
    rows: IntArray | None = None
    columns: IntArray | None = None

    @property
    def whole(self) -> BoolArray:
        """The mask."""
        if self.mask is not None:
            return self.mask
        if self.rows is None or self.columns is None:
            return np.ones(self.shape, dtype=bool)
        return np.asarray(np.greater_equal.outer(self.rows, self.columns))

    @property
    def readers(self) -> IntArray:
        """(m,) how many rows read each column."""
        if self.mask is not None:
            return np.asarray(self.mask.sum(0))
        if self.rows is None or self.columns is None:
            return np.full(self.shape[1], self.shape[0])
        return self.shape[0] - np.searchsorted(np.sort(self.rows), self.columns, side="left")

    def read_by(self, rows: BoolArray) -> BoolArray:
        """(m,) whether any of some rows, a flag for each, reads a column."""
        if self.mask is not None:
            return np.asarray(self.mask[rows].any(0))
        if self.rows is None or self.columns is None or not rows.any():
            return np.full(self.shape[1], bool(rows.any()))
        return np.asarray(self.columns <= self.rows[rows].max())

    def largest(self, values: IntArray) -> IntArray:
        """(n,) the largest of some values (m,) of columns, none of them negative, that a row reads; 0 if it reads none."""
        by_value = np.argsort(values, kind="stable")
        if self.mask is not None:
            mask = self.mask if np.array_equal(by_value, np.arange(len(values))) else self.mask[:, by_value]
            return _last_of(values[by_value], _needed(mask))
        if self.rows is None or self.columns is None:
            return np.full(self.shape[0], values.max(initial=0))
        by_degree = np.argsort(self.columns, kind="stable")
        known = np.maximum.accumulate(values[by_degree]) if len(values) else values
        return _last_of(known, np.searchsorted(self.columns[by_degree], self.rows, side="right"))

    def leading(self, groups: IntArray) -> IntArray | None:
        """How many leading groups of columns each row reads, (n,), and no other column; -1 for rows of which that is not so.

        Args:
            groups: (m,) the number of the group, from 0 on without gaps, that a column is in.
        """
        order = np.argsort(groups, kind="stable")
        starts = np.searchsorted(groups[order], np.arange(groups.max(initial=-1) + 2))
        if self.mask is not None:
            mask = self.mask[:, order]
            counts = mask.sum(1)
            alike = counts == _needed(mask)
        else:
            if self.rows is None or self.columns is None:
                return np.full(self.shape[0], len(starts) - 1)
            degrees = self.columns[order]
            if (np.diff(degrees) < 0).any():
                return None
            counts = np.searchsorted(degrees, self.rows, side="right")
            alike = np.ones(len(counts), dtype=bool)
        found = np.searchsorted(starts, counts)
        return np.where(alike & (starts[np.minimum(found, len(starts) - 1)] == counts), found, -1)


def connections_of(program: Program) -> list[list[Connections]]:
    """For each operation those of the terms of an affine one; nothing for the others, which go unit by unit."""
    return [[_connections(term) for term in op.terms] if isinstance(op, Affine) else [] for op in program.ops]


def _connections(term: Term) -> Connections:
    shape = (term.numbers.shape[0], term.numbers.shape[1])
    if term.degrees is not None:
        degrees = term.degrees.cpu().numpy().astype(np.int32)  # numbers of variables at most; quickly compared
        return Connections(shape, None, degrees[: shape[0]], degrees[shape[0] :])
    return Connections(shape, None if term.mask is None else term.mask.cpu().numpy())


def leading_columns(
    connections: list[Connections], rows: IntArray, columns: IntArray
) -> tuple[IntArray, BoolArray | None]:
    """What some rows of terms side by side read of some columns, in an order that is given.

    Args:
        connections: of all terms.
        rows: (r,) which rows.
        columns: (c,) which columns, numbered through all terms.

    Returns:
        how many leading columns hold all that a row reads, (r,); and the mask (r, c), or None if no row skips one of these.
    """
    of_rows = [each.rows for each in connections if each.rows is not None]
    if any(each.mask is not None for each in connections) or any(
        not np.array_equal(each, of_rows[0]) for each in of_rows
    ):
        mask = np.concatenate([each.whole for each in connections], axis=1)[np.ix_(rows, columns)]
        needed = _needed(mask)
        return needed, None if np.array_equal(mask.sum(1), needed) else mask
    row_degrees = of_rows[0][rows] if of_rows else np.zeros(len(rows), dtype=np.int32)
    column_degrees = np.concatenate(
        [
            np.full(each.shape[1], _LOWEST, dtype=np.int32) if each.columns is None else each.columns
            for each in connections
        ]
    )[columns]
    from_behind = np.minimum.accumulate(column_degrees[::-1])[::-1]  # grows from column to column
    needed = np.searchsorted(from_behind, row_degrees, side="right")
    if np.array_equal(needed, np.searchsorted(np.sort(column_degrees), row_degrees, side="right")):
        return needed, None
    return needed, np.greater_equal.outer(row_degrees, column_degrees)


def _needed(mask: BoolArray) -> IntArray:
    """(n,) how many leading columns hold all that a row of a mask reads."""
    if not mask.shape[1]:
        return np.zeros(len(mask), dtype=np.int64)
    return np.where(mask.any(1), mask.shape[1] - mask[:, ::-1].argmax(1), 0)


def _last_of(values: IntArray, counts: IntArray) -> IntArray:
    """The last of so many leading values; 0 of none."""
    return np.where(counts > 0, values[counts - 1], 0) if len(values) else np.zeros(len(counts), dtype=np.int64)
