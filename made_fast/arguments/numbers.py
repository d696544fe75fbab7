"""Numbers, names and flags of users, and how messages show them."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "MOST_ROWS",
    "MOST_SEED",
    "described",
    "flag",
    "number_or_numbers",
    "one_of",
    "positive_number",
    "real_number",
    "seed_number",
    "shown",
    "whole_number",
    "whole_numbers",
    "why_not_dense",
]

MOST_SEED, MOST_ROWS = 2**64 - 1, 2**62

_FLAGS = ("bool", "torch.bool")
_SHOWN = 200  # characters of a value in a message


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
        raise ValueError(f"{name} must be an integer{bounds}{note}, got {shown(value)}")
    return number


def seed_number(name: str, value: object) -> int:
    """A seed as an ``int``: 64 bits, so that no two seeds are the same one.

    Raises:
        ValueError: it is no whole number, or not within 0 .. 2**64 - 1.
    """
    return whole_number(name, value, 0, MOST_SEED, note=" (64 bits)")


def whole_numbers(name: str, values: object, least: int | None) -> tuple[int, ...]:
    """The values as a tuple of ``int``: of a sequence, or of an array or a tensor of one dimension; see ``whole_number``.

    Raises:
        ValueError: they are no sequence, or one of them is no whole number or below ``least``.
    """
    listed: Any = values if isinstance(values, Sequence) and not isinstance(values, (str, bytes)) else _listed(values)
    numbers = [None] if listed is None else [_index(value) for value in listed]
    kept = tuple(number for number in numbers if number is not None and (least is None or number >= least))
    if len(kept) != len(numbers):
        bound = "" if least is None else f", {least} or more"
        raise ValueError(f"{name} must be a sequence of integers{bound}, got {shown(values)}")
    return kept


def _listed(values: Any) -> list[Any] | None:
    """The elements of an array or tensor of one dimension, or None."""
    if isinstance(values, Tensor) and not why_not_dense(values):
        return list(values.cpu()) if values.ndim == 1 else None
    if not isinstance(values, Tensor) and hasattr(values, "__array__"):
        array = np.asarray(values)
        return list(array) if array.ndim == 1 else None
    return None


def _index(value: object) -> int | None:
    """What ``operator.index`` gives, but None for flags: of Python, of numpy and of torch."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) in _FLAGS:
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # torch raises its own where a tensor is no number
        return None


def number_or_numbers(name: str, value: object, least: int) -> int | tuple[int, ...]:
    """One whole number as an ``int``, or several as a tuple; see ``whole_numbers``.

    Raises:
        ValueError: it is neither.
    """
    several = isinstance(value, Sequence) or (hasattr(value, "__array__") and getattr(value, "ndim", 0) > 0)
    return whole_numbers(name, value, least) if several else whole_number(name, value, least)


def one_of(name: str, value: object, known: Collection[str]) -> str:
    """The value, one of the known names.

    Raises:
        ValueError: it is none of them.
    """
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {shown(value)}")
    return value


def flag(name: str, value: object) -> bool:
    """The value as a ``bool``: flags of Python, numpy and torch, and the numbers 0 and 1; text is refused.

    Raises:
        ValueError: it is no such thing.
    """
    if isinstance(value, bool):
        return value
    number = int(value) if str(getattr(value, "dtype", "")) in _FLAGS and _size(value) == 1 else _index(value)  # type: ignore[call-overload]
    if number not in (0, 1):
        raise ValueError(f"{name} must be True or False, got {shown(value)}")
    return bool(number)


def _size(value: Any) -> int:
    return int(value.numel() if isinstance(value, Tensor) else value.size)


def real_number(name: str, value: object, *, wish: str = "a number") -> float:
    """The value as a ``float``, infinite ones too: numbers of Python and numpy, a tensor of one; flags and text are refused.

    Raises:
        ValueError: it is no number, or nan.
    """
    try:
        refused = isinstance(value, (bool, str, bytes)) or str(getattr(value, "dtype", "")) in _FLAGS
        number = math.nan if refused else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"{name} must be {wish}, got {shown(value)}")
    return number


def positive_number(name: str, value: object) -> float:
    """The value as a ``float``, above 0 and finite; see ``real_number``.

    Raises:
        ValueError: it is no such number.
    """
    number = real_number(name, value, wish="a positive number")
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be a positive number, got {shown(value)}")
    return number


def described(value: object) -> str:
    """Dtype and shape of a tensor, and anything else as it is written."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)


def shown(value: object) -> str:
    """A value as a message shows it: never long, and of a tensor without values its kind."""
    try:
        big = isinstance(value, (Tensor, np.ndarray)) and _size(value) > 8
        text = f"{type(value).__name__} {value.dtype} {tuple(value.shape)}" if big else repr(value)  # type: ignore[attr-defined]
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        text = f"a {type(value).__name__} that cannot be shown"
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def why_not_dense(tensor: Tensor) -> str:
    """What keeps a tensor from being a dense one of real numbers, in words; empty if nothing does."""
    if tensor.is_nested:
        return "a nested one"
    if tensor.is_quantized:
        return f"a quantized one, {tensor.dtype}"
    if tensor.layout is not torch.strided:
        return f"one with layout {tensor.layout}"
    if tensor.is_complex():
        return str(tensor.dtype)
    return "" if tensor.dtype.is_floating_point or tensor.dtype in _WHOLE else str(tensor.dtype)


_WHOLE = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64),
)
