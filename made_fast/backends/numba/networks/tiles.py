"""Products of live weights under a mask: four units at a time, with the rows of the batch in lanes of a vector."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from made_fast.backends.numba.jit import intrinsic, jit_part
from made_fast.backends.numba.networks.memory import integer_at, numbers_at, term_of
from made_fast.backends.numba.networks.plan import SEGMENT, UNITS, TaskColumn, TermColumn

__all__ = ["BACK", "FORWARD", "VECTOR", "add_products", "columns_of", "cut_of", "multiply", "pack"]

FORWARD, BACK = int(TaskColumn.CUTS), int(TaskColumn.BACK_CUTS)  # of the masks, or of the transposes
NUM_COLUMNS, NUM_BACK_COLUMNS = int(TaskColumn.NUM_COLUMNS), int(TaskColumn.NUM_BACK_COLUMNS)
_, _, ROWS, COLUMNS, CUTS, BACK_CUTS = map(int, TermColumn)
VECTOR = 64  # bytes; where the processor's are shorter it takes several


@intrinsic
def add_products(
    typing_context, sums, at, unit_stride, factors, factor, step, unit_step, places, first, count, values, value, stride
):
    """Adds to sums of four units, a vector each, in registers: numba's own loops reach half of this speed or less.

    ``sums[at + r * unit_stride + lane] += factors[factor + i * step + r * unit_step] * values[value + places[first + i] *
    stride + lane]`` for the units r, the lanes of a vector and i < count. Arrays are flat.
    """
    whole = types.intp
    known = types.void(
        *(sums, whole, whole, factors, whole, whole, whole),
        *(places, whole, whole, values, whole, whole),
    )

    def generate(context, builder, signature, arguments):
        names = ("sums", "factors", "places", "values")
        data = {
            name: context.make_array(signature.args[i])(context, builder, arguments[i]).data
            for name, i in zip(names, (0, 3, 7, 10), strict=True)
        }
        _, at, unit_stride, _, factor, step, unit_step, _, first, count, _, value, stride = arguments
        number = context.get_data_type(sums.dtype)
        lanes = VECTOR * 8 // sums.dtype.bitwidth
        vector = ir.VectorType(number, lanes)
        index, zeros = ir.IntType(64), ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        undefined = ir.Constant(vector, ir.Undefined)

        def vector_at(name, place):
            return builder.bitcast(builder.gep(data[name], [place]), vector.as_pointer())

        def load(name, place):
            return builder.load(vector_at(name, place), align=sums.dtype.bitwidth // 8)

        units = [builder.add(at, builder.mul(unit_stride, index(r))) for r in range(UNITS)]
        totals = [cgutils.alloca_once_value(builder, load("sums", unit)) for unit in units]
        with cgutils.for_range(builder, count) as loop:
            place = builder.load(builder.gep(data["places"], [builder.add(first, loop.index)]))
            vector_of_rows = load("values", builder.add(value, builder.mul(builder.sext(place, index), stride)))
            from_here = builder.add(factor, builder.mul(loop.index, step))
            for r, total in enumerate(totals):
                by = builder.load(
                    builder.gep(data["factors"], [builder.add(from_here, builder.mul(unit_step, index(r)))])
                )
                spread = builder.shuffle_vector(builder.insert_element(undefined, by, index(0)), undefined, zeros)
                product = builder.fmul(spread, vector_of_rows, flags=("contract",))
                builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
        for unit, total in zip(units, totals, strict=True):
            builder.store(builder.load(total), vector_at("sums", unit), align=sums.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return known, generate


@jit_part
def cut_of(task, side, term, tile, segment):
    """Where the columns of a segment of a tile begin; those of a whole tile are from its segment 0 to that of the next one.

    Args:
        task: see ``plan.TaskColumn``.
        side: ``FORWARD`` or ``BACK``.
        term: number of the weight's.
    """
    columns, first = (COLUMNS, CUTS) if side == FORWARD else (ROWS, BACK_CUTS)
    segments = (term_of(task, term, columns) + SEGMENT - 1) // SEGMENT
    return integer_at(task[side], term_of(task, term, first) + tile * segments + segment)


@jit_part
def columns_of(task, side):
    """Those of all tiles, and which of the four rows read each."""
    count = task[NUM_COLUMNS if side == FORWARD else NUM_BACK_COLUMNS]
    return numbers_at(task[side + 1], count, np.int32(0)), numbers_at(task[side + 2], count, np.uint8(0))


@jit_part
def pack(task, side, term, weight, packed):
    """Weights of the columns that each tile reads, four for each, zero where the mask is: nothing under it is read.

    Args:
        task, side, term: see ``cut_of``.
        weight: flat.
        packed: is written.
    """
    columns, bits = columns_of(task, side)
    width = term_of(task, term, COLUMNS)
    rows, step, across = (term_of(task, term, ROWS), width, 1) if side == FORWARD else (width, 1, width)
    for tile in range((rows + UNITS - 1) // UNITS):
        for i in range(cut_of(task, side, term, tile, 0), cut_of(task, side, term, tile + 1, 0)):
            at = tile * UNITS * step + columns[i] * across
            for r in range(UNITS):
                packed[i * UNITS + r] = weight[at + r * step] if (bits[i] >> r) & 1 else 0


@jit_part
def multiply(task, side, term, packed, source, source_at, stride, out, out_at):
    """out (rows in whole tiles, stride) += packed weights times source (columns, stride); flat arrays."""
    columns, _ = columns_of(task, side)
    rows = term_of(task, term, ROWS if side == FORWARD else COLUMNS)
    for tile in range((rows + UNITS - 1) // UNITS):
        start = cut_of(task, side, term, tile, 0)
        count = cut_of(task, side, term, tile + 1, 0) - start
        for lane in range(0, stride, VECTOR // out.itemsize):
            at, value = out_at + tile * UNITS * stride + lane, source_at + lane
            add_products(out, at, stride, packed, start * UNITS, UNITS, 1, columns, start, count, source, value, stride)
