"""Networks one after another, backward from the values that the forward kept."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np

from made_fast.backends.numba.jit import jit, jit_part
from made_fast.backends.numba.networks.heads import PARAMETERS, head_backward, makes_z
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
from made_fast.backends.numba.networks.plan import BLOCK, SEGMENT, UNITS, Status, TaskColumn, TermColumn, ValueColumn
from made_fast.backends.numba.networks.slopes import slope_of
from made_fast.backends.numba.networks.tiles import (
    BACK,
    FORWARD,
    VECTOR,
    add_products,
    columns_of,
    cut_of,
    multiply,
    pack,
)
from made_fast.programs.functions import FUNCTION_CODES
from made_fast.programs.schedule import Kind

__all__ = ["BLOCKS_AT_ONCE", "backward", "backward_blocks", "backward_weights", "gradients_are_finite"]

BLOCKS_AT_ONCE = 8  # whose gradients are held, and summed before they are added to those of the weights

DONE, NOT_FINITE, _ = map(int, Status)
X, CONTEXT, OUT, TOTAL, KEPT, ROOM, HEAD, BATCH, FINITE, FEATURES, CONTEXT_FEATURES, NETWORKS = map(
    int, [*TaskColumn][:12]
)
WEIGHTS, UNITS_KEPT, ORDERED, UNITS_OF_ROOM = map(int, [*TaskColumn][12:16])
NUM_BACK_COLUMNS = int(TaskColumn.NUM_BACK_COLUMNS)
CATEGORIES, NUM_CATEGORIES = int(TaskColumn.CATEGORIES), int(TaskColumn.NUM_CATEGORIES)
KIND, LEFT, RIGHT, FUNCTION, WIDTH, BIAS, FIRST_TERM, STOP_TERM, PLACE, GRAD = map(int, ValueColumn)
SOURCE, WEIGHT, ROWS, COLUMNS, _, _ = map(int, TermColumn)
AFFINE, UNARY, MULTIPLY = int(Kind.AFFINE), int(Kind.UNARY), int(Kind.MULTIPLY)
RELU = FUNCTION_CODES["relu"]
MOST_PIECES = 1 << 62


@jit
def backward(task, floor):
    """Writes the gradients of x, context and weights.

    Args:
        task: see ``plan.TaskColumn``; its room is of ``BLOCKS_AT_ONCE`` blocks, or of all.
        floor: of scales; all numbers are of its type.

    Returns:
        A ``plan.Status``.
    """
    if task[FINITE] and not gradients_are_finite(task, floor, False):
        return NOT_FINITE
    blocks = (task[BATCH] + BLOCK - 1) // BLOCK
    for first in range(0, blocks, BLOCKS_AT_ONCE):
        count = min(BLOCKS_AT_ONCE, blocks - first)
        for network in range(task[NETWORKS] - 1, -1, -1):
            backward_blocks(task, floor, first, network, 0, count)
            backward_weights(task, floor, first, count, network, 0, MOST_PIECES)
    return DONE if not task[FINITE] or gradients_are_finite(task, floor, True) else NOT_FINITE


@jit
def gradients_are_finite(task, like, made):
    """Whether those that are given are finite, or those that are made."""
    last = value_of(task, first_of(task, task[NETWORKS]) - 1, WIDTH) if task[HEAD] == PARAMETERS else task[FEATURES]
    of_x, of_context = (X, task[FEATURES]), (CONTEXT, task[CONTEXT_FEATURES])
    for column, width in (of_x, of_context) if made else ((OUT, last), (TOTAL, 1)):
        if not all_finite(numbers_at(task[column], task[BATCH] * width if task[column] != 0 else 0, like)):
            return False
    return not made or weights_are_finite(task, like, True)


@jit
def backward_blocks(task, floor, first, network, start, stop):
    """Gradients of everything in one network but its weights, for blocks ``start`` to ``stop`` of those from ``first`` on."""
    orders, x = orders_of(task), first_of(task, network)
    size, room_size = task[UNITS_KEPT] * BLOCK, task[UNITS_OF_ROOM] * BLOCK
    wanted = (network > 0 or task[X] != 0, task[CONTEXT] != 0)
    packed = np.empty(UNITS * task[NUM_BACK_COLUMNS], numbers_at(0, 0, floor).dtype)
    for v in range(x + 2, first_of(task, network + 1)):
        for t in range(value_of(task, v, FIRST_TERM), value_of(task, v, STOP_TERM)):
            source, count = term_of(task, t, SOURCE) - x, term_of(task, t, ROWS) * term_of(task, t, COLUMNS)
            if source > 1 or wanted[source]:
                pack(task, BACK, t, weight_of(task, term_of(task, t, WEIGHT), count, floor), packed)
    for number in range(start, stop):
        kept = numbers_at(task[KEPT] + (first + number) * size * packed.itemsize, size, floor)
        room = numbers_at(task[ROOM] + number * room_size * packed.itemsize, room_size, floor)
        row = (first + number) * BLOCK
        rows = min(BLOCK, task[BATCH] - row)
        _start(task, floor, network, orders[network], row, rows, kept, room)
        _walk_back(task, network, wanted, packed, stride_of(rows), kept, room)
        if network == 0:
            for value, column in ((0, X), (1, CONTEXT)):
                width, at = value_of(task, value, WIDTH), value_of(task, value, GRAD) * stride_of(rows)
                if task[column] != 0:
                    to = numbers_at(task[column], task[BATCH] * width, floor)
                    lanes_to_rows(room, at, rows, width, stride_of(rows), to, row)


@jit_part
def _start(task, floor, network, order, first, rows, kept, room):
    """Writes the gradients of the parameters of a network, and what its x gets beside them."""
    batch, head, features, stride = task[BATCH], task[HEAD], task[FEATURES], stride_of(rows)
    x, params, is_last = first_of(task, network), first_of(task, network + 1) - 1, network == task[NETWORKS] - 1
    width, grad, grad_x = (
        value_of(task, params, WIDTH),
        value_of(task, params, GRAD) * stride,
        value_of(task, x, GRAD) * stride,
    )
    if is_last:
        fill(room, 0, stride, 0)
        fill(room, grad_x, features * stride, 0)
        fill(room, value_of(task, x + 1, GRAD) * stride, task[CONTEXT_FEATURES] * stride, 0)
        if task[TOTAL] != 0:
            rows_to_lanes(numbers_at(task[TOTAL], batch, floor), first, rows, 1, stride, room, 0)
        if makes_z(head) and task[OUT] != 0:
            rows_to_lanes(numbers_at(task[OUT], batch * features, floor), first, rows, features, stride, room, grad_x)
    if head == PARAMETERS:
        rows_to_lanes(numbers_at(task[OUT], batch * width, floor), first, rows, width, stride, room, grad)
        return
    ordered, categories = task[ORDERED] * stride, numbers_at(task[CATEGORIES], task[NUM_CATEGORIES], np.int64(0))
    for d in range(features):
        copy(room, grad_x + order[d] * stride, stride, room, ordered + d * stride)
    places = (value_of(task, params, PLACE) * stride, value_of(task, x, PLACE) * stride)
    given = (head, is_last, floor, categories, features, width, stride)
    head_backward(*given, kept, *places, room, 0, ordered, grad, grad_x)


@jit_part
def _walk_back(task, network, wanted, packed, stride, kept, room):
    """Gradients of all values of a network, from those of its parameters."""
    x = first_of(task, network)
    written = np.zeros(first_of(task, network + 1) - x, np.bool_)
    written[0] = written[1] = True
    for v in range(first_of(task, network + 1) - 1, x + 1, -1):
        left = value_of(task, v, LEFT) - x
        if value_of(task, v, KIND) == UNARY:
            _through_function(task, v, written[left], stride, kept, room)
            written[left] = True
        elif value_of(task, v, KIND) != AFFINE:
            _through_pair(task, v, written, x, stride, kept, room)
        for t in range(value_of(task, v, FIRST_TERM), value_of(task, v, STOP_TERM)):
            source = term_of(task, t, SOURCE) - x
            if source <= 1 and not wanted[source]:
                continue
            width, to = term_of(task, t, COLUMNS), value_of(task, x + source, GRAD) * stride
            if not written[source]:
                fill(room, to, (width + UNITS - 1) // UNITS * UNITS * stride, 0)
                written[source] = True
            multiply(task, BACK, t, packed, room, value_of(task, v, GRAD) * stride, stride, room, to)


@jit_part
def _through_function(task, value, more, stride, kept, room):
    """Writes or adds the gradient of the argument of a function, which may be where its own is."""
    source, function, count = (
        value_of(task, value, LEFT),
        value_of(task, value, FUNCTION),
        value_of(task, value, WIDTH) * stride,
    )
    own, to = value_of(task, value, GRAD) * stride, value_of(task, source, GRAD) * stride
    argument = part(kept, value_of(task, source, PLACE) * stride, count)
    result, grad, delta = (
        part(kept, value_of(task, value, PLACE) * stride, count),
        part(room, to, count),
        part(room, own, count),
    )
    if own == to and function == RELU:  # known to the compiler, so in vectors
        for i in range(count):
            grad[i] *= slope_of(RELU, result[i], result[i])
    elif own == to:
        for i in range(count):
            grad[i] *= slope_of(function, argument[i], result[i])
    else:
        for i in range(count):
            found = delta[i] * slope_of(function, argument[i], result[i])
            grad[i] = grad[i] + found if more else found


@jit_part
def _through_pair(task, value, written, first, stride, kept, room):
    """Adds the gradients of two summands or factors."""
    count, is_product = value_of(task, value, WIDTH) * stride, value_of(task, value, KIND) == MULTIPLY
    delta = part(room, value_of(task, value, GRAD) * stride, count)
    for side in range(2):
        source, other = value_of(task, value, LEFT + side), value_of(task, value, RIGHT - side)
        at = value_of(task, source, GRAD) * stride
        if not written[source - first]:
            fill(room, at, count, 0)
            written[source - first] = True
        to, factor = part(room, at, count), part(kept, value_of(task, other, PLACE) * stride, count)
        for i in range(count):
            to[i] += delta[i] * factor[i] if is_product else delta[i]


@jit
def backward_weights(task, like, first, blocks, network, start, stop):
    """Adds what so many blocks from ``first`` on give the weights of a network; those of block 0 are written.

    A piece of the work is a segment of columns of one weight, or a bias; those from ``start`` to ``stop`` are done.
    """
    piece, weights = 0, task[WEIGHTS]
    size, room_size = task[UNITS_KEPT] * BLOCK, task[UNITS_OF_ROOM] * BLOCK
    transposed = np.empty(blocks * BLOCK * SEGMENT, numbers_at(0, 0, like).dtype)
    kept = numbers_at(task[KEPT] + first * size * transposed.itemsize, blocks * size, like)
    room = numbers_at(task[ROOM], blocks * room_size, like)
    rows = min(blocks * BLOCK, task[BATCH] - first * BLOCK)
    for v in range(first_of(task, network) + 2, first_of(task, network + 1)):
        grad = value_of(task, v, GRAD)
        for t in range(value_of(task, v, FIRST_TERM), value_of(task, v, STOP_TERM)):
            columns, place = term_of(task, t, COLUMNS), value_of(task, term_of(task, t, SOURCE), PLACE)
            to = weight_of(task, weights + term_of(task, t, WEIGHT), term_of(task, t, ROWS) * columns, like)
            for segment in range((columns + SEGMENT - 1) // SEGMENT):
                if start <= piece < stop and len(to):
                    _transpose(kept, place, size, rows, segment * SEGMENT, columns, transposed)
                    _segment(task, t, segment, room, grad, room_size, rows, transposed, to, first == 0)
                piece += 1
        if value_of(task, v, BIAS) >= 0:
            if start <= piece < stop:
                to = weight_of(task, weights + value_of(task, v, BIAS), value_of(task, v, WIDTH), like)
                _bias(room, grad, room_size, rows, to, first == 0)
            piece += 1


@jit_part
def _transpose(kept, place, size, rows, first, columns, to):
    """Writes (rows, 16) of the columns from ``first`` on, zero beyond the last."""
    for begin in range(0, rows, BLOCK):
        count = min(BLOCK, rows - begin)
        stride, block = stride_of(count), begin // BLOCK * size
        for column in range(SEGMENT):
            of = part(kept, block + (place + min(first + column, columns - 1)) * stride, count)
            into = part(to, begin * SEGMENT + column, (count - 1) * SEGMENT + 1)
            for row in range(count):
                into[row * SEGMENT] = of[row] if first + column < columns else 0


@jit_part
def _segment(task, term, segment, room, grad, room_size, rows, values, to, is_first):
    """The gradient of 16 columns of a weight, as far as the mask keeps it."""
    all_columns, bits = columns_of(task, FORWARD)
    width, columns, begin = term_of(task, term, ROWS), term_of(task, term, COLUMNS), segment * SEGMENT
    every_row = np.arange(BLOCK).astype(np.int32)
    sums = np.empty(UNITS * SEGMENT, room.dtype)
    if is_first:
        for unit in range(width):
            fill(to, unit * columns + begin, min(SEGMENT, columns - begin), 0)
    for tile in range((width + UNITS - 1) // UNITS):
        low, high = cut_of(task, FORWARD, term, tile, segment), cut_of(task, FORWARD, term, tile, segment + 1)
        if low == high:
            continue
        fill(sums, 0, len(sums), 0)
        for row in range(0, rows, BLOCK):
            count = min(BLOCK, rows - row)
            stride = stride_of(count)
            delta = row // BLOCK * room_size + (grad + tile * UNITS) * stride
            for lane in range(0, SEGMENT, VECTOR // sums.itemsize):
                given = (sums, lane, SEGMENT, room, delta, 1, stride, every_row, 0, count)
                add_products(*given, values, row * SEGMENT + lane, SEGMENT)
        for i in range(low, high):
            lane, at = all_columns[i] - begin, tile * UNITS * columns + all_columns[i]
            for r in range(UNITS):
                if (bits[i] >> r) & 1:
                    to[at + r * columns] += sums[r * SEGMENT + lane]


@jit_part
def _bias(room, grad, room_size, rows, to, is_first):
    for unit in range(len(to)):
        total = 0.0 if is_first else float(to[unit])
        for begin in range(0, rows, BLOCK):
            count = min(BLOCK, rows - begin)
            own = part(room, begin // BLOCK * room_size + (grad + unit) * stride_of(count), count)
            for row in range(count):
                total += own[row]
        to[unit] = total
