"""Which kind of column some cells are: decided by their type and their values, or as one says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from made_fast.arguments import flag, one_of, shown, whole_number
from made_fast.tables.categories import Categories
from made_fast.tables.cells import PER, Array, Cells, to_wall
from made_fast.tables.columns import FittedColumn
from made_fast.tables.numbers import Levels, Numbers
from made_fast.tables.scales import SCALINGS, Scale, scale_of

__all__ = ["KINDS", "Column", "choose", "wishes_of"]

KINDS = ("category", "ordered", "bit", "integer", "real", "datetime")
FEW, EACH = 32, 5  # numbers of so few values, which occur so often on average, are ordered categories
MOST_LEVELS = 1024  # whole numbers of a wider range are rounded real ones
MOST_CATEGORIES = 5000
# Whole numbers beyond are real ones: fp64 has the edges of their bins, and widths of bins to a thousandth.
WIDEST, LARGEST = 2**40, 2**52
_OF = {"text": ("category", "ordered", "bit"), "flag": ("bit", "category", "ordered"), "number": KINDS[:5]}
_OF["moment"] = ("datetime", "ordered", "category", "integer", "real")


@dataclass(frozen=True)
class Column:
    """What one says of a column; what is left out is decided by its cells.

    Args:
        kind: ``"category"``; ``"ordered"``, categories that can be compared; ``"bit"``, two values; ``"integer"``;
            ``"real"``; or ``"datetime"``.
        scaling: of real numbers, of dates and times, and of whole numbers of a wide range: ``"standard"``, by mean and
            deviation, or ``"quantiles"``.
        values: of categories, in their order; where ``other`` is given, the rest is that.
        other: the label of a reserved category, which stands for values that are not among ``values``; where those are left
            out too, for all that occur once. Without it a value that was not seen is an error.
        missing: whether cells may be missing even if none is where the column is fitted.
        low, high: of whole numbers, the least and the greatest.
    """

    kind: str | None = None
    scaling: str | None = field(default=None, kw_only=True)
    values: Iterable[Any] | None = field(default=None, kw_only=True)
    other: str | None = field(default=None, kw_only=True)
    missing: bool = field(default=False, kw_only=True)
    low: int | None = field(default=None, kw_only=True)
    high: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.kind is not None:
            one_of("kind", self.kind, KINDS)
        if self.scaling is not None:
            one_of("scaling", self.scaling, SCALINGS)
        if self.other is not None and not isinstance(self.other, str):
            raise ValueError(f"other must be the label of the reserved category, got {shown(self.other)}")
        if isinstance(self.values, (str, bytes)) or not isinstance(self.values, (Iterable, type(None))):
            raise ValueError(f"values must be a sequence of values, got {shown(self.values)}")
        flag("missing", self.missing)
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), None)


def _column_of(name: str, wish: object) -> Column:
    """What one says of a column: a ``Column``, or the name of a kind alone."""
    if isinstance(wish, str):
        one_of(f"the kind of column {name!r}", wish, KINDS)
        return Column(wish)
    if not isinstance(wish, Column):
        raise ValueError(f"columns[{name!r}] must be a Column or the name of a kind, got {shown(wish)}")
    return wish


def choose(name: str, cells: Cells, wish: Column) -> FittedColumn:
    """The column that these cells are.

    Raises:
        ValueError: they are none: all missing or all equal, too many categories, or not of the kind that is wanted.
    """
    found = cells.values[cells.present]
    if not len(found):
        raise ValueError(
            f"column {name!r} must have cells that are not missing, got {len(cells)} missing: leave it out"
        )
    if wish.kind is not None:
        one_of(f"the kind of column {name!r}, which has {cells.of}s,", wish.kind, _OF[cells.of])
    missing = bool(wish.missing or not cells.present.all())
    common: dict[str, Any] = {"name": name, "of": cells.of, "missing": missing, "zone": cells.zone}
    if cells.of in ("text", "flag"):
        kind = wish.kind or ("bit" if cells.of == "flag" else "category" if cells.categories is None else "ordered")
        made: FittedColumn = _categories(common, kind, found.tolist(), cells.categories, wish)
    else:
        made = _of_numbers(common, found, cells, wish)
    for option, kinds in _BELONGS.items():
        if getattr(wish, option) is not None and not isinstance(made, kinds):
            raise ValueError(f"{option} must be left out for column {name!r}, which is of kind {made.kind!r}")
    return made


_BELONGS: dict[str, tuple[type, ...]] = {
    **{"scaling": (Numbers,), "values": (Categories,), "other": (Categories,)},
    **dict.fromkeys(("low", "high"), (Levels, Numbers)),
}


def _of_numbers(common: dict[str, Any], found: Array, cells: Cells, wish: Column) -> FittedColumn:
    limits, least, most = cells.limits, found.min().item(), found.max().item()
    whole = bool((found == np.floor(found)).all()) and most - least <= WIDEST and max(-least, most) <= LARGEST
    if cells.of == "moment":
        wall = to_wall(found, cells.zone)
        days = bool((wall % PER["day"] == 0).all())
        common["unit"], found = ("day", wall) if days else ("second", found)
        per = PER[common["unit"]]
        whole, limits = bool((found % per == 0).all()), (limits[0] // per, limits[1] // per)
        found = found // per if whole else found / per
    values, counts = np.unique(found, return_counts=True)
    kind = wish.kind or _kind_of(values, len(found), cells, whole, wish)
    if kind in ("bit", "ordered", "category"):
        listed = np.repeat(values, np.minimum(counts, 2)).tolist()  # what occurs once, and what more often
        return _categories(common, kind, listed, cells.categories, wish)
    if len(values) == 1:
        raise _one_value(common, values[0].item())
    if kind == "integer" and not whole:
        broken = values[values != np.floor(values)]
        raise ValueError(
            f"column {common['name']!r} must have whole numbers to be of kind 'integer', at most 2**40 apart and below 2**52"
            f", got {broken[0] if len(broken) else f'{least} .. {most}'}"
        )
    if kind == "real" or not whole:
        if wish.low is not None or wish.high is not None:
            raise ValueError(f"low and high must be left out for column {common['name']!r}, which has real numbers")
        return Numbers(**common, kind=kind, scale=_scale(common["name"], found, wish.scaling))
    low, high = _range(int(values[0]), int(values[-1]), limits, wish)
    if high - low < MOST_LEVELS and wish.scaling is None:
        return Levels(**common, kind=kind, low=low, high=high)
    if wish.low is None:
        low = 0 if values[0] >= 0 and cells.of == "number" else limits[0]
    high = limits[1] if wish.high is None else high
    scale = _scale(common["name"], found, wish.scaling)
    return Numbers(**common, kind=kind, scale=scale, whole=True, low=low, high=high)


def _scale(name: str, numbers: Array, scaling: str | None) -> Scale:
    """The scale of a column, which has an inverse in fp64."""
    with np.errstate(all="ignore"):
        scale = scale_of(numbers, scaling)
        slopes = np.diff(scale.places) / np.diff(scale.knots)
    if not (np.isfinite(slopes) & (slopes > 0)).all():
        raise ValueError(
            f"column {name!r} must have numbers further apart than fp64 rounds, got {numbers.min()} .. {numbers.max()}: "
            "subtract the least or change the unit"
        )
    return scale


def _kind_of(values: Array, count: int, cells: Cells, whole: bool, wish: Column) -> str:
    """The kind of a column of numbers or moments with these values, where none was named."""
    if wish.values is not None:
        return "ordered"
    if wish.low is None and wish.high is None and wish.scaling is None:
        if cells.of == "number" and values.tolist() == [0, 1]:
            return "bit"
        if len(values) <= FEW and count >= EACH * len(values):
            return "ordered"
    return "datetime" if cells.of == "moment" else "integer" if whole else "real"


def _range(least: int, most: int, limits: tuple[int, int], wish: Column) -> tuple[int, int]:
    """The range of whole numbers: a tenth beyond what is known on each side, but none below 0 where none is."""
    room = max(1, (most - least) // 10)
    low = max(limits[0], least - room, 0 if least >= 0 else limits[0]) if wish.low is None else wish.low
    high = min(limits[1], most + room) if wish.high is None else wish.high
    if low < limits[0] or high > limits[1]:
        raise ValueError(
            f"low and high must lie in the range of the dtype, {limits[0]} .. {limits[1]}, got {low} and {high}"
        )
    if low > least or high < most:
        raise ValueError(f"low and high must hold the values from {least} to {most}, got {low} and {high}")
    return low, high


def _one_value(common: Mapping[str, Any], value: object) -> ValueError:
    shown_value = Levels(**common, kind="integer").shown(value)
    return ValueError(f"column {common['name']!r} must have at least two values, got {shown_value} alone: leave it out")


def _categories(
    common: dict[str, Any], kind: str, found: list[Any], known: tuple[Any, ...] | None, wish: Column
) -> Categories:
    """A column of finitely many values, of which these are found, and those of its type known."""
    name, other, counts = common["name"], wish.other, Counter(found)
    if wish.values is not None:
        values = _named(name, wish.values, counts, other)
    elif other is not None:
        values = sorted(value for value, count in counts.items() if count > 1)
    elif len(counts) == 1 and not common["missing"]:
        raise _one_value(common, found[0])
    elif common["of"] == "flag" and kind == "bit":
        values = [False, True]
    else:
        values = sorted(counts) if known is None else list(known)
    if other is not None:
        if common["of"] != "text":
            raise ValueError(f"other must be left out for column {name!r}, which has no text to name it, got {other!r}")
        values = [value for value in values if value != other] + [other]
    if kind == "bit" and len(values) != 2:
        raise ValueError(f"column {name!r} must have two values to be of kind 'bit', got {len(values)}")
    if len(values) > MOST_CATEGORIES:
        raise ValueError(
            f"column {name!r} must have at most {MOST_CATEGORIES:,} categories, got {len(values):,}: leave it out, or name "
            "the values that count and other= for the rest"
        )
    return Categories(**common, kind=kind, values=tuple(values), reserved=other is not None)


def _named(name: str, wished: Iterable[Any], counts: Mapping[Any, int], other: str | None) -> list[Any]:
    """The values that one has named."""
    values = [each.item() if isinstance(each, np.generic) else each for each in dict.fromkeys(wished)]
    if not values or not all(isinstance(each, (str, bool, int, float)) for each in values):
        raise ValueError(f"values of column {name!r} must be text or numbers, at least one, got {shown(values)}")
    left = [value for value in counts if value not in values]
    if left and other is None:
        raise ValueError(f"values of column {name!r} must hold all that occur, or other= be given; {left[0]!r} is left")
    return values


def wishes_of(names: Iterable[str], columns: Mapping[str, object] | None) -> dict[str, Column]:
    """What is said of each column; a ValueError for one that is not there."""
    if columns is not None and not isinstance(columns, Mapping):
        raise ValueError(f"columns must be a mapping from names to kinds or a Schema, got {shown(columns)}")
    known = list(names)
    for name in columns or {}:
        if name not in known:
            raise ValueError(f"columns must name columns of the frame, {', '.join(map(repr, known))}; got {name!r}")
    return {name: _column_of(name, (columns or {}).get(name, Column())) for name in known}
