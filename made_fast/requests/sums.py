"""Sums that variables are held to: what each lacks while they are drawn, and which values leave a way to its total.

A variable may take the values after which those that are drawn later can still bring the sum to its total. It is drawn from
its conditional cut to them, and the log of the mass that is kept is its part of the log-weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["MOST_SUMS", "Patterns", "RunningSums", "SumColumn", "SumTo", "Sums", "Totals"]

MOST_SUMS = 8  # of one query; kMostSums of csrc/plan/request.h


@dataclass(frozen=True)
class SumTo:
    """The total that a sum of variables is held to: a magnetisation, a number of particles.

    In ``allowed`` it stands alone for the sum of all variables, ``SumTo(0)``, or behind those that it is about,
    ``{(0, 1, 2): SumTo(2), 5: {1}}``. A variable is in one sum at most, and its values are whole numbers.

    Attributes:
        total: a whole number.
    """

    total: int


class SumColumn(IntEnum):
    """Columns of ``Sums.reaches``; they are those of csrc/plan/codes.h."""

    SUM = 0  # number of the sum that a variable is drawn for, -1 for none
    FIRST = 1  # where its flags begin in ``bits``
    LOW = 2  # the total that the first of them is about
    COUNT = 3  # flags


class Totals(NamedTuple):
    """Which totals some variables can have: ``low + i`` where bit i is set."""

    low: int = 0
    bits: int = 1

    def plus(self, values: Sequence[int]) -> Totals:
        """Those with another variable, which has these values, in ascending order."""
        least, found = values[0], self.bits
        if values[-1] - least == len(values) - 1:  # all between: by doubling
            width = 1
            while width < len(values):
                step = min(width, len(values) - width)
                found, width = found | found << step, width + step
        else:
            found = 0
            for value in values:
                found |= self.bits << (value - least)
        return Totals(self.low + least, found)

    def packed(self) -> bytes:
        """The bits, the first in the lowest bit of the first byte."""
        return self.bits.to_bytes((self.bits.bit_length() + 7) // 8, "little")

    def has(self, totals: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some totals, int64, they can have."""
        flags = np.unpackbits(np.frombuffer(self.packed(), np.uint8), bitorder="little")
        places = totals - self.low
        inside = (places >= 0) & (places < len(flags))
        found: NDArray[np.bool_] = inside & (flags[np.where(inside, places, 0)] != 0)
        return found


class Patterns(NamedTuple):
    """Which variables are drawn for sums, in U ways; for each sum they are those that a condition does not give.

    Attributes:
        members: (U, D) int64: the number of the sum that a variable is drawn for, or -1.
        offers: (U, D) int64: which of ``values`` it may have.
        values: in ascending order each.
    """

    members: NDArray[np.int64]
    offers: NDArray[np.int64]
    values: tuple[tuple[int, ...], ...]

    def later(self, sequence: Sequence[int]) -> tuple[list[Totals], NDArray[np.int64], list[list[int]]]:
        """What variables add that are drawn in a sequence (D,).

        Returns:
            Totals; by pattern and variable the number of those of the variables of its sum that come later (U, D), -1 where
            it is in none; and by pattern and sum the number of those of all.
        """
        totals, numbers, after = [Totals()], {Totals(): 0}, dict[tuple[int, int], int]()
        found = np.full(self.members.shape, -1, dtype=np.int64)
        ends = []
        backwards = list(reversed(sequence))
        for row, members, offers in zip(found, self.members.tolist(), self.offers.tolist(), strict=True):
            state, own = [0] * MOST_SUMS, [-1] * len(members)
            for variable in backwards:
                number = members[variable]
                if number < 0:
                    continue
                last = own[variable] = state[number]
                step = (last, offers[variable])
                following = after.get(step)
                if following is None:
                    with_it = totals[last].plus(self.values[step[1]])
                    following = after[step] = numbers.setdefault(with_it, len(totals))
                    if following == len(totals):
                        totals.append(with_it)
                state[number] = following
            row[:] = own
            ends.append(state)
        return totals, found, ends


