"""What a draw is held to: given values, allowed values, in the form that backends read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from made_fast.outputs.conditional import Conditional

__all__ = ["Allowed", "Between", "Conditions"]


class Between(NamedTuple):
    """A range of values, both ends included; None for no bound. Empty where ``low`` is above ``high``, as in SQL."""

    low: float | None = None
    high: float | None = None


Allowed = Mapping[int, "Between | range | Iterable[float] | Tensor"]


@dataclass(frozen=True)
class Conditions:
    """Conditions of N rows, on one device. Row i of a request has condition ``i // rows_per_context``.

    Attributes:
        given: (N, D), dtype of the program, read where observed; or None.
        observed: (N, D) uint8, or None.
        support: (N, S) uint8: for each variable of finite size one flag for each of its values, variable-major; or None.
        bounds: (N, D, 2), dtype of the program: least and greatest value of real variables; None with ``support``.
        constrained: (D,) uint8: variables that are drawn from what ``support`` or ``bounds`` allow, even if that is all.
    """

    given: Tensor | None
    observed: Tensor | None
    support: Tensor | None
    bounds: Tensor | None
    constrained: Tensor

    @property
    def features(self) -> tuple[str, ...]:
        """What of this a backend must be able to do; the names are those of ``Backend.features``."""
        return tuple(name for name, used in (("given", self.given), ("allowed", self.support)) if used is not None)

    def __len__(self) -> int:
        """Number of rows N."""
        known = self.given if self.given is not None else self.support
        return 0 if known is None else len(known)

    def moved(self, device: torch.device, dtype: torch.dtype) -> Conditions:
        """The same on another device, with numbers of another dtype, contiguous."""

        def to(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
            return None if tensor is None else tensor.to(device, dtype).contiguous()

        flags = (to(self.observed, torch.uint8), to(self.support, torch.uint8))
        constrained = self.constrained.to(device)
        return Conditions(to(self.given, dtype), *flags, to(self.bounds, dtype), constrained)

    def rows(self, places: Tensor) -> Conditions:
        """Those of some rows (m,) alone."""

        def of(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[places.to(tensor.device)]

        return Conditions(of(self.given), of(self.observed), of(self.support), of(self.bounds), self.constrained)

    def allowed_of(self, conditionals: Sequence[Conditional], variable: int) -> Tensor:
        """What one variable may be: (N, size) bool, or (N, 2) for a real one."""
        assert self.support is not None and self.bounds is not None
        if not conditionals[variable].size:
            return self.bounds[:, variable]
        first = sum(each.size for each in conditionals[:variable])
        return self.support[:, first : first + conditionals[variable].size].bool()
