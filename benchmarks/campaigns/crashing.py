"""Attempts that end in every way, to see that all are counted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from benchmarks.campaigns import isolated


def _raise(error: Exception) -> None:
    raise error


ENDS: dict[int, Callable[[], Any]] = {
    1: lambda: _raise(ValueError("refused")),
    2: lambda: _raise(KeyError("other")),
    3: os.abort,
    5: lambda: time.sleep(600),
}


def child(seed: int, first: int, count: int) -> None:
    """The attempts [first, first + count): most of them work."""
    for number in range(first, first + count):
        isolated.attempt("crashing", number, ENDS.get(number, lambda: None), (ValueError,))
