"""The most probable values, for greedy draws."""

import triton
import triton.language as tl

from made_fast.backends.triton.codes import (
    CATEGORICAL,
    CATEGORICAL_BIT,
    LOGISTICS,
    LOGISTICS_BIT,
    NORMAL,
    NORMAL_BIT,
    NORMALS,
    NORMALS_BIT,
)
from made_fast.backends.triton.conditionals.weights import (
    NOTHING,
    chunk_of,
    component_of,
    log_prob_of_mixture,
    log_probs_of_levels,
)

__all__ = ["likeliest"]


@triton.jit
def likeliest(x, params, kind, floor, greatest, total, CODES: tl.constexpr, WIDTH: tl.constexpr):
    """The mode of a conditional that is no binary one, else x (R,); among equals the first."""
    code, _, count, _, size = kind
    if CATEGORICAL_BIT & CODES:
        if code == CATEGORICAL:
            x = _first_greatest(params, count, greatest, WIDTH)
    if NORMAL_BIT & CODES:
        if code == NORMAL:
            x = tl.load(params)
    if NORMALS_BIT & CODES:
        if code == NORMALS:
            x = _densest_location(params, count, greatest, total, floor, size, WIDTH)
    if LOGISTICS_BIT & CODES:
        if code == LOGISTICS:
            x = _likeliest_level(params, count, greatest, total, floor, size, WIDTH)
    return x


@triton.jit
def _first_greatest(params, count, greatest, WIDTH: tl.constexpr):
    chosen = tl.zeros_like(greatest).to(tl.int32) + 2147483647
    for first in range(0, count, WIDTH):
        value, k = chunk_of(params, first, count, float("-inf"), WIDTH)
        chosen = tl.minimum(chosen, tl.min(tl.where(value == greatest[:, None], k, 2147483647), axis=1))
    return tl.minimum(chosen, count - 1).to(tl.float32)


@triton.jit
def _densest_location(params, count, greatest, total, floor, size, WIDTH: tl.constexpr):
    x, most = tl.load(params + count), tl.zeros_like(greatest) + NOTHING
    for j in range(0, count):
        loc, _ = component_of(params + count, count, j, floor)
        density = log_prob_of_mixture(params, loc, count, greatest, total, floor, size, False, WIDTH)
        x = tl.where(density > most, loc, x)
        most = tl.maximum(most, density)
    return x


@triton.jit
def _likeliest_level(params, count, greatest, total, floor, size, WIDTH: tl.constexpr):
    chosen, most = tl.zeros_like(greatest).to(tl.int32), tl.zeros_like(greatest) + NOTHING
    for first in range(0, size, WIDTH):
        k = (first + tl.arange(0, WIDTH))[None, :]
        nats = log_probs_of_levels(k, params, count, greatest, total, floor, size)
        best = tl.max(nats, axis=1)
        place = tl.min(tl.where(nats == best[:, None], k, 2147483647), axis=1)
        chosen = tl.where(best > most, place, chosen)
        most = tl.maximum(most, best)
    return tl.minimum(chosen, size - 1).to(tl.float32)
