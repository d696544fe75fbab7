"""The memory of a call: what its addresses are of, and rows of the batch as they lie in blocks."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from made_fast.backends.numba.jit import jit
from made_fast.backends.numba.networks.plan import AddressColumn, SizeColumn, TermColumn, ValueColumn

__all__ = [
    "LANES",
    "all_finite",
    "copy",
    "fill",
    "lanes_to_rows",
    "numbers_at",
    "orders_of",
    "part",
    "rows_to_lanes",
    "size_of",
    "stride_of",
    "weight_of",
    "weights_are_finite",
]

LANES = 16  # rows of a block are a multiple of this
READS = len(AddressColumn)  # where the addresses of what networks read begin
FEATURES, WEIGHTS = int(SizeColumn.FEATURES), int(SizeColumn.WEIGHTS)
SOURCE, WEIGHT = int(TermColumn.SOURCE), int(TermColumn.WEIGHT)
WIDTH, BIAS = int(ValueColumn.WIDTH), int(ValueColumn.BIAS)
FIRST_TERM, STOP_TERM = int(ValueColumn.FIRST_TERM), int(ValueColumn.STOP_TERM)


@intrinsic  # type: ignore[misc]
def numbers_at(typing_context, address, count, like):
    """So many numbers of the type of ``like``, as a flat array that owns nothing."""
    made = types.Array(types.unliteral(like), 1, "C")

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(made.dtype)))
        return _array(context, builder, made, pointer, arguments[1])

    return made(types.intp, types.intp, like), generate


@intrinsic  # type: ignore[misc]
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


@jit
def weight_of(plan, addresses, number, count, like):
    """A weight, flat, by its number among those of all networks; the gradients follow them, empty if they are not wanted."""
    address = addresses[READS + len(plan.firsts) - 1 + number]
    return numbers_at(address, count if address != 0 else 0, like)


@jit
def size_of(plan, value, term):
    """Of the weight of a term of a value."""
    return plan.values[value, WIDTH] * plan.values[plan.terms[term, SOURCE], WIDTH]


@jit
def orders_of(plan, addresses):
    """Where variable d of the z of network k is in x of the next one, (K, D); the last number is -1 if it cannot be."""
    networks, features = len(plan.firsts) - 1, plan.sizes[FEATURES]
    orders = np.empty((networks, features), dtype=np.int64)
    for k in range(networks):
        for i in range(features):
            orders[k, i] = i
    for k in range(1, networks):
        if addresses[READS + k] != 0:
            reads = numbers_at(addresses[READS + k], features, np.int64(0))
            orders[k - 1, :] = -1
            for i in range(features):
                if 0 <= reads[i] < features and orders[k - 1, reads[i]] < 0:
                    orders[k - 1, reads[i]] = i
                else:
                    orders[-1, -1] = -1
    return orders


@jit
def stride_of(rows):
    """How far it is to the next unit in a block of so many rows."""
    return (rows + LANES - 1) // LANES * LANES


@jit
def fill(numbers, at, count, value):
    """Writes one number to many places."""
    to = part(numbers, at, count)
    for i in range(count):
        to[i] = value


@jit
def copy(numbers, at, count, to, place):
    """Writes many numbers to as many places."""
    of, into = part(numbers, at, count), part(to, place, count)
    for i in range(count):
        into[i] = of[i]


@jit
def rows_to_lanes(rows_of_all, first, rows, units, stride, to, at):
    """Writes rows of (B, units) as (units, stride), zero beyond the last row."""
    of, into = part(rows_of_all, first * units, rows * units), part(to, at, units * stride)
    for unit in range(units):
        for row in range(rows):
            into[unit * stride + row] = of[row * units + unit]
        for row in range(rows, stride):
            into[unit * stride + row] = 0


@jit
def lanes_to_rows(numbers, at, rows, units, stride, rows_of_all, first):
    """The other way."""
    of, into = part(numbers, at, units * stride), part(rows_of_all, first * units, rows * units)
    for row in range(rows):
        for unit in range(units):
            into[row * units + unit] = of[unit * stride + row]


@jit
def all_finite(numbers):
    """Whether every number of a flat array is finite."""
    bad = 0
    for i in range(len(numbers)):
        bad |= int(numbers[i] - numbers[i] != 0)
    return bad == 0


@jit
def weights_are_finite(plan, addresses, like, gradients):
    """Whether all weights are finite, or their gradients as far as they are wanted."""
    first = plan.sizes[WEIGHTS] if gradients else 0
    for v in range(len(plan.values)):
        for term in range(plan.values[v, FIRST_TERM], plan.values[v, STOP_TERM]):
            number, count = first + plan.terms[term, WEIGHT], size_of(plan, v, term)
            if not all_finite(weight_of(plan, addresses, number, count, like)):
                return False
        bias = plan.values[v, BIAS]
        if bias >= 0 and not all_finite(weight_of(plan, addresses, first + bias, plan.values[v, WIDTH], like)):
            return False
    return True
