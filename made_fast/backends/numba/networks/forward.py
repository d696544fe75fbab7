"""Networks one after another, forward: the values of a block of rows stay in cache, unit after unit."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np

from made_fast.backends.numba.functions import apply_function
from made_fast.backends.numba.jit import jit, jit_part
from made_fast.backends.numba.networks.heads import PARAMETERS, head_forward, makes_z
from made_fast.backends.numba.networks.memory import (
    all_finite,
    copy,
    fill,
    first_of,
    lanes_to_rows,
    numbers_at,
    orders_of,
    part,
    rows_to_lanes,
    stride_of,
    term_of,
    value_of,
    weight_of,
    weights_are_finite,
)
from made_fast.backends.numba.networks.plan import BLOCK, UNITS, Status, TaskColumn, TermColumn, ValueColumn
from made_fast.backends.numba.networks.tiles import FORWARD, multiply, pack
from made_fast.programs.functions import FUNCTION_CODES
from made_fast.programs.schedule import Kind

__all__ = ["forward"]

DONE, NOT_FINITE, NO_PERMUTATION = map(int, Status)
X, CONTEXT, OUT, TOTAL, KEPT, _, HEAD, BATCH, FINITE, FEATURES, CONTEXT_FEATURES, NETWORKS = map(
    int, [*TaskColumn][:12]
)
UNITS_KEPT, NUM_COLUMNS = int(TaskColumn.UNITS_KEPT), int(TaskColumn.NUM_COLUMNS)
CATEGORIES, NUM_CATEGORIES = int(TaskColumn.CATEGORIES), int(TaskColumn.NUM_CATEGORIES)
KIND, LEFT, RIGHT, FUNCTION, WIDTH, BIAS, FIRST_TERM, STOP_TERM, PLACE, _ = map(int, ValueColumn)
SOURCE, WEIGHT, ROWS, COLUMNS, _, _ = map(int, TermColumn)
AFFINE, UNARY, ADD = int(Kind.AFFINE), int(Kind.UNARY), int(Kind.ADD)
RELU = FUNCTION_CODES["relu"]


@jit
def forward(task, floor, start, stop):
    """The blocks of rows from ``start`` to ``stop``, as they are whatever rows are beside them.

    Args:
        task: see ``plan.TaskColumn``; KEPT is 0 where values need not be kept.
        floor: of scales; all numbers are of its type.
        start, stop: numbers of blocks.

    Returns:
        A ``plan.Status``.
    """
    orders = orders_of(task)
    if orders[-1, -1] < 0:
        return NO_PERMUTATION
    if task[FINITE] and not (
        weights_are_finite(task, floor, False)
        and _rows_are_finite(task, X, task[FEATURES], start, stop, floor)
        and _rows_are_finite(task, CONTEXT, task[CONTEXT_FEATURES], start, stop, floor)
    ):
        return NOT_FINITE
    last = first_of(task, task[NETWORKS]) - 1
    packed = np.empty(UNITS * task[NUM_COLUMNS], numbers_at(0, 0, floor).dtype)
    for t in range(value_of(task, last, STOP_TERM)):
        count = term_of(task, t, ROWS) * term_of(task, t, COLUMNS)
        pack(task, FORWARD, t, weight_of(task, term_of(task, t, WEIGHT), count, floor), packed)
    size = task[UNITS_KEPT] * BLOCK
    room = np.empty((UNITS + task[FEATURES] + UNITS) * BLOCK, packed.dtype)
    own = np.empty(size if task[KEPT] == 0 else 0, packed.dtype)
    for number in range(start, stop):
        at = task[KEPT] + number * size * own.itemsize
        kept = part(own, 0, size) if task[KEPT] == 0 else numbers_at(at, size, floor)
        _forward_block(task, floor, orders, number * BLOCK, packed, kept, room)
    width = value_of(task, last, WIDTH) if task[HEAD] == PARAMETERS else task[FEATURES]
    done = not task[FINITE] or (
        _rows_are_finite(task, OUT, width, start, stop, floor) and _rows_are_finite(task, TOTAL, 1, start, stop, floor)
    )
    return DONE if done else NOT_FINITE


@jit_part
def _rows_are_finite(task, column, width, start, stop, like):
    """Of (B, width), or of nothing, in some blocks."""
    numbers = numbers_at(task[column], task[BATCH] * width if task[column] != 0 else 0, like)
    first, end = min(start * BLOCK * width, len(numbers)), min(stop * BLOCK * width, len(numbers))
    return all_finite(part(numbers, first, end - first))


@jit_part
def _forward_block(task, floor, orders, first, packed, kept, room):
    """The rows from ``first`` on; their values are written to ``kept``, their totals and z to ``room``."""
    batch, head, features, context, networks = (
        task[BATCH],
        task[HEAD],
        task[FEATURES],
        task[CONTEXT_FEATURES],
        task[NETWORKS],
    )
    rows = min(BLOCK, batch - first)
    stride, z = stride_of(rows), UNITS * BLOCK
    x, of_context = numbers_at(task[X], batch * features, floor), numbers_at(task[CONTEXT], batch * context, floor)
    rows_to_lanes(x, first, rows, features, stride, kept, value_of(task, 0, PLACE) * stride)
    rows_to_lanes(of_context, first, rows, context, stride, kept, value_of(task, 1, PLACE) * stride)
    fill(room, 0, stride, 0)
    for k in range(networks):
        for v in range(first_of(task, k) + 2, first_of(task, k + 1)):
            _operation(task, v, packed, stride, kept)
        width, params = value_of(task, v, WIDTH), value_of(task, v, PLACE) * stride
        if head == PARAMETERS:
            lanes_to_rows(kept, params, rows, width, stride, numbers_at(task[OUT], batch * width, floor), first)
            return
        is_last, at = k == networks - 1, value_of(task, first_of(task, k), PLACE) * stride
        to, place = (room, z) if is_last else (kept, value_of(task, first_of(task, k + 1), PLACE) * stride)
        categories = numbers_at(task[CATEGORIES], task[NUM_CATEGORIES], np.int64(0))
        given = (head, is_last, floor, categories, features, width, stride)
        head_forward(*given, kept, params, at, room, 0, to, place, orders[k])
    if makes_z(head):
        lanes_to_rows(room, z, rows, features, stride, numbers_at(task[OUT], batch * features, floor), first)
    lanes_to_rows(room, 0, rows, 1, stride, numbers_at(task[TOTAL], batch, floor), first)


@jit_part
def _operation(task, value, packed, stride, kept):
    """Computes one value of a block."""
    width, at = value_of(task, value, WIDTH), value_of(task, value, PLACE) * stride
    kind, count = value_of(task, value, KIND), width * stride
    if kind == AFFINE:
        fill(kept, at, (width + UNITS - 1) // UNITS * UNITS * stride, 0)
        bias = value_of(task, value, BIAS)
        numbers = weight_of(task, max(bias, 0), width, kept[0])
        for unit in range(width if bias >= 0 else 0):
            fill(kept, at + unit * stride, stride, numbers[unit])
        for t in range(value_of(task, value, FIRST_TERM), value_of(task, value, STOP_TERM)):
            source = value_of(task, term_of(task, t, SOURCE), PLACE) * stride
            multiply(task, FORWARD, t, packed, kept, source, stride, kept, at)
        return
    left, right = value_of(task, value, LEFT), value_of(task, value, RIGHT)
    argument, to = value_of(task, left, PLACE) * stride, part(kept, at, count)
    other = part(kept, value_of(task, right, PLACE) * stride, count)
    if argument != at:  # then it goes on in place, so that the compiler sees one array
        copy(kept, argument, count, kept, at)
    function = value_of(task, value, FUNCTION)
    if kind == UNARY and function == RELU:  # known to the compiler, so in vectors: twenty times quicker
        for i in range(count):
            to[i] = apply_function(RELU, to[i])
    elif kind == UNARY:
        for i in range(count):
            to[i] = apply_function(function, to[i])
    else:
        for i in range(count):
            to[i] = to[i] + other[i] if kind == ADD else to[i] * other[i]
