r"""What samples tell: entropies, free energies with their standard errors, and the gradient of a variational free energy.

A physical system with energy E at inverse temperature beta has the density :math:`p(x) = e^{-c(x)} / Z` with the cost
:math:`c(x) = \beta E(x)` in nats. A model q with exact samples and exact log-probabilities bounds its free energy,

.. math:: \beta F = -\log Z = E_q[\log q(x) + c(x)] - KL(q \| p) \le E_q[\log q(x) + c(x)],

is trained by making that bound smaller (``score_function_loss``), and corrects what remains by weighing its samples
(``free_energy``). Every estimate is made in fp64 and comes with its standard error.

Source: Wu, Wang, Zhang, "Solving Statistical Mechanics Using Variational Autoregressive Networks", PRL 122, 080602 (2019);
Nicoli et al., "Asymptotically unbiased estimation of physical observables with neural samplers", PRE 101, 023304 (2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from made_fast.arguments import finite, shown, tensor_of, whole_number, with_values
from made_fast.models.made import MADE
from made_fast.sampling import estimates
from made_fast.sampling.estimates import Estimate, mean_of
from made_fast.sampling.weighted import warn_if_uneven

__all__ = [
    "BASELINES",
    "Estimate",
    "FreeEnergy",
    "ScoreFunctionLoss",
    "effective_sample_size",
    "entropy",
    "enumerate_log_prob",
    "free_energy",
    "log_mean_exp",
    "score_function_loss",
]

BASELINES = ("leave_one_out", "mean", None)

# Options of a draw that leave its distribution and its result as they are.
_OPTIONS = ("generator", "first_row", "rows", "dtype", "backend", "progress")

_VALUES_AT_ONCE = 1 << 24  # of hidden units, where log-probabilities of all states are computed


class FreeEnergy(NamedTuple):
    """Two estimates of beta F = -log Z in nats from the same samples.

    Attributes:
        variational: mean of ``log q + cost``, an upper bound of beta F in expectation; it exceeds it by KL(q || p).
        corrected: ``-log mean exp(-(cost + log q))``, whose Z is unbiased: it approaches beta F with more samples, as long
            as q leaves no state out. If q does, neither figure shows it.
        effective_sample_size: fp64, how many samples of the Boltzmann distribution those of q are worth; see the function.
    """

    variational: Estimate
    corrected: Estimate
    effective_sample_size: Tensor


class ScoreFunctionLoss(NamedTuple):
    """What one step of variational training needs, and what it has found out.

    Attributes:
        loss: scalar; its gradient is the estimate of the gradient of the free energy, its value means nothing.
        free_energy: mean of ``log q + cost`` in nats, scalar or (B,) with a context; an upper bound of beta F in expectation.
        x: (n, D), or (B, n, D) with a context: the samples.
        log_prob: (n,) or (B, n): log q of each, without gradient.
        cost: (n,) or (B, n): the cost of each.
    """

    loss: Tensor
    free_energy: Estimate
    x: Tensor
    log_prob: Tensor
    cost: Tensor


def enumerate_log_prob(
    model: MADE, context: Tensor | None = None, *, mask: int | None = None, max_states: int = 2**20
) -> tuple[Tensor, Tensor]:
    """Returns all states of a model and their log-probabilities in nats, whose exponentials sum to 1.

    Args:
        model: of variables with finitely many values each.
        context: (C,), one context; or None if the model takes none.
        mask: index of one mask; the whole ensemble if left out, whatever the mode.
        max_states: refuses models that have more.

    Returns:
        states (S, D) in the dtype of the weights, in the order of an odometer: the last variable changes first; and (S,).
        Memory beyond these two is bounded.

    Raises:
        ValueError: there are too many states, a variable is real, or the context does not fit.

    Examples:
        >>> states, log_prob = enumerate_log_prob(MADE(4, (8,)))
        >>> states.shape, round(float(log_prob.exp().sum()), 4)
        (torch.Size([16, 4]), 1.0)
    """
    values, max_states = _values(model), whole_number("max_states", max_states, 1)
    sizes = [len(each) for each in values]
    if sum(map(math.log2, sizes)) > math.log2(max_states) + 1e-9:
        found = f"about 10**{sum(map(math.log10, sizes)):.1f}"
        raise ValueError(f"model must have at most max_states={max_states} states to enumerate, got {found}")
    context = _one_context(context, model.context_features)
    weight = model.parameters_layer.weight
    states = torch.empty(math.prod(sizes), len(sizes), dtype=weight.dtype, device=weight.device)
    index, stride = torch.arange(len(states), device=weight.device), len(states)
    for variable, (size, known) in enumerate(zip(sizes, values, strict=True)):
        stride //= size
        states[:, variable] = known.to(weight)[index // stride % size]
    masks = model.ensemble.evaluated if mask is None and model.ensemble is not None else mask
    widest = max(model.features, *(layer.out_features for layer in model.masked_layers))
    with torch.no_grad():
        pieces = states.split(max(1, _VALUES_AT_ONCE // widest))
        return states, torch.cat([model.log_prob(piece, context, masks=masks) for piece in pieces])


def entropy(
    model: MADE,
    num_samples: int,
    context: Tensor | None = None,
    *,
    seed: int | None = None,
    mask: int | None = None,
    **options: Any,
) -> Estimate:
    r"""Estimates the entropy :math:`-E_q[\log q(x)]` in nats from samples.

    Args:
        model: q.
        num_samples: n, two or more; for each context if there is one.
        context: (B, C), or None if the model takes none.
        seed: of the samples; drawn from torch's generator if left out.
        mask: index of one mask; the whole ensemble if left out, whatever the mode.
        options: of ``Sampler.sample``: ``generator``, ``first_row``, ``rows``, ``dtype``, ``backend``, ``progress``.

    Returns:
        scalar, or (B,) with a context; fp64.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    num_samples = _checked(num_samples, options)
    _, log_prob = model.sample_and_log_prob(num_samples, context, mask=mask, seed=seed, **options)
    return mean_of(-log_prob)


