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
from made_fast.backends.triton.conditionals import chunk_of, component_of, passed, uniform, weights_of_levels
from made_fast.backends.triton.device import softplus
from made_fast.backends.triton.normal import ndtr, ndtri

__all__ = ["draw_allowed"]


@triton.jit
def draw_allowed(x, at, kind, floor, noise, choice, flags, ends, OUTPUT: tl.constexpr):
    """A value (R,) from what is allowed, and the log of the mass of all that is, fp64 (R,).

    Args:
        x: the plain draw.
        at, kind, floor, noise, choice, OUTPUT: see variable_kernels.py.
        flags: (R,) pointers to the first value's flag of a finite variable.
        ends: (R,) pointers to the least and greatest value of a real one.
    """
    CODES: tl.constexpr = OUTPUT[0]
    WIDTH: tl.constexpr = OUTPUT[1]
    code, _, count, _, size = kind
    greatest, total = choice
    log_mass = tl.zeros_like(x).to(tl.float64)
    if BINARY_BITS & CODES:
        if code <= SPIN:
            x, log_mass = _binary(x, tl.load(at), code, tl.load(flags) != 0, tl.load(flags + 1) != 0)
    if CATEGORICAL_BIT & CODES:
        if code == CATEGORICAL:
            x, log_mass = _finite(at, count, greatest, total, floor, size, flags, uniform(noise, 0), False, WIDTH)
    if LOGISTICS_BIT & CODES:
        if code == LOGISTICS:
            x, log_mass = _finite(at, count, greatest, total, floor, size, flags, uniform(noise, 0), True, WIDTH)
    if NORMAL_BIT & CODES:
        if code == NORMAL:
            loc, scale = component_of(at, 1, 0, floor)
            x, mass = _within(loc, scale, uniform(noise, 0), tl.load(ends), tl.load(ends + 1))
            log_mass = tl.log(mass)
    if NORMALS_BIT & CODES:
        if code == NORMALS:
            x, log_mass = _normals(at, count, greatest, total, floor, noise, tl.load(ends), tl.load(ends + 1))
    return x, log_mass


@triton.jit
def _binary(x, logit, code, low, high):
    x = tl.where(low & high, x, tl.where(high, 1.0, tl.where(code == SPIN, -1.0, 0.0)))
    log_prob = -softplus(tl.where(x > 0, -logit, logit))
    return x, tl.where(low & high, 0.0, log_prob).to(tl.float64)


@triton.jit
def _weights(first, at, count, greatest, total, floor, size, LEVELS: tl.constexpr, WIDTH: tl.constexpr):
    """Weights (R, WIDTH) of values from number ``first`` on, and their numbers."""
    if LEVELS:
        k = (first + tl.arange(0, WIDTH))[None, :]
        weight = weights_of_levels(k, at, count, greatest, total, floor, size)
    else:
        value, k = chunk_of(at, first, count, float("-inf"), WIDTH)
        weight = tl.exp(value - greatest[:, None])
    return weight, k


@triton.jit
def _finite(at, count, greatest, total, floor, size, flags, u, LEVELS: tl.constexpr, WIDTH: tl.constexpr):
    everything, kept = tl.zeros_like(greatest), tl.zeros_like(greatest)
    nearest = tl.zeros_like(greatest).to(tl.int32) + 2147483647  # the first that is allowed
    for first in range(0, size, WIDTH):
        weight, k = _weights(first, at, count, greatest, total, floor, size, LEVELS, WIDTH)
        allowed = tl.load(flags[:, None] + k, mask=k < size, other=0) != 0
        everything += tl.sum(weight, axis=1)
        kept += tl.sum(tl.where(allowed, weight, 0.0), axis=1)
        nearest = tl.minimum(nearest, tl.min(tl.where(allowed, k, 2147483647), axis=1))
    before, chosen = tl.zeros_like(greatest), tl.zeros_like(nearest) + 2147483647
    last, threshold = tl.zeros_like(nearest), u * kept
    for first in range(0, size, WIDTH):
        weight, k = _weights(first, at, count, greatest, total, floor, size, LEVELS, WIDTH)
        allowed = tl.load(flags[:, None] + k, mask=k < size, other=0) != 0
        before, chosen, last = passed(tl.where(allowed, weight, 0.0), k, before, chosen, last, threshold)
    chosen = tl.where(kept > 0, tl.minimum(chosen, last), tl.minimum(nearest, size - 1))
    return chosen.to(tl.float32), (tl.log(kept) - tl.log(everything)).to(tl.float64)


@triton.jit
def _ends(loc, scale, lower, upper):
    """The bounds in units of the scale, fp64, mirrored where both are above 0, so that the tail's digits remain."""
    low = (lower.to(tl.float64) - loc.to(tl.float64)) / scale.to(tl.float64)
    high = (upper.to(tl.float64) - loc.to(tl.float64)) / scale.to(tl.float64)
    mirrored = low > 0
    return tl.where(mirrored, -high, low), tl.where(mirrored, -low, high), mirrored


@triton.jit
def _mass(loc, scale, lower, upper):
    low, high, _ = _ends(loc, scale, lower, upper)
    return ndtr(high) - ndtr(low)


@triton.jit
def _within(loc, scale, u, lower, upper):
    """A normal draw between bounds, and the mass between them."""
    low, high, mirrored = _ends(loc, scale, lower, upper)
    below = ndtr(low)
    mass = ndtr(high) - below
    z = ndtri(below + (u.to(tl.float64) + 2.9802322387695312e-08) * mass)
    z = tl.where(mirrored, -z, z).to(tl.float32)
    # Without mass, the bound nearest to the location.
    x = tl.where(mass > 0, loc + scale * z, loc)
    return tl.minimum(tl.maximum(x, lower), upper), mass


@triton.jit
def _normals(at, count, greatest, total, floor, noise, lower, upper):
    kept = tl.zeros_like(greatest).to(tl.float64)
    for j in range(0, count):
        loc, scale = component_of(at + count, count, j, floor)
        kept += tl.exp(tl.load(at + j) - greatest).to(tl.float64) * _mass(loc, scale, lower, upper)
    some = kept > 0
    threshold = uniform(noise, 0).to(tl.float64) * tl.where(some, kept, total.to(tl.float64))
    sum = tl.zeros_like(kept)
    chosen, last = tl.zeros_like(greatest).to(tl.int32) + 2147483647, tl.zeros_like(greatest).to(tl.int32)
    for j in range(0, count):
        loc, scale = component_of(at + count, count, j, floor)
        share = tl.exp(tl.load(at + j) - greatest).to(tl.float64)
        weight = share * tl.where(some, _mass(loc, scale, lower, upper), 1.0)
        sum += weight
        chosen = tl.minimum(chosen, tl.where((weight > 0) & (sum > threshold), j, 2147483647))
        last = tl.where(weight > 0, j, last)
    loc, scale = component_of(at + count, count, tl.minimum(chosen, last), floor)
    x, _ = _within(loc, scale, uniform(noise, 1), lower, upper)
    return x, tl.log(kept) - tl.log(total.to(tl.float64))
