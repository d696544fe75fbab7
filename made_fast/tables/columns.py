"""What a column is to the model: categories, levels or numbers; how its cells become variables, and variables cells."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from made_fast.arguments import shown
from made_fast.outputs import Bernoulli, Categorical, MixtureOfLogistics, MixtureOfNormals, Output
from made_fast.requests.conditions import Between
from made_fast.tables.cells import MOMENTS, PER, Array, Cells, moment_of
from made_fast.tables.predicates import ORDERS, Predicate
from made_fast.tables.scales import Scale

__all__ = ["Categories", "Encoded", "FittedColumn", "Levels", "Numbers"]

EMBEDDED_FROM, EMBEDDING = 50, 32  # columns of more categories are read by so many learned numbers


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
        unit: of moments ``"day"`` or ``"second"``, since 1970; else empty.
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
        whole, rest = np.divmod(cells.values, PER[self.unit])
        return cells.values / PER[self.unit] if rest[cells.present].any() else whole

    def cells(self, numbers: Array, present: Array) -> Cells:
        """Numbers in the column's unit as cells."""
        if self.unit:
            moments = np.clip(np.asarray(numbers, dtype=np.float64) * PER[self.unit], *map(float, MOMENTS))
            numbers = np.clip(np.rint(moments).astype(np.int64), *MOMENTS)
        return Cells(numbers, present, self.of, zone=self.zone)

    def check(self, cells: Cells) -> None:
        """Raises ValueError where cells are of another type, or missing where none may be."""
        whole = {cells.of, self.of} == {"flag", "number"}  # True and 1 are the same
        if cells.of != self.of and cells.present.any() and not whole:
            raise ValueError(f"column {self.name!r} must hold {_WORDS[self.of]}, got {_WORDS[cells.of]}")
        if not self.missing and not cells.present.all():
            row = int(np.flatnonzero(~cells.present)[0])
            raise ValueError(f"column {self.name!r} must have no missing cell, as where it was fitted; got one in row {row}")

    def literal(self, value: object) -> Any:
        """A value of a query as the column has it: text, a flag, or a number in its unit.

        Raises:
            ValueError: it is none.
        """
        wish = f"query must compare column {self.name!r} with {_WORDS[self.of]}"
        if self.of == "moment":
            return moment_of(value, self.zone, wish) / PER[self.unit]
        kinds: tuple[type, ...] = {"text": (str,), "flag": (bool, np.bool_, int), "number": (int, float, np.number, bool)}[self.of]
        wrong = not isinstance(value, kinds) or (self.of == "flag" and value not in (0, 1))
        if wrong or (isinstance(value, float) and math.isnan(value)):
            raise ValueError(f"{wish}, got {shown(value)}")
        return value if self.of == "text" else bool(value) if self.of == "flag" else value

    def shown(self, number: Any) -> str:
        """A value in the column's unit, for messages: moments as dates."""
        if not self.unit:
            return shown(number.item() if isinstance(number, np.generic) else number)
        moment = self.cells(np.array([number]), np.array([True])).values.astype("datetime64[us]")[0]
        return str(moment.astype({"day": "datetime64[D]", "second": "datetime64[s]"}[self.unit]) if number == int(number) else moment)

    def _check_whole(self, numbers: Array, present: Array, low: int, high: int) -> None:
        """Raises ValueError where a number has a fraction or is out of range."""
        wrong = present & ((numbers < low) | (numbers > high) | (numbers != np.floor(numbers)))
        if wrong.any():
            row, kind = int(np.flatnonzero(wrong)[0]), f"whole {self.unit or 'number'}s"
            raise ValueError(
                f"column {self.name!r} must hold {kind} {self.shown(low)} .. {self.shown(high)}, got {self.shown(numbers[row])} "
                f"in row {row}: Column(low=, high=) makes room, kind 'real' takes fractions"
            )

    def _with_indicator(self, x: Array, present: Array) -> Array:
        """(N, n) of the values (N,), 0 where there is none: what the network then reads."""
        return np.stack([present, np.where(present, x, 0.0)], 1).astype(np.float64) if self.has_indicator else x[:, None]

    def _parts(self, x: Array) -> tuple[Array, Array]:
        """Values (N,) and which are present, from variables."""
        return x[:, -1], x[:, 0] != 0 if self.has_indicator else np.ones(len(x), dtype=bool)

    def _asked(self, predicates: Sequence[Predicate]) -> bool | None:
        """Whether missing cells are asked for: True, False, or None where nothing fits."""
        wishes = {each.sign == "in" and None in each.values for each in predicates}
        if self.has_indicator and any(each.sign == "in" and None in each.values[:-1] + each.values[1:] for each in predicates):
            raise ValueError(f"query must ask of column {self.name!r} for values or for missing cells, got both")
        return None if len(wishes) > 1 else wishes.pop()


