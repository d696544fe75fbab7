"""Arguments of users, checked in the words of all our messages: the name, what was expected, what was found."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Sequence

__all__ = ["one_of", "positive_number", "whole_number", "whole_numbers"]


def whole_number(name: str, value: object, least: int | None = 0, most: int | None = None, *, note: str = "") -> int:
    """The value as an ``int``: whole numbers of Python and numpy, and a torch tensor of one; flags are refused.

    Args:
        name: of the argument, for the message.
        value: what was given.
        least, most: the bounds, both included; None for no bound.
        note: what the message says after the bounds.

    Raises:
        ValueError: it is no whole number, or out of bounds.

    Examples:
        >>> import numpy as np
        >>> whole_number("features", np.int64(3), 1)
        3
    """
    number = value if type(value) is int else _index(value)
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        bounds = "" if least is None else f", {least} or more" if most is None else f", {least} to {most}"
        raise ValueError(f"{name} must be an integer{bounds}{note}, got {value!r}")
    return number


def whole_numbers(name: str, values: object, least: int) -> tuple[int, ...]:
    """The values as a tuple of ``int``; see ``whole_number``.

    Raises:
        ValueError: they are no sequence, or one of them is no whole number or below ``least``.
    """
    numbers = (
        [_index(value) for value in values] if isinstance(values, Sequence) and not isinstance(values, str) else [None]
    )
    kept = tuple(number for number in numbers if number is not None and number >= least)
    if len(kept) != len(numbers):
        raise ValueError(f"{name} must be a sequence of integers, {least} or more, got {values!r}")
    return kept


def _index(value: object) -> int | None:
    """What ``operator.index`` gives, but None for flags: of Python, of numpy and of torch."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool"):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # torch raises its own where a tensor is no number
        return None


def one_of(name: str, value: object, known: Collection[str]) -> str:
    """The value, one of the known names.

    Raises:
        ValueError: it is none of them.
    """
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return value


def positive_number(name: str, value: object) -> float:
    """The value as a ``float``, above 0 and finite: numbers of Python and numpy; flags are refused.

    Raises:
        ValueError: it is no such number.
    """
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return number
