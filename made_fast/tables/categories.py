"""Columns of finitely many values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from made_fast.arguments import shown
from made_fast.outputs import Bernoulli, Categorical, Output
from made_fast.tables.cells import Array, Cells
from made_fast.tables.columns import Encoded, FittedColumn
from made_fast.tables.predicates import ORDERS, Predicate

__all__ = ["Categories"]

EMBEDDED_FROM, EMBEDDING = 50, 32  # columns of more categories are read by so many learned numbers


@dataclass(frozen=True)
class Categories(FittedColumn):
    """Finitely many values by number; where cells may be missing, that is one more category: exact, without an indicator.

    Attributes:
        values: text, flags or numbers in the column's unit; those of a ``"category"`` that are text have no order.
        reserved: whether the last one stands for all others.
    """

    values: tuple[Any, ...] = ()
    reserved: bool = False

    @property
    def has_indicator(self) -> bool:
        """Never."""
        return False

    @property
    def size(self) -> int:
        """Number of categories, missing among them."""
        return len(self.values) + self.missing

    def outputs(self, components: int, floor: float) -> list[Output]:
        if self.kind == "bit" and not self.missing:
            return [Bernoulli()]
        return [Categorical(self.size, embedding=EMBEDDING if self.size > EMBEDDED_FROM else 0)]

    def encode(self, cells: Cells) -> Encoded:
        cells = self.checked(cells)
        numbers = cells.values if self.of in ("text", "flag") else self.numbers(cells)
        known = {value: code for code, value in enumerate(self.values)}
        code_of = known.get
        other = len(self.values) - 1 if self.reserved else -1
        codes = np.array([code_of(value, other) for value in numbers.tolist()], dtype=np.float64)
        codes[~cells.present] = len(self.values)
        if (codes < 0).any():
            row = int(np.flatnonzero(codes < 0)[0])
            found = self.shown(numbers[row])
            raise ValueError(
                f"column {self.name!r} has a value that was not seen where it was fitted, {found} in row {row}"
            )
        return Encoded(codes[:, None])

    def decode(self, x: Array) -> Cells:
        codes = np.rint(x[:, 0]).astype(np.int64)
        present = codes < len(self.values)
        listed: Array = np.empty(len(self.values), dtype=object) if self.of == "text" else np.array(self.values)
        listed[:] = self.values
        values = listed[np.where(present, codes, 0)]
        return self.cells(values, present) if self.unit else Cells(values, present, self.of)

    def allowed(self, predicates: Sequence[Predicate]) -> dict[int, Any]:
        codes = set(range(len(self.values))).intersection(*map(self._holding, predicates))
        if self.missing and self._asked(predicates):
            codes.add(len(self.values))
        return {0: codes}

    def _holding(self, predicate: Predicate) -> set[int]:
        """The codes for which a predicate holds."""
        sign, codes = predicate.sign, range(len(self.values))
        if sign == "present":
            return set(codes)
        if sign in ("in", "not in"):
            listed = {self._code(each) for each in predicate.values if each is not None}
            return listed if sign == "in" else set(codes) - listed
        if self.of != "text":
            bound = self.literal(predicate.values[0])
            return {code for code in codes if ORDERS[sign](self.values[code], bound)}
        code = self._code(predicate.values[0])
        if self.kind == "category":
            raise ValueError(
                f"query must compare column {self.name!r}, whose text has no order, by = and in, got {sign}"
            )
        return {each for each in codes if ORDERS[sign](each, code)}

    def _code(self, value: object) -> int:
        """The code of a literal, which must be one of the values."""
        known = self.literal(value)
        if known not in self.values:
            raise ValueError(f"query must name values of column {self.name!r}, {self._some()}; got {shown(value)}")
        return self.values.index(known)

    def _some(self) -> str:
        some = ", ".join(self.shown(each) for each in self.values[:6])
        return some if len(self.values) <= 6 else f"{some}, ..."

    def __str__(self) -> str:
        return f"{len(self.values)} values: {self._some()}"