_WORDS = {"text": "text", "flag": "flags", "number": "numbers", "moment": "dates or times"}


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
        self.check(cells)
        numbers = cells.values if self.of in ("text", "flag") else self.numbers(cells)
        known = {value: code for code, value in enumerate(self.values)}
        code_of = known.get
        other = len(self.values) - 1 if self.reserved else -1
        codes = np.array([code_of(value, other) for value in numbers.tolist()], dtype=np.float64)
        codes[~cells.present] = len(self.values)
        if (codes < 0).any():
            row = int(np.flatnonzero(codes < 0)[0])
            found = self.shown(numbers[row])
            raise ValueError(f"column {self.name!r} has a value that was not seen where it was fitted, {found} in row {row}")
        return Encoded(codes[:, None])

    def decode(self, x: Array) -> Cells:
        codes = np.rint(x[:, 0]).astype(np.int64)
        present = codes < len(self.values)
        listed: Array = np.empty(len(self.values), dtype=object) if self.of == "text" else np.array(self.values)
        listed[:] = self.values
        values = listed[np.where(present, codes, 0)]
        return self.cells(values, present) if self.unit else Cells(values, present, self.of)

    def allowed(self, predicates: Sequence[Predicate]) -> dict[int, Any]:
        codes = {code for code in range(len(self.values)) if all(self._holds(each, code) for each in predicates)}
        if self.missing and self._asked(predicates):
            codes.add(len(self.values))
        return {0: codes}

    def _holds(self, predicate: Predicate, code: int) -> bool:
        sign, value = predicate.sign, self.values[code]
        if sign == "present":
            return True
        if sign in ("in", "not in"):
            listed = [self._known(each) for each in predicate.values if each is not None]
            return (value in listed) == (sign == "in")
        bound = self._known(predicate.values[0])
        if self.of != "text":
            return ORDERS[sign](value, bound)
        if self.kind == "category":
            raise ValueError(f"query must compare column {self.name!r}, whose text has no order, by = and in, got {sign}")
        return ORDERS[sign](code, self.values.index(bound))

    def _known(self, value: object) -> Any:
        value = self.literal(value)
        if self.of == "text" and value not in self.values:
            raise ValueError(f"query must name values of column {self.name!r}, {self._some()}; got {value!r}")
        return value

    def _some(self) -> str:
        some = ", ".join(self.shown(each) for each in self.values[:6])
        return some if len(self.values) <= 6 else f"{some}, ..."

    def __str__(self) -> str:
        return f"{len(self.values)} values: {self._some()}"


@dataclass(frozen=True)
class Levels(FittedColumn):
    """Whole numbers ``low .. high``, a mixture of logistics cut into bins; the first and the last take the whole tail."""

    low: int = 0
    high: int = 1

    def outputs(self, components: int, floor: float) -> list[Output]:
        levels = self.high - self.low + 1
        value = MixtureOfLogistics(components, levels=levels, floor=0.2 / (levels - 1))  # a tenth of a bin
        return [Bernoulli(), value] if self.missing else [value]

    def encode(self, cells: Cells) -> Encoded:
        self.check(cells)
        numbers = self.numbers(cells)
        self._check_whole(numbers, cells.present, self.low, self.high)
        x = (numbers - self.low).astype(np.float64)
        if self.missing:  # the level that the network reads as 0
            x = np.where(cells.present, x, (self.high - self.low) / 2)
            return Encoded(np.stack([cells.present.astype(np.float64), x], 1))
        return Encoded(x[:, None])

    def decode(self, x: Array) -> Cells:
        values, present = self._parts(x)
        return self.cells(np.rint(values).astype(np.int64) + self.low, present)

    def allowed(self, predicates: Sequence[Predicate]) -> dict[int, Any]:
        wanted = self._asked(predicates)
        if wanted and not self.missing or wanted is None:
            return {self.num_variables - 1: set()}
        if wanted:
            return {0: {0}}
        levels = np.arange(self.low, self.high + 1)
        for each in predicates:
            bounds = [self.literal(value) for value in each.values if value is not None]
            if each.sign in ORDERS:
                levels = levels[ORDERS[each.sign](levels, bounds[0])]  # type: ignore[index]
            elif each.sign != "present":
                levels = levels[np.isin(levels, bounds, invert=each.sign == "not in")]
        value = {self.num_variables - 1: set((levels - self.low).tolist())}
        return {0: {1}, **value} if self.missing else value

    def __str__(self) -> str:
        return f"whole {self.unit or 'number'}s {self.shown(self.low)} .. {self.shown(self.high)}"


