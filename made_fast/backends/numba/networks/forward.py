"""Networks one after another, forward: the values of a block of rows stay in cache, unit after unit."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np

from made_fast.backends.numba.functions import apply_function
from made_fast.backends.numba.jit import jit
from made_fast.backends.numba.networks.heads import PARAMETERS, head_forward, makes_z
from made_fast.backends.numba.networks.memory import (
    all_finite,
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
    UNITS,
    AddressColumn,
    SizeColumn,
    Status,
    TermColumn,
    ValueColumn,
)
from made_fast.backends.numba.networks.tiles import multiply, pack
from made_fast.programs.schedule import Kind

__all__ = ["forward"]

DONE, NOT_FINITE, NO_PERMUTATION = map(int, Status)
X, CONTEXT, OUT, TOTAL, KEPT, _ = map(int, AddressColumn)
FEATURES, CONTEXT_FEATURES, VALUES, _, _, _ = map(int, SizeColumn)
KIND, LEFT, RIGHT, FUNCTION, WIDTH, BIAS, FIRST_TERM, STOP_TERM, PLACE, _ = map(int, ValueColumn)
SOURCE, WEIGHT, CUTS, _ = map(int, TermColumn)
AFFINE, UNARY, ADD = int(Kind.AFFINE), int(Kind.UNARY), int(Kind.ADD)


@jit
def forward(plan, addresses, head, floor, batch, finite, start, stop):
    """The blocks of rows from ``start`` to ``stop``, as they are whatever rows are beside them.

    Args:
        plan: see ``plan.Plan``.
        addresses: see ``plan.AddressColumn``; KEPT is 0 where values need not be kept.
        head, floor, finite: see ``Networks.forward``. All numbers are of the type of the floor.
        batch: B.
        start, stop: numbers of blocks.

    Returns:
        A ``plan.Status``.
    """
    orders = orders_of(plan, addresses)
    if orders[-1, -1] < 0:
        return NO_PERMUTATION
    if finite and not (
        weights_are_finite(plan, addresses, floor, False)
        and _rows_are_finite(addresses[X], batch, plan.sizes[FEATURES], start, stop, floor)
        and _rows_are_finite(addresses[CONTEXT], batch, plan.sizes[CONTEXT_FEATURES], start, stop, floor)
    ):
        return NOT_FINITE
    packed = _packed(plan, addresses, floor)
    room = np.empty((UNITS + plan.sizes[FEATURES] + UNITS) * BLOCK, packed.dtype)
    size = plan.sizes[VALUES] * BLOCK
    keep = addresses[KEPT] != 0
    own = np.empty(0 if keep else size, packed.dtype)
    for number in range(start, stop):
        kept = numbers_at(addresses[KEPT] + number * size * own.itemsize, size, floor) if keep else own
        _forward_block(plan, addresses, head, floor, orders, batch, number, packed, kept, room)
    last = plan.values[-1, WIDTH] if head == PARAMETERS else plan.sizes[FEATURES]
    done = not finite or (
        _rows_are_finite(addresses[OUT], batch, last, start, stop, floor)
        and _rows_are_finite(addresses[TOTAL], batch, 1, start, stop, floor)
    )
    return DONE if done else NOT_FINITE


@jit
def _rows_are_finite(address, batch, width, start, stop, like):
    """Of (B, width), or of nothing, in some blocks."""
    numbers = numbers_at(address, batch * width if address != 0 else 0, like)
    first, end = min(start * BLOCK * width, len(numbers)), min(stop * BLOCK * width, len(numbers))
    return all_finite(part(numbers, first, end - first))


@jit
def _packed(plan, addresses, like):
    """The weights of all terms."""
    packed = np.empty(UNITS * len(plan.forward.columns), numbers_at(0, 0, like).dtype)
    for v in range(len(plan.values)):
        for t in range(plan.values[v, FIRST_TERM], plan.values[v, STOP_TERM]):
            rows, columns = plan.values[v, WIDTH], plan.values[plan.terms[t, SOURCE], WIDTH]
            weight = weight_of(plan, addresses, plan.terms[t, WEIGHT], rows * columns, like)
            pack(plan.forward, plan.terms[t, CUTS], rows, columns, weight, columns, 1, packed)
    return packed


@jit
def _start_sums(plan, addresses, value, stride, kept, at):
    """The bias, or zeros, of all units in whole tiles."""
    width, bias = plan.values[value, WIDTH], plan.values[value, BIAS]
    fill(kept, at, (width + UNITS - 1) // UNITS * UNITS * stride, 0)
    if bias >= 0:
        numbers = weight_of(plan, addresses, bias, width, kept[0])
        for unit in range(width):
            fill(kept, at + unit * stride, stride, numbers[unit])


@jit
def _run(plan, addresses, network, packed, stride, kept):
    """All operations of one network on a block."""
    for v in range(plan.firsts[network] + 2, plan.firsts[network + 1]):
        op = plan.values[v]
        kind, function, count, at = op[KIND], op[FUNCTION], op[WIDTH] * stride, op[PLACE] * stride
        left, right = plan.values[op[LEFT], PLACE] * stride, plan.values[op[RIGHT], PLACE] * stride
        if kind == AFFINE:
            _start_sums(plan, addresses, v, stride, kept, at)
            for t in range(op[FIRST_TERM], op[STOP_TERM]):
                source = plan.values[plan.terms[t, SOURCE]]
                place = source[PLACE] * stride
                multiply(
                    plan.forward, plan.terms[t, CUTS], op[WIDTH], source[WIDTH], packed, kept, place, stride, kept, at
                )
            continue
        to, one, other = part(kept, at, count), part(kept, left, count), part(kept, right, count)
        for i in range(count):
            if kind == UNARY:
                to[i] = apply_function(function, one[i])
            else:
                to[i] = one[i] + other[i] if kind == ADD else one[i] * other[i]


@jit
def _forward_block(plan, addresses, head, floor, orders, batch, number, packed, kept, room):
    """One block; its values are written to ``kept``, its totals and z to ``room``."""
    features, context = plan.sizes[FEATURES], plan.sizes[CONTEXT_FEATURES]
    first = number * BLOCK
    rows, networks = min(BLOCK, batch - first), len(plan.firsts) - 1
    stride, z = stride_of(rows), UNITS * BLOCK
    x = numbers_at(addresses[X], batch * features, floor)
    rows_to_lanes(x, first, rows, features, stride, kept, plan.values[0, PLACE] * stride)
    if context > 0:
        of_context = numbers_at(addresses[CONTEXT], batch * context, floor)
        rows_to_lanes(of_context, first, rows, context, stride, kept, plan.values[1, PLACE] * stride)
    fill(room, 0, stride, 0)
    for k in range(networks):
        _run(plan, addresses, k, packed, stride, kept)
        width, params = plan.values[plan.firsts[k + 1] - 1, WIDTH], plan.values[plan.firsts[k + 1] - 1, PLACE] * stride
        if head == PARAMETERS:
            lanes_to_rows(kept, params, rows, width, stride, numbers_at(addresses[OUT], batch * width, floor), first)
            return
        is_last, at = k == networks - 1, plan.values[plan.firsts[k], PLACE] * stride
        to, place = room, z
        if not is_last:
            to, place = kept, plan.values[plan.firsts[k + 1], PLACE] * stride
        given = (head, is_last, floor, plan.categories, features, width, stride)
        head_forward(*given, kept, params, at, room, 0, to, place, orders[k])
    if makes_z(head):
        lanes_to_rows(room, z, rows, features, stride, numbers_at(addresses[OUT], batch * features, floor), first)
    lanes_to_rows(room, 0, rows, 1, stride, numbers_at(addresses[TOTAL], batch, floor), first)
