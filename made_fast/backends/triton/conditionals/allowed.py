"""Draws from what is allowed, with the log of its mass: flags for the values of finite variables, bounds of real ones."""

import triton
import triton.language as tl

from made_fast.backends.triton.codes import (
    BINARY_BITS,
    CATEGORICAL,
    CATEGORICAL_BIT,
    LOGISTICS,
    LOGISTICS_BIT,
    NORMAL,
    NORMAL_BIT,
    NORMALS,
    NORMALS_BIT,
    SPIN,
)
from made_fast.backends.triton.columns import LOWER, UPPER
from made_fast.backends.triton.conditionals.normal import log_mass_of, standard_ends, value_between
from made_fast.backends.triton.conditionals.weights import (
    NOTHING,
    chunk_of,
    component_of,
    log_add,
    log_probs_of_levels,
    passed,
    uniform,
)
from made_fast.backends.triton.functions import softplus

__all__ = ["draw_allowed"]


@triton.jit
def draw_allowed(x, params, kind, floor, noise, choice, flags, ends, OUTPUT: tl.constexpr):
    """A value (R,) from what is allowed, and the log of the mass of all that is, fp64 (R,).

    Args:
        x: the plain draw.
        params, kind, floor, noise, choice, OUTPUT: see conditionals/draw.py.
        flags: (R,) pointers to the first value's flag of a finite variable.
        ends: (R,) pointers to the least and greatest value of a real one.
    """
    CODES: tl.constexpr = OUTPUT[0]
    WIDTH: tl.constexpr = OUTPUT[1]
    code, _, count, components, size = kind
    greatest, total = choice
    log_mass = tl.zeros_like(x).to(tl.float64)
    if BINARY_BITS & CODES:
        if code <= SPIN:
            x, log_mass = _binary(x, tl.load(params), code, tl.load(flags) != 0, tl.load(flags + 1) != 0)
    if CATEGORICAL_BIT & CODES:
        if code == CATEGORICAL:
            x, log_mass = _finite(params, count, greatest, total, floor, size, flags, uniform(noise, 0), False, WIDTH)
    if LOGISTICS_BIT & CODES:
        if code == LOGISTICS:
            x, log_mass = _finite(params, count, greatest, total, floor, size, flags, uniform(noise, 0), True, WIDTH)
    if (NORMAL_BIT | NORMALS_BIT) & CODES:
        if (code == NORMAL) | (code == NORMALS):
            x, log_mass = _normals(params, count, components, greatest, total, floor, noise, ends)
    return x, log_mass


@triton.jit
def _binary(x, logit, code, low, high):
    x = tl.where(low & high, x, tl.where(high, 1.0, tl.where(code == SPIN, -1.0, 0.0)))
    log_prob = -softplus(tl.where(x > 0, -logit, logit))
    return x, tl.where(low & high, 0.0, log_prob).to(tl.float64)


@triton.jit
def _nats(first, params, count, greatest, total, floor, size, LEVELS: tl.constexpr, WIDTH: tl.constexpr):
    """Log-weights (R, WIDTH) of values from number ``first`` on, none above 0, and their numbers."""
    if LEVELS:
        k = (first + tl.arange(0, WIDTH))[None, :]
        nats = log_probs_of_levels(k, params, count, greatest, total, floor, size)
    else:
        value, k = chunk_of(params, first, count, float("-inf"), WIDTH)
        nats = value - greatest[:, None]
    return nats, k


@triton.jit
def _finite(params, count, greatest, total, floor, size, flags, u, LEVELS: tl.constexpr, WIDTH: tl.constexpr):
    everything, most, kept = tl.zeros_like(greatest), tl.zeros_like(greatest) + NOTHING, tl.zeros_like(greatest)
    nearest = tl.zeros_like(greatest).to(tl.int32) + 2147483647  # the first that is allowed
    refused = tl.zeros_like(nearest)
    before, threshold = tl.zeros_like(greatest), tl.zeros_like(greatest)
    chosen, last = nearest, tl.zeros_like(nearest)
    for choosing in range(0, 2):  # first the sums, then the choice: in a loop, since the weights take long to compile
        threshold = u * kept
        for first in range(0, size, WIDTH):
            nats, k = _nats(first, params, count, greatest, total, floor, size, LEVELS, WIDTH)
            allowed = tl.load(flags[:, None] + k, mask=k < size, other=0) != 0
            some = tl.where(allowed, nats, float("-inf"))
            if choosing == 0:
                everything += tl.sum(tl.exp(nats), axis=1)
                most, kept = log_add(most, kept, some)
                nearest = tl.minimum(nearest, tl.min(tl.where(allowed, k, 2147483647), axis=1))
                refused = tl.maximum(refused, tl.max((~allowed & (k < size)).to(tl.int32), axis=1))
            else:
                weight = tl.exp(some - most[:, None])
                before, chosen, last = passed(weight, k, before, chosen, last, threshold)
    chosen = tl.where(kept > 0, tl.minimum(chosen, last), tl.minimum(nearest, size - 1))
    log_mass = tl.where(refused != 0, most + tl.log(kept) - tl.log(everything), 0.0)
    return chosen.to(tl.float32), log_mass.to(tl.float64)


@triton.jit
def _normals(params, count, components, greatest, total, floor, noise, ends):
    """A normal, which has no logits, or a mixture: a component by its mass between the bounds, then a draw between them."""
    lower, upper = tl.load(ends + LOWER), tl.load(ends + UPPER)
    zero = tl.zeros_like(greatest).to(tl.float64)
    most, kept, sum, some = zero + NOTHING, zero, zero, zero < 0
    chosen, last = tl.zeros_like(greatest).to(tl.int32) + 2147483647, tl.zeros_like(greatest).to(tl.int32)
    u, threshold = uniform(noise, 0).to(tl.float64), zero
    for choosing in range(0, 2):  # first the sum, then the choice: in a loop, since masses take long to compile
        some = kept > 0
        threshold = u * tl.where(some, kept, total.to(tl.float64))
        for j in range(0, components):
            loc, scale = component_of(params + count, components, j, floor)
            low, high, width, _ = standard_ends(loc, scale, lower, upper)
            alone = tl.where(count > 0, tl.load(params + j) - greatest, 0.0).to(tl.float64)
            nats = alone + log_mass_of(low, high, width)
            if choosing == 0:
                greater = tl.maximum(most, nats)
                kept = kept * tl.exp(most - greater) + tl.exp(nats - greater)
                most = greater
            else:
                weight = tl.exp(tl.where(some, nats - most, alone))
                sum += weight
                chosen = tl.minimum(chosen, tl.where((weight > 0) & (sum > threshold), j, 2147483647))
                last = tl.where(weight > 0, j, last)
    loc, scale = component_of(params + count, components, tl.minimum(chosen, last), floor)
    low, high, width, _ = standard_ends(loc, scale, lower, upper)
    share = uniform(noise, tl.minimum(count, 1)).to(tl.float64) + 2.9802322387695312e-08
    x = value_between(loc, scale, lower, upper, share).to(tl.float32)
    x = tl.where(
        log_mass_of(low, high, width) > float("-inf"), x, loc
    )  # without mass the bound nearest to the location
    log_mass = most + tl.log(kept) - tl.log(total.to(tl.float64))
    return tl.minimum(tl.maximum(x, lower), upper), log_mass
