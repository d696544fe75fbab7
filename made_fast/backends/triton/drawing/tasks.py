"""Tasks: what the units of an outer block sum up that is known before, by ``tl.dot`` (see plan.py)."""

import triton
import triton.language as tl

from made_fast.backends.triton.columns import TASK_COLUMNS, TASK_END_CHUNK, TASK_FIRST_CHUNK

__all__ = ["bulk_kernel", "multiply", "run_task"]


@triton.jit
def multiply(total, first, last, chunks, weights, table, ROWS: tl.constexpr, CACHE: tl.constexpr, SIZES: tl.constexpr):
    """total (R, ROWS) plus table (R, slots of the chunks) times weights, which have ROWS rows."""
    SLOTS: tl.constexpr = SIZES[0]
    K: tl.constexpr = SIZES[4]
    r, n, k = tl.arange(0, SIZES[2]), tl.arange(0, ROWS), tl.arange(0, K)
    weight_at = weights + first.to(tl.int64) * (ROWS * K) + n[None, :] * K + k[:, None]  # (K, ROWS)
    for chunk in range(first, last):
        slot = tl.multiple_of(tl.load(chunks + chunk), 4)
        # (R, K); slots beyond what is known have weight 0
        value = tl.load(table + r[:, None] * SLOTS + (slot + k)[None, :], cache_modifier=CACHE)
        weight = tl.load(weight_at)
        weight_at += ROWS * K
        total = tl.dot(value, weight, total, input_precision=SIZES[6])
    return total


@triton.jit
def run_task(task, net, table, sums, SIZES: tl.constexpr):
    """sums (R, columns of the task) = bias + table (R, slots of its chunks) times weights."""
    SUMS: tl.constexpr = SIZES[1]
    R: tl.constexpr = SIZES[2]
    T: tl.constexpr = SIZES[5]
    tasks, columns, bias, chunks, weights = net
    r, t = tl.arange(0, R), tl.arange(0, T)
    tasks += task * TASK_COLUMNS
    first, last = tl.load(tasks + TASK_FIRST_CHUNK), tl.load(tasks + TASK_END_CHUNK)
    column = tl.load(columns + task * T + t)
    total = tl.load(bias + task * T + t)[None, :] + tl.zeros((R, 1), dtype=tl.float32)
    total = multiply(total, first, last, chunks, weights, table, T, "", SIZES)
    tl.store(sums + r[:, None] * SUMS + column[None, :], total, mask=(column >= 0)[None, :])


@triton.jit(do_not_specialize=["first_task"])
def bulk_kernel(
    first_task,
    tasks,
    columns,
    bias,
    task_chunks,
    task_weights,
    tables,
    all_sums,
    SLOTS: tl.constexpr,
    SUMS: tl.constexpr,
    R: tl.constexpr,
    U: tl.constexpr,
    K: tl.constexpr,
    T: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The tasks of one outer block for all tiles at once: program (i, j) has task ``first_task + i`` of tile j."""
    SIZES: tl.constexpr = (SLOTS, SUMS, R, U, K, T, PRECISION)
    net = (tasks, columns, bias, task_chunks, task_weights)
    tile = tl.program_id(1).to(tl.int64)
    run_task(first_task + tl.program_id(0), net, tables + tile * (R * SLOTS), all_sums + tile * (R * SUMS), SIZES)