@dataclass(frozen=True)
class Sums:
    """What the conditions of N rows are held to.

    Attributes:
        lacking: (N, sums) int64: what the variables that are drawn are to add up to, without what is given.
        pattern: (N,) int64: which of the patterns a condition has; -1 where nothing is held to a sum.
        patterns: of U kinds.
        reaches: (U, D, 4) int64, the columns are those of ``SumColumn``; None as long as no order is known.
        bits: uint8: the flags of ``reaches``, eight to a byte; None likewise.
    """

    lacking: Tensor
    pattern: Tensor
    patterns: Patterns
    reaches: Tensor | None = None
    bits: Tensor | None = None

    def drawn_in(self, sequence: Sequence[int]) -> Sums:
        """The same for variables that are drawn in this sequence (D,): with the totals of those that are yet to come."""
        totals, later, _ = self.patterns.later(sequence)
        chunks = [each.packed() for each in totals]
        firsts = 8 * np.cumsum([0, *map(len, chunks)])[:-1]
        columns = np.stack([firsts, [each.low for each in totals], [each.bits.bit_length() for each in totals]], axis=1)
        reaches = np.concatenate(
            [self.patterns.members[..., None], columns[later]], axis=2
        )  # the last where there is none
        bits = torch.frombuffer(bytearray(b"".join(chunks)), dtype=torch.uint8)
        device = self.lacking.device
        return replace(self, reaches=torch.from_numpy(reaches).to(device), bits=bits.to(device))

    def moved(self, device: torch.device) -> Sums:
        """The same on another device, contiguous."""

        def to(tensor: Tensor) -> Tensor:
            return tensor.to(device).contiguous()

        if self.reaches is None or self.bits is None:
            return replace(self, lacking=to(self.lacking), pattern=to(self.pattern))
        return Sums(to(self.lacking), to(self.pattern), self.patterns, to(self.reaches), to(self.bits))

    def rows(self, places: Tensor) -> Sums:
        """Those of some conditions (m,) alone."""
        places = places.to(self.pattern.device)
        return replace(self, lacking=self.lacking[places], pattern=self.pattern[places])


class RunningSums:
    """The sums of some rows while their variables are drawn, in torch: the definition.

    Args:
        sums: with an order.
        condition: (B,) int64: which condition each row has.
    """

    def __init__(self, sums: Sums, condition: Tensor) -> None:
        assert sums.reaches is not None and sums.bits is not None
        pattern = sums.pattern[condition]
        self._none = pattern < 0
        self._pattern = pattern.clamp(min=0)
        self._reaches, self._bits = sums.reaches, sums.bits
        self._lacking = sums.lacking[condition]  # (B, sums)

    def _columns(self, variable: int) -> tuple[Tensor, ...]:
        """Of each row, (B,): its sum, the flags of what can be added later, and whether there is a sum."""
        number, first, low, count = self._reaches[self._pattern, variable].unbind(-1)
        return number.clamp(min=0), first, low, count, ~self._none & (number >= 0)

    def allowed(self, variable: int, values: Tensor) -> Tensor:
        """Which values (size,) of a variable leave a way to the total of its sum, bool (B, size)."""
        number, first, low, count, held = self._columns(variable)
        rest = self._lacking.gather(1, number[:, None]) - values.long()
        place = rest - low[:, None]
        inside = (place >= 0) & (place < count[:, None])
        bit = torch.where(inside, first[:, None] + place, 0)
        flags = self._bits[bit >> 3].long() >> (bit & 7) & 1
        return (inside & (flags == 1)) | ~held[:, None]

    def take(self, variable: int, value: Tensor) -> None:
        """Goes on from the values (B,) that were drawn."""
        number, *_, held = self._columns(variable)
        self._lacking.scatter_add_(1, number[:, None], torch.where(held, -value.long(), 0)[:, None])
