"""The numba backend: the path for few rows, compiled at first use, for machines where nothing was compiled at install.

Right-looking substitution, one row at a time: as soon as a value is known, its column of weights is added to all later
units, and a value of zero is skipped. Threads split the rows. The same schedule and noise as everywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from made_fast.conditionals import Decoding
from made_fast.conditioning import Conditions
from made_fast.mask_plan import GROUP_ROWS, MaskPlan, MaskSide
from made_fast.outputs import Output
from made_fast.program import FUNCTIONS, Program
from made_fast.schedule import AffinePlan, Kind, Schedule

__all__ = [
    "Packed",
    "draw",
    "masked_linear",
    "masked_linear_grad_input",
    "masked_linear_grad_weight",
    "pack",
]

BLOCK = 128  # terms summed before they are added to the sum: a long sum rounds less by blocks
AFFINE, UNARY, ADD, MULTIPLY, DRAW = map(int, Kind)
CODES = {name: code for code, name in enumerate(FUNCTIONS)}
RELU, LEAKY_RELU, ELU, GELU, SILU, SOFTPLUS, TANH, SIGMOID = (CODES[name] for name in list(FUNCTIONS)[1:])

# Contraction is the only freedom given to the compiler: sums keep their order, so rows do not depend on their neighbours.
_jit = numba.njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")


@dataclass(frozen=True)
class Packed:
    """A program made ready for ``draw``. ``columns`` holds (first slot, count, offset into ``weights``) by source slot."""

    schedule: Schedule
    bias: NDArray[np.floating]  # (num_slots,): what each slot starts from
    column_start: NDArray[np.int64]  # (num_slots + 1,)
    columns: NDArray[np.int64]  # (columns, 3)
    weights: NDArray[np.floating]


def pack(program: Program, schedule: Schedule, output: Output) -> Packed:
    """Stores the weights column by column, each from the first row that reads it to the last."""
    dtype = np.float64 if program.dtype == torch.float64 else np.float32
    bias: NDArray[np.floating] = np.full(schedule.num_slots, np.nan).astype(dtype)
    found: list[tuple[int, int, int]] = []  # source slot, first slot, count
    parts: list[NDArray[np.floating]] = []
    for op, plan in zip(program.affines, schedule.affines, strict=True):
        size = len(plan.rows)
        bias[plan.first_slot : plan.first_slot + size] = 0 if op.bias is None else op.bias.numpy()[plan.rows]
        weight = torch.cat([term.weight for term in op.terms], dim=1).numpy()
        for column, (first, last) in enumerate(_row_ranges(plan)):
            if first < last:
                found.append((int(plan.column_slots[column]), plan.first_slot + first, last - first))
                parts.append(weight[plan.rows[first:last], plan.columns[column]])
    by_slot = sorted(range(len(found)), key=lambda index: found[index][0])
    counts = np.asarray([found[index][2] for index in by_slot], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    columns = np.asarray(
        [(found[index][1], found[index][2], offset) for index, offset in zip(by_slot, offsets, strict=False)],
        dtype=np.int64,
    ).reshape(-1, 3)
    slots = np.asarray([found[index][0] for index in by_slot], dtype=np.int64)
    column_start = np.searchsorted(slots, np.arange(schedule.num_slots + 1))
    weights = np.concatenate([np.zeros(0, dtype=dtype), *(parts[index] for index in by_slot)])
    return Packed(schedule, bias, column_start, columns, weights)


def _row_ranges(plan: AffinePlan) -> list[tuple[int, int]]:
    """For each column the rows [first, last) that read it."""
    leading = np.arange(len(plan.columns))[None, :] < plan.needed[:, None]
    mask = leading if plan.mask is None else plan.mask
    if not mask.size:
        return [(0, 0)] * len(plan.columns)
    first = mask.argmax(0)
    last = np.where(mask.any(0), len(mask) - mask[::-1].argmax(0), 0)
    return list(zip(first.tolist(), last.tolist(), strict=True))


def draw(
    packed: Packed,
    out: Tensor,
    log_prob: Tensor | None,
    *,
    seed: int,
    first_row: int,
    row_offset: int = 0,
    rows: Tensor | None = None,
    context: Tensor | None = None,
    rows_per_context: int = 1,
    conditions: Conditions | None = None,
    decoding: Decoding | None = None,
    log_weight: Tensor | None = None,
) -> None:
    """Draws rows; see ``reference.draw``. The interpreter lock is released meanwhile."""
    schedule, num_rows = packed.schedule, out.shape[0]
    steps = schedule.steps.copy()
    steps[steps[:, 0] == Kind.DRAW, 1] += schedule.x_slot
    own = packed.bias.dtype
    values = np.zeros((1, 0), dtype=own) if context is None else context.numpy()[:, schedule.context_units]
    nats = np.empty(0, dtype=own) if log_prob is None else log_prob.numpy()
    noise_rows = np.empty(0, dtype=np.int64) if rows is None else rows.numpy()
    arguments = (
        *(packed.bias, packed.column_start, packed.columns, packed.weights),
        *(steps, schedule.variables, schedule.noise_steps, schedule.param_slots),
        *(schedule.x_slot, schedule.context_slot),
        *(np.ascontiguousarray(values), rows_per_context, row_offset),
        *(np.uint64(seed & 0xFFFFFFFFFFFFFFFF), np.uint64(first_row + row_offset), noise_rows, out.numpy(), nats),
    )
    bad = _in_threads(_draw_rows, arguments, num_rows)
    if any(bad):
        raise FloatingPointError("parameters became nan while drawing: weights or context are too large for this dtype")


def _in_threads(function: Callable[..., object], arguments: tuple[object, ...], count: int) -> list[object]:
    """Calls ``function(*arguments, start, stop)`` for as many parts of ``range(count)`` as there are threads."""
    threads = max(1, min(torch.get_num_threads(), count))
    if threads == 1:
        return [function(*arguments, 0, count)]
    bounds = [count * thread // threads for thread in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(function, *arguments, bounds[i], bounds[i + 1]) for i in range(threads)]
        return [future.result() for future in futures]


@_jit
def _function(code, x):  # type: ignore[no-untyped-def]
    one = x * 0 + 1
    if code == RELU:
        return max(x, x * 0)
    if code == LEAKY_RELU:
        return x if x > 0 else x * 0.01
    if code == ELU:
        return x if x > 0 else math.expm1(x)
    if code == GELU:
        return x * 0.5 * (1 + math.erf(x * 0.7071067811865476))
    if code == SILU:
        return x / (one + math.exp(-x))
    if code == SOFTPLUS:
        return max(x, x * 0) + math.log1p(math.exp(-abs(x)))
    if code == TANH:
        return math.tanh(x)
    if code == SIGMOID:
        return one / (one + math.exp(-x))
    return x


@_jit
def _philox(c0, c2, c3, seed, words):  # type: ignore[no-untyped-def]
    """Philox4x32-10 of the counter (c0, 0, c2, c3), all uint64 below 2**32; writes four words."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    c1 = np.uint64(0)
    k0, k1 = seed & low, seed >> shift
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ k0, p1 & low, (p0 >> shift) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    words[0], words[1], words[2], words[3] = c0, c1, c2, c3


