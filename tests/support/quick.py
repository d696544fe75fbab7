"""Which rows of a table are always tested."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pytest


def some(table: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Parameters: all rows, or the values of a mapping by their names; slow are those that are not among the quick ones."""
    rows = table.items() if isinstance(table, Mapping) else ((each, each) for each in table)
    return [pytest.param(value, id=str(name), marks=() if name in quick else pytest.mark.slow) for name, value in rows]


def every(count: int, table: Iterable[Any], name: Any = str) -> list[Any]:
    """Parameters: all rows; slow are all but every so-and-so-many-th."""
    return [
        pytest.param(each, id=name(each), marks=pytest.mark.slow if number % count else ())
        for number, each in enumerate(table)
    ]
