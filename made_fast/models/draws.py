"""What a model draws and estimates by its sampler."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from made_fast.requests.conditions import Allowed
from made_fast.sampling.draws import Draws
from made_fast.sampling.estimates import Estimate

__all__ = ["ModelDraws"]


class ModelDraws:
    """Draws of a model, each by ``sampler``: of one mask if it is named, else of the whole ensemble, whatever the mode."""

    @abstractmethod
    def sampler(self, *, mask: int | None = None) -> Draws:
        """The sampler of the model as it is now."""

    def sample(
        self, num_samples: int, context: Tensor | None = None, *, mask: int | None = None, **options: Any
    ) -> Any:
        """Draws samples: (n, D), or (B, n, D) with context (B, C). For the options see ``Sampler.sample``.

        From one mask if it is named, else from the whole ensemble, whatever the mode: each row takes a mask by chance.
        """
        return self.sampler(mask=mask).sample(num_samples, context, **options)

    def sample_and_log_prob(
        self, num_samples: int, context: Tensor | None = None, *, mask: int | None = None, **options: Any
    ) -> Any:
        """Draws samples with their log-probabilities in nats. For the arguments see ``sample``."""
        return self.sampler(mask=mask).sample_and_log_prob(num_samples, context, **options)

    def log_marginal(
        self,
        x: Tensor,
        observed: Tensor,
        num_samples: int = 100,
        context: Tensor | None = None,
        *,
        mask: int | None = None,
        **options: Any,
    ) -> Estimate:
        """Estimates the log-probability of the observed variables in nats. For the arguments see ``Sampler.log_marginal``."""
        return self.sampler(mask=mask).log_marginal(x, observed, num_samples, context, **options)

    def estimate_probability(
        self,
        allowed: Allowed | Sequence[Allowed],
        num_samples: int = 1000,
        context: Tensor | None = None,
        *,
        mask: int | None = None,
        **options: Any,
    ) -> Estimate:
        """Estimates the probability that all variables take allowed values. See ``Sampler.estimate_probability``."""
        return self.sampler(mask=mask).estimate_probability(allowed, num_samples, context, **options)
