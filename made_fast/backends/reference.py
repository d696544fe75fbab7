"""The reference backend in plain torch: the definition of every operation, on any device and dtype.

Newcomers start here. Every other backend has the same function names and signatures and is held against this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from made_fast import noise
from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import Decoding
from made_fast.programs.functions import FUNCTION_NAMES, FUNCTIONS
from made_fast.programs.program import Affine, Program
from made_fast.programs.schedule import AffinePlan, Kind, Schedule, StepColumn
from made_fast.requests.conditions import Conditions
from made_fast.requests.piece import Piece
from made_fast.requests.sums import RunningSums

__all__ = [
    "TIMES_SLOWER",
    "Packed",
    "draw",
    "draw_variable",
    "evaluate",
    "masked_linear",
    "masked_linear_grad_input",
    "masked_linear_grad_weight",
    "naive_draw",
    "pack",
    "uniforms_of",
]

TIMES_SLOWER = 64  # than the fastest, about, so that Ctrl-C need not wait longer


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
    blocks: list[list[_SourceBlock]]  # for each affine operation
    biases: list[Tensor]


def pack(program: Program, schedule: Schedule) -> Packed:
    """Sorts weights so that what may be read at any level is a leading block."""
    blocks, biases = [], []
    for op, plan in zip(program.affines, schedule.affines, strict=True):
        rows = torch.from_numpy(plan.rows).to(program.device)
        blocks.append(_source_blocks(op, plan, rows))
        zeros = op.terms[0].weight.new_zeros(op.terms[0].weight.shape[0])
        biases.append((zeros if op.bias is None else op.bias)[rows])
    return Packed(program, schedule, blocks, biases)


def _source_blocks(op: Affine, plan: AffinePlan, rows: Tensor) -> list[_SourceBlock]:
    columns, slots = torch.from_numpy(plan.columns), torch.from_numpy(plan.column_slots)
    ready = torch.from_numpy(plan.ready)
    blocks, offset = [], 0
    for term in op.terms:
        width = term.weight.shape[1]
        mine = ((columns >= offset) & (columns < offset + width)).nonzero()[:, 0]  # positions in time
        if len(mine):
            column = (columns[mine] - offset).to(term.weight.device)
            weight = term.weight.index_select(0, rows).index_select(1, column)
            # row i knows the first ready[i] columns in time: how many of those belong to this term
            known = torch.searchsorted(mine, ready).tolist()
            blocks.append(_SourceBlock(weight, int(slots[mine[0]]), known))
        offset += width
    return blocks


@torch.no_grad()
def draw(packed: Packed, out: Tensor, piece: Piece) -> None:
    """Draws rows, evaluating every unit once, level by level.

    Args:
        packed: from ``pack``.
        out: (B, D), written.
        piece: which rows, and what else is written.

    Raises:
        FloatingPointError: the parameters of a drawn variable were nan.
    """
    with torch.autocast(out.device.type, enabled=False):
        row = torch.arange(piece.row_offset, piece.row_offset + out.shape[0], device=out.device)
        noise_row = piece.first_row + row if piece.rows is None else piece.rows
        condition = row // piece.rows_per_condition
        _Draw(packed, piece, noise_row, condition, _running(piece.conditions, condition)).run(out)


def _running(conditions: Conditions | None, condition: Tensor) -> RunningSums | None:
    return None if conditions is None or conditions.sums is None else RunningSums(conditions.sums, condition)


@dataclass(frozen=True)
class _Draw:
    """One call of ``draw``."""

    packed: Packed
    piece: Piece
    noise_row: Tensor  # (B,)
    condition: Tensor  # (B,)
    running: RunningSums | None

    def run(self, out: Tensor) -> None:
        packed, piece, schedule, batch = self.packed, self.piece, self.packed.schedule, out.shape[0]
        table = torch.full((schedule.num_slots, batch), torch.nan, dtype=packed.program.dtype, device=out.device)
        if piece.context is not None and schedule.context_features:
            read = torch.from_numpy(schedule.context_units).to(out.device)
            slot = schedule.context_slot
            table[slot : slot + len(read)] = piece.context[self.condition].T[read].to(table.dtype)
        sums = torch.zeros(2, batch, dtype=torch.float64, device=out.device)  # of log-probabilities and weights
        bad = torch.zeros((), dtype=torch.bool, device=out.device)
        for step in schedule.steps.tolist():
            if step[StepColumn.KIND] != Kind.DRAW:
                evaluate(packed, step, table)
                continue
            first, count = step[StepColumn.FIRST], step[StepColumn.COUNT]
            for place in range(first, first + count):
                bad |= self._draw_variable(place, table, sums, out)
        if bool(bad):
            raise FloatingPointError(
                "parameters became nan while drawing: weights or context are too large for this dtype"
            )
        for target, total in zip((piece.log_prob, piece.log_weight), sums, strict=True):
            if target is not None:
                target.copy_(total)

    def _draw_variable(self, place: int, table: Tensor, sums: Tensor, out: Tensor) -> Tensor:
        """Draws one variable into table and ``out``, adds to the sums; returns whether a parameter was nan."""
        schedule, program, piece = self.packed.schedule, self.packed.program, self.piece
        variable, slot = int(schedule.variables[place]), int(schedule.param_slots[place])
        conditional = program.conditionals[variable]
        params = table[slot : slot + conditional.num_params].T  # (B, K)
        bad = (~params.isfinite() if conditional.code == Code.POINT else params.isnan()).any()
        uniforms = uniforms_of(conditional, piece.seed, self.noise_row, int(schedule.noise_steps[place]))
        value, log_mass = draw_variable(
            program.conditionals,
            variable,
            params.nan_to_num(0.0),
            uniforms,
            piece.decoding,
            piece.conditions,
            self.condition,
            self.running,
        )
        if self.running is not None:
            self.running.take(variable, value)
        if piece.log_prob is not None:
            sums[0] += conditional.log_prob(params, value)
        if log_mass is not None:
            sums[1] += log_mass
        first = int(schedule.x_slots[place])
        table[first : first + conditional.units] = program.encode_variable(
            variable, value
        ).T  # perhaps over the parameter
        out[:, variable] = value.to(out.dtype)
        return bad


def draw_variable(
    conditionals: Sequence[Conditional],
    variable: int,
    params: Tensor,
    uniforms: Tensor,
    decoding: Decoding,
    conditions: Conditions | None,
    condition: Tensor,
    running: RunningSums | None = None,
) -> tuple[Tensor, Tensor | None]:
    """One variable of a draw under conditions.

    Args:
        conditionals: of all variables.
        variable: its number.
        params: (B, K).
        uniforms: (B, num_draws).
        decoding: how to draw.
        conditions: N rows, or None.
        condition: (B,) int64: which of them each row has.
        running: where the sums of the rows stand, or None without any.

    Returns:
        values (B,), and the log of the mass of what was observed or allowed (B,), or None without conditions.
    """
    conditional, log_mass = conditionals[variable], None
    if conditions is not None and conditions.support is not None and bool(conditions.constrained[variable]):
        allowed = conditions.allowed_of(conditionals, variable)[condition]
        values = conditional.values()
        if running is not None and values is not None:
            allowed = allowed & running.allowed(variable, values.to(allowed.device))
        value, log_mass = conditional.draw_within(params, uniforms, allowed)
    else:
        value = conditional.draw(params, uniforms, decoding)
    if conditions is not None and conditions.given is not None and conditions.observed is not None:
        observed, given = conditions.observed[condition, variable].bool(), conditions.given[condition, variable]
        value = torch.where(observed, given, value)
        free = torch.zeros_like(value) if log_mass is None else log_mass
        # Where nothing is observed there may be no possible value to ask for.
        log_mass = torch.where(observed, conditional.log_prob(params, value), free)
    return value, log_mass


def evaluate(packed: Packed, step: list[int], table: Tensor) -> None:
    """One step of ``Schedule.steps`` that draws nothing, written into a table (slots, B)."""
    kind, first, count, left, right, code = step
    slots, function = table[first : first + count], FUNCTIONS[FUNCTION_NAMES[code]]
    if kind == Kind.AFFINE:
        slots[:] = function(_affine(packed, left, first, count, table))
    elif kind == Kind.UNARY:
        slots[:] = function(table[left : left + count])
    elif kind == Kind.ADD:
        slots[:] = table[left : left + count] + table[right : right + count]
    else:
        slots[:] = table[left : left + count] * table[right : right + count]


def _affine(packed: Packed, index: int, first: int, count: int, table: Tensor) -> Tensor:
    start = first - packed.schedule.affines[index].first_slot
    total = packed.biases[index][start : start + count, None].expand(count, table.shape[1])
    for block in packed.blocks[index]:
        known = block.known[start]
        total = total + block.weight[start : start + count, :known] @ table[block.first_slot : block.first_slot + known]
    return total


def uniforms_of(conditional: Conditional, seed: int, row: Tensor, step: int) -> Tensor:
    """(B, num_draws) fp32: the noise of one variable, for noise rows (B,)."""
    draw_index = torch.arange(conditional.num_draws, device=row.device)
    return noise.uniform(seed, row[:, None], step, draw_index)  # (B, num_draws)


def naive_draw(
    forward: Callable[[Tensor], Tensor],
    order: Tensor,
    conditionals: Sequence[Conditional],
    rows: Tensor,
    *,
    seed: int,
    dtype: torch.dtype,
    conditions: Conditions | None = None,
    condition: Tensor | None = None,
    decoding: Decoding | None = None,
    sequence: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition of sampling: D passes of the whole network, one variable drawn after each.

    Args:
        forward: maps x (B, D) to flat, variable-major parameters (B, P).
        order: (D,).
        conditionals: one for each variable.
        rows: (B,) int64 noise rows.
        seed: of the noise.
        dtype: of x.
        conditions: N rows, or None.
        condition: (B,) int64: which of them each row has; the first if left out.
        decoding: or None.
        sequence: (D,) in which variables are drawn where sums are held to; that of the order if left out. By levels it may be
            another one, of variables that do not depend on each other.

    Returns:
        x (B, D), and the sum (B,) of the log masses of what was observed or allowed.
    """
    x = torch.stack([_possible(each, rows, dtype) for each in conditionals], dim=1)
    log_weight = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    condition = torch.zeros_like(rows) if condition is None else condition
    starts = list(accumulate((each.num_params for each in conditionals), initial=0))
    steps = {variable: step for step, variable in enumerate(order.tolist())}
    sequence = list(steps) if sequence is None else sequence
    conditions = None if conditions is None else conditions.drawn_in(sequence)
    running = _running(conditions, condition)
    for variable in sequence:
        params = forward(x)[:, starts[variable] : starts[variable + 1]]
        uniforms = uniforms_of(conditionals[variable], seed, rows, steps[variable])
        value, log_mass = draw_variable(
            conditionals, variable, params, uniforms, decoding or Decoding(), conditions, condition, running
        )
        if running is not None:
            running.take(variable, value)
        x[:, variable] = value.to(dtype)
        log_weight += 0 if log_mass is None else log_mass
    return x, log_weight.to(dtype)


def _possible(conditional: Conditional, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """A value (B,) that a variable may have before it is drawn; nothing depends on it."""
    values = conditional.values()
    first = 0.0 if values is None else float(values[0])
    return torch.full((len(rows),), first, dtype=dtype, device=rows.device)
