"""Networks one after another, backward from the values that the forward kept."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np

from made_fast.backends.numba.jit import jit
from made_fast.backends.numba.networks.heads import PARAMETERS, head_backward, makes_z
from made_fast.backends.numba.networks.memory import (
    all_finite,
    copy,
    fill,
    lanes_to_rows,
    numbers_at,
    orders_of,
    part,
    rows_to_lanes,
    stride_of,
    weight_of,
    weights_are_finite,
)
from made_fast.backends.numba.networks.plan import (
    BLOCK,
    SEGMENT,
    UNITS,
    AddressColumn,
    SizeColumn,
    Status,
    TermColumn,
    ValueColumn,
)
from made_fast.backends.numba.networks.slopes import slope_of
from made_fast.backends.numba.networks.tiles import VECTOR, add_products, multiply, pack
from made_fast.programs.schedule import Kind

__all__ = ["BLOCKS_AT_ONCE", "backward", "backward_blocks", "backward_weights", "gradients_are_finite"]

BLOCKS_AT_ONCE = 8  # whose gradients are held, and summed before they are added to those of the weights

DONE, NOT_FINITE, _ = map(int, Status)
X, CONTEXT, OUT, TOTAL, KEPT, ROOM = map(int, AddressColumn)
FEATURES, CONTEXT_FEATURES, VALUES, ORDERED, IN_ROOM, WEIGHTS = map(int, SizeColumn)
KIND, LEFT, RIGHT, FUNCTION, WIDTH, BIAS, FIRST_TERM, STOP_TERM, PLACE, GRAD = map(int, ValueColumn)
SOURCE, WEIGHT, CUTS, BACK_CUTS = map(int, TermColumn)
AFFINE, UNARY, MULTIPLY = int(Kind.AFFINE), int(Kind.UNARY), int(Kind.MULTIPLY)


@jit
def backward(plan, addresses, head, floor, batch, finite):
    """Writes the gradients of x, context and weights.

    Args:
        plan: see ``plan.Plan``.
        addresses: see ``plan.AddressColumn``; the room is of ``BLOCKS_AT_ONCE`` blocks, or of all.
        head, floor, finite: see ``Networks.backward``. All numbers are of the type of the floor.
        batch: B.

    Returns:
        A ``plan.Status``.
    """
    if finite and not gradients_are_finite(plan, addresses, head, floor, batch, False):
        return NOT_FINITE
    blocks = (batch + BLOCK - 1) // BLOCK
    for first in range(0, blocks, BLOCKS_AT_ONCE):
        count = min(BLOCKS_AT_ONCE, blocks - first)
        for network in range(len(plan.firsts) - 2, -1, -1):
            backward_blocks(plan, addresses, head, floor, batch, first, network, 0, count)
            backward_weights(plan, addresses, head, floor, batch, first, count, network, 0, len(plan.forward.cuts))
    return DONE if not finite or gradients_are_finite(plan, addresses, head, floor, batch, True) else NOT_FINITE


@jit
def gradients_are_finite(plan, addresses, head, like, batch, made):
    """Whether those that are given are finite, or those that are made."""
    last = plan.values[-1, WIDTH] if head == PARAMETERS else plan.sizes[FEATURES]
    of_x, of_context = (X, plan.sizes[FEATURES]), (CONTEXT, plan.sizes[CONTEXT_FEATURES])
    for column, width in (of_x, of_context) if made else ((OUT, last), (TOTAL, 1)):
        address = addresses[column]
        if not all_finite(numbers_at(address, batch * width if address != 0 else 0, like)):
            return False
    return not made or weights_are_finite(plan, addresses, like, True)


@jit
def backward_blocks(plan, addresses, head, floor, batch, first, network, start, stop):
    """Gradients of everything in one network but its weights, for blocks ``start`` to ``stop`` of those from ``first`` on."""
    orders = orders_of(plan, addresses)
    size, room_size = plan.sizes[VALUES] * BLOCK, plan.sizes[IN_ROOM] * BLOCK
    wanted = (network > 0 or addresses[X] != 0, addresses[CONTEXT] != 0)
    packed = _packed(plan, addresses, floor, network, wanted)
    for number in range(start, stop):
        kept = numbers_at(addresses[KEPT] + (first + number) * size * packed.itemsize, size, floor)
        room = numbers_at(addresses[ROOM] + number * room_size * packed.itemsize, room_size, floor)
        row = (first + number) * BLOCK
        rows = min(BLOCK, batch - row)
        _take(plan, addresses, head, floor, batch, network, orders, row, rows, kept, room)
        _walk_back(plan, network, wanted, packed, stride_of(rows), kept, room)
        if network == 0:
            _hand_over(plan, addresses, floor, batch, row, rows, room)


@jit
def _packed(plan, addresses, like, network, wanted):
    """The weights of the terms of one network whose sources need gradients, transposed."""
    packed = np.empty(UNITS * len(plan.backward.columns), numbers_at(0, 0, like).dtype)
    x = plan.firsts[network]
    for v in range(x + 2, plan.firsts[network + 1]):
        for t in range(plan.values[v, FIRST_TERM], plan.values[v, STOP_TERM]):
            source = plan.terms[t, SOURCE]
            if source > x + 1 or wanted[source - x]:
                rows, columns = plan.values[v, WIDTH], plan.values[source, WIDTH]
                weight = weight_of(plan, addresses, plan.terms[t, WEIGHT], rows * columns, like)
                pack(plan.backward, plan.terms[t, BACK_CUTS], columns, rows, weight, 1, columns, packed)
    return packed


@jit
def _take(plan, addresses, head, floor, batch, network, orders, first, rows, kept, room):
    """Writes the gradients of the parameters of a network, and what its x gets beside them."""
    features, context = plan.sizes[FEATURES], plan.sizes[CONTEXT_FEATURES]
    stride, networks, x = stride_of(rows), len(plan.firsts) - 1, plan.firsts[network]
    params = plan.values[plan.firsts[network + 1] - 1]
    width, grad, grad_x = params[WIDTH], params[GRAD] * stride, plan.values[x, GRAD] * stride
    if network == networks - 1:
        fill(room, 0, stride, 0)
        fill(room, grad_x, features * stride, 0)
        fill(room, plan.values[x + 1, GRAD] * stride, context * stride, 0)
        if addresses[TOTAL] != 0:
            rows_to_lanes(numbers_at(addresses[TOTAL], batch, floor), first, rows, 1, stride, room, 0)
        if makes_z(head) and addresses[OUT] != 0:
            rows_to_lanes(
                numbers_at(addresses[OUT], batch * features, floor), first, rows, features, stride, room, grad_x
            )
    if head == PARAMETERS:
        rows_to_lanes(numbers_at(addresses[OUT], batch * width, floor), first, rows, width, stride, room, grad)
        return
    ordered = plan.sizes[ORDERED] * stride
    for d in range(features):
        copy(room, grad_x + orders[network, d] * stride, stride, room, ordered + d * stride)
    given = (head, network == networks - 1, floor, plan.categories, features, width, stride)
    places = (params[PLACE] * stride, plan.values[x, PLACE] * stride)
    head_backward(*given, kept, *places, room, 0, ordered, grad, grad_x)


@jit
def _walk_back(plan, network, wanted, packed, stride, kept, room):
    """Gradients of all values of a network, from those of its parameters."""
    x = plan.firsts[network]
    written = np.zeros(plan.firsts[network + 1] - x, np.bool_)
    written[:2] = True
    for v in range(plan.firsts[network + 1] - 1, x + 1, -1):
        op, own = plan.values[v], plan.values[v, GRAD] * stride
        if op[KIND] != AFFINE:
            _pointwise(plan, v, written, x, stride, kept, room)
            continue
        for t in range(op[FIRST_TERM], op[STOP_TERM]):
            source = plan.terms[t, SOURCE]
            if source <= x + 1 and not wanted[source - x]:
                continue
            width, to = plan.values[source, WIDTH], plan.values[source, GRAD] * stride
            if not written[source - x]:
                fill(room, to, (width + UNITS - 1) // UNITS * UNITS * stride, 0)
                written[source - x] = True
            multiply(plan.backward, plan.terms[t, BACK_CUTS], width, op[WIDTH], packed, room, own, stride, room, to)


@jit
def _pointwise(plan, value, written, first, stride, kept, room):
    op = plan.values[value]
    kind, function, count = op[KIND], op[FUNCTION], op[WIDTH] * stride
    own, result = part(room, op[GRAD] * stride, count), part(kept, op[PLACE] * stride, count)
    for side in range(1 if kind == UNARY else 2):
        source, other = (op[LEFT], op[RIGHT]) if side == 0 else (op[RIGHT], op[LEFT])
        to, more = part(room, plan.values[source, GRAD] * stride, count), written[source - first]
        argument = part(kept, plan.values[source, PLACE] * stride, count)
        factor = part(kept, plan.values[other, PLACE] * stride, count)
        for i in range(count):
            delta = own[i]
            if kind == UNARY:
                delta *= slope_of(function, argument[i], result[i])
            elif kind == MULTIPLY:
                delta *= factor[i]
            to[i] = to[i] + delta if more else delta
        written[source - first] = True


@jit
def _hand_over(plan, addresses, like, batch, first, rows, room):
    """Writes the gradients of x and the context."""
    stride = stride_of(rows)
    for value, column in ((0, X), (1, CONTEXT)):
        width = plan.values[value, WIDTH]
        if addresses[column] != 0:
            to = numbers_at(addresses[column], batch * width, like)
            lanes_to_rows(room, plan.values[value, GRAD] * stride, rows, width, stride, to, first)


@jit
def backward_weights(plan, addresses, head, like, batch, first, blocks, network, start, stop):
    """Adds what so many blocks from ``first`` on give the weights of a network; those of block 0 are written.

    A piece of the work is a segment of columns of one weight, or a bias; those from ``start`` to ``stop`` are done.
    """
    piece = 0
    size, room_size = plan.sizes[VALUES] * BLOCK, plan.sizes[IN_ROOM] * BLOCK
    weights, itemsize = plan.sizes[WEIGHTS], numbers_at(0, 0, like).itemsize
    kept = numbers_at(addresses[KEPT] + first * size * itemsize, blocks * size, like)
    room = numbers_at(addresses[ROOM], blocks * room_size, like)
    transposed = np.empty(blocks * BLOCK * SEGMENT, kept.dtype)
    rows = min(blocks * BLOCK, batch - first * BLOCK)
    for v in range(plan.firsts[network] + 2, plan.firsts[network + 1]):
        width, grad = plan.values[v, WIDTH], plan.values[v, GRAD]
        for t in range(plan.values[v, FIRST_TERM], plan.values[v, STOP_TERM]):
            columns = plan.values[plan.terms[t, SOURCE], WIDTH]
            place = plan.values[plan.terms[t, SOURCE], PLACE]
            to = weight_of(plan, addresses, weights + plan.terms[t, WEIGHT], width * columns, like)
            for segment in range((columns + SEGMENT - 1) // SEGMENT):
                if start <= piece < stop and len(to):
                    _transpose(kept, place, size, rows, segment * SEGMENT, columns, transposed)
                    given = (plan.forward, plan.terms[t, CUTS], width, columns, segment)
                    _segment(*given, room, grad, room_size, rows, transposed, to, first == 0)
                piece += 1
        if plan.values[v, BIAS] >= 0:
            if start <= piece < stop:
                to = weight_of(plan, addresses, weights + plan.values[v, BIAS], width, like)
                _bias(room, grad, room_size, rows, to, first == 0)
            piece += 1


@jit
def _transpose(kept, place, size, rows, first, columns, to):
    """Writes (rows, 16) of the columns from ``first`` on, zero beyond the last."""
    for begin in range(0, rows, BLOCK):
        count = min(BLOCK, rows - begin)
        stride, block = stride_of(count), begin // BLOCK * size
        for column in range(SEGMENT):
            at = block + (place + first + column) * stride
            of, into = part(kept, at, count), part(to, begin * SEGMENT + column, (count - 1) * SEGMENT + 1)
            for row in range(count):
                into[row * SEGMENT] = of[row] if first + column < columns else 0


@jit
def _segment(side, first, width, columns, segment, room, grad, room_size, rows, values, to, is_first):
    """The gradient of 16 columns of a weight, as far as the mask keeps it."""
    cuts, all_columns, bits = side
    segments, begin = (columns + SEGMENT - 1) // SEGMENT, segment * SEGMENT
    every_row = np.arange(BLOCK, dtype=np.int32)
    sums = np.empty(UNITS * SEGMENT, room.dtype)
    if is_first:
        for unit in range(width):
            fill(to, unit * columns + begin, min(SEGMENT, columns - begin), 0)
    for tile in range((width + UNITS - 1) // UNITS):
        low, high = cuts[first + tile * segments + segment], cuts[first + tile * segments + segment + 1]
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


@jit
def _bias(room, grad, room_size, rows, to, is_first):
    for unit in range(len(to)):
        total = 0.0 if is_first else float(to[unit])
        for begin in range(0, rows, BLOCK):
            count = min(BLOCK, rows - begin)
            own = part(room, begin // BLOCK * room_size + (grad + unit) * stride_of(count), count)
            for row in range(count):
                total += own[row]
        to[unit] = total
