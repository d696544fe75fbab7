"""Events: the units of a block that wait for one another, on a tile in registers (see plan.py)."""

import triton
import triton.language as tl

from made_fast.backends.triton.columns import (
    EVENT_COLUMNS,
    EVENT_DRAW,
    EVENT_NOISE_STEP,
    EVENT_NOTHING,
    EVENT_PRODUCT,
    EVENT_RUN,
    EVENT_WHAT,
    FIELD,
    FUNCTION_SHIFT,
    RUN_FIRST,
    RUN_FUNCTION_SHIFT,
    RUN_STOP_SHIFT,
    UNIT_SHIFT,
    VECTORS,
)
from made_fast.backends.triton.functions import apply_function, softplus
from made_fast.programs.functions import FUNCTIONS

__all__ = ["run_events", "touched_lines"]

NUM_FUNCTIONS = tl.constexpr(len(FUNCTIONS))


@triton.jit
def _function(code, x, FUNCTIONS_USED: tl.constexpr):
    """The function with a number that is known at run time, one of those in the mask."""
    y = x
    for number in tl.static_range(1, NUM_FUNCTIONS):
        if (FUNCTIONS_USED >> number) & 1:
            if code == number:
                y = apply_function(x, number)
    return y


@triton.jit
def run_events(
    first,
    last,
    tile,
    nats,
    bad,
    steps,
    limits,
    SIZES: tl.constexpr,
    FUNCTIONS_USED: tl.constexpr,
    OUTPUT: tl.constexpr,
    LEAST: tl.constexpr,
):
    """Finishes the units of a block: tile (R, U) of sums becomes values.

    What an event reads from memory is asked for while the one before is executed, the words that say what it is two before.
    """
    CODES: tl.constexpr = OUTPUT[0]
    LOG_PROB: tl.constexpr = OUTPUT[3]
    R: tl.constexpr = SIZES[2]
    U: tl.constexpr = SIZES[3]
    events, vectors = steps
    r, u = tl.arange(0, R), tl.arange(0, U)
    what, run, step = _head(events, first)
    next_what, next_run, next_step = _head(events, first + 1)
    coefficients = tl.load(vectors + first * (VECTORS * U) + u)
    second = tl.load(vectors + first * (VECTORS * U) + U + u)
    limit = _limits_of(limits, step, r, CODES, R)
    for event in range(first, last):
        next_coefficients = tl.load(vectors + (event + 1) * (VECTORS * U) + u)
        next_second = tl.load(vectors + (event + 1) * (VECTORS * U) + U + u)
        next_limit = _limits_of(limits, next_step, r, CODES, R)
        later_what, later_run, later_step = _head(events, event + 2)
        kind, code, unit = what & FIELD, (what >> FUNCTION_SHIFT) & FIELD, what >> UNIT_SHIFT
        if run != 0:
            inside = ((u >= (run & RUN_FIRST)) & (u < (run >> RUN_STOP_SHIFT)))[None, :]
            tile = tl.where(inside, _function((what >> RUN_FUNCTION_SHIFT) & FIELD, tile, FUNCTIONS_USED), tile)
        if kind != EVENT_NOTHING:
            value = tl.sum(tile * coefficients[None, :], axis=1)
            if kind == EVENT_PRODUCT:
                value *= tl.sum(tile * second[None, :], axis=1)
            value = _function(code, value, FUNCTIONS_USED)
            if CODES == 0:
                if kind == EVENT_DRAW:
                    parameter = value
                    value = tl.where(parameter > limit, 1.0, LEAST)
                    bad |= (parameter != parameter).to(tl.int32)
                    if LOG_PROB:
                        nats -= softplus(tl.where(value > 0, -parameter, parameter)).to(tl.float64)
                    tile += value[:, None] * second[None, :]
            tile = tl.where((u == unit)[None, :], value[:, None], tile)
        what, run = next_what, next_run
        next_what, next_run, next_step = later_what, later_run, later_step
        coefficients, second, limit = next_coefficients, next_second, next_limit
    return tile, nats, bad


@triton.jit
def _limits_of(limits, step, place, CODES: tl.constexpr, R: tl.constexpr):
    """Thresholds of one step, if events draw."""
    limit = tl.zeros_like(place).to(tl.float32)
    if CODES == 0:
        limit = tl.load(limits + step * R + place)
    return limit


@triton.jit
def _head(events, event):
    at = events + event * EVENT_COLUMNS
    return tl.load(at + EVENT_WHAT), tl.load(at + EVENT_RUN), tl.load(at + EVENT_NOISE_STEP)


@triton.jit
def touched_lines(first, last, steps, limits, CODES: tl.constexpr, SIZES: tl.constexpr):
    """One number of each line of memory that a block's events will read, which brings them into the nearest cache."""
    R: tl.constexpr = SIZES[2]
    U: tl.constexpr = SIZES[3]
    LINES: tl.constexpr = 2 if R > 32 else 1  # of 32 numbers, in the thresholds of one step
    events, vectors = steps
    line = tl.arange(0, VECTORS * U)
    of_vectors = tl.load(vectors + (first * VECTORS + line) * U, mask=line < (last - first) * VECTORS, other=0.0)
    event = first + line // VECTORS
    step = tl.load(events + event * EVENT_COLUMNS + EVENT_NOISE_STEP, mask=event < last, other=0)
    return of_vectors, _limits_of(limits, step, (line % LINES) * 32, CODES, R)
