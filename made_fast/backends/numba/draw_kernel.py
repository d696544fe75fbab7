"""Right-looking substitution: as soon as a value is known its column of weights is added to all later units.

One row at a time; a value of zero is skipped, and of a category only the one unit that is not. What no noise has touched
(hidden units of the context, variables that are given) is evaluated once for all rows that share it.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from made_fast.backends.numba.conditionals import draw, draw_within, log_prob, mode
from made_fast.backends.numba.functions import apply_function
from made_fast.backends.numba.jit import jit
from made_fast.backends.numba.noise import write_uniforms
from made_fast.backends.numba.own_draws import draw_own
from made_fast.backends.numba.special import logit, softplus
from made_fast.outputs.codes import Code, Encoding
from made_fast.programs.schedule import Kind, StepColumn

__all__ = ["General", "Network", "NumberColumn", "Rows", "SpanColumn", "VariableColumn", "draw_rows"]


class VariableColumn(IntEnum):
    """Columns of ``Network.variables``, which has a row for each variable in the order in which they are drawn."""

    VARIABLE = 0
    NOISE_STEP = 1
    PARAMS = 2  # first slot of its parameters
    X_SLOT = 3  # first slot of what the network reads of it
    NUM_PARAMS = 4
    CODE = 5
    SIZE = 6
    COMPONENTS = 7
    ENCODING = 8
    UNITS = 9
    TABLE = 10  # first number in ``General.tables``
    FLAGS = 11  # first column in ``General.support``
    ADDRESS = 12  # of an own draw


class NumberColumn(IntEnum):
    """Columns of ``General.numbers``, which has a row for each variable in the order in which they are drawn."""

    FLOOR = 0  # least scale
    SCALE = 1  # of what the network reads
    SHIFT = 2


class SpanColumn(IntEnum):
    """Columns of ``Network.spans``: what one column of weights is added to."""

    FIRST = 0  # slot
    COUNT = 1  # of slots
    OFFSET = 2  # of its first number in ``Network.weights``


class Network(NamedTuple):
    """What ``pack`` makes. ``spans[span_start[slot] : span_start[slot + 1]]`` are those that read a slot."""

    bias: Any  # (num_slots,): what each slot starts from
    span_start: Any  # (num_slots + 1,) int64
    spans: Any  # (N, len(SpanColumn)) int64
    weights: Any
    steps: Any  # (S, len(StepColumn)) int64
    variables: Any  # (D, len(VariableColumn)) int64
    draws: int  # uniforms of one variable, the most
    context_slot: int
    drawn_over: tuple[int, int]  # parameter slots [first, last) over which variables are drawn


class General(NamedTuple):
    """What only others than plainly drawn Bernoulli variables need. Absent conditions have no rows."""

    numbers: Any  # (D, len(NumberColumn)) fp64
    tables: Any  # embeddings
    scratch: int  # values or components of one variable, the most
    given: Any  # (N, D)
    observed: Any  # (N, D) uint8
    support: Any  # (N, S) uint8
    bounds: Any  # (N, D, 2)
    constrained: Any  # (D,) uint8
    temperature: float
    greedy: bool
    top_k: int
    top_p: float


class Rows(NamedTuple):
    """Which rows are drawn, and where they go; sums that are not asked for have no entries."""

    seed: Any  # uint64
    first_row: Any  # uint64
    noise_rows: Any  # (B,) int64, or nothing: consecutive from first_row
    offset: int  # number of row 0 in the request
    rows_per_condition: int
    context: Any  # (N, C)
    out: Any  # (B, D)
    log_prob: Any  # (B,)
    log_weight: Any  # (B,)


AFFINE, UNARY, ADD, DRAW = int(Kind.AFFINE), int(Kind.UNARY), int(Kind.ADD), int(Kind.DRAW)
NUMBER, ONE_HOT = int(Encoding.NUMBER), int(Encoding.ONE_HOT)
OWN, POINT = int(Code.OWN), int(Code.POINT)

KIND, FIRST, COUNT = int(StepColumn.KIND), int(StepColumn.FIRST), int(StepColumn.COUNT)
LEFT, RIGHT, FUNCTION = int(StepColumn.LEFT), int(StepColumn.RIGHT), int(StepColumn.FUNCTION)

VARIABLE, NOISE_STEP = int(VariableColumn.VARIABLE), int(VariableColumn.NOISE_STEP)
PARAMS, X_SLOT = int(VariableColumn.PARAMS), int(VariableColumn.X_SLOT)
NUM_PARAMS, CODE = int(VariableColumn.NUM_PARAMS), int(VariableColumn.CODE)
SIZE, COMPONENTS = int(VariableColumn.SIZE), int(VariableColumn.COMPONENTS)
ENCODING, UNITS = int(VariableColumn.ENCODING), int(VariableColumn.UNITS)
TABLE, FLAGS, ADDRESS = int(VariableColumn.TABLE), int(VariableColumn.FLAGS), int(VariableColumn.ADDRESS)
FLOOR, SCALE, SHIFT = int(NumberColumn.FLOOR), int(NumberColumn.SCALE), int(NumberColumn.SHIFT)

LOWER, UPPER = 0, 1  # in the last dimension of ``General.bounds``
SPAN_FIRST, SPAN_COUNT, SPAN_OFFSET = int(SpanColumn.FIRST), int(SpanColumn.COUNT), int(SpanColumn.OFFSET)


@jit
def _propagate(slot, values, span_start, spans, weights):
    value = values[slot]
    if value == 0:
        return
    for span in range(span_start[slot], span_start[slot + 1]):
        first, count, offset = spans[span, SPAN_FIRST], spans[span, SPAN_COUNT], spans[span, SPAN_OFFSET]
        sums, column = values[first : first + count], weights[offset : offset + count]
        for i in range(count):
            sums[i] += column[i] * value


@jit
def _chosen(entry, numbers, params, uniforms, condition, general, scratch):
    """The value of one variable that is not given, and the log of the mass of what it might be."""
    code, size, components, variable = entry[CODE], entry[SIZE], entry[COMPONENTS], entry[VARIABLE]
    if len(general.support) and general.constrained[variable]:
        allowed = general.support[condition, entry[FLAGS] : entry[FLAGS] + size]
        lower, upper = general.bounds[condition, variable, LOWER], general.bounds[condition, variable, UPPER]
        bounds = np.float64(lower), np.float64(upper)
        return draw_within(
            code, size, components, numbers[FLOOR], params, uniforms, allowed, bounds[0], bounds[1], scratch
        )
    if code == OWN:
        return draw_own(entry[ADDRESS], params, uniforms), 0.0
    if general.greedy:
        return mode(code, size, components, numbers[FLOOR], params, scratch), 0.0
    options = general.temperature, general.top_k, general.top_p
    return draw(
        code, size, components, numbers[FLOOR], params, uniforms, options[0], options[1], options[2], scratch
    ), 0.0


@jit
def _draw_variable(values, entry, numbers, uniforms, x, general, condition, scratch, with_log_prob):
    """Draws one variable of any kind; returns log p(x), the log of the mass of what was allowed, and the slots now known."""
    variable, params = entry[VARIABLE], values[entry[PARAMS] : entry[PARAMS] + entry[NUM_PARAMS]]
    observed = len(general.observed) > 0 and general.observed[condition, variable] != 0
    if observed:
        x[variable], log_mass = general.given[condition, variable], 0.0
    else:
        x[variable], log_mass = _chosen(entry, numbers, params, uniforms, condition, general, scratch)
    value, nats = np.float64(x[variable]), 0.0  # as the dtype of the program holds it
    if with_log_prob or observed:
        nats = log_prob(entry[CODE], entry[SIZE], entry[COMPONENTS], numbers[FLOOR], params, value, scratch)
        log_mass = nats if observed else log_mass
    slot = entry[X_SLOT]
    if entry[ENCODING] == NUMBER:
        values[slot] = value * numbers[SCALE] + numbers[SHIFT]
        return nats, log_mass, slot, slot + 1
    if entry[ENCODING] == ONE_HOT:
        values[slot + int(value)] = 1.0
        return nats, log_mass, slot + int(value), slot + int(value) + 1
    first = entry[TABLE] + int(value) * entry[UNITS]
    values[slot : slot + entry[UNITS]] = general.tables[first : first + entry[UNITS]]
    return nats, log_mass, slot, slot + entry[UNITS]


@jit
def _all_given(first, count, variables, general, condition):
    """Whether all variables of a step are the same in all rows of a condition."""
    if general is None:
        return False
    if not len(general.observed):
        return False
    for place in range(first, first + count):  # noqa: SIM110 - numba compiles no generator
        if not general.observed[condition, variables[place, VARIABLE]]:
            return False
    return True


@jit
def _advance(number, whole, nats, log_weight, values, uniforms, x, network, general, condition, scratch, with_log_prob):
    """Takes the steps from ``number`` on: all of them, or those before the first draw in which rows may differ.

    Returns the next step, the sums of log-probabilities and log-weights, and whether a parameter was nan.
    """
    bad, steps, variables = False, network.steps, network.variables
    span_start, spans, weights, drawn_over = network.span_start, network.spans, network.weights, network.drawn_over
    while number < len(steps):
        kind, first, count = steps[number, KIND], steps[number, FIRST], steps[number, COUNT]
        begin, end = first, first + count  # of the slots now known
        if kind != DRAW:
            left, right, function = steps[number, LEFT], steps[number, RIGHT], steps[number, FUNCTION]
            for i in range(count):
                if kind == AFFINE:
                    values[first + i] = apply_function(function, values[first + i])
                elif kind == UNARY:
                    values[first + i] = apply_function(function, values[left + i])
                elif kind == ADD:
                    values[first + i] = values[left + i] + values[right + i]
                else:
                    values[first + i] = values[left + i] * values[right + i]
            # A parameter over which its variable will be drawn is read by that draw alone.
            end = begin if drawn_over[0] <= first < drawn_over[1] else end
        elif not whole and not _all_given(first, count, variables, general, condition):
            break
        else:
            for place in range(first, first + count):
                if general is None:
                    parameter = values[variables[place, PARAMS]]
                    bad |= math.isnan(parameter)
                    value = 1.0 if parameter > logit(uniforms[variables[place, NOISE_STEP], 0]) else 0.0
                    values[variables[place, X_SLOT]] = value
                    x[variables[place, VARIABLE]] = value
                    if with_log_prob:
                        nats -= softplus(-parameter if value > 0 else parameter)  # in their own dtype, which is quicker
                else:
                    entry = variables[place]
                    for i in range(entry[NUM_PARAMS]):
                        parameter = values[entry[PARAMS] + i]
                        bad |= math.isnan(parameter) or (entry[CODE] == POINT and math.isinf(parameter))
                    numbers, noise = general.numbers[place], uniforms[entry[NOISE_STEP]]
                    log_p, log_mass, begin, end = _draw_variable(
                        values, entry, numbers, noise, x, general, condition, scratch, with_log_prob
                    )
                    nats += log_p
                    log_weight += log_mass
            begin = variables[first, X_SLOT] if drawn_over[1] else begin
            end = begin + count if drawn_over[1] else end
        for slot in range(begin, end):
            _propagate(slot, values, span_start, spans, weights)
        number += 1
    return number, nats, log_weight, bad


@jit
def draw_rows(network, general, rows, start, stop):
    """Draws rows [start, stop); returns whether a parameter was nan. ``general`` is None for plain Bernoulli variables."""
    scratch = np.empty((2, 1 if general is None else general.scratch), dtype=np.float64)
    uniforms = np.empty((len(network.variables), network.draws), dtype=np.float64)
    x = np.empty(rows.out.shape[1], dtype=rows.out.dtype)
    values, shared = np.empty_like(network.bias), np.empty_like(network.bias)
    known, bad, with_log_prob = -1, False, len(rows.log_prob) > 0
    shared_number, shared_nats, shared_weight, row = np.int64(0), 0.0, 0.0, start
    while row < stop:
        condition = (rows.offset + row) // rows.rows_per_condition
        whole = condition == known
        number, nats, log_weight = np.int64(0), 0.0, 0.0
        if whole:
            noise_row = np.uint64(rows.noise_rows[row]) if len(rows.noise_rows) else rows.first_row + np.uint64(row)
            write_uniforms(noise_row, rows.seed, uniforms)
            number, nats, log_weight = shared_number, shared_nats, shared_weight
        source = shared if whole else network.bias
        for i in range(len(values)):
            values[i] = source[i]
        for i in range(0 if whole else rows.context.shape[1]):
            values[network.context_slot + i] = rows.context[condition, i]
            _propagate(network.context_slot + i, values, network.span_start, network.spans, network.weights)
        number, nats, log_weight, nan = _advance(
            number, whole, nats, log_weight, values, uniforms, x, network, general, condition, scratch, with_log_prob
        )
        bad |= nan
        if not whole:
            known, shared_number, shared_nats, shared_weight = condition, number, nats, log_weight
            values, shared = shared, values
            continue
        for i in range(len(x)):
            rows.out[row, i] = x[i]
        if with_log_prob:
            rows.log_prob[row] = nats
        if len(rows.log_weight):
            rows.log_weight[row] = log_weight
        row += 1
    return bad
