"""What a draw is held to: given values, allowed values, in the form that backends read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from made_fast.outputs.conditional import Conditional
from made_fast.requests.sums import Sums, SumTo

__all__ = ["Allowed", "Between", "Conditions"]


class Between(NamedTuple):
    """A range of values, both ends included; None for no bound. Empty where ``low`` is above ``high``, as in SQL."""

    low: float | None = None
    high: float | None = None


# From a variable to values, or from a tuple or a range of them to their sum; of one key type, so that literals have it.
Allowed = Mapping[Any, Between | range | Iterable[float] | Tensor | SumTo] | SumTo


@dataclass(frozen=True)
class Conditions:
    """Conditions of N rows, on one device. Row i of a request has condition ``i // rows_per_context``.

    Attributes:
        given: (N, D), dtype of the program, read where observed; or None.
        observed: (N, D) uint8, or None.
        support: (N, S) uint8: for each variable of finite size one flag for each of its values, variable-major; or None.
        bounds: (N, D, 2), dtype of the program: least and greatest value of real variables; None with ``support``.
        constrained: (D,) uint8: variables that are drawn from what ``support`` or ``bounds`` allow, even if that is all.
        sums: what sums of variables are held to; None without such, and with ``support`` alone.
    """

    given: Tensor | None
    observed: Tensor | None
    support: Tensor | None
    bounds: Tensor | None
    constrained: Tensor
    sums: Sums | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """What of this a backend must be able to do; the names are those of ``Backend.features``."""
        asked = (("given", self.given), ("allowed", self.support), ("sums", self.sums))
        return tuple(name for name, used in asked if used is not None)

    def __len__(self) -> int:
        """Number of rows N."""
        known = self.given if self.given is not None else self.support
        return 0 if known is None else len(known)

    def moved(self, device: torch.device, dtype: torch.dtype) -> Conditions:
        """The same on another device, with numbers of another dtype, contiguous."""

        def to(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
            return None if tensor is None else tensor.to(device, dtype).contiguous()

        flags = (to(self.observed, torch.uint8), to(self.support, torch.uint8))
        sums = None if self.sums is None else self.sums.moved(device)
        return Conditions(to(self.given, dtype), *flags, to(self.bounds, dtype), self.constrained.to(device), sums)

    def drawn_in(self, sequence: Sequence[int] | NDArray[np.int64]) -> Conditions:
        """The same for variables that are drawn in this sequence (D,), on which the values that lead to sums depend."""
        return self if self.sums is None else replace(self, sums=self.sums.drawn_in([*map(int, sequence)]))

    def rows(self, places: Tensor) -> Conditions:
        """Those of some rows (m,) alone."""

        def of(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[places.to(tensor.device)]

        sums = None if self.sums is None else self.sums.rows(places)
        return Conditions(of(self.given), of(self.observed), of(self.support), of(self.bounds), self.constrained, sums)

    def allowed_of(self, conditionals: Sequence[Conditional], variable: int) -> Tensor:
        """What one variable may be: (N, size) bool, or (N, 2) for a real one."""
        assert self.support is not None and self.bounds is not None
        if not conditionals[variable].size:
            return self.bounds[:, variable]
        first = sum(each.size for each in conditionals[:variable])
        return self.support[:, first : first + conditionals[variable].size].bool()
