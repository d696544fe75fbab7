"""The memory of a call: what its addresses are of, and rows of the batch as they lie in blocks."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import types
from numba.np.arrayobj import populate_array

from made_fast.backends.numba.jit import intrinsic, jit_part
from made_fast.backends.numba.networks.plan import TaskColumn, TermColumn, ValueColumn

__all__ = [
    "all_finite",
    "copy",
    "fill",
    "first_of",
    "integer_at",
    "lanes_to_rows",
    "numbers_at",
    "orders_of",
    "part",
    "rows_to_lanes",
    "stride_of",
    "term_of",
    "value_of",
    "weight_of",
    "weights_are_finite",
]

LANES = 16  # rows of a block are a multiple of this
NUM_VALUE_COLUMNS, NUM_TERM_COLUMNS = len(ValueColumn), len(TermColumn)
READS = len(TaskColumn)  # where the addresses of what networks read begin
FEATURES, NETWORKS, WEIGHTS = int(TaskColumn.FEATURES), int(TaskColumn.NETWORKS), int(TaskColumn.WEIGHTS)
FIRSTS, VALUES, TERMS = int(TaskColumn.FIRSTS), int(TaskColumn.VALUES), int(TaskColumn.TERMS)
_, WEIGHT, ROWS, COLUMNS, _, _ = map(int, TermColumn)
WIDTH, BIAS = int(ValueColumn.WIDTH), int(ValueColumn.BIAS)
FIRST_TERM, STOP_TERM = int(ValueColumn.FIRST_TERM), int(ValueColumn.STOP_TERM)


@intrinsic
def integer_at(typing_context, address, index):
    """One int64."""

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(types.int64)))
        return builder.load(builder.gep(pointer, [arguments[1]]))

    return types.int64(types.intp, types.intp), generate


@intrinsic
def numbers_at(typing_context, address, count, like):
    """So many numbers of the type of ``like``, as a flat array that owns nothing."""
    made = types.Array(types.unliteral(like), 1, "C")

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(made.dtype)))
        return _array(context, builder, made, pointer, arguments[1])

    return made(types.intp, types.intp, like), generate


@intrinsic
def part(typing_context, numbers, at, count):
    """So many numbers of a flat array, which must outlive what is returned: a slice without its checks."""
    made = types.Array(numbers.dtype, 1, "C")

    def generate(context, builder, signature, arguments):
        pointer = builder.gep(context.make_array(numbers)(context, builder, arguments[0]).data, [arguments[1]])
        return _array(context, builder, made, pointer, arguments[2])

    return made(numbers, types.intp, types.intp), generate


def _array(context, builder, kind, pointer, count):
    array = context.make_array(kind)(context, builder)
    size = context.get_constant(types.intp, kind.dtype.bitwidth // 8)
    populate_array(array, data=pointer, shape=[count], strides=[size], itemsize=size, meminfo=None)
    return array._getvalue()


@jit_part
def first_of(task, network):
    """Where the values of a network begin."""
    return integer_at(task[FIRSTS], network)


@jit_part
def value_of(task, number, column):
    """A number of the table of values."""
    return integer_at(task[VALUES], number * NUM_VALUE_COLUMNS + column)


@jit_part
def term_of(task, number, column):
    """A number of the table of terms."""
    return integer_at(task[TERMS], number * NUM_TERM_COLUMNS + column)


@jit_part
def weight_of(task, number, count, like):
    """A weight, flat, by its number among those of all networks; the gradients follow them, empty if they are not wanted."""
    address = task[READS + task[NETWORKS] + number]
    return numbers_at(address, count if address != 0 else 0, like)


@jit_part
def orders_of(task):
    """Where variable d of the z of network k is in x of the next one, (K, D); the last number is -1 if it cannot be."""
    networks, features = task[NETWORKS], task[FEATURES]
    orders = np.empty((networks, features), dtype=np.int64)
    for k in range(networks):
        for i in range(features):
            orders[k, i] = i
    for k in range(1, networks):
        if task[READS + k] != 0:
            reads = numbers_at(task[READS + k], features, np.int64(0))
            orders[k - 1, :] = -1
            for i in range(features):
                if 0 <= reads[i] < features and orders[k - 1, reads[i]] < 0:
                    orders[k - 1, reads[i]] = i
                else:
                    orders[-1, -1] = -1
    return orders


@jit_part
def stride_of(rows):
    """How far it is to the next unit in a block of so many rows."""
    return (rows + LANES - 1) // LANES * LANES


@jit_part
def fill(numbers, at, count, value):
    """Writes one number to many places."""
    to = part(numbers, at, count)
    for i in range(count):
        to[i] = value


@jit_part
def copy(numbers, at, count, to, place):
    """Writes many numbers to as many places."""
    of, into = part(numbers, at, count), part(to, place, count)
    for i in range(count):
        into[i] = of[i]


@jit_part
def rows_to_lanes(rows_of_all, first, rows, units, stride, to, at):
    """Writes rows of (B, units) as (units, stride), zero beyond the last row."""
    of, into = part(rows_of_all, first * units, rows * units), part(to, at, units * stride)
    for unit in range(units):
        for row in range(rows):
            into[unit * stride + row] = of[row * units + unit]
        for row in range(rows, stride):
            into[unit * stride + row] = 0


@jit_part
def lanes_to_rows(numbers, at, rows, units, stride, rows_of_all, first):
    """The other way."""
    of, into = part(numbers, at, units * stride), part(rows_of_all, first * units, rows * units)
    for row in range(rows):
        for unit in range(units):
            into[row * units + unit] = of[unit * stride + row]


@jit_part
def all_finite(numbers):
    """Whether every number of a flat array is finite."""
    bad = 0
    for i in range(len(numbers)):
        bad |= int(numbers[i] - numbers[i] != 0)
    return bad == 0


@jit_part
def weights_are_finite(task, like, gradients):
    """Whether all weights are finite, or their gradients as far as they are wanted."""
    first = task[WEIGHTS] if gradients else 0
    for v in range(first_of(task, task[NETWORKS])):
        for term in range(value_of(task, v, FIRST_TERM), value_of(task, v, STOP_TERM)):
            count = term_of(task, term, ROWS) * term_of(task, term, COLUMNS)
            if not all_finite(weight_of(task, first + term_of(task, term, WEIGHT), count, like)):
                return False
        bias = value_of(task, v, BIAS)
        if bias >= 0 and not all_finite(weight_of(task, first + bias, value_of(task, v, WIDTH), like)):
            return False
    return True
