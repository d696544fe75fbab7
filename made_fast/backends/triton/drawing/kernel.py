"""The sampling kernel: tasks by ``tl.dot``, events on a tile in registers, draws between blocks (see plan.py).

One program has R rows at a time. Its share of the scratch: a table (R, slots) of finished values, the sums (R, columns) of
the current outer block, and the thresholds (steps, R) of the noise. What one thread stores another one loads, so there is a
barrier between.
"""

import triton
import triton.language as tl

from made_fast.backends.triton.codes import ALLOWED, GIVEN
from made_fast.backends.triton.columns import (
    BLOCK_COLUMNS,
    BLOCK_END_CHUNK,
    BLOCK_END_DRAW,
    BLOCK_END_EVENT,
    BLOCK_END_TASK,
    BLOCK_FIRST_CHUNK,
    BLOCK_FIRST_DRAW,
    BLOCK_FIRST_EVENT,
    BLOCK_FIRST_SUM,
    BLOCK_FIRST_TASK,
    NOISE_ROW,
    NUM_ROWS,
    ROW_OFFSET,
    ROWS_PER_CONDITION,
    SEED,
    VECTORS,
)
from made_fast.backends.triton.conditionals.draw import draw_variables
from made_fast.backends.triton.conditionals.weights import logit
from made_fast.backends.triton.drawing.events import run_events, touched_lines
from made_fast.backends.triton.drawing.tasks import multiply, run_task
from made_fast.backends.triton.noise import philox_words, uniform_of

__all__ = ["draw_kernel"]

NOISE_GROUPS = tl.constexpr(16)  # of four steps each, at once
COLUMNS = tl.constexpr(32)  # of the table, when it is filled or read out


@triton.jit
def _clear(table, SIZES: tl.constexpr):
    """Zeros: chunks also read slots that are not known yet, with weight 0."""
    SLOTS: tl.constexpr = SIZES[0]
    R: tl.constexpr = SIZES[2]
    for first in range(0, SLOTS, COLUMNS):
        column = (first + tl.arange(0, COLUMNS))[None, :]
        tl.store(table + tl.arange(0, R)[:, None] * SLOTS + column, tl.zeros((R, COLUMNS), dtype=tl.float32))


@triton.jit
def _fill_context(table, row, valid, context, units, count, first_slot, width, SIZES: tl.constexpr):
    """Copies the context features that are read; ``row`` is that of the context, which has ``width`` features."""
    SLOTS: tl.constexpr = SIZES[0]
    r = tl.arange(0, SIZES[2])
    for first in range(0, count, COLUMNS):
        i = first + tl.arange(0, COLUMNS)
        unit = tl.load(units + i, mask=i < count, other=0)
        inside = valid[:, None] & (i < count)[None, :]
        value = tl.load(context + row[:, None] * width + unit[None, :], mask=inside, other=0.0)
        tl.store(table + r[:, None] * SLOTS + (first_slot + i)[None, :], value, mask=(i < count)[None, :])


@triton.jit
def _fill_limits(limits, seed, noise_row, features, SIZES: tl.constexpr):
    """For each step what a logit must exceed for a 1: logit(u), which is minus infinity for u = 0."""
    R: tl.constexpr = SIZES[2]
    for first in range(0, tl.cdiv(features, 4), NOISE_GROUPS):
        group = (first + tl.arange(0, NOISE_GROUPS))[:, None] + tl.zeros((1, R), dtype=tl.int32)
        w0, w1, w2, w3 = philox_words(seed, group, tl.zeros_like(group), noise_row[None, :] + tl.zeros_like(group))
        target = limits + group * (4 * R) + tl.arange(0, R)[None, :]
        tl.store(target, _limit(w0))
        tl.store(target + R, _limit(w1))
        tl.store(target + 2 * R, _limit(w2))
        tl.store(target + 3 * R, _limit(w3))


@triton.jit
def _limit(word):
    return logit(uniform_of(word))


