"""The arithmetic of ``made_fast.outputs`` for R rows at a time, in fp32: what kernels draw variables with.

Parameters lie in global memory: ``params`` (R,) points to the first of each row's; WIDTH are read at a time. A running sum
within such a chunk is not added strictly from left to right, so a category is found as the first one that has a weight
and whose running sum exceeds the threshold, which is the definition's choice but never one without weight.
"""

import triton
import triton.language as tl

from made_fast.backends.triton.functions import expm1, softplus
from made_fast.backends.triton.noise import philox_words, uniform_of

__all__ = [
    "choose",
    "chunk_of",
    "component_of",
    "greatest_logit",
    "level_of",
    "log_add",
    "log_prob_of_component",
    "log_prob_of_mixture",
    "log_probs_of_levels",
    "logit",
    "logit_of_tail",
    "ndtri_of_tail",
    "passed",
    "tail",
    "total_weight",
    "uniform",
]

NOTHING = tl.constexpr(-3.4028234663852886e38)  # the least number: below every logarithm, and differences are no nan
LOG_SQRT_2_PI = tl.constexpr(0.9189385332046727)


@triton.jit
def uniform(noise, draw):
    """Uniform number ``draw`` of the variable that is drawn, (R,) multiples of 2**-24 in [0, 1).

    ``noise`` is (seed, noise step, rows (R,) int64), see ``made_fast.noise``.
    """
    seed, step, row = noise
    zero = tl.zeros_like(row)
    w0, w1, w2, w3 = philox_words(seed, zero + (step >> 2), zero + draw, row)
    word = tl.where((step & 2) == 0, tl.where((step & 1) == 0, w0, w1), tl.where((step & 1) == 0, w2, w3))
    return uniform_of(word)


@triton.jit
def logit(u):
    """log(u / (1 - u)), minus infinity for 0: what a logit must exceed for a 1."""
    return tl.where(u > 0, tl.log(tl.maximum(u, 2.9802322387695312e-08) / (1.0 - u)), float("-inf"))


@triton.jit
def tail(u):
    """Of p = u + 2**-25 the smaller of p and 1 - p, exact and in (0, 1/2], and whether that is 1 - p."""
    upper = u >= 0.5
    return tl.where(upper, (1.0 - u) - 2.9802322387695312e-08, u + 2.9802322387695312e-08), upper


