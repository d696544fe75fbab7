"""The conditionals, one variable of one row at a time, in fp64 whatever the dtype of the parameters.

The definitions are those of made_fast/outputs/. ``code``, ``size``, ``components``
and ``floor`` are those of a conditional; ``params`` are its parameters, side by side; ``scratch`` (2, n) fp64 has room for
two numbers for each of its values and components.

To add one: its four functions, and its row in ``CONDITIONALS``.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from made_fast.backends.numba.jit import dispatch, jit
from made_fast.backends.numba.special import logit, ndtri, softplus
from made_fast.backends.numba.truncated_normal import log_mass_between, truncated_normal
from made_fast.backends.numba.weights import choose, choose_allowed, drop, exponentials
from made_fast.outputs.codes import Code
from made_fast.outputs.rules import HALF_STEP, LOG_SQRT_2_PI

__all__ = ["CONDITIONALS", "draw", "draw_within", "log_prob", "mode"]

SPIN, MIXTURE_OF_NORMALS = int(Code.SPIN), int(Code.MIXTURE_OF_NORMALS)


@jit
def _low(code):
    """The lower of two values of a binary variable."""
    return -1.0 if code == SPIN else 0.0


@jit
def _binary_log_prob(code, size, components, floor, params, x, scratch):
    return -softplus(-params[0] if x > 0 else np.float64(params[0]))


@jit
def _binary_draw(code, size, components, floor, params, uniforms, temperature, top_k, top_p, scratch):
    return 1.0 if params[0] / temperature > logit(uniforms[0]) else _low(code)


@jit
def _binary_mode(code, size, components, floor, params, scratch):
    return 1.0 if params[0] > 0 else _low(code)


@jit
def _binary_within(code, size, components, floor, params, uniforms, allowed, lower, upper, scratch):
    if allowed[0] and allowed[1]:
        return _binary_draw(code, size, components, floor, params, uniforms, 1.0, 0, 1.0, scratch), 0.0
    x = 1.0 if allowed[1] else _low(code)
    return x, _binary_log_prob(code, size, components, floor, params, x, scratch)


@jit
def _categorical_log_prob(code, size, components, floor, params, x, scratch):
    largest, total = exponentials(params, size, 1.0, scratch[0])
    return params[int(x)] - largest - math.log(total)


@jit
def _categorical_draw(code, size, components, floor, params, uniforms, temperature, top_k, top_p, scratch):
    weights = scratch[0]
    exponentials(params, size, temperature, weights)
    if top_k > 0 or top_p < 1:
        drop(weights, size, top_k, top_p, scratch[1])
    return np.float64(choose(weights, size, uniforms[0]))


@jit
def _categorical_mode(code, size, components, floor, params, scratch):
    best, greatest = 0, -np.inf
    for k in range(size):
        value = np.float64(params[k])
        if value > greatest:
            best, greatest = k, value
    return np.float64(best)


@jit
def _categorical_within(code, size, components, floor, params, uniforms, allowed, lower, upper, scratch):
    chosen, log_mass = choose_allowed(params, size, uniforms[0], allowed, scratch[0])
    return np.float64(chosen), log_mass


@jit
def _scale(floor, raw):
    return softplus(np.float64(raw)) + floor


@jit
def _log_density(loc, scale, x):
    """log p(x) of a normal."""
    z = (x - loc) / scale
    return -0.5 * z * z - math.log(scale) - LOG_SQRT_2_PI


@jit
def _normal_log_prob(code, size, components, floor, params, x, scratch):
    return _log_density(np.float64(params[0]), _scale(floor, params[1]), x)


@jit
def _normal_draw(code, size, components, floor, params, uniforms, temperature, top_k, top_p, scratch):
    return params[0] + _scale(floor, params[1]) * math.sqrt(temperature) * ndtri(uniforms[0] + HALF_STEP)


@jit
def _normal_mode(code, size, components, floor, params, scratch):
    return np.float64(params[0])


@jit
def _normal_within(code, size, components, floor, params, uniforms, allowed, lower, upper, scratch):
    return truncated_normal(np.float64(params[0]), _scale(floor, params[1]), uniforms[0], lower, upper)


@jit
def _log_level(loc, scale, size, x):
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
def _mixture_log_prob(code, size, components, floor, params, x, scratch):
    largest_logit, total = exponentials(params, components, 1.0, scratch[0])
    largest, density = -np.inf, 0.0
    for j in range(components):
        loc, scale = np.float64(params[components + j]), _scale(floor, params[2 * components + j])
        normal = code == MIXTURE_OF_NORMALS
        nats = _log_density(loc, scale, x) if normal else _log_level(loc, scale, size, x)
        term = params[j] - largest_logit + nats
        if term > largest:
            density = density * math.exp(largest - term) + 1.0
            largest = term
        elif term > -np.inf:
            density += math.exp(term - largest)
    return largest + math.log(density) - math.log(total) if density > 0 else -np.inf


@jit
def _component(components, floor, params, uniforms, temperature, weights):
    """Location and scale of a component that the first uniform chooses."""
    exponentials(params, components, temperature, weights)
    j = choose(weights, components, uniforms[0])
    return np.float64(params[components + j]), _scale(floor, params[2 * components + j])


@jit
def _mixture_of_normals_draw(code, size, components, floor, params, uniforms, temperature, top_k, top_p, scratch):
    loc, scale = _component(components, floor, params, uniforms, temperature, scratch[0])
    return loc + scale * math.sqrt(temperature) * ndtri(uniforms[1] + HALF_STEP)


@jit
def _mixture_of_normals_mode(code, size, components, floor, params, scratch):
    """The densest location."""
    best, greatest = 0, -np.inf
    for j in range(components):
        value = _mixture_log_prob(code, size, components, floor, params, np.float64(params[components + j]), scratch)
        if value > greatest:
            best, greatest = j, value
    return np.float64(params[components + best])


@jit
def _mixture_of_normals_within(code, size, components, floor, params, uniforms, allowed, lower, upper, scratch):
    largest, total = exponentials(params, components, 1.0, scratch[1])
    joint, greatest = scratch[0], -np.inf
    for j in range(components):
        loc, scale = np.float64(params[components + j]), _scale(floor, params[2 * components + j])
        joint[j] = params[j] - largest + log_mass_between(loc, scale, lower, upper)
        greatest = max(greatest, joint[j])
    log_mass = -np.inf
    if greatest > -np.inf:
        kept = 0.0
        for j in range(components):
            joint[j] = math.exp(joint[j] - greatest)
            kept += joint[j]
        log_mass = greatest + math.log(kept) - math.log(total)
    j = choose(joint if greatest > -np.inf else scratch[1], components, uniforms[0])
    loc, scale = np.float64(params[components + j]), _scale(floor, params[2 * components + j])
    return truncated_normal(loc, scale, uniforms[1], lower, upper)[0], log_mass


@jit
def _mixture_of_logistics_draw(code, size, components, floor, params, uniforms, temperature, top_k, top_p, scratch):
    loc, scale = _component(components, floor, params, uniforms, temperature, scratch[0])
    y = loc + scale * temperature * logit(uniforms[1] + HALF_STEP)
    return min(max(math.floor((y + 1.0) * (0.5 * (size - 1)) + 0.5), 0.0), size - 1.0)


@jit
def _mixture_of_logistics_mode(code, size, components, floor, params, scratch):
    best, greatest = 0, -np.inf
    for k in range(size):
        value = _mixture_log_prob(code, size, components, floor, params, np.float64(k), scratch)
        if value > greatest:
            best, greatest = k, value
    return np.float64(best)


@jit
def _mixture_of_logistics_within(code, size, components, floor, params, uniforms, allowed, lower, upper, scratch):
    weights = scratch[0]
    for x in range(size):
        weights[x] = _mixture_log_prob(code, size, components, floor, params, np.float64(x), scratch[1:])
    chosen, log_mass = choose_allowed(weights, size, uniforms[0], allowed, weights)
    return np.float64(chosen), log_mass


@jit
def _point_log_prob(code, size, components, floor, params, x, scratch):
    return np.float64(params[1]) if len(params) > 1 else 0.0


@jit
def _point_draw(code, size, components, floor, params, uniforms, temperature, top_k, top_p, scratch):
    return np.float64(params[0])


@jit
def _point_mode(code, size, components, floor, params, scratch):
    return np.float64(params[0])


@jit
def _no_log_prob(code, size, components, floor, params, x, scratch):
    return np.nan


@jit
def _no_draw(code, size, components, floor, params, uniforms, temperature, top_k, top_p, scratch):
    return np.nan


@jit
def _no_mode(code, size, components, floor, params, scratch):
    return np.nan


@jit
def _no_draw_within(code, size, components, floor, params, uniforms, allowed, lower, upper, scratch):
    return np.nan, np.nan


class Kernels(NamedTuple):
    """What is done with one conditional."""

    log_prob: Any  # log p(x) in nats
    draw: Any  # x from one or two uniforms
    mode: Any  # the most probable value, the first among equals
    # x from what is allowed, and the log of the probability of all that is: ``allowed`` (size,) has a flag for each value of
    # a finite variable; a real one lies between ``lower`` and ``upper``
    draw_within: Any


_BINARY = Kernels(_binary_log_prob, _binary_draw, _binary_mode, _binary_within)

CONDITIONALS: dict[Code, Kernels] = {
    Code.BERNOULLI: _BINARY,
    Code.SPIN: _BINARY,
    Code.CATEGORICAL: Kernels(_categorical_log_prob, _categorical_draw, _categorical_mode, _categorical_within),
    Code.NORMAL: Kernels(_normal_log_prob, _normal_draw, _normal_mode, _normal_within),
    Code.MIXTURE_OF_NORMALS: Kernels(
        _mixture_log_prob, _mixture_of_normals_draw, _mixture_of_normals_mode, _mixture_of_normals_within
    ),
    Code.MIXTURE_OF_LOGISTICS: Kernels(
        _mixture_log_prob, _mixture_of_logistics_draw, _mixture_of_logistics_mode, _mixture_of_logistics_within
    ),
    Code.POINT: Kernels(_point_log_prob, _point_draw, _point_mode, _no_draw_within),
    # Compiled functions of the user draw them, see own_draws.py; their log-probability is torch code.
    Code.OWN: Kernels(_no_log_prob, _no_draw, _no_mode, _no_draw_within),
}


def _dispatched(field: str, arguments: str) -> Any:
    """The kernel that does this with whatever conditional has the number ``code``."""
    cases: dict[int, Any] = {code: getattr(kernels, field) for code, kernels in CONDITIONALS.items()}
    return dispatch(field, arguments, arguments, cases)


_SHAPE = "code, size, components, floor, params"
log_prob = _dispatched("log_prob", f"{_SHAPE}, x, scratch")
draw = _dispatched("draw", f"{_SHAPE}, uniforms, temperature, top_k, top_p, scratch")
mode = _dispatched("mode", f"{_SHAPE}, scratch")
draw_within = _dispatched("draw_within", f"{_SHAPE}, uniforms, allowed, lower, upper, scratch")
