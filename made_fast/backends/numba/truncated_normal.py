"""A normal distribution between bounds; see ``Truncation`` of made_fast/outputs/normal.py."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

import numpy as np

from made_fast.backends.numba.jit import jit
from made_fast.backends.numba.special import far_tail_ratio, ndtr, ndtri
from made_fast.outputs.normal import FAR, FAR_ROUNDS, NARROW
from made_fast.outputs.rules import HALF_STEP, LOG_SQRT_2_PI

__all__ = ["log_mass_between", "truncated_normal"]

LEAST = 2.0**-1022  # that ndtri is asked for: it is -inf at 0


@jit
def _standard(loc, scale, lower, upper):
    """Ends and width in scales, of the mirror image (True) where the interval lies above the location."""
    low, high = (lower - loc) / scale, (upper - loc) / scale
    mirrored = low > 0
    if mirrored:
        low, high = -high, -low
    return low, high, (upper - lower) / scale, mirrored


@jit
def _is_narrow(high, width):
    """Where the density between the ends is a straight line."""
    return width * max(-high, 1.0) < NARROW


@jit
def _far_share(low, high, width):
    """Of the mass below ``high`` the share that is above ``low``."""
    ratio = far_tail_ratio(-high) / far_tail_ratio(-low)
    return -math.expm1(0.5 * width * (low + high) - math.log(ratio))


@jit
def _far_below(near, wanted):
    """Where log cdf(-near) - log cdf(-near - step) is what is wanted."""
    step = 0.0
    for _ in range(FAR_ROUNDS):
        left = wanted - math.log(far_tail_ratio(near) / far_tail_ratio(near + step))
        step = 2.0 * left / (near + math.sqrt(near * near + 2.0 * left))
    return step


@jit
def _log_mass(low, high, width):
    if _is_narrow(high, width):
        middle = 0.5 * (low + high)
        square = middle * middle
        found = math.log(width) - 0.5 * square - LOG_SQRT_2_PI + math.log1p((square - 1.0) * (width * width) / 24.0)
    elif high < FAR:
        found = math.log(far_tail_ratio(-high)) - 0.5 * high * high + math.log(_far_share(low, high, width))
    else:
        found = math.log(ndtr(high) - ndtr(low))
    return -np.inf if math.isnan(found) else found


@jit
def log_mass_between(loc, scale, lower, upper):
    """The log of the mass of a normal between bounds."""
    low, high, width, _ = _standard(loc, scale, lower, upper)
    return _log_mass(low, high, width)


@jit
def truncated_normal(loc, scale, uniform, lower, upper):
    """A normal draw between bounds and the log of the mass between them; without mass the bound nearest to the location."""
    low, high, width, mirrored = _standard(loc, scale, lower, upper)
    log_mass, share = _log_mass(low, high, width), uniform + HALF_STEP
    x, rest = loc, 1.0 - share
    if log_mass == -np.inf:
        x = loc
    elif _is_narrow(high, width):
        step = scale * (width * (rest + 0.25 * (low + high) * width * rest * share))
        x = lower + step if mirrored else upper - step
    elif high < FAR:
        step = scale * _far_below(-high, -math.log1p(-rest * _far_share(low, high, width)))
        x = lower + step if mirrored else upper - step
    else:
        below = ndtr(low)
        z = ndtri(max(below + share * (ndtr(high) - below), LEAST))
        x = loc + scale * (-z if mirrored else z)
    return min(max(x, lower), upper), log_mass
