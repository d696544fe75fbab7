"""Networks as tables of numbers, which compiled code walks through: operations, masks, and where values are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from made_fast.backends.numba.networks.slopes import FROM_ARGUMENT
from made_fast.programs.functions import FUNCTION_CODES
from made_fast.programs.schedule import Kind
from made_fast.programs.wiring import Wiring

__all__ = [
    "BLOCK",
    "SEGMENT",
    "UNITS",
    "Plan",
    "Side",
    "Status",
    "TaskColumn",
    "TermColumn",
    "ValueColumn",
    "plan_of",
    "side_of",
]

UNITS = 4  # that are computed together: a tile
SEGMENT = 16  # columns of a weight whose gradients are computed together
BLOCK = 64  # rows whose values are held at once

Numbers = NDArray[np.int64]


class ValueColumn(IntEnum):
    """Columns of the values of networks one after another: of each x, the context, and what its operations make."""

    KIND = 0
    LEFT = 1  # number of a value among those of all networks
    RIGHT = 2
    FUNCTION = 3
    WIDTH = 4
    BIAS = 5  # number of a weight among those of all networks, or -1
    FIRST_TERM = 6
    STOP_TERM = 7
    PLACE = 8  # among the units of a block; a function is computed where its argument is if nobody else needs that
    GRAD = 9  # among the units of the room of a block


class TermColumn(IntEnum):
    """Columns of the terms: a weight times a value, and where the cuts of its mask and of the transpose begin."""

    SOURCE = 0
    WEIGHT = 1
    ROWS = 2
    COLUMNS = 3
    CUTS = 4
    BACK_CUTS = 5


class TaskColumn(IntEnum):
    """The numbers of a call, all in one array: compiled code is handed little, and so is compiled sooner.

    Addresses are of the memory of tensors, 0 of nothing; on the way back of the gradients of x, context and results. After
    the last column come those of what each network reads, of all weights, and of their gradients.
    """

    X = 0
    CONTEXT = 1
    OUT = 2
    TOTAL = 3
    KEPT = 4  # values of all units, block after block
    ROOM = 5  # of the way back
    HEAD = 6
    BATCH = 7
    FINITE = 8
    FEATURES = 9  # from here on all calls have the same
    CONTEXT_FEATURES = 10
    NETWORKS = 11
    WEIGHTS = 12
    UNITS_KEPT = 13  # of a block
    UNITS_ORDERED = 14  # where in the room of a block the gradient of z is in the order of its network
    UNITS_OF_ROOM = 15
    FIRSTS = 16  # addresses of tables: see Plan
    VALUES = 17
    TERMS = 18
    CUTS = 19  # of the masks, see Side
    COLUMNS = 20
    BITS = 21
    BACK_CUTS = 22  # of the transposes
    BACK_COLUMNS = 23
    BACK_BITS = 24
    NUM_COLUMNS = 25
    NUM_BACK_COLUMNS = 26
    CATEGORIES = 27
    NUM_CATEGORIES = 28


class Status(IntEnum):
    """What a call gives back."""

    DONE = 0
    NOT_FINITE = 1
    NO_PERMUTATION = 2


class Side(NamedTuple):
    """A mask (out, in) in tiles of four rows, or several masks one after the other.

    Attributes:
        cuts: int64, for each tile and segment of 16 columns where its columns begin, and where the last ones end.
        columns: int32, those that some of the four rows read.
        bits: uint8, which of them do.
    """

    cuts: Numbers
    columns: NDArray[np.int32]
    bits: NDArray[np.uint8]


class Plan(NamedTuple):
    """The tables of K networks one after another.

    Attributes:
        numbers: of ``TaskColumn``, those that all calls have.
        firsts: (K + 1,), where the values of each network begin.
        values, terms: see ``ValueColumn`` and ``TermColumn``.
        forward, backward: all masks and all transposes, see ``Side``.
        categories: of each variable the number, or none.
    """

    numbers: list[int]
    firsts: Numbers
    values: Numbers
    terms: Numbers
    forward: Side
    backward: Side
    categories: Numbers

    def number(self, column: TaskColumn) -> int:
        """One that all calls have."""
        return self.numbers[column - TaskColumn.FEATURES]


def side_of(mask: NDArray[np.bool_]) -> Side:
    """A mask (out, in) in tiles."""
    rows, columns = mask.shape
    padded = np.zeros((_in_tiles(rows), columns), dtype=np.uint8)
    padded[:rows] = mask
    shifts = np.arange(UNITS, dtype=np.uint8)[:, None]
    bits = np.bitwise_or.reduce(padded.reshape(-1, UNITS, columns) << shifts, axis=1)
    tile, column = np.nonzero(bits)
    segments = -(-columns // SEGMENT)
    counts = np.bincount(tile * segments + column // SEGMENT, minlength=len(bits) * segments)
    return Side(np.concatenate([[0], np.cumsum(counts)]), column.astype(np.int32), bits[tile, column])


def plan_of(networks: Sequence[tuple[Wiring, Mapping[int, tuple[Side, Side]]]]) -> Plan:
    """The tables of networks of the same D and C one after another.

    Args:
        networks: operations, and by the number of its weight each mask and its transpose.
    """
    wiring = networks[0][0]
    tables = _Tables(wiring.features, wiring.context_features)
    for each in networks:
        tables.add(*each)
    rows = ([*tables.firsts, len(tables.values)], tables.values, tables.terms, networks[-1][0].categories)
    firsts, values, terms, categories = [np.array(each, dtype=np.int64) for each in rows]
    forward, backward = [Side(*map(np.concatenate, zip(*side, strict=True))) for side in tables.sides]
    numbers = [wiring.features, wiring.context_features, len(networks), tables.weights]
    numbers += [tables.units, tables.ordered, tables.room]
    numbers += [each.ctypes.data for each in (firsts, values, terms, *forward, *backward)]
    numbers += [len(forward.columns), len(backward.columns), categories.ctypes.data, len(categories)]
    return Plan(numbers, firsts, values, terms, forward, backward, categories)


class _Tables:
    """Collects the rows of the tables."""

    def __init__(self, features: int, context: int) -> None:
        self.firsts: list[int] = []
        self.values: list[list[int]] = []
        self.terms: list[list[int]] = []
        self.sides: tuple[list[Side], list[Side]] = ([], [])
        self.units = _in_tiles(context)  # of the values; the context is before them
        self.weights = 0
        self.ordered = UNITS + _in_tiles(features)  # after the total and the gradient of x
        self.grads = self.ordered + _in_tiles(features)
        self.room = self.grads + _in_tiles(context)

        self._ends = [[0, 0], [0, 0]]  # of the cuts and the columns of both sides

    def add(self, wiring: Wiring, masks: Mapping[int, tuple[Side, Side]]) -> None:
        """Adds a network; its x has a place of its own."""
        first, grads = len(self.values), self.grads + _in_tiles(wiring.context_features)
        self.firsts.append(first)
        self._value(width=wiring.features, place=self.units, grad=UNITS)
        self._value(width=wiring.context_features, place=0, grad=self.grads)
        self.units += _in_tiles(wiring.features)
        readers = _readers(wiring)
        for wire in wiring.wires:
            first_term = len(self.terms)
            for value, weight in wire.terms:
                sizes = wire.width, self.values[first + value][ValueColumn.WIDTH]
                self.terms.append(
                    [first + value, self.weights + weight, *sizes, *map(self._cuts, (0, 1), masks[weight])]
                )
            alone = wire.kind == Kind.UNARY and wire.left >= 2 and readers[wire.left] == 1
            in_place = alone and wire.function not in FROM_ARGUMENT
            left = self.values[first + wire.left]
            self._value(
                int(wire.kind),
                *(first + wire.left, first + wire.right, FUNCTION_CODES[wire.function]),
                width=wire.width,
                bias=-1 if wire.bias < 0 else self.weights + wire.bias,
                terms=(first_term, len(self.terms)),
                place=left[ValueColumn.PLACE] if in_place else self.units,
                grad=left[ValueColumn.GRAD] if alone else grads,
            )
            self.units += 0 if in_place else _in_tiles(wire.width)
            grads += 0 if alone else _in_tiles(wire.width)
        self.room = max(self.room, grads)
        self.weights += wiring.num_weights

    def _value(
        self,
        kind: int = -1,
        left: int = 0,
        right: int = 0,
        function: int = 0,
        *,
        width: int,
        place: int,
        grad: int,
        bias: int = -1,
        terms: tuple[int, int] = (0, 0),
    ) -> None:
        self.values.append([kind, left, right, function, width, bias, *terms, place, grad])

    def _cuts(self, which: int, side: Side) -> int:
        """Where the cuts of one more mask begin."""
        cuts, columns = self._ends[which]
        self.sides[which].append(side._replace(cuts=side.cuts + columns))
        self._ends[which] = [cuts + len(side.cuts), columns + len(side.columns)]
        return cuts


def _readers(wiring: Wiring) -> list[int]:
    """How many operations and terms read each value."""
    readers = [0] * (2 + len(wiring.wires))
    for wire in wiring.wires:
        read = [value for value, _ in wire.terms] if wire.kind == Kind.AFFINE else [wire.left]
        for value in (*read, wire.right) if wire.kind in (Kind.ADD, Kind.MULTIPLY) else read:
            readers[value] += 1
    return readers


def _in_tiles(units: int) -> int:
    return -(-units // UNITS) * UNITS
