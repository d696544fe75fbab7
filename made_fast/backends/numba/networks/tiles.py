"""Products of live weights under a mask: four units at a time, with the rows of the batch in lanes of a vector."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from made_fast.backends.numba.jit import jit
from made_fast.backends.numba.networks.plan import SEGMENT, UNITS

__all__ = ["VECTOR", "add_products", "multiply", "pack"]

VECTOR = 64  # bytes; where the processor's are shorter it takes several


@intrinsic  # type: ignore[misc]
def add_products(
    typing_context, sums, at, unit_stride, factors, factor, step, unit_step, places, first, count, values, value, stride
):
    """Adds to sums of four units, a vector each, in registers: numba's own loops reach half of this speed or less.

    ``sums[at + r * unit_stride + lane] += factors[factor + i * step + r * unit_step] * values[value + places[first + i] *
    stride + lane]`` for the units r, the lanes of a vector and i < count. Arrays are flat.
    """
    whole = (at, unit_stride, factor, step, unit_step, first, count, value, stride)
    known = types.void(
        sums, at, unit_stride, factors, factor, step, unit_step, places, first, count, values, value, stride
    )
    assert all(isinstance(each, types.Integer) and each.bitwidth == 64 for each in whole)

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


@jit
def pack(side, first, rows, columns, weight, row_stride, column_stride, packed):
    """Weights of the columns that a tile reads, four for each, zero where the mask is: nothing under it is read.

    Args:
        side: cuts, columns and bits of masks, see ``plan.Side``.
        first: where the cuts of this one begin.
        rows, columns: its sizes.
        weight: flat; number (u, c) is at ``u * row_stride + c * column_stride``.
        packed: is written.
    """
    cuts, all_columns, bits = side
    segments = (columns + SEGMENT - 1) // SEGMENT
    for tile in range((rows + UNITS - 1) // UNITS):
        for i in range(cuts[first + tile * segments], cuts[first + (tile + 1) * segments]):
            at = tile * UNITS * row_stride + all_columns[i] * column_stride
            for r in range(UNITS):
                packed[i * UNITS + r] = weight[at + r * row_stride] if (bits[i] >> r) & 1 else 0


@jit
def multiply(side, first, rows, columns, packed, source, source_at, stride, out, out_at):
    """out (rows in whole tiles, stride) += packed weights times source (columns, stride); flat arrays."""
    cuts, all_columns, _ = side
    segments = (columns + SEGMENT - 1) // SEGMENT
    for tile in range((rows + UNITS - 1) // UNITS):
        start = cuts[first + tile * segments]
        count = cuts[first + (tile + 1) * segments] - start
        for lane in range(0, stride, VECTOR // out.itemsize):
            at, value = out_at + tile * UNITS * stride + lane, source_at + lane
            add_products(
                out, at, stride, packed, start * UNITS, UNITS, 1, all_columns, start, count, source, value, stride
            )