@dataclass(frozen=True)
class Numbers(FittedColumn):
    """Real numbers by a scale; or whole ones ``low .. high``, rounded, with the mass of their bins.

    Of whole numbers the edges of bins lie half way between them, and the first and the last bin take the whole tail. Where a
    row is drawn, columns after this one read the number as it was before rounding.

    Attributes:
        scale: from the column's unit to the model's.
        whole: whether they are rounded.
        low, high: of whole ones.
    """

    scale: Scale = Scale((0.0, 1.0), (0.0, 1.0))
    whole: bool = False
    low: int = 0
    high: int = 0

    @property
    def rounded(self) -> bool:
        return self.whole

    def outputs(self, components: int, floor: float) -> list[Output]:
        value = MixtureOfNormals(components, floor=floor)
        return [Bernoulli(), value] if self.missing else [value]

    def encode(self, cells: Cells) -> Encoded:
        self.check(cells)
        numbers, present = self.numbers(cells), cells.present
        if not self.whole:
            slope = np.where(present, np.log(self.scale.slope(numbers)), 0.0)
            return Encoded(self._with_indicator(self.scale.to(numbers), present), log_slope=slope)
        self._check_whole(numbers, present, self.low, self.high)
        x = self.scale.to(numbers)
        below = np.where(numbers == self.low, _FAR, x - self.scale.to(numbers - 0.5))
        above = np.where(numbers == self.high, _FAR, self.scale.to(numbers + 0.5) - x)
        return Encoded(self._with_indicator(x, present), below, above)

    def decode(self, x: Array) -> Cells:
        values, present = self._parts(x)
        numbers = self.scale.back(values)
        if self.whole:
            numbers = np.clip(np.rint(numbers), self.low, self.high).astype(np.int64)
        return self.cells(numbers, present)

    def allowed(self, predicates: Sequence[Predicate]) -> dict[int, Any]:
        wanted = self._asked(predicates)
        place = self.num_variables - 1
        if wanted and not self.missing or wanted is None:
            return {place: Between(1.0, 0.0)}
        if wanted:
            return {0: {0}}
        low, high = -math.inf, math.inf
        for each in predicates:
            if each.sign in ("<", "<="):
                high = min(high, self._end(each, -1))
            elif each.sign in (">", ">="):
                low = max(low, self._end(each, +1))
            elif each.sign != "present":
                low, high = max(low, self._only(each)), min(high, self._only(each))
        ends = self._scaled(low, high)
        return {0: {1}, place: ends} if self.missing else {place: ends}

    def _end(self, predicate: Predicate, inwards: int) -> float:
        """The last value that an order allows; of real numbers the bound itself makes no difference."""
        bound = float(self.literal(predicate.values[0]))
        if not self.whole or math.isinf(bound):
            return bound
        end = math.ceil(bound) if inwards > 0 else math.floor(bound)
        return end + inwards if predicate.sign in ("<", ">") and end == bound else end

    def _only(self, predicate: Predicate) -> float:
        if not self.whole or predicate.sign != "in" or len(predicate.values) != 1:
            wish = "a range or one value" if self.whole else "a range, since one value has probability 0"
            raise ValueError(f"query must give column {self.name!r} {wish}, got {predicate.sign} {shown(predicate.values)}")
        return float(self.literal(predicate.values[0]))

    def _scaled(self, low: float, high: float) -> Between:
        if self.whole:
            if low > high or low != np.ceil(low) or high < self.low or low > self.high:
                return Between(1.0, 0.0)
            low = -math.inf if low <= self.low else low - 0.5
            high = math.inf if high >= self.high else high + 0.5
        return Between(*(each if math.isinf(each) else float(self.scale.to(np.array([each]))[0]) for each in (low, high)))

    def __str__(self) -> str:
        low, high = (self.shown(each) for each in (self.scale.knots[0], self.scale.knots[-1]))
        kind = f"whole {self.unit or 'number'}s, rounded" if self.whole else "real numbers"
        how = "mean and deviation" if len(self.scale.knots) == 2 else f"{len(self.scale.knots)} quantiles"
        return f"{kind}, scaled by {how} from {low} to {high}"


_FAR = 1e3  # deviations: the edge of a bin that takes the whole tail