@triton.jit
def ndtri_of_tail(p, upper):
    """The inverse of the standard normal cdf at p in [2**-25, 1/2], or at 1 - p.

    Source: Wichura, algorithm AS 241 (PPND7), Applied Statistics 37, 1988.
    """
    q = p - 0.5
    r = 0.180625 - q * q
    above = ((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179
    below = ((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1.0
    t = tl.sqrt(-tl.log(p)) - 1.6
    far_above = ((0.17023821103 * t + 1.3067284816) * t + 2.7568153900) * t + 1.4234372777
    far_below = (0.12021132975 * t + 0.73700164250) * t + 1.0
    z = tl.where(q >= -0.425, q * above / below, -far_above / far_below)
    return tl.where(upper, -z, z)


@triton.jit
def logit_of_tail(p, upper):
    """logit(p) for p in (0, 1/2], or logit(1 - p)."""
    z = tl.log(p / (1.0 - p))
    return tl.where(upper, -z, z)


@triton.jit
def chunk_of(params, first, count, other, WIDTH: tl.constexpr):
    """(R, WIDTH) numbers from number ``first`` on, and their numbers (1, WIDTH); ``other`` where there is none."""
    k = (first + tl.arange(0, WIDTH))[None, :]
    return tl.load(params[:, None] + k, mask=k < count, other=other), k


@triton.jit
def greatest_logit(params, count, num_params, WIDTH: tl.constexpr):
    """The greatest of ``count`` logits, and for each row whether one of all its parameters is nan (int32)."""
    greatest = tl.zeros_like(tl.load(params)) + NOTHING
    bad = tl.zeros_like(greatest).to(tl.int32)
    for first in range(0, num_params, WIDTH):
        value, k = chunk_of(params, first, num_params, NOTHING, WIDTH)
        bad |= tl.max((value != value).to(tl.int32), axis=1)
        greatest = tl.maximum(greatest, tl.max(tl.where(k < count, value, NOTHING), axis=1))
    return greatest, bad


@triton.jit
def total_weight(params, count, greatest, sharpness, WIDTH: tl.constexpr):
    """The sum of the weights exp(sharpness * (logit - greatest)), at least 1."""
    total = tl.zeros_like(greatest)
    for first in range(0, count, WIDTH):
        value, _ = chunk_of(params, first, count, float("-inf"), WIDTH)
        total += tl.sum(tl.exp((value - greatest[:, None]) * sharpness), axis=1)
    return total


@triton.jit
def choose(params, count, greatest, sharpness, threshold, WIDTH: tl.constexpr):
    """int32 (R,): the first category with a weight whose running sum exceeds the threshold (R,), or the last weighted one."""
    before = tl.zeros_like(greatest)
    chosen = before.to(tl.int32) + 2147483647
    last = tl.zeros_like(chosen)
    for first in range(0, count, WIDTH):
        value, k = chunk_of(params, first, count, float("-inf"), WIDTH)
        weight = tl.exp((value - greatest[:, None]) * sharpness)
        before, chosen, last = passed(weight, k, before, chosen, last, threshold)
    return tl.minimum(chosen, last)


@triton.jit
def passed(weight, k, before, chosen, last, threshold):
    """What ``choose`` knows after another chunk of weights (R, WIDTH): their sum, its choice, the last with a weight."""
    sums = before[:, None] + tl.cumsum(weight, axis=1)
    here = tl.where((weight > 0) & (sums > threshold[:, None]), k, 2147483647)
    chosen = tl.minimum(chosen, tl.min(here, axis=1))
    last = tl.maximum(last, tl.max(tl.where(weight > 0, k, 0), axis=1))
    return before + tl.sum(weight, axis=1), chosen, last


@triton.jit
def log_prob_of_component(x, loc, scale, size, LOGISTIC: tl.constexpr):
    """log p(x) of a normal, or of a logistic cut into ``size`` bins whose levels span [-1, 1]; all broadcast."""
    if LOGISTIC:
        half = 1.0 / (size - 1).to(tl.float32)
        centred = (2.0 * half * x - 1.0) - loc
        upper = tl.where(x == size - 1, 0.0, -softplus(-(centred + half) / scale))
        lower = tl.where(x == 0, 0.0, -softplus((centred - half) / scale))
        # log(sigmoid(b) - sigmoid(a)) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b)); b - a times 2**64 where it is
        # nothing beside the scale, and might be no normal number
        lifted = scale > 1e28
        inside = tl.log(-expm1(-2.0 * half * tl.where(lifted, 1.8446744073709552e19, 1.0) / scale))
        inside = tl.where((x == 0) | (x == size - 1), 0.0, inside - tl.where(lifted, 44.3614195558365, 0.0))
        log_prob = upper + lower + inside
    else:
        z = (x - loc) / scale
        log_prob = -0.5 * z * z - tl.log(scale) - LOG_SQRT_2_PI
    return log_prob


@triton.jit
def log_add(most, sum, value):
    """Adds exp(value (R, WIDTH)) to what is exp(most) * sum, (R,) each."""
    greater = tl.maximum(most, tl.max(value, axis=1))
    return greater, sum * tl.exp(most - greater) + tl.sum(tl.exp(value - greater[:, None]), axis=1)


@triton.jit
def log_prob_of_mixture(params, x, count, greatest, total, floor, size, LOGISTIC: tl.constexpr, WIDTH: tl.constexpr):
    """log p(x) of ``count`` components with parameters (logits, locations, raw scales).

    ``greatest`` and ``total`` are those of the logits, at sharpness 1.
    """
    most = tl.zeros_like(x) + NOTHING
    sum = tl.zeros_like(x)
    for first in range(0, count, WIDTH):
        weight, _ = chunk_of(params, first, count, float("-inf"), WIDTH)
        loc, _ = chunk_of(params + count, first, count, 0.0, WIDTH)
        raw, _ = chunk_of(params + 2 * count, first, count, 0.0, WIDTH)
        nats = log_prob_of_component(x[:, None], loc, softplus(raw) + floor, size, LOGISTIC)
        most, sum = log_add(most, sum, (weight - greatest[:, None]) + nats)
    return most + tl.log(sum) - tl.log(total)


@triton.jit
def component_of(params, components, chosen, floor):
    """Location and scale (R,) of a component (R,); ``params`` begin with the locations, raw scales follow."""
    loc = params + chosen
    return tl.load(loc), softplus(tl.load(loc + components)) + floor


@triton.jit
def level_of(y, size):
    """The level whose bin holds y, where all ``size`` span [-1, 1]."""
    last = (size - 1).to(tl.float32)
    return tl.minimum(tl.maximum(tl.floor((y + 1.0) * (last * 0.5) + 0.5), 0.0), last)


@triton.jit
def log_probs_of_levels(k, params, count, greatest, total, floor, size):
    """Log-probabilities (R, WIDTH) of levels k (1, WIDTH) under a mixture of logistics; -inf where there is no such level."""
    sum = tl.zeros_like(greatest)[:, None] + tl.zeros_like(k).to(tl.float32)
    most = sum + NOTHING
    for j in range(0, count):
        loc, scale = component_of(params + count, count, j, floor)
        nats = log_prob_of_component(k.to(tl.float32), loc[:, None], scale[:, None], size, True)
        nats += (tl.load(params + j) - greatest)[:, None]
        greater = tl.maximum(most, nats)
        sum = sum * tl.exp(most - greater) + tl.exp(nats - greater)
        most = greater
    return tl.where(k < size, most + tl.log(sum) - tl.log(total)[:, None], float("-inf"))
