"""The kernels of the masked matmuls; ``launches.py`` makes their tables and says what is launched.

Rows and columns are those of one side of a mask, in its sorted order. A tile is BN sorted rows; its chunks, BK columns
each, are all that its rows read: ``full`` ones, which all of them read whole, and ``partial`` ones, where a row reads some.
"""

import triton
import triton.language as tl

from made_fast.backends.triton.columns import (
    PAIR_CHUNK,
    PAIR_COLUMNS,
    PAIR_TILE,
    TILE_COLUMNS,
    TILE_END_CHUNK,
    TILE_END_FULL,
    TILE_FIRST_CHUNK,
    TILE_FIRST_FULL,
    TILE_ROWS,
)
from made_fast.backends.triton.functions import apply_function

__all__ = ["matmul", "outer", "outer_sum"]


@triton.jit
def _rows_of(tile, rows, height, GATHER_ROWS: tl.constexpr, BN: tl.constexpr):
    """Sorted places (BN,) of a tile, the rows there, and which of them exist."""
    place = tile * BN + tl.arange(0, BN)
    exists = place < height
    row = tl.load(rows + place, mask=exists, other=0) if GATHER_ROWS else place
    return place, row, exists


@triton.jit
def _columns_of(chunk, columns, width, GATHER_COLUMNS: tl.constexpr, BK: tl.constexpr):
    """Of a chunk: its first column, the columns (BK,) from there, its places, and which of them exist."""
    place = chunk * BK + tl.arange(0, BK)
    if GATHER_COLUMNS:
        column = tl.load(columns + place)
        return 0, column, place, column >= 0
    else:
        # Kept apart, so that the addresses within a chunk are computed once for all chunks.
        return chunk * BK, tl.arange(0, BK), place, place < width


@triton.jit
def _kept(place, start, end, mask, offsets, inside, NESTED: tl.constexpr):
    """Which connections (BN, BK) the mask keeps: by the places that a row reads, or by the mask's bytes."""
    if NESTED:
        return (place[None, :] >= start[:, None]) & (place[None, :] < end[:, None])
    else:
        return tl.load(mask + offsets, mask=inside, other=0) != 0


@triton.jit
def _factors(
    chunk,
    x,
    weight,
    mask,
    columns,
    width,
    column_step,
    x_offset,
    in_batch,
    w_offset,
    row_exists,
    start,
    end,
    PARTIAL: tl.constexpr,
    NESTED: tl.constexpr,
    GATHER_COLUMNS: tl.constexpr,
    BK: tl.constexpr,
):
    """x (BB, BK) and the masked weight (BN, BK) of one chunk; w_offset and x_offset are those of their rows."""
    first, column, place, exists = _columns_of(chunk, columns, width, GATHER_COLUMNS, BK)
    x_inside, w_inside = in_batch[:, None], row_exists[:, None]
    if PARTIAL:
        x_inside, w_inside = x_inside & exists[None, :], w_inside & exists[None, :]
    w_offsets = w_offset[:, None] + column.to(tl.int64)[None, :] * column_step
    value = tl.load(x + first + x_offset[:, None] + column[None, :], mask=x_inside, other=0.0)
    w = tl.load(weight + first * column_step + w_offsets, mask=w_inside, other=0.0)
    if PARTIAL:
        # A choice, not a product: what is not kept may be nan. Loading all of it keeps the loads wide.
        w = tl.where(_kept(place, start, end, mask, first * column_step + w_offsets, w_inside, NESTED), w, 0.0)
    return value, w


@triton.jit
def _add_product(total, value, w, PRECISION: tl.constexpr, ROWS_FIRST: tl.constexpr):
    """The sums with one chunk more: (BN, BB) if the rows of the mask come first, else (BB, BN)."""
    if ROWS_FIRST:
        return tl.dot(w, tl.trans(value), total, input_precision=PRECISION)
    else:
        return tl.dot(value, tl.trans(w), total, input_precision=PRECISION)


