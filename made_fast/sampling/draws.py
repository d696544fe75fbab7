"""The face that all samplers share: samples, samples under conditions, and what follows from their weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from made_fast.arguments import whole_number
from made_fast.outputs.conditional import Conditional
from made_fast.requests.conditions import Allowed
from made_fast.requests.request import Request
from made_fast.sampling.estimates import Estimate, log_mean_exp, mean_of_weights
from made_fast.sampling.weighted import ScoredSamples, WeightedSamples, warn_if_uneven
from made_fast.tracing import uncompiled

__all__ = ["Draws", "ScoredSamples", "WeightedSamples"]

_REMEDY = "draw more, or train with an order (or draw by a mask) in which what is known comes first"


class Draws(ABC):
    """What can be drawn from: models, and samplers of one network or of an ensemble of masks."""

    features: int
    context_features: int
    conditionals: tuple[Conditional, ...]

    @abstractmethod
    def _drawn(self, request: Request, with_log_prob: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Samples (count, D), and of each the log-probability and the log-weight if asked for, (count,)."""

    def _of_mask(self, mask: int) -> Draws:
        """What draws from one mask alone."""
        whole_number("mask", mask, 0, 0, note=" where there is one mask")
        return self

    @uncompiled
    def sample(
        self,
        num_samples: int,
        context: Tensor | None = None,
        *,
        mask: int | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
        rows: Tensor | None = None,
        given: Tensor | None = None,
        observed: Tensor | None = None,
        allowed: Allowed | Sequence[Allowed] | None = None,
        temperature: float = 1.0,
        greedy: bool = False,
        top_k: int = 0,
        top_p: float = 1.0,
        dtype: torch.dtype | None = None,
        backend: str = "auto",
        progress: bool = False,
    ) -> Any:
        """Draws samples.

        Args:
            num_samples: how many, n; for each row of context, given or allowed if there are such.
            context: (N, C) for a network with context, else None.
            mask: number of the mask of an ensemble to draw from; if left out each row takes a mask by chance.
            seed: of the noise; drawn from ``generator`` or torch's own if left out.
            generator: a torch generator that gives the seed.
            first_row: noise row of the first sample.
            rows: int64, the noise row of each sample (numbered ``b * n + i`` with rows of contexts or conditions) instead of
                consecutive ones.
            given: (D,) or (N, D) values that are kept where ``observed`` says so.
            observed: bool (D,) or (N, D).
            allowed: a mapping from variables to the values they may take, or N of them: ``Between(low, high)``, a ``range``
                or a set of values; variables that are not named may be anything. Values that a variable cannot take are
                left out. Where nothing is left, or another value is given, there is nothing to draw: a ValueError. A
                ``SumTo`` holds the sum of all variables to a total, or that of those whose tuple or range it stands behind.
            temperature: T > 0; each conditional is drawn from p(x)**(1 / T), of a mixture each of its parts.
            greedy: takes the most probable value of each variable given the ones before it.
            top_k: keeps the k most probable categories; 0 for all.
            top_p: keeps the fewest most probable categories that have at least this mass.
            dtype: of the samples; that of the network if left out.
            backend: ``"auto"`` or the name of a backend.
            progress: whether to show a progress bar.

        Returns:
            (n, D), or (N, n, D) with contexts or conditions of N rows (noise rows are numbered ``first_row + b * n + i``).
            With ``given`` or ``allowed`` a ``WeightedSamples`` of them and their log-weights. Where the observed variables
            come first in the order, and ``allowed`` is left out, the samples are exact and all weights of a row equal.

        Raises:
            ValueError: an argument does not fit; the message names it.

        Warns:
            UserWarning: the effective sample size of a row is below 5 % of n, or below 10 (of fewer than 20: half of n).
        """
        request = Request.checked(
            self.conditionals,
            self.context_features,
            num_samples,
            context,
            seed=seed,
            generator=generator,
            first_row=first_row,
            rows=rows,
            given=given,
            observed=observed,
            allowed=allowed,
            temperature=temperature,
            greedy=greedy,
            top_k=top_k,
            top_p=top_p,
            dtype=dtype,
            backend=backend,
            progress=progress,
        )
        request.check_possible()
        x, _, log_weight = (self if mask is None else self._of_mask(mask))._drawn(request, False)
        x = x if len(request.shape) == 1 else x.reshape(*request.shape, self.features)
        return x if log_weight is None else WeightedSamples(x, _weighed(log_weight, request))

    @uncompiled
    def sample_and_log_prob(
        self,
        num_samples: int,
        context: Tensor | None = None,
        *,
        mask: int | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
        rows: Tensor | None = None,
        given: Tensor | None = None,
        observed: Tensor | None = None,
        allowed: Allowed | Sequence[Allowed] | None = None,
        temperature: float = 1.0,
        greedy: bool = False,
        top_k: int = 0,
        top_p: float = 1.0,
        dtype: torch.dtype | None = None,
        backend: str = "auto",
        progress: bool = False,
    ) -> Any:
        """Draws samples with their log-probabilities in nats: (n, D) and (n,), or (N, n, D) and (N, n).

        The arguments are those of ``sample``. The log-probabilities are those of the model, whatever the temperature, what is
        given and what is allowed; with ``given`` or ``allowed`` the log-weights come third.
        """
        request = Request.checked(
            self.conditionals,
            self.context_features,
            num_samples,
            context,
            seed=seed,
            generator=generator,
            first_row=first_row,
            rows=rows,
            given=given,
            observed=observed,
            allowed=allowed,
            temperature=temperature,
            greedy=greedy,
            top_k=top_k,
            top_p=top_p,
            dtype=dtype,
            backend=backend,
            progress=progress,
        )
        request.check_possible()
        x, log_prob, log_weight = (self if mask is None else self._of_mask(mask))._drawn(request, True)
        assert log_prob is not None
        x, log_prob = x.reshape(*request.shape, self.features), log_prob.reshape(request.shape)
        return (x, log_prob) if log_weight is None else ScoredSamples(x, log_prob, _weighed(log_weight, request))

    @uncompiled
    def log_marginal(
        self,
        x: Tensor,
        observed: Tensor,
        num_samples: int = 100,
        context: Tensor | None = None,
        *,
        mask: int | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
        rows: Tensor | None = None,
        allowed: Allowed | Sequence[Allowed] | None = None,
        backend: str = "auto",
        progress: bool = False,
    ) -> Estimate:
        r"""Estimates the log-probability of some variables, the others summed out, in nats.

        .. math:: \log p(x_O) \approx \log \frac1n \sum_i \prod_{d \in O} p(x_d \mid x^{(i)}_{<d})

        The mean is unbiased, its log a little too small. Exact, with an error of 0, if the observed variables come first.

        Args:
            x: (D,) or (N, D); read where observed.
            observed: bool (D,) or (N, D).
            num_samples: n, for each row.
            context: (N, C) or None.
            mask, seed, generator, first_row, rows, allowed, backend, progress: see ``sample``.

        Returns:
            values and standard errors, fp64, () or (N,); -inf where an observed value is not allowed.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        log_weight = self._log_weights(
            num_samples,
            context,
            mask,
            given=x,
            observed=observed,
            seed=seed,
            generator=generator,
            first_row=first_row,
            rows=rows,
            allowed=allowed,
            backend=backend,
            progress=progress,
        )
        return log_mean_exp(log_weight)

    @uncompiled
    def estimate_probability(
        self,
        allowed: Allowed | Sequence[Allowed],
        num_samples: int = 1000,
        context: Tensor | None = None,
        *,
        mask: int | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
        rows: Tensor | None = None,
        given: Tensor | None = None,
        observed: Tensor | None = None,
        backend: str = "auto",
        progress: bool = False,
    ) -> Estimate:
        """Estimates the probability that all variables take allowed values: the selectivity of a range query.

        Progressive sampling: each variable is drawn from its conditional cut to what is allowed, and the mean of the
        products of the masses kept is an unbiased estimate. Times the number of rows of a table it is a cardinality.

        Args:
            allowed: see ``sample``; one query or N of them.
            num_samples: n, for each query.
            context: (N, C) or None.
            mask, seed, generator, first_row, rows, given, observed, backend, progress: see ``sample``.

        Returns:
            values and standard errors, fp64, () or (N,); ``interval(0.95)`` gives confidence intervals. Both are 0 for a
            query that leaves a variable no value that it can take, such as ``{0: Between(7, 9)}`` of categories 0 .. 4.

        Raises:
            ValueError: an argument does not fit; the message names it.

        Source: Yang et al., "Deep Unsupervised Cardinality Estimation" (Naru), VLDB 2019.

        Examples:
            >>> from made_fast import MADE
            >>> sampler = MADE(3, ()).sampler()  # biases alone, which are not 0
            >>> share = sampler.estimate_probability({0: {1}, 2: {0, 1}}, 10, seed=0)  # x_0 is 1, x_2 may be anything
            >>> 0 < float(share.value) < 1, float(share.standard_error) < 1e-6
            (True, True)
        """
        log_weight = self._log_weights(
            num_samples,
            context,
            mask,
            allowed=allowed,
            seed=seed,
            generator=generator,
            first_row=first_row,
            rows=rows,
            given=given,
            observed=observed,
            backend=backend,
            progress=progress,
        )
        return mean_of_weights(log_weight)

    def _log_weights(self, num_samples: int, context: Tensor | None, mask: int | None, **options: Any) -> Tensor:
        """The log-weights of ``sample``, -inf for queries that are impossible."""
        num_samples = whole_number("num_samples", num_samples, 1)
        request = Request.checked(self.conditionals, self.context_features, num_samples, context, **options)
        if request.conditions is None:
            raise ValueError("x and observed, or allowed, must be given, got None")
        _, _, log_weight = (self if mask is None else self._of_mask(mask))._drawn(request, False)
        assert log_weight is not None
        return request.weights(log_weight)


def _weighed(log_weight: Tensor, request: Request) -> Tensor:
    """The log-weights (n,) or (N, n) of samples that a user has asked for."""
    log_weight = log_weight.reshape(request.shape)
    warn_if_uneven(log_weight, _REMEDY, stacklevel=4)  # of whom calls `sample`, round which `uncompiled` lies
    return log_weight