def log_mean_exp(log_weights: Tensor) -> Estimate:
    r"""Estimates :math:`\log E[w]` from independent :math:`\log w`, :math:`\log \frac1n \sum_i w_i`, without overflow.

    The mean of the weights is unbiased; its logarithm is too low by half the squared standard error, about. The standard
    error is that of the mean divided by the mean (delta method) and, like the mean itself, knows nothing of weights that
    were never drawn: it can be trusted where it is far below 1.

    Args:
        log_weights: (..., n), n two or more.

    Returns:
        (...), fp64.

    Raises:
        ValueError: there are fewer than two.
    """
    return estimates.log_mean_exp(_log_weights(log_weights, 2, "two"))


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""Returns how many samples of equal weight would do as well as these: :math:`(\sum_i w_i)^2 / \sum_i w_i^2`.

    n for equal weights, 1 where one sample carries everything, 0 where all weights are 0. Where it is small, means weighted
    by these samples rest on a few of them; samples that were never drawn are not known to it, so it can be too large. The
    error of ``log_mean_exp`` and of ``log_marginal`` says the same: an error e means about 1 / e**2 effective samples.

    Args:
        log_weights: (..., n) logs of weights, which need not sum to 1.

    Returns:
        (...), fp64.

    Raises:
        ValueError: there is none, or one is nan or infinite above.

    Source: Kong, "A note on importance sampling using standardized weights", University of Chicago 1992.

    Examples:
        >>> effective_sample_size(torch.tensor([[0.0, 0.0, 0.0], [0.0, -100.0, -100.0]]))
        tensor([3., 1.], dtype=torch.float64)
    """
    log_weights = _log_weights(log_weights, 1, "one")
    wrong = log_weights.isnan() | torch.isposinf(log_weights)
    if bool(wrong.any()):
        raise ValueError(f"log_weights must be below infinity, got {log_weights[wrong][0].item()}")
    return estimates.effective_sample_size(log_weights)


def _log_weights(log_weights: Tensor, least: int, said: str) -> Tensor:
    log_weights = with_values("log_weights", tensor_of("log_weights", log_weights))
    if log_weights.ndim == 0 or log_weights.shape[-1] < least:
        raise ValueError(f"log_weights must have shape (..., n), n {said} or more, got {tuple(log_weights.shape)}")
    return log_weights


def free_energy(
    model: MADE,
    cost: Callable[[Tensor], Tensor],
    num_samples: int,
    context: Tensor | None = None,
    *,
    seed: int | None = None,
    mask: int | None = None,
    **options: Any,
) -> FreeEnergy:
    """Estimates the free energy beta F = -log Z of the density proportional to ``exp(-cost(x))``, in nats.

    Args:
        model: q, a normalized model that was trained to be near that density.
        cost: beta E: of x (n, D), or (B, n, D) with a context, returns (n,) or (B, n), in nats.
        num_samples: n, two or more; for each context if there is one.
        context: (B, C), or None if the model takes none.
        seed: of the samples; drawn from torch's generator if left out.
        mask: index of one mask; the whole ensemble if left out, whatever the mode.
        options: of ``Sampler.sample``: ``generator``, ``first_row``, ``rows``, ``dtype``, ``backend``, ``progress``.

    Returns:
        The variational estimate, the one corrected by importance weights, and what these weights leave of the samples, each
        scalar, or (B,) with a context; fp64.

    Raises:
        ValueError: an argument does not fit, or the cost is not finite; the message names it.

    Warns:
        UserWarning: the effective sample size is below 5 % of n, or below 10 (of fewer than 20 samples: half of n).
    """
    num_samples = _checked(num_samples, options)
    x, log_prob = model.sample_and_log_prob(num_samples, context, mask=mask, seed=seed, **options)
    action = log_prob.double() + _cost_of(cost, x)
    warn_if_uneven(-action, "train longer, or draw more: `corrected` cannot be trusted", stacklevel=2)
    log_partition = estimates.log_mean_exp(-action)
    corrected = Estimate(-log_partition.value, log_partition.standard_error)
    return FreeEnergy(mean_of(action), corrected, estimates.effective_sample_size(-action))


def score_function_loss(
    model: MADE,
    cost: Callable[[Tensor], Tensor],
    num_samples: int,
    context: Tensor | None = None,
    *,
    seed: int | None = None,
    baseline: str | None = "leave_one_out",
    **options: Any,
) -> ScoreFunctionLoss:
    r"""Returns a loss whose gradient is that of the variational free energy, estimated from samples of the model.

    With :math:`r(x) = \log q(x) + c(x)`, the gradient of :math:`E_q[r] = \beta F + KL(q \| p)` is

    .. math:: E_q[(r(x) - b) \nabla \log q(x)] \approx \frac1n \sum_i (r(x_i) - b_i) \nabla \log q(x_i).

    A baseline b that does not depend on :math:`x_i` leaves the expectation as it is and lowers the variance. Samples come
    from the cached sampler, without gradients; then one differentiable ``log_prob`` is taken of all of them. A step:

        step = score_function_loss(model, lambda x: beta * energy(x), 1000, seed=number)
        optimizer.zero_grad(), step.loss.backward(), optimizer.step()

    Args:
        model: q. In training mode an ensemble is taken by its current mask, in evaluation mode as a whole, as ``log_prob``
            does.
        cost: c = beta E: of x (n, D), or (B, n, D) with a context, returns (n,) or (B, n), in nats. No gradient is taken.
        num_samples: n, two or more; for each context if there is one. The loss is the mean over contexts.
        context: (B, C), or None if the model takes none.
        seed: of the samples, another one for each step; drawn from torch's generator if left out.
        baseline: ``"leave_one_out"``, the mean of r over the other samples of the same context: unbiased; ``"mean"``, over
            all of them, as in the paper: the same gradient times 1 - 1/n; None: no baseline.
        options: of ``Sampler.sample``: ``generator``, ``first_row``, ``rows``, ``dtype``, ``backend``, ``progress``.

    Raises:
        ValueError: an argument does not fit, or the cost is not finite; the message names it.

    Source: Wu, Wang, Zhang 2019 (there with the mean as baseline); Kool, van Hoof, Welling, "Buy 4 REINFORCE Samples, Get a
    Baseline for Free!", ICLR 2019 workshop.
    """
    num_samples = _checked(num_samples, options)
    if not (baseline is None or isinstance(baseline, str)) or baseline not in BASELINES:
        raise ValueError(f"baseline must be one of {', '.join(map(repr, BASELINES))}, got {shown(baseline)}")
    context = None if context is None else tensor_of("context", context)
    mask = model.mask_index if model.training and model.ensemble is not None else None
    x = model.sample(num_samples, context, mask=mask, seed=seed, **options)
    # A sampler's own log-probabilities would be the same numbers once more: these are needed for the gradient anyway.
    log_prob = model.log_prob(x, None if context is None else context[:, None], masks=mask)
    costs = _cost_of(cost, x)
    reward = log_prob.detach().double() + costs
    advantage = reward if baseline is None else reward - reward.mean(-1, keepdim=True)
    if baseline == "leave_one_out":
        advantage = advantage * (num_samples / (num_samples - 1))
    loss = (advantage.to(log_prob.dtype) * log_prob).mean()
    return ScoreFunctionLoss(loss, mean_of(reward), x, log_prob.detach(), costs)


def _checked(num_samples: int, options: dict[str, Any]) -> int:
    for name in options:
        if name not in _OPTIONS:
            raise ValueError(f"options must be of {', '.join(_OPTIONS)}, got {name}")
    return whole_number("num_samples", num_samples, 2, note=" for a standard error")


def _cost_of(cost: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The cost of every sample, checked: x.shape[:-1], fp64."""
    if not callable(cost):
        raise ValueError(f"cost must be a function of x, got {shown(cost)}")
    with torch.no_grad():
        costs = cost(x)
    if not isinstance(costs, Tensor) or costs.shape != x.shape[:-1]:
        found = tuple(costs.shape) if isinstance(costs, Tensor) else shown(costs)
        raise ValueError(f"cost must return a tensor of shape {tuple(x.shape[:-1])}, one for each sample, got {found}")
    if not bool(costs.isfinite().all()):
        raise ValueError("cost must be finite for every sample, found nan or inf")
    return costs.to(x.device, torch.float64)


def _values(model: MADE) -> list[Tensor]:
    """The values that each of the D variables can take, (n_d,)."""
    values = model.output.values(model.features)
    for variable, known in enumerate(values):
        if known is None or not len(known):
            raise ValueError(
                f"model must have variables with finitely many values to enumerate, but variable {variable} of output "
                f"{model.output.name!r} is real"
            )
    return values


def _one_context(value: object, expected: int) -> Tensor | None:
    context = None if value is None else tensor_of("context", value)
    found = "None" if context is None else f"shape {tuple(context.shape)}"
    if not expected:
        if context is not None:
            raise ValueError(f"context must be None for a model without context_features, got {found}")
        return None
    if context is None or context.shape != (expected,):
        raise ValueError(f"context must have shape ({expected},), one context, got {found}")
    finite("context", with_values("context", context))
    return context
