"""Numbers that come from samples, with their error."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Estimate", "effective_sample_size", "least_effective", "log_mean_exp", "mean_of", "mean_of_weights"]


_ROUNDING = 1e-15  # an error so small, as a share of the value, is that of adding equal numbers


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
        half = NormalDist().inv_cdf((1 + level) / 2) * self.standard_error
        return self.value - half, self.value + half

    def __str__(self) -> str:
        """``0.4823 ± 0.0003``, the error by its first digit; a line for each of several."""
        pairs = zip(self.value.flatten().tolist(), self.standard_error.flatten().tolist(), strict=True)
        return "\n".join(_with_error(value, error) for value, error in pairs)


def _with_error(value: float, error: float) -> str:
    """A value with as many places as its error has, by a power of ten where both are small."""
    if not (math.isfinite(value) and _ROUNDING * abs(value) < error < math.inf):
        return f"{value:.6g} ± {error:.1g}"
    exponent = math.floor(math.log10(float(f"{error:.0e}")))
    places = max(0, -exponent)
    if max(abs(value), error) >= 1e-4:
        return f"{value:.{places}f} ± {error:.{places}f}"
    power = math.floor(math.log10(max(abs(value), error)))
    return f"({value / 10.0**power:.{power - exponent}f} ± {error / 10.0**power:.{power - exponent}f})e{power:+03d}"


def mean_of(values: Tensor) -> Estimate:
    """The mean of independent draws (..., n)."""
    values = values.double()
    few = values.shape[-1] < 2
    error = torch.full_like(values.sum(-1), torch.nan) if few else values.std(-1) / math.sqrt(values.shape[-1])
    return Estimate(values.mean(-1), error)


def mean_of_weights(log_weight: Tensor) -> Estimate:
    """The mean of weights, from their logs (..., n)."""
    return mean_of(log_weight.double().exp())


def log_mean_exp(log_weight: Tensor) -> Estimate:
    """The log of the mean of weights, from their logs (..., n); its error to first order, that of the mean over the mean."""
    log_weight = log_weight.double()
    shift = _largest(log_weight)
    mean, error = mean_of(torch.exp(log_weight - shift))
    return Estimate(torch.log(mean) + shift[..., 0], torch.where(mean > 0, error / mean, torch.nan))


def _largest(log_weight: Tensor) -> Tensor:
    """The largest of each row (..., 1), by which weights may be divided; 0 where it is infinite."""
    largest = log_weight.amax(-1, keepdim=True)
    return torch.where(torch.isfinite(largest), largest, 0)


def effective_sample_size(log_weight: Tensor) -> Tensor:
    """How many samples of equal weight would do as well, fp64 (...), from logs of weights (..., n); 0 if all are 0."""
    weight = torch.exp(log_weight.double() - _largest(log_weight.double()))
    return weight.sum(-1).square() / (weight * weight).sum(-1).clamp(min=torch.finfo(torch.float64).tiny)


def least_effective(count: int) -> float:
    """The effective sample size below which n samples want a warning: 5 % of n or 10, whichever is more; of few, half."""
    return max(0.05 * count, min(10.0, 0.5 * count))
