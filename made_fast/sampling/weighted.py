"""Samples with weights: what they are worth, and a warning where that is little."""

from __future__ import annotations

import warnings
from typing import NamedTuple

from torch import Tensor

from made_fast.sampling.estimates import effective_sample_size, least_effective

__all__ = ["ScoredSamples", "WeightedSamples", "warn_if_uneven"]

_EVEN = (
    1.7  # of logs of weights; where weights differ up to k-fold, 4 k / (1 + k)**2 of the samples are left: here half
)


class WeightedSamples(NamedTuple):
    """Samples under conditions.

    Attributes:
        x: (..., D).
        log_weight: (...), the log of the probability of what was observed and of the mass of what was allowed, each given
            the variables before it. Weighted by its exponential the samples follow the exact conditional distribution.
    """

    x: Tensor
    log_weight: Tensor

    @property
    def effective_sample_size(self) -> Tensor:
        """How many exact samples they are worth, fp64: (), or (N,) of N conditions; see ``estimation``."""
        return effective_sample_size(self.log_weight)

    def __repr__(self) -> str:
        """The samples, their log-weights, and what they are worth."""
        return f"WeightedSamples({_fields(self)}, effective_sample_size={self.effective_sample_size})"


class ScoredSamples(NamedTuple):
    """Samples under conditions with the model's log-probability of each; see ``WeightedSamples``."""

    x: Tensor
    log_prob: Tensor
    log_weight: Tensor

    @property
    def effective_sample_size(self) -> Tensor:
        """See ``WeightedSamples``."""
        return effective_sample_size(self.log_weight)

    def __repr__(self) -> str:
        """The samples, their log-probabilities and log-weights, and what they are worth."""
        return f"ScoredSamples({_fields(self)}, effective_sample_size={self.effective_sample_size})"


def _fields(samples: WeightedSamples | ScoredSamples) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in samples._asdict().items())


def warn_if_uneven(log_weight: Tensor, remedy: str, *, stacklevel: int) -> None:
    """Warns where samples are worth few of their number, by ``least_effective``.

    Args:
        log_weight: (n,), or (N, n) of N conditions.
        remedy: what the message says can be done.
        stacklevel: 1 for the line that calls this function.

    Warns:
        UserWarning: they are.
    """
    count = log_weight.shape[-1]
    if count < 2 or not log_weight.numel():
        return
    least, most = log_weight.aminmax(dim=-1)
    if bool((most - least).max() <= _EVEN):
        return
    sizes = effective_sample_size(log_weight).flatten()
    low = int((sizes < least_effective(count) * (1 - 1e-9)).sum())  # by more than rounding
    if low:
        where = f"in {low} of {len(sizes)} rows " if len(sizes) > 1 else ""
        worst = "in the worst of them " if low > 1 else ""
        warnings.warn(
            f"{where}the weights of the samples are uneven: {worst}{count} samples are worth {float(sizes.min()):.1f} "
            f"(effective sample size); {remedy}",
            stacklevel=stacklevel + 1,
        )
