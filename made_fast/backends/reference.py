"""The reference backend in plain torch: the definition of every operation, on any device and dtype.

Newcomers start here. Every other backend has the same function names and signatures and is held against this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from made_fast import noise
from made_fast.outputs import Output
from made_fast.program import FUNCTIONS, Affine, Program
from made_fast.schedule import AffinePlan, Kind, Schedule

__all__ = [
    "Packed",
    "draw",
    "masked_linear",
    "masked_linear_grad_input",
    "masked_linear_grad_weight",
    "naive_draw",
    "pack",
    "whole_mask",
]


def whole_mask(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask as bool (..., out, in), from itself or from degrees (..., out + in)."""
    if mask.dtype == torch.bool:
        return mask
    rows, columns = mask.split(list(shape), dim=-1)
    whole: Tensor = rows[..., :, None] >= columns[..., None, :]
    return whole


def masked_linear(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None = None, activation: str = "identity"
) -> Tensor:
    """``function(x @ (weight * mask).T + bias)``, where what lies under the mask may even be nan.

    Args:
        x: (..., in).
        weight: (out, in), the dtype of ``x``.
        mask: (out, in) bool; other backends take its ``MaskPlan`` and rows (B, in), contiguous.
        bias: (out,) or None.
        activation: name of a function.

    Returns:
        (..., out).
    """
    # A product would let nan and inf through the mask.
    return FUNCTIONS[activation](F.linear(x, torch.where(mask, weight, 0), bias))


