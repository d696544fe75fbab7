"""Variables with a conditional of one's own."""

from __future__ import annotations

from typing import Any

from made_fast.outputs.conditional import Conditional
from made_fast.outputs.output import OneConditional

__all__ = ["Own"]


class Own(OneConditional):
    """Variables with a conditional of one's own, see ``Conditional``; it cannot be saved in a model file."""

    name = "own"

    def __init__(self, conditional: Conditional) -> None:
        if not isinstance(conditional, Conditional):
            raise ValueError(f"conditional must be a Conditional, got {conditional!r}")
        self.conditional = conditional

    def arguments(self) -> dict[str, Any]:
        return {"conditional": self.conditional}
