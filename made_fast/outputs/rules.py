"""Rules that several conditionals share: which category a uniform picks, and small constants."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from made_fast.tracing import is_exporting

__all__ = [
    "HALF_STEP",
    "LOG_SQRT_2_PI",
    "at_temperature",
    "bounded",
    "choose_allowed",
    "choose_category",
    "is_whole",
    "log_one_less_exp",
    "log_sigmoid",
    "logit_of",
    "wide",
]

LOG_SQRT_2_PI = 0.5 * math.log(2 * math.pi)


HALF_STEP = 2.0**-25  # between two uniforms: added where neither 0 nor 1 may come out


LEAST_TEMPERATURE, GREATEST_TEMPERATURE = 1e-37, 1e37  # by which fp32 can divide without nan


def wide(params: Tensor) -> Tensor:
    """Parameters in fp32 at least: half precision holds log-probabilities down to -65504 alone."""
    return params.float() if params.dtype in (torch.float16, torch.bfloat16) else params


def bounded(temperature: float) -> float:
    """The temperature that logits are divided by, which fp32 must not take for 0 or infinity."""
    return min(max(temperature, LEAST_TEMPERATURE), GREATEST_TEMPERATURE)


def at_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Logits by which one draws at a temperature."""
    return logits / bounded(temperature)


def is_whole(x: Tensor) -> Tensor | bool:
    """Which values have no fraction; of whole numbers and flags all."""
    return x == x.floor() if x.is_floating_point() else True


def logit_of(uniform: Tensor) -> Tensor:
    """log(u / (1 - u)) of uniforms, fp64."""
    return torch.logit(uniform.double())


def log_sigmoid(z: Tensor) -> Tensor:
    """``F.logsigmoid``; exported in other words, since the exporter to ONNX makes it the log of a sigmoid that may be 0."""
    if is_exporting():
        return z.clamp(max=0) - torch.log1p(torch.exp(-z.abs()))
    return F.logsigmoid(z)


def log_one_less_exp(z: Tensor) -> Tensor:
    """``log(1 - exp(-z))`` of positive z; exported in other words, since ONNX has no ``expm1``."""
    if is_exporting():
        half = torch.tanh(z / 2)
        return torch.log(2 * half / (1 + half))
    return torch.log(-torch.expm1(-z))


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
    """The categorical rule among allowed categories, by their weights relative to the greatest that is allowed.

    Args:
        log_weights: (..., K), of any sum.
        uniform: (...).
        allowed: (..., K) bool.

    Returns:
        (...) int64, the first allowed one where none has a weight; and the log of the allowed share of the whole weight.
    """
    log_weights = wide(log_weights)
    kept = torch.where(allowed, log_weights, -torch.inf)
    most, most_kept = log_weights.amax(-1, keepdim=True), kept.amax(-1, keepdim=True)
    possible = most_kept > -torch.inf
    weights = torch.exp(kept - torch.where(possible, most_kept, 0))
    whole = torch.exp(log_weights - most).sum(-1)
    log_mass = (most_kept - most)[..., 0] + torch.log(weights.sum(-1)) - torch.log(whole)
    chosen = choose_category(torch.where(possible, weights, allowed.to(weights)), uniform)
    chosen = torch.where(possible[..., 0], chosen, allowed.long().argmax(-1))
    return chosen, torch.where(allowed.all(-1), torch.zeros_like(log_mass), log_mass)
