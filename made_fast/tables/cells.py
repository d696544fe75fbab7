"""The cells of one column, whatever library they come from; and moments, as numbers and back."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from made_fast.arguments import shown

__all__ = ["MOMENTS", "NUMBERS", "PER", "Cells", "from_wall", "moment_of", "moments_of", "to_wall"]

PER = {"day": 86_400_000_000, "second": 1_000_000}  # microseconds in the units of moments
_EPOCH, _MICROSECOND = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC), datetime.timedelta(microseconds=1)
# Microseconds since 1970 of the years 1 to 9999, which is what datetime has; and whole numbers that fp64 has.
MOMENTS = (-719_162 * PER["day"], 2_932_897 * PER["day"] - 1)
NUMBERS = (-(2**53), 2**53)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Cells:
    """The cells of one column.

    Attributes:
        values: (N,): objects of ``"text"``, bool of ``"flag"``, int64 or fp64 of ``"number"``, int64 microseconds since 1970
            in UTC of ``"moment"``. Where a cell is missing it holds anything.
        present: (N,) bool.
        of: text, flag, number or moment.
        categories: those of the column's type, in their order, or None.
        limits: the least and the greatest whole number of the column's type.
        zone: the time zone of moments, or None.
    """

    values: Array
    present: Array
    of: str
    categories: tuple[Any, ...] | None = None
    limits: tuple[int, int] = NUMBERS
    zone: str | None = None

    def __len__(self) -> int:
        return len(self.values)


def moments_of(zone: str | None) -> tuple[int, int]:
    """The first and the last moment that clocks of a time zone show in the years 1 to 9999."""
    room = 0 if zone is None else PER["day"]
    return MOMENTS[0] + room, MOMENTS[1] - room


def to_wall(moments: Array, zone: str | None) -> Array:
    """What clocks show in a time zone, (N,) int64 as if it were UTC: midnights there are whole days.

    On a day whose midnight clocks skip, the first moment counts as that.
    """
    if zone is None:
        return moments
    known, places = np.unique(np.clip(moments, *moments_of(zone)), return_inverse=True)
    shown = [(_EPOCH + each * _MICROSECOND).astimezone(ZoneInfo(zone)).replace(tzinfo=None) for each in known.tolist()]
    clocks = np.array(shown, dtype="datetime64[us]").astype(np.int64)
    midnights = clocks - clocks % PER["day"]
    skipped = (midnights < clocks) & (from_wall(midnights, zone) == known)
    return np.where(skipped, midnights, clocks)[places]


def from_wall(moments: Array, zone: str | None) -> Array:
    """The inverse of ``to_wall``; where clocks show a time twice, the first."""
    if zone is None:
        return moments
    known, places = np.unique(moments, return_inverse=True)
    clocks = [(_EPOCH + each * _MICROSECOND).replace(tzinfo=ZoneInfo(zone)) for each in known.tolist()]
    return np.array([(each - _EPOCH) // _MICROSECOND for each in clocks], dtype=np.int64)[places]


def moment_of(value: object, zone: str | None, wish: str) -> int:
    """A date or a time as microseconds since 1970 in UTC; one without a zone is taken in that of the column.

    Args:
        value: text such as ``2024-02-29`` or ``2024-02-29 13:30``, or a date or datetime of Python, numpy or pandas.
        zone: of the column, or None.
        wish: what the message says that it must be.

    Raises:
        ValueError: there is no such moment.
    """
    try:
        if isinstance(value, np.datetime64):
            value = value.astype("datetime64[us]").item()
        if isinstance(value, str):
            value = datetime.datetime.fromisoformat(value.strip())
        if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
            value = datetime.datetime(value.year, value.month, value.day)
        if not isinstance(value, datetime.datetime):
            raise ValueError("it is neither text nor a date")
        if value.tzinfo is None:
            value = value.replace(tzinfo=ZoneInfo(zone) if zone else datetime.UTC)
        return (value - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{wish}, got {shown(value)}: {error}") from None
