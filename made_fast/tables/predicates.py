"""What a query asks of one column."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from made_fast.arguments import shown
from made_fast.requests.conditions import Between

__all__ = ["ORDERS", "Predicate", "predicate_of"]

ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda value, bound: value < bound,
    "<=": lambda value, bound: value <= bound,
    ">": lambda value, bound: value > bound,
    ">=": lambda value, bound: value >= bound,
}


class Predicate(NamedTuple):
    """One condition on a column.

    Attributes:
        sign: ``<``, ``<=``, ``>`` or ``>=``, with one value; ``in`` or ``not in``, with any number, None for a missing cell
            among them; ``present``, without one.
        values: as they were given.
    """

    sign: str
    values: tuple[Any, ...] = ()

    def __str__(self) -> str:
        """As one writes it."""
        if self.sign not in ("in", "not in") or len(self.values) != 1:
            listed = ", ".join(map(shown, self.values))
            return f"{self.sign} ({listed})" if "in" in self.sign else f"{self.sign} {listed}".strip()
        return f"{'=' if self.sign == 'in' else '!='} {shown(self.values[0])}"


def predicate_of(name: str, wanted: object) -> list[Predicate]:
    """The conditions that a value of a mapping stands for.

    Args:
        name: of the column.
        wanted: a ``Between``, whose ends may be dates; a range, a set or a sequence of values; one value; or None for a
            missing cell.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(wanted, Between):
        ends = ((">=", wanted.low), ("<=", wanted.high))
        return [Predicate("present"), *(Predicate(sign, (end,)) for sign, end in ends if end is not None)]
    if isinstance(wanted, range) and wanted.step == 1 and wanted:
        return [Predicate(">=", (wanted.start,)), Predicate("<", (wanted.stop,))]
    if isinstance(wanted, (Tensor, np.ndarray)):
        return [Predicate("in", tuple(np.asarray(wanted).reshape(-1)))]
    if isinstance(wanted, Iterable) and not isinstance(wanted, (str, bytes, dict)):
        return [Predicate("in", tuple(wanted))]
    if isinstance(wanted, (bytes, dict)) or (isinstance(wanted, float) and math.isnan(wanted)):
        raise ValueError(f"query[{name!r}] must be a Between, values or one value, got {shown(wanted)}")
    return [Predicate("in", (wanted,))]
