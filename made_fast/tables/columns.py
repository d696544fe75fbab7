"""What a column is to the model: what all kinds of columns share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from made_fast.arguments import shown
from made_fast.outputs import Output
from made_fast.tables.cells import MOMENTS, PER, Array, Cells, from_wall, moment_of, moments_of, to_wall
from made_fast.tables.predicates import Predicate

__all__ = ["Encoded", "FittedColumn"]


class Encoded(NamedTuple):
    """Cells as variables.

    Attributes:
        x: (N, n) fp64, the variables of the column.
        below, above: (N,) from a rounded number to the edges of its bin, or None.
        log_slope: (N,) of the scaling: what turns a density of the variable into one of the column; or None.
    """

    x: Array
    below: Array | None = None
    above: Array | None = None
    log_slope: Array | None = None


@dataclass(frozen=True)
class FittedColumn(ABC):
    """A column as the model has it.

    Attributes:
        name: of the column.
        kind: category, ordered, bit, integer, real or datetime.
        of: what its cells are: text, flag, number or moment.
        missing: whether cells may be missing.
        unit: of moments ``"day"``, by the clocks of their time zone, or ``"second"``, since 1970; else empty.
        zone: the time zone of moments, or None.
    """

    name: str
    kind: str
    of: str
    missing: bool = False
    unit: str = ""
    zone: str | None = None

    @property
    def num_variables(self) -> int:
        """Variables of the column: its value, and before it the indicator of presence where there is one."""
        return 1 + self.has_indicator

    @property
    def has_indicator(self) -> bool:
        """Whether a bit of its own says that a cell is present."""
        return self.missing

    @property
    def rounded(self) -> bool:
        """Whether its values are whole numbers, each with the mass of a bin of real ones."""
        return False

    @abstractmethod
    def outputs(self, components: int, floor: float) -> list[Output]:
        """One for each variable."""

    @abstractmethod
    def encode(self, cells: Cells) -> Encoded:
        """Cells as variables; a ValueError where one cannot be such."""

    @abstractmethod
    def decode(self, x: Array) -> Cells:
        """Variables (N, n) as cells."""

    @abstractmethod
    def allowed(self, predicates: Sequence[Predicate]) -> dict[int, Any]:
        """What its variables, by their place, may be where all predicates hold."""

    @abstractmethod
    def __str__(self) -> str:
        """What it is, in some words."""

    def numbers(self, cells: Cells) -> Array:
        """The numbers of cells of numbers or moments, in the column's unit: int64 or fp64."""
        if not self.unit:
            return cells.values
        moments = to_wall(cells.values, self.zone) if self.unit == "day" else cells.values
        whole, rest = np.divmod(moments, PER[self.unit])
        return moments / PER[self.unit] if rest[cells.present].any() else whole

    def cells(self, numbers: Array, present: Array) -> Cells:
        """Numbers in the column's unit as cells."""
        if self.unit:
            moments = np.asarray(numbers, dtype=np.float64) * PER[self.unit]
            moments = np.clip(moments, float(MOMENTS[0]), float(MOMENTS[1]))  # so that int64 holds them
            numbers = np.clip(np.rint(moments).astype(np.int64), *moments_of(self.zone))
            numbers = from_wall(numbers, self.zone) if self.unit == "day" else numbers
        return Cells(numbers, present, self.of, zone=self.zone)

    def checked(self, cells: Cells) -> Cells:
        """The cells, of the column's type; a ValueError where they are of another, or missing where none may be."""
        whole = {cells.of, self.of} == {"flag", "number"}  # True and 1 are the same
        if cells.of != self.of and cells.present.any() and not whole:
            raise ValueError(f"column {self.name!r} must hold {_WORDS[self.of]}, got {_WORDS[cells.of]}")
        if not self.missing and not cells.present.all():
            row = int(np.flatnonzero(~cells.present)[0])
            raise ValueError(
                f"column {self.name!r} must have no missing cell, as where it was fitted; got one in row {row}"
            )
        return cells if cells.present.any() else Cells(np.zeros(len(cells), dtype=np.int64), cells.present, self.of)

    def literal(self, value: object) -> Any:
        """A value of a query as the column has it: text, a flag, or a number in its unit.

        Raises:
            ValueError: it is none.
        """
        wish = f"query must compare column {self.name!r} with {_WORDS[self.of]}"
        if self.of == "moment":
            moment = np.array([moment_of(value, self.zone, wish)])
            return float((to_wall(moment, self.zone) if self.unit == "day" else moment)[0]) / PER[self.unit]
        kinds: tuple[type, ...] = {
            "text": (str,),
            "flag": (bool, np.bool_, int),
            "number": (int, float, np.number, bool),
        }[self.of]
        wrong = not isinstance(value, kinds) or (self.of == "flag" and value not in (0, 1))
        if wrong or (isinstance(value, float) and math.isnan(value)):
            raise ValueError(f"{wish}, got {shown(value)}")
        value = float(str(value)) if isinstance(value, np.floating) else value  # as cells of few bits are read
        return bool(value) if self.of == "flag" else value

    def shown(self, number: Any) -> str:
        """A value in the column's unit, for messages: moments as dates."""
        if not self.unit:
            return shown(number.item() if isinstance(number, np.generic) else number)
        moments = to_wall(self.cells(np.array([number]), np.array([True])).values, self.zone)
        finest = {"day": "D", "second": "s"}[self.unit] if number == int(number) else "us"
        return str(moments.astype("datetime64[us]").astype(f"datetime64[{finest}]")[0])

    def _check_whole(self, numbers: Array, present: Array, low: int, high: int) -> None:
        """Raises ValueError where a number has a fraction or is out of range."""
        wrong = present & ((numbers < low) | (numbers > high) | (numbers != np.floor(numbers)))
        if wrong.any():
            row, kind = int(np.flatnonzero(wrong)[0]), f"whole {self.unit or 'number'}s"
            raise ValueError(
                f"column {self.name!r} must hold {kind} {self.shown(low)} .. {self.shown(high)}, got "
                f"{self.shown(numbers[row])} in row {row}: Column(low=, high=) makes room, kind 'real' takes fractions"
            )

    def _with_indicator(self, x: Array, present: Array) -> Array:
        """(N, n) of the values (N,), 0 where there is none: what the network then reads."""
        return (
            np.stack([present, np.where(present, x, 0.0)], 1).astype(np.float64) if self.has_indicator else x[:, None]
        )

    def _parts(self, x: Array) -> tuple[Array, Array]:
        """Values (N,) and which are present, from variables."""
        return x[:, -1], x[:, 0] != 0 if self.has_indicator else np.ones(len(x), dtype=bool)

    def _asked(self, predicates: Sequence[Predicate]) -> bool | None:
        """Whether missing cells are asked for: True, False, or None where nothing fits."""
        wishes = {each.sign == "in" and None in each.values for each in predicates}
        if self.has_indicator and any(
            each.sign == "in" and None in each.values[:-1] + each.values[1:] for each in predicates
        ):
            raise ValueError(f"query must ask of column {self.name!r} for values or for missing cells, got both")
        return None if len(wishes) > 1 else wishes.pop()


_WORDS = {"text": "text", "flag": "flags", "number": "numbers", "moment": "dates or times"}
