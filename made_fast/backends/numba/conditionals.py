"""The conditionals, one variable of one row at a time, in fp64 whatever the dtype of the parameters.

The definitions are those of made_fast/outputs/. ``code``, ``size``, ``components``
and ``floor`` are those of a conditional; ``params`` are its parameters, side by side; ``scratch`` (2, n) fp64 has room for
two numbers for each of its values and components.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

import numpy as np

from made_fast.backends.numba.jit import jit
from made_fast.backends.numba.special import logit, ndtr, ndtri, softplus
from made_fast.outputs.codes import Code
from made_fast.outputs.rules import HALF_STEP, LOG_SQRT_2_PI

__all__ = ["draw", "draw_within", "log_prob", "mode"]

BERNOULLI, SPIN, CATEGORICAL, NORMAL, MIXTURE_OF_NORMALS, MIXTURE_OF_LOGISTICS, OWN, POINT = map(int, Code)
LEAST = 2.0**-1022  # that ndtri is asked for: it is -inf at 0


@jit
def _low(code):
    """The lower of two values."""
    return -1.0 if code == SPIN else 0.0


@jit
def _exponentials(logits, count, temperature, weights):
    """Writes exp((logit - largest) / T); returns the largest logit and the sum."""
    largest, total = np.float64(logits[0]), 0.0
    for k in range(1, count):
        largest = max(largest, np.float64(logits[k]))
    for k in range(count):
        weights[k] = math.exp((logits[k] - largest) / temperature)
        total += weights[k]
    return largest, total


@jit
def _choose(weights, count, uniform):
    """The categorical rule: how many running sums are at most ``u * total``, at most the last category of weight > 0."""
    total, last = 0.0, 0
    for k in range(count):
        total += weights[k]
        if weights[k] > 0:
            last = k
    limit, running = uniform * total, 0.0
    for k in range(last):
        running += weights[k]
        if running > limit:
            return k
    return last


@jit
def _choose_allowed(weights, count, uniform, allowed):
    """The categorical rule among allowed values, and the log of their share; the first of them where none has a weight."""
    total, kept, first, everything = 0.0, 0.0, -1, True
    for k in range(count):
        total += weights[k]
        if allowed[k]:
            kept += weights[k]
            first = k if first < 0 else first
        else:
            weights[k], everything = 0.0, False
    if not kept > 0:
        return max(first, 0), -np.inf
    return _choose(weights, count, uniform), 0.0 if everything else math.log(kept) - math.log(total)


@jit
def _drop(weights, count, top_k, top_p, order):
    """Sets to 0 the weights that ``top_k`` or ``top_p`` drops; among equals the lower number stays."""
    limit, length = (min(top_k, count) if top_k > 0 else count), 0
    for k in range(count):  # insertion into the list of the largest
        place = length
        while place > 0 and weights[k] > weights[int(order[place - 1])]:
            if place < limit:
                order[place] = order[place - 1]
            place -= 1
        if place < limit:
            order[place] = k
            length = min(length + 1, limit)
    total, running = 0.0, 0.0
    for rank in range(length):
        total += weights[int(order[rank])]
    for rank in range(length):
        k = int(order[rank])
        if rank == 0 or running < top_p * total:
            running += weights[k]
            weights[k] = -weights[k]  # the sign marks what stays
    for k in range(count):
        weights[k] = max(-weights[k], 0.0)


@jit
def _scale(floor, raw):
    return softplus(np.float64(raw)) + floor


@jit
def _normal_log_prob(loc, scale, x):
    z = (x - loc) / scale
    return -0.5 * z * z - math.log(scale) - LOG_SQRT_2_PI


@jit
def _logistic_log_prob(loc, scale, size, x):
    """Of level x: log(sigmoid(high) - sigmoid(low)) = log sigmoid(high) + log sigmoid(-low) + log(1 - exp(low - high))."""
    half = 1.0 / (size - 1)
    centred = (x * (2.0 * half) - 1.0) - loc
    total = 0.0
    if x < size - 1:
        total -= softplus(-(centred + half) / scale)
    if x > 0:
        total -= softplus((centred - half) / scale)
    if 0 < x < size - 1:
        total += math.log(-math.expm1(-2.0 * half / scale))
    return total


@jit
def _mixture_log_prob(code, size, components, floor, params, x, weights):
    largest_logit, total = _exponentials(params, components, 1.0, weights)
    largest, density = -np.inf, 0.0
    for j in range(components):
        loc, scale = np.float64(params[components + j]), _scale(floor, params[2 * components + j])
        normal = code == MIXTURE_OF_NORMALS
        own = _normal_log_prob(loc, scale, x) if normal else _logistic_log_prob(loc, scale, size, x)
        term = params[j] - largest_logit + own
        if term > largest:
            density = density * math.exp(largest - term) + 1.0
            largest = term
        elif term > -np.inf:
            density += math.exp(term - largest)
    return largest + math.log(density) - math.log(total) if density > 0 else -np.inf


@jit
def log_prob(code, size, components, floor, params, x, scratch):
    """log p(x) in nats; nan for an own conditional, whose log-probability is torch code."""
    if code in (BERNOULLI, SPIN):
        return -softplus(-params[0] if x > 0 else np.float64(params[0]))
    if code == CATEGORICAL:
        largest, total = _exponentials(params, size, 1.0, scratch[0])
        return params[int(x)] - largest - math.log(total)
    if code == NORMAL:
        return _normal_log_prob(np.float64(params[0]), _scale(floor, params[1]), x)
    if code == OWN:
        return np.nan
    if code == POINT:
        return np.float64(params[1]) if len(params) > 1 else 0.0
    return _mixture_log_prob(code, size, components, floor, params, x, scratch[0])


@jit
def draw(code, size, components, floor, params, uniforms, temperature, top_k, top_p, scratch):
    """x from one or two uniforms, of a built-in conditional."""
    weights = scratch[0]
    if code == POINT:
        return np.float64(params[0])
    if code in (BERNOULLI, SPIN):
        return 1.0 if params[0] / temperature > logit(uniforms[0]) else _low(code)
    if code == CATEGORICAL:
        _exponentials(params, size, temperature, weights)
        if top_k > 0 or top_p < 1:
            _drop(weights, size, top_k, top_p, scratch[1])
        return np.float64(_choose(weights, size, uniforms[0]))
    if code == NORMAL:
        return params[0] + _scale(floor, params[1]) * math.sqrt(temperature) * ndtri(uniforms[0] + HALF_STEP)
    _exponentials(params, components, temperature, weights)
    j = _choose(weights, components, uniforms[0])
    loc, scale = np.float64(params[components + j]), _scale(floor, params[2 * components + j])
    if code == MIXTURE_OF_NORMALS:
        return loc + scale * math.sqrt(temperature) * ndtri(uniforms[1] + HALF_STEP)
    y = loc + scale * temperature * logit(uniforms[1] + HALF_STEP)
    return min(max(math.floor((y + 1.0) * (0.5 * (size - 1)) + 0.5), 0.0), size - 1.0)


@jit
def mode(code, size, components, floor, params, scratch):
    """The most probable value; of a mixture of normals its densest location. The first among equals."""
    if code in (BERNOULLI, SPIN):
        return 1.0 if params[0] > 0 else _low(code)
    if code == NORMAL:
        return np.float64(params[0])
    best, greatest = 0, -np.inf
    for k in range(components if code == MIXTURE_OF_NORMALS else size):
        if code == CATEGORICAL:
            found = np.float64(params[k])
        else:
            x = np.float64(params[components + k]) if code == MIXTURE_OF_NORMALS else np.float64(k)
            found = _mixture_log_prob(code, size, components, floor, params, x, scratch[0])
        if found > greatest:
            best, greatest = k, found
    return np.float64(params[components + best]) if code == MIXTURE_OF_NORMALS else np.float64(best)


@jit
def _between(loc, scale, lower, upper):
    """The normal cdf below an interval and in it, of the mirror image (True) where the interval lies above the location."""
    low, high = (lower - loc) / scale, (upper - loc) / scale
    mirrored = low > 0
    if mirrored:
        low, high = -high, -low
    below = ndtr(low)
    return below, ndtr(high) - below, mirrored


@jit
def _truncated_normal(loc, scale, uniform, lower, upper):
    """A normal draw between bounds and the log of the mass between them."""
    below, mass, mirrored = _between(loc, scale, lower, upper)
    if not mass > 0:
        return min(max(loc, lower), upper), -np.inf
    z = ndtri(max(below + (uniform + HALF_STEP) * mass, LEAST))
    return min(max(loc + scale * (-z if mirrored else z), lower), upper), math.log(mass)


@jit
def _truncated_mixture(components, floor, params, uniforms, lower, upper, scratch):
    largest, total = _exponentials(params, components, 1.0, scratch[1])
    joint, greatest = scratch[0], -np.inf
    for j in range(components):
        mass = _between(np.float64(params[components + j]), _scale(floor, params[2 * components + j]), lower, upper)[1]
        joint[j] = params[j] - largest + math.log(mass) if mass > 0 else -np.inf
        greatest = max(greatest, joint[j])
    log_mass = -np.inf
    if greatest > -np.inf:
        kept = 0.0
        for j in range(components):
            joint[j] = math.exp(joint[j] - greatest)
            kept += joint[j]
        log_mass = greatest + math.log(kept) - math.log(total)
    j = _choose(joint if greatest > -np.inf else scratch[1], components, uniforms[0])
    loc, scale = np.float64(params[components + j]), _scale(floor, params[2 * components + j])
    return _truncated_normal(loc, scale, uniforms[1], lower, upper)[0], log_mass


@jit
def draw_within(code, size, components, floor, params, uniforms, allowed, lower, upper, scratch):
    """x from what is allowed, and the log of the probability of all that is.

    ``allowed`` (size,) has a flag for each value of a finite variable; a real one lies between ``lower`` and ``upper``.
    """
    if code in (BERNOULLI, SPIN):
        if allowed[0] and allowed[1]:
            return draw(code, size, components, floor, params, uniforms, 1.0, 0, 1.0, scratch), 0.0
        x = 1.0 if allowed[1] else _low(code)
        return x, log_prob(code, size, components, floor, params, x, scratch)
    if code == NORMAL:
        return _truncated_normal(np.float64(params[0]), _scale(floor, params[1]), uniforms[0], lower, upper)
    if code == MIXTURE_OF_NORMALS:
        return _truncated_mixture(components, floor, params, uniforms, lower, upper, scratch)
    weights = scratch[0]
    if code == CATEGORICAL:
        _exponentials(params, size, 1.0, weights)
    else:
        for x in range(size):
            weights[x] = _mixture_log_prob(code, size, components, floor, params, np.float64(x), scratch[1])
        _exponentials(weights, size, 1.0, weights)
    chosen, log_mass = _choose_allowed(weights, size, uniforms[0], allowed)
    return np.float64(chosen), log_mass
