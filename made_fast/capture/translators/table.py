"""The table of translators: for each ATen operation how it is done on symbols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from made_fast.capture.symbols import Symbol

__all__ = ["TRANSLATORS", "Refusal", "Translator", "as_symbol", "is_symbol", "translates"]

Translator = Callable[..., Any]  # of a builder and the arguments of the operation
Function = TypeVar("Function", bound=Translator)

TRANSLATORS: dict[Any, Translator] = {}


class Refusal(Exception):
    """Why one operation cannot be translated; ``translate`` adds which one and where."""


def translates(*targets: Any) -> Callable[[Function], Function]:
    """Enters a function into the table as the translator of these operations."""

    def added(function: Function) -> Function:
        TRANSLATORS.update(dict.fromkeys(targets, function))
        return function

    return added


def is_symbol(value: Any) -> bool:
    """Whether a value depends on the input."""
    return isinstance(value, Symbol)


def as_symbol(value: Any) -> Symbol:
    """A symbol, of constants too."""
    return value if isinstance(value, Symbol) else Symbol.constant(value)