def masked_linear_grad_input(grad: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """``grad @ (weight * mask)``: (B, in) from grad (B, out)."""
    return grad @ torch.where(mask, weight, 0)


def masked_linear_grad_weight(grad: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    """``(grad.T @ x) * mask``: (out, in) from grad (B, out) and x (B, in)."""
    return torch.where(mask, grad.T @ x, 0)


@dataclass(frozen=True)
class _SourceBlock:
    """The part of an affine operation that reads one value: rows in slot order, columns in slot order."""

    weight: Tensor  # (n, m)
    first_slot: int
    known: list[int]  # row -> how many leading columns are known at its level


@dataclass(frozen=True)
class Packed:
    """A program made ready for ``draw``."""

    program: Program
    schedule: Schedule
    output: Output
    blocks: list[list[_SourceBlock]]  # for each affine operation
    biases: list[Tensor]


def pack(program: Program, schedule: Schedule, output: Output) -> Packed:
    """Sorts weights so that what may be read at any level is a leading block."""
    blocks, biases = [], []
    for op, plan in zip(program.affines, schedule.affines, strict=True):
        rows = torch.from_numpy(plan.rows).to(program.device)
        blocks.append(_source_blocks(op, plan, rows))
        zeros = op.terms[0].weight.new_zeros(op.terms[0].weight.shape[0])
        biases.append((zeros if op.bias is None else op.bias)[rows])
    return Packed(program, schedule, output, blocks, biases)


def _source_blocks(op: Affine, plan: AffinePlan, rows: Tensor) -> list[_SourceBlock]:
    columns, slots = torch.from_numpy(plan.columns), torch.from_numpy(plan.column_slots)
    ready = torch.from_numpy(plan.ready)
    found, offset = [], 0
    for term in op.terms:
        width = term.weight.shape[1]
        mine = ((columns >= offset) & (columns < offset + width)).nonzero()[:, 0]  # positions in time
        if len(mine):
            column = (columns[mine] - offset).to(term.weight.device)
            weight = term.weight.index_select(0, rows).index_select(1, column)
            # row i knows the first ready[i] columns in time: how many of those are mine
            known = torch.searchsorted(mine, ready).tolist()
            found.append(_SourceBlock(weight, int(slots[mine[0]]), known))
        offset += width
    return found


@torch.no_grad()
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
) -> None:
    """Draws rows, evaluating every unit once, level by level.

    Args:
        packed: from ``pack``.
        out: (B, D), written.
        log_prob: (B,), written, or None.
        seed: of the noise.
        first_row: noise row of the request's row 0.
        row_offset: which row of the request ``out[0]`` is.
        rows: (B,) int64, contiguous, on the device of ``out``: the noise row of each row of ``out``, instead of
            ``first_row + row_offset + i``. Or None.
        context: (N, C) or None; row ``i`` of the request has context ``i // rows_per_context``.
        rows_per_context: rows that share a context.

    Raises:
        FloatingPointError: the parameters of a drawn variable were nan.
    """
    with torch.autocast(out.device.type, enabled=False):
        _draw(packed, out, log_prob, seed, first_row, row_offset, rows, context, rows_per_context)


def _draw(
    packed: Packed,
    out: Tensor,
    log_prob: Tensor | None,
    seed: int,
    first_row: int,
    row_offset: int,
    rows: Tensor | None,
    context: Tensor | None,
    rows_per_context: int,
) -> None:
    schedule, batch = packed.schedule, out.shape[0]
    table = torch.full((schedule.num_slots, batch), torch.nan, dtype=packed.program.dtype, device=out.device)
    row = torch.arange(row_offset, row_offset + batch, device=out.device)
    noise_row = first_row + row if rows is None else rows
    if context is not None and schedule.context_features:
        read = torch.from_numpy(schedule.context_units).to(out.device)
        slot = schedule.context_slot
        table[slot : slot + len(read)] = context[row // rows_per_context].T[read].to(table.dtype)
    total = torch.zeros(batch, dtype=torch.float64, device=out.device)
    functions = list(FUNCTIONS.values())
    bad = torch.zeros((), dtype=torch.bool, device=out.device)
    for kind, first, count, left, right, function in schedule.steps.tolist():
        last = first + count
        if kind == Kind.AFFINE:
            table[first:last] = functions[function](_affine(packed, left, first, count, table))
        elif kind == Kind.UNARY:
            table[first:last] = functions[function](table[left : left + count])
        elif kind == Kind.ADD:
            table[first:last] = table[left : left + count] + table[right : right + count]
        elif kind == Kind.MULTIPLY:
            table[first:last] = table[left : left + count] * table[right : right + count]
        else:
            params = table[left : left + _num_params(packed, first, count)].T  # (B, count * K)
            bad |= params.isnan().any()
            step = torch.from_numpy(schedule.noise_steps[first - schedule.x_slot :][:count]).to(out.device)
            values = packed.output.draw(params, _uniforms(packed.output, seed, noise_row, step))
            if log_prob is not None:
                total += packed.output.log_prob(params, values).sum(1, dtype=torch.float64)
            table[first:last] = values.T  # perhaps over the parameters
    if bool(bad):
        raise FloatingPointError("parameters became nan while drawing: weights or context are too large for this dtype")
    x = table[schedule.x_slot : schedule.x_slot + schedule.features].T
    out[:, torch.from_numpy(schedule.variables).to(out.device)] = x.to(out.dtype)
    if log_prob is not None:
        log_prob.copy_(total)


def _num_params(packed: Packed, first: int, count: int) -> int:
    variables = packed.schedule.variables[first - packed.schedule.x_slot :][:count]
    return sum(packed.program.params_per_variable[variable] for variable in variables)


def _affine(packed: Packed, index: int, first: int, count: int, table: Tensor) -> Tensor:
    start = first - packed.schedule.affines[index].first_slot
    total = packed.biases[index][start : start + count, None].expand(count, table.shape[1])
    for block in packed.blocks[index]:
        known = block.known[start]
        total = total + block.weight[start : start + count, :known] @ table[block.first_slot : block.first_slot + known]
    return total


def _uniforms(output: Output, seed: int, row: Tensor, step: Tensor) -> Tensor:
    draw_index = torch.arange(output.num_draws, device=row.device)
    return noise.uniform(seed, row[:, None, None], step[None, :, None], draw_index)  # (B, n, num_draws)


def naive_draw(
    forward: Callable[[Tensor], Tensor],
    order: Tensor,
    params_per_variable: tuple[int, ...],
    output: Output,
    rows: Tensor,
    *,
    seed: int,
    dtype: torch.dtype,
) -> Tensor:
    """The definition of sampling: D passes of the whole network, one variable drawn after each.

    Args:
        forward: maps x (B, D) to flat, variable-major parameters (B, P).
        order: (D,).
        params_per_variable: K_d for each variable.
        output: the output distribution.
        rows: (B,) int64 noise rows.
        seed: of the noise.
        dtype: of x.

    Returns:
        (B, D).
    """
    x = torch.zeros(len(rows), len(order), dtype=dtype, device=rows.device)
    starts = [0]
    for size in params_per_variable:
        starts.append(starts[-1] + size)
    for step, variable in enumerate(order.tolist()):
        params = forward(x)[:, starts[variable] : starts[variable + 1]]
        uniforms = _uniforms(output, seed, rows, torch.tensor([step], device=rows.device))
        x[:, variable] = output.draw(params, uniforms)[:, 0].to(dtype)
    return x
