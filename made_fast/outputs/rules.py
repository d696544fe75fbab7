"""Rules that several conditionals share: which category a uniform picks, and small constants."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["HALF_STEP", "LOG_SQRT_2_PI", "choose_allowed", "choose_category", "is_whole", "logit_of"]

LOG_SQRT_2_PI = 0.5 * math.log(2 * math.pi)


HALF_STEP = 2.0**-25  # between two uniforms: added where neither 0 nor 1 may come out


def is_whole(x: Tensor) -> Tensor | bool:
    """Which values have no fraction; of whole numbers and flags all."""
    return x == x.floor() if x.is_floating_point() else True


def logit_of(uniform: Tensor) -> Tensor:
    """log(u / (1 - u)) of uniforms, fp64."""
    return torch.logit(uniform.double())


def choose_category(weights: Tensor, uniform: Tensor) -> Tensor:
    """The categorical rule: how many running sums are at most ``u * total``, at most the last category of weight > 0.

    Args:
        weights: (..., K), not negative, some positive.
        uniform: (...).

    Returns:
        (...) int64.
    """
    sums = weights.cumsum(-1)
    chosen = (sums <= (uniform.to(weights.dtype) * sums[..., -1])[..., None]).sum(-1)
    last = (weights > 0).long().cumsum(-1).argmax(-1)  # the first place at which the count is complete
    return torch.minimum(chosen, last)


def choose_allowed(log_weights: Tensor, uniform: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """The categorical rule among allowed categories; the first allowed one where none has a weight.

    Args:
        log_weights: (..., K), of any sum.
        uniform: (...).
        allowed: (..., K) bool.

    Returns:
        (...) int64, and the log of the allowed share of the whole weight.
    """
    weights = torch.exp(log_weights - log_weights.amax(-1, keepdim=True))
    kept = torch.where(allowed, weights, 0)
    log_mass = torch.log(kept.sum(-1)) - torch.log(weights.sum(-1))
    everything = allowed.all(-1)
    chosen = choose_category(torch.where(kept.sum(-1, keepdim=True) > 0, kept, allowed.to(kept)), uniform)
    first = allowed.long().argmax(-1)
    chosen = torch.where(torch.isinf(log_mass), first, chosen)
    return chosen, torch.where(everything, torch.zeros_like(log_mass), log_mass)
