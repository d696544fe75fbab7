"""Columns of numbers: levels of a small range, real numbers, and rounded ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from made_fast.outputs import Bernoulli, MixtureOfLogistics, MixtureOfNormals, Output
from made_fast.requests.conditions import Between
from made_fast.tables.cells import Array, Cells
from made_fast.tables.columns import Encoded, FittedColumn
from made_fast.tables.predicates import ORDERS, Predicate
from made_fast.tables.scales import Scale

__all__ = ["Levels", "Numbers"]

_FAR = 1e3  # deviations: the edge of a bin that takes the whole tail


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
        cells = self.checked(cells)
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
        if wanted is None or (wanted and not self.missing):
            return {self.num_variables - 1: set()}
        if wanted:
            return {0: {0}}
        levels = np.arange(self.low, self.high + 1)
        for each in predicates:
            if each.sign in ORDERS:
                levels = levels[ORDERS[each.sign](levels, self.literal(each.values[0]))]  # type: ignore[index]
            elif each.sign != "present":
                bounds = [self.literal(value) for value in each.values if value is not None]
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

    scale: Scale = field(default_factory=Scale)
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
        cells = self.checked(cells)
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
        if wanted is None or (wanted and not self.missing):
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
            raise ValueError(f"query must give column {self.name!r} {wish}, got {predicate}")
        return float(self.literal(predicate.values[0]))

    def _scaled(self, low: float, high: float) -> Between:
        if self.whole:
            if low > high or low != np.ceil(low) or high < self.low or low > self.high:
                return Between(1.0, 0.0)
            low = -math.inf if low <= self.low else low - 0.5
            high = math.inf if high >= self.high else high + 0.5
        return Between(
            *(each if math.isinf(each) else float(self.scale.to(np.array([each]))[0]) for each in (low, high))
        )

    def __str__(self) -> str:
        ends = (self.scale.knots[0], self.scale.knots[-1])
        low, high = (self.shown(each) if self.unit else f"{each:.6g}" for each in ends)
        kind = f"whole {self.unit or 'number'}s, rounded" if self.whole else "real numbers"
        how = "mean and deviation" if len(self.scale.knots) == 2 else f"{len(self.scale.knots)} quantiles"
        return f"{kind}, scaled by {how} from {low} to {high}"