@_jit
def _limits(row, seed, limits):  # type: ignore[no-untyped-def]
    """logit(u) of each noise step of a row: u < sigmoid(l) iff l > logit(u)."""
    words = np.empty(4, dtype=np.uint64)
    for block in range((len(limits) + 3) // 4):
        _philox(np.uint64(block), row & np.uint64(0xFFFFFFFF), row >> np.uint64(32), seed, words)
        for word in range(min(4, len(limits) - 4 * block)):
            u = float(words[word] >> np.uint64(8)) * 2.0**-24
            limits[4 * block + word] = math.log(u / (1.0 - u)) if u > 0 else -np.inf


@_jit
def _propagate(slot, values, column_start, columns, weights):  # type: ignore[no-untyped-def]
    value = values[slot]
    if value == 0:
        return
    for index in range(column_start[slot], column_start[slot + 1]):
        first, count, offset = columns[index, 0], columns[index, 1], columns[index, 2]
        sums, column = values[first : first + count], weights[offset : offset + count]
        for i in range(count):
            sums[i] += column[i] * value


@_jit
def _draw_rows(  # type: ignore[no-untyped-def]
    bias,
    column_start,
    columns,
    weights,
    steps,
    variables,
    noise_steps,
    param_slots,
    x_slot,
    context_slot,
    context,
    rows_per_context,
    row_offset,
    seed,
    first_row,
    noise_rows,
    out,
    log_prob,
    start,
    stop,
):
    """Draws rows [start, stop); returns whether a parameter was nan."""
    limits = np.empty(len(variables), dtype=np.float64)
    bad = False
    for row in range(start, stop):
        values = bias.copy()
        nats = 0.0
        _limits(np.uint64(noise_rows[row]) if len(noise_rows) else first_row + np.uint64(row), seed, limits)
        for i in range(context.shape[1]):
            values[context_slot + i] = context[(row_offset + row) // rows_per_context, i]
            _propagate(context_slot + i, values, column_start, columns, weights)
        for number in range(len(steps)):
            kind, first, count = steps[number, 0], steps[number, 1], steps[number, 2]
            left, right, function = steps[number, 3], steps[number, 4], steps[number, 5]
            for i in range(count):
                if kind == AFFINE:
                    values[first + i] = _function(function, values[first + i])
                elif kind == UNARY:
                    values[first + i] = _function(function, values[left + i])
                elif kind == ADD:
                    values[first + i] = values[left + i] + values[right + i]
                elif kind == MULTIPLY:
                    values[first + i] = values[left + i] * values[right + i]
                else:
                    index = first + i - x_slot
                    logit = values[param_slots[index]]
                    bad |= math.isnan(logit)
                    x = 1.0 if logit > limits[noise_steps[index]] else 0.0
                    values[first + i] = x
                    out[row, variables[index]] = x
                    if len(log_prob):
                        z = -logit if x > 0 else logit
                        nats -= max(z, 0.0) + math.log1p(math.exp(-abs(z)))
            # A parameter over which its variable will be drawn is read by that draw alone.
            drawn_over = kind != DRAW and x_slot <= first < x_slot + len(variables)
            for i in range(0 if drawn_over else count):
                _propagate(first + i, values, column_start, columns, weights)
        if len(log_prob):
            log_prob[row] = nats
    return bad


def masked_linear(
    x: Tensor, weight: Tensor, plan: MaskPlan, bias: Tensor | None = None, activation: str = "identity"
) -> Tensor:
    """See ``reference.masked_linear``; tensors contiguous, x (B, in)."""
    shift = weight.new_zeros(plan.shape[0]) if bias is None else bias
    return FUNCTIONS[activation](_matmul(plan.forward, x, weight, shift, False))


def masked_linear_grad_input(grad: Tensor, weight: Tensor, plan: MaskPlan) -> Tensor:
    """See ``reference.masked_linear_grad_input``; tensors contiguous, grad (B, out)."""
    return _matmul(plan.backward, grad, weight, weight.new_zeros(plan.shape[1]), True)


def masked_linear_grad_weight(grad: Tensor, x: Tensor, plan: MaskPlan) -> Tensor:
    """See ``reference.masked_linear_grad_weight``; tensors contiguous, grad (B, out), x (B, in)."""
    side, out = plan.forward, grad.new_zeros(plan.shape)
    arguments = (grad.numpy(), x.numpy(), *_arrays(side), out.numpy())
    _in_threads(_outer_groups, arguments, len(side.groups))
    return out


def _matmul(side: MaskSide, x: Tensor, weight: Tensor, bias: Tensor, transposed: bool) -> Tensor:
    sums = x.new_empty(len(side.rows), x.shape[0])
    inputs = np.ascontiguousarray(x.numpy().T)
    arguments = (inputs, weight.detach().numpy(), bias.numpy(), transposed, *_arrays(side), sums.numpy())
    _in_threads(_matmul_groups, arguments, len(side.groups))
    return sums.T.contiguous()


def _arrays(side: MaskSide) -> tuple[NDArray[np.generic], ...]:
    return side.rows, side.columns, side.groups, side.positions, side.bits


@_jit
def _matmul_groups(  # type: ignore[no-untyped-def]
    inputs, weight, bias, transposed, rows, columns, groups, positions, bits, sums, start, stop
):
    """sums (rows, B) = bias + kept weights times inputs (columns, B), for the groups [start, stop)."""
    for number in range(start, stop):
        at, bits_at, size, low, high = groups[number, :5]
        for unit in range(groups[number, 9]):
            row = rows[number * GROUP_ROWS + unit]
            total = sums[row]
            total[:] = bias[row]
            for begin in range(0, size, BLOCK):
                part = np.zeros_like(total)
                for j in range(begin, min(begin + BLOCK, size)):
                    if low <= j < high and not (bits[bits_at + j - low] >> unit) & 1:
                        continue
                    column = columns[positions[at + j]]
                    value = weight[column, row] if transposed else weight[row, column]
                    column_inputs = inputs[column]
                    for i in range(len(part)):
                        part[i] += value * column_inputs[i]
                total += part


@_jit
def _outer_groups(  # type: ignore[no-untyped-def]
    grad, x, rows, columns, groups, positions, bits, out, start, stop
):
    """out (rows, columns) = grad (B, rows) transposed times x (B, columns) where kept, for the groups [start, stop)."""
    for number in range(start, stop):
        at, bits_at, size, low, high = groups[number, :5]
        count = groups[number, 9]
        sums = np.zeros((count, size), dtype=out.dtype)
        values = np.empty(size, dtype=out.dtype)
        for begin in range(0, len(x), BLOCK):
            part = np.zeros_like(sums)
            for i in range(begin, min(begin + BLOCK, len(x))):
                for j in range(size):
                    values[j] = x[i, columns[positions[at + j]]]
                for unit in range(count):
                    factor, total = grad[i, rows[number * GROUP_ROWS + unit]], part[unit]
                    for j in range(size):
                        total[j] += factor * values[j]
            sums += part
        for unit in range(count):
            for j in range(size):
                if not low <= j < high or (bits[bits_at + j - low] >> unit) & 1:
                    out[rows[number * GROUP_ROWS + unit], columns[positions[at + j]]] = sums[unit, j]