@triton.jit
def _run_block(
    block,
    slots,
    state,
    net,
    block_net,
    steps,
    place,
    drawing,
    SIZES: tl.constexpr,
    FUNCTIONS_USED: tl.constexpr,
    OUTPUT: tl.constexpr,
    LEAST: tl.constexpr,
    OUTER: tl.constexpr,
):
    """Runs the block whose row is ``block``: its outer block's tasks if it begins one, its product, its events, its draws."""
    SLOTS: tl.constexpr = SIZES[0]
    SUMS: tl.constexpr = SIZES[1]
    U: tl.constexpr = SIZES[3]
    table, sums, limits, touched = place
    nats, log_weight, bad = state
    chunks, weights = block_net
    r, u = tl.arange(0, SIZES[2]), tl.arange(0, U)
    first_chunk, last_chunk = tl.load(block + BLOCK_FIRST_CHUNK), tl.load(block + BLOCK_END_CHUNK)
    first_event, last_event = tl.load(block + BLOCK_FIRST_EVENT), tl.load(block + BLOCK_END_EVENT)
    base = tl.load(block + BLOCK_FIRST_SUM)
    tl.debug_barrier()
    of_vectors, of_limits = touched_lines(first_event, last_event, steps, limits, OUTPUT[0], SIZES)
    if OUTER:
        for task in range(tl.load(block + BLOCK_FIRST_TASK), tl.load(block + BLOCK_END_TASK)):
            run_task(task, net, table, sums, SIZES)
        tl.debug_barrier()
    slot = tl.load(slots + u)
    sums_at = sums + r[:, None] * SUMS + (tl.multiple_of(base, U) + u)[None, :]
    if first_chunk < last_chunk:
        # Through memory, since the layout of a product would make the events exchange values between warps. What it reads
        # is read by the other blocks of the outer block too: it may stay in the nearest cache.
        total = multiply(tl.load(sums_at), first_chunk, last_chunk, chunks, weights, table, U, ".ca", SIZES)
        tl.debug_barrier()  # nobody still reads what is overwritten
        tl.store(sums_at, total)
        tl.debug_barrier()
    tile = tl.where((slot > -2)[None, :], tl.load(sums_at), 0.0)  # where there is no unit nothing was written
    tile, nats, bad = run_events(
        first_event, last_event, tile, nats, bad, steps, limits, SIZES, FUNCTIONS_USED, OUTPUT, LEAST
    )
    tl.store(table + r[:, None] * SLOTS + slot[None, :], tile, mask=(slot >= 0)[None, :])
    # Stored so that the compiler keeps the loads; nobody reads it.
    tl.store(touched + tl.arange(0, VECTORS * U), of_vectors + of_limits)
    if OUTPUT[0] != 0:
        first, last = tl.load(block + BLOCK_FIRST_DRAW), tl.load(block + BLOCK_END_DRAW)
        if first < last:
            tl.debug_barrier()
            lists, request, out, features = drawing
            target = (table, out, features)
            nats, log_weight, bad = draw_variables(
                first, last, lists, request, target, (nats, log_weight, bad), SIZES, OUTPUT
            )
    return nats, log_weight, bad


@triton.jit
def _end(table, x_slot, variables, row, valid, out, features, SIZES: tl.constexpr):
    """Writes the variables to their places in the samples."""
    SLOTS: tl.constexpr = SIZES[0]
    r = tl.arange(0, SIZES[2])
    for first in range(0, features, COLUMNS):
        i = first + tl.arange(0, COLUMNS)
        variable = tl.load(variables + i, mask=i < features, other=0)
        inside = valid[:, None] & (i < features)[None, :]
        value = tl.load(table + r[:, None] * SLOTS + (x_slot + i)[None, :], mask=inside, other=0.0)
        tl.store(out + row[:, None] * features + variable[None, :], value, mask=inside)


@triton.jit
def _store(at, value, mask, WANTED: tl.constexpr):
    if WANTED:
        tl.store(at, value, mask=mask)


@triton.jit
def _leave(samples, results, row, valid, nats, total, SIZES: tl.constexpr, OUTPUT: tl.constexpr, END: tl.constexpr):
    """Writes what a tile has come to: results at the end of the draw, else sums for the launch that follows."""
    table, x_slot, variables, out, features = samples
    log_prob, log_weight, kept, kept_weight = results
    CONDITIONS: tl.constexpr = (GIVEN | ALLOWED) & OUTPUT[2]
    if END:
        tl.debug_barrier()
        if OUTPUT[0] == 0:
            _end(table, x_slot, variables, row, valid, out, features, SIZES)
        _store(log_prob + row, nats.to(tl.float32), valid, OUTPUT[3])
        _store(log_weight + row, total.to(tl.float32), valid, CONDITIONS)
        tl.debug_barrier()
    else:
        _store(kept, nats, True, True)
        _store(kept_weight, total, True, CONDITIONS)


