"""Numbers that come from samples, with their error."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Estimate", "log_mean_exp", "mean_of_weights"]


class Estimate(NamedTuple):
    """A Monte Carlo estimate.

    Attributes:
        value: fp64 (...).
        standard_error: of the value, (...); nan where one sample alone was drawn.
    """

    value: Tensor
    standard_error: Tensor

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the confidence interval of this level, by the normal approximation.

        Raises:
            ValueError: the level does not lie between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level!r}")
        half = math.sqrt(2) * float(torch.special.erfinv(torch.tensor(level, dtype=torch.float64)))
        return self.value - half * self.standard_error, self.value + half * self.standard_error


def mean_of_weights(log_weight: Tensor) -> Estimate:
    """The mean of weights, from their logs (..., n)."""
    weight = log_weight.double().exp()
    return Estimate(weight.mean(-1), _error(weight))


def log_mean_exp(log_weight: Tensor) -> Estimate:
    """The log of the mean of weights, from their logs (..., n); its error to first order, that of the mean over the mean."""
    log_weight = log_weight.double()
    largest = log_weight.amax(-1, keepdim=True)
    shift = torch.where(torch.isfinite(largest), largest, 0)
    weight = torch.exp(log_weight - shift)
    mean = weight.mean(-1)
    return Estimate(torch.log(mean) + shift[..., 0], torch.where(mean > 0, _error(weight) / mean, torch.nan))


def _error(values: Tensor) -> Tensor:
    count = values.shape[-1]
    if count < 2:
        return torch.full_like(values.sum(-1), torch.nan)
    return values.std(-1) / math.sqrt(count)