@triton.jit(do_not_specialize=["batch", "tile_count", "batch_tiles", "panel"])
def matmul(
    x,
    weight,
    bias,
    out,
    mask,
    tiles,
    rows,
    columns,
    starts,
    ends,
    batch,
    height,
    width,
    tile_count,
    batch_tiles,
    panel,
    FUNCTION: tl.constexpr,
    PRECISION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    COLUMNS_FIRST: tl.constexpr,
    ALIGN: tl.constexpr,
    NESTED: tl.constexpr,
    GATHER_ROWS: tl.constexpr,
    GATHER_COLUMNS: tl.constexpr,
    BB: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """out (B, rows) = function(x (B, columns) times the kept weights + bias), one tile of BB x BN.

    ``tiles``: (tile_count, 5) by ``TileColumn``. The longest comes first for each panel of the batch, and x does not leave
    the cache within a panel. COLUMNS_FIRST: the weight is (columns, rows). ALIGN divides height and width.
    """
    ROWS_FIRST: tl.constexpr = BB < 64 and BN >= 64  # tensor cores want 64 on the left
    height, width = tl.multiple_of(height, ALIGN), tl.multiple_of(width, ALIGN)
    of_panel = panel * tile_count
    first_batch_tile = tl.program_id(0) // of_panel * panel
    here = tl.minimum(batch_tiles - first_batch_tile, panel)
    number = tl.program_id(0) % of_panel
    tiles += number // here * TILE_COLUMNS
    b = (first_batch_tile + number % here).to(tl.int64) * BB + tl.arange(0, BB)
    in_batch = b < batch
    row_place, row, row_exists = _rows_of(tl.load(tiles + TILE_ROWS), rows, height, GATHER_ROWS, BN)
    chunk_from, full_from = tl.load(tiles + TILE_FIRST_CHUNK), tl.load(tiles + TILE_FIRST_FULL)
    full_to, chunk_to = tl.load(tiles + TILE_END_FULL), tl.load(tiles + TILE_END_CHUNK)
    start = tl.load(starts + row_place, mask=row_exists, other=0) if NESTED else 0
    end = tl.load(ends + row_place, mask=row_exists, other=0) if NESTED else 0
    x_offset = b * width
    column_step = tl.cast(height, tl.int64) if COLUMNS_FIRST else 1
    w_offset = row.to(tl.int64) * (1 if COLUMNS_FIRST else width)
    total = tl.zeros((BN, BB) if ROWS_FIRST else (BB, BN), dtype=tl.float32)
    for chunk in range(full_from, full_to):
        value, w = _factors(
            chunk, x, weight, mask, columns, width, column_step, x_offset, in_batch, w_offset, row_exists, start, end,
            False, NESTED, GATHER_COLUMNS, BK,
        )  # fmt: skip
        total = _add_product(total, value, w, PRECISION, ROWS_FIRST)
    for number in range(0, full_from - chunk_from + chunk_to - full_to):
        chunk = chunk_from + number
        chunk = tl.where(chunk < full_from, chunk, chunk + (full_to - full_from))
        value, w = _factors(
            chunk, x, weight, mask, columns, width, column_step, x_offset, in_batch, w_offset, row_exists, start, end,
            True, NESTED, GATHER_COLUMNS, BK,
        )  # fmt: skip
        total = _add_product(total, value, w, PRECISION, ROWS_FIRST)
    if ROWS_FIRST:
        total = tl.trans(total)
    if HAS_BIAS:
        total += tl.load(bias + row, mask=row_exists, other=0.0).to(tl.float32)[None, :]
    total = apply_function(total, FUNCTION).to(out.dtype.element_ty)
    tl.store(out + (b * height)[:, None] + row[None, :], total, mask=in_batch[:, None] & row_exists[None, :])


@triton.jit
def _store_kept(
    total,
    out,
    mask,
    starts,
    ends,
    row_place,
    row,
    row_exists,
    place,
    column,
    column_exists,
    width,
    NESTED: tl.constexpr,
):
    """Stores sums where the mask keeps them, and zero beside."""
    inside = row_exists[:, None] & column_exists[None, :]
    offsets = (row.to(tl.int64) * width)[:, None] + column[None, :]
    start = tl.load(starts + row_place, mask=row_exists, other=0) if NESTED else 0
    end = tl.load(ends + row_place, mask=row_exists, other=0) if NESTED else 0
    total = tl.where(_kept(place, start, end, mask, offsets, inside, NESTED), total, 0.0)
    tl.store(out + offsets, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["batch", "part_batch", "tile_count"])
def outer(
    grad,
    x,
    out,
    parts,
    mask,
    tiles,
    rows,
    columns,
    starts,
    ends,
    batch,
    part_batch,
    height,
    width,
    tile_count,
    PRECISION: tl.constexpr,
    SPLIT: tl.constexpr,
    ALIGN: tl.constexpr,
    NESTED: tl.constexpr,
    GATHER_ROWS: tl.constexpr,
    GATHER_COLUMNS: tl.constexpr,
    BB: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """out (rows, columns) = grad (B, rows) transposed times x (B, columns) where kept, one tile of BN x BK.

    ``tiles``: (tile_count, 2) by ``PairColumn``. If SPLIT, the second axis of the grid goes over parts of the batch, each
    ``part_batch`` long, and their sums are left in ``parts`` (parts, tile_count, BN, BK).
    """
    height, width = tl.multiple_of(height, ALIGN), tl.multiple_of(width, ALIGN)
    number, part = tl.program_id(0), tl.program_id(1)
    row_place, row, row_exists = _rows_of(
        tl.load(tiles + number * PAIR_COLUMNS + PAIR_TILE), rows, height, GATHER_ROWS, BN
    )
    chunk = tl.load(tiles + number * PAIR_COLUMNS + PAIR_CHUNK)
    first, column, place, column_exists = _columns_of(chunk, columns, width, GATHER_COLUMNS, BK)
    b_from = part * part_batch
    b_to = tl.minimum(b_from + part_batch, batch)
    member = tl.arange(0, BB)
    grad_step, x_step = tl.cast(height, tl.int64), tl.cast(width, tl.int64)
    grad_offsets = (member * grad_step)[:, None] + row[None, :]
    x_offsets = (member * x_step)[:, None] + (first + column)[None, :]
    total = tl.zeros((BN, BK), dtype=tl.float32)
    for b in range(b_from, b_to, BB):
        in_batch = (b + member < b_to)[:, None]
        left = tl.load(grad + b * grad_step + grad_offsets, mask=in_batch & row_exists[None, :], other=0.0)
        right = tl.load(x + b * x_step + x_offsets, mask=in_batch & column_exists[None, :], other=0.0)
        total = tl.dot(tl.trans(left), right, total, input_precision=PRECISION)
    if SPLIT:
        inside = tl.arange(0, BN)[:, None] * BK + tl.arange(0, BK)[None, :]
        tl.store(parts + (part * tile_count + number) * (BN * BK) + inside, total)
    else:
        _store_kept(
            total, out, mask, starts, ends, row_place, row, row_exists, place, first + column, column_exists, width,
            NESTED,
        )  # fmt: skip


@triton.jit(do_not_specialize=["part_count", "tile_count"])
def outer_sum(
    parts,
    out,
    mask,
    tiles,
    rows,
    columns,
    starts,
    ends,
    part_count,
    height,
    width,
    tile_count,
    ALIGN: tl.constexpr,
    NESTED: tl.constexpr,
    GATHER_ROWS: tl.constexpr,
    GATHER_COLUMNS: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
):
    """What ``outer`` left in parts, added in the order of the batch: BR of the BN rows of one tile."""
    height, width = tl.multiple_of(height, ALIGN), tl.multiple_of(width, ALIGN)
    number, piece = tl.program_id(0), tl.program_id(1)
    tile = tl.load(tiles + number * PAIR_COLUMNS + PAIR_TILE) * (BN // BR) + piece
    row_place, row, row_exists = _rows_of(tile, rows, height, GATHER_ROWS, BR)
    chunk = tl.load(tiles + number * PAIR_COLUMNS + PAIR_CHUNK)
    first, column, place, column_exists = _columns_of(chunk, columns, width, GATHER_COLUMNS, BK)
    inside = (piece * BR + tl.arange(0, BR))[:, None] * BK + tl.arange(0, BK)[None, :]
    total = tl.zeros((BR, BK), dtype=tl.float32)
    for part in range(0, part_count):
        total += tl.load(parts + (part * tile_count + number) * (BN * BK) + inside)
    _store_kept(
        total, out, mask, starts, ends, row_place, row, row_exists, place, first + column, column_exists, width, NESTED
    )