@triton.jit(
    do_not_specialize=[
        *("first_block", "last_block", "num_context", "context_slot", "x_slot"),
        *("support_width", "greedy"),
    ]
)
def draw_kernel(
    request,
    first_block,
    last_block,
    blocks,
    slots,
    tasks,
    columns,
    bias,
    task_chunks,
    task_weights,
    chunks,
    weights,
    events,
    vectors,
    variables,
    noise_rows,
    context,
    context_units,
    num_context,
    context_slot,
    x_slot,
    features,
    context_features,
    tables,
    all_sums,
    all_limits,
    all_nats,
    all_touched,
    flags,
    out,
    log_prob,
    draws,
    draw_numbers,
    embeddings,
    given,
    observed,
    support,
    bounds,
    constrained,
    support_width,
    decoding,
    greedy,
    all_weights,
    log_weight,
    SLOTS: tl.constexpr,
    SUMS: tl.constexpr,
    STEPS: tl.constexpr,
    R: tl.constexpr,
    U: tl.constexpr,
    K: tl.constexpr,
    T: tl.constexpr,
    PRECISION: tl.constexpr,
    FUNCTIONS_USED: tl.constexpr,
    CODES: tl.constexpr,
    LEAST: tl.constexpr,
    WIDTH: tl.constexpr,
    FEATURES: tl.constexpr,
    OWN: tl.constexpr,
    LOG_PROB: tl.constexpr,
    NAMED_ROWS: tl.constexpr,
    BEGIN: tl.constexpr,
    END: tl.constexpr,
    OUTER: tl.constexpr,
):
    """Runs blocks [first_block, last_block) for every tile of R rows that falls to this program.

    With BEGIN, END and OUTER a launch over all blocks draws everything. Without OUTER the tasks of outer blocks were done by
    ``bulk_kernel`` and each program has one tile; BEGIN and END mark the first and the last of such launches. Where CODES is
    0, events draw variables whose least value is LEAST; else they are drawn between blocks, see conditionals/draw.py.
    """
    SIZES: tl.constexpr = (SLOTS, SUMS, R, U, K, T, PRECISION)
    OUTPUT: tl.constexpr = (CODES, WIDTH, FEATURES, LOG_PROB, OWN, NAMED_ROWS)
    CONDITIONS: tl.constexpr = (GIVEN | ALLOWED) & FEATURES
    net, block_net = (tasks, columns, bias, task_chunks, task_weights), (chunks, weights)
    steps, lists = (events, vectors), (draws, draw_numbers, embeddings)
    conditions, how = (given, observed, support, bounds, constrained, support_width), (decoding, greedy)
    program, r = tl.program_id(0).to(tl.int64), tl.arange(0, R)
    table, limits = tables + program * (R * SLOTS), all_limits + program * (STEPS * R)
    place = (table, all_sums + program * (R * SUMS), limits, all_touched + program * (VECTORS * U))
    kept, kept_weight = all_nats + program * R + r, all_weights + program * R + r
    samples, results = (table, x_slot, variables, out, features), (log_prob, log_weight, kept, kept_weight)
    seed, first_row = tl.load(request + SEED), tl.load(request + NOISE_ROW)
    row_offset, rows_per_context = tl.load(request + ROW_OFFSET), tl.load(request + ROWS_PER_CONDITION)
    num_rows, any_bad = tl.load(request + NUM_ROWS), program.to(tl.int32) * 0
    if BEGIN:
        _clear(table, SIZES)
    else:
        any_bad = tl.load(flags + program)
    for number in range(tl.program_id(0), tl.cdiv(num_rows, R).to(tl.int32), tl.num_programs(0)):
        row = (tl.zeros((R,), dtype=tl.int64) + number) * R + r
        valid = row < num_rows
        bad, nats, total = tl.zeros((R,), tl.int32), tl.zeros((R,), tl.float64), tl.zeros((R,), tl.float64)
        now = (number, num_rows, seed, first_row, noise_rows, row_offset, rows_per_context, conditions, how)
        if BEGIN:
            noise_row = tl.load(noise_rows + row, mask=valid, other=0) if NAMED_ROWS else first_row + row
            of_context = (row_offset + row) // rows_per_context
            tl.debug_barrier()
            _fill_context(
                table, of_context, valid, context, context_units, num_context, context_slot, context_features, SIZES
            )
            if CODES == 0:
                _fill_limits(limits, seed, noise_row, features, SIZES)
        else:
            nats = tl.load(kept)
            if CONDITIONS:
                total = tl.load(kept_weight)
        for block in range(first_block, last_block):
            nats, total, bad = _run_block(
                blocks + block * BLOCK_COLUMNS,
                slots + block * U,
                (nats, total, bad),
                net,
                block_net,
                steps,
                place,
                (lists, now, out, features),
                SIZES,
                FUNCTIONS_USED,
                OUTPUT,
                LEAST,
                OUTER,
            )
        _leave(samples, results, row, valid, nats, total, SIZES, OUTPUT, END)
        any_bad = tl.maximum(any_bad, tl.max(tl.where(valid, bad, 0), axis=0))
    tl.store(flags + program, any_bad)
