"""Programs in the layout of the kernels, and the call that draws; threads split the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from made_fast.backends.numba.jit import in_threads
from made_fast.backends.numba.kernels import Column, General, Network, Rows, draw_rows
from made_fast.outputs.codes import Code
from made_fast.outputs.decoding import Decoding
from made_fast.programs.program import Program
from made_fast.programs.schedule import AffinePlan, Schedule
from made_fast.requests.conditions import Conditions
from made_fast.requests.piece import Piece

__all__ = ["Packed", "draw", "pack"]


@dataclass(frozen=True)
class Packed:
    """A program made ready for ``draw``."""

    schedule: Schedule
    network: Network
    general: General  # of a draw without conditions
    plain: bool  # whether every variable is Bernoulli


def pack(program: Program, schedule: Schedule) -> Packed:
    """Stores the weights column by column, each from the first row that reads it to the last."""
    dtype = np.float64 if program.dtype == torch.float64 else np.float32
    bias: NDArray[np.floating] = np.full(schedule.num_slots, np.nan).astype(dtype)
    if not schedule.in_place:
        bias[schedule.x_slot : schedule.x_slot + program.widths[0]] = 0  # categories that are not drawn
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
    network = Network(
        *(bias, column_start, columns, weights, schedule.steps, _variables(program, schedule)),
        draws=max(each.num_draws for each in program.conditionals),
        context_slot=schedule.context_slot,
        drawn_over=(schedule.x_slot, schedule.x_slot + schedule.features if schedule.in_place else 0),
    )
    plain = all(each.code == Code.BERNOULLI for each in program.conditionals)
    return Packed(schedule, network, _general(program, schedule), plain)


def _row_ranges(plan: AffinePlan) -> list[tuple[int, int]]:
    """For each column the rows [first, last) that read it."""
    leading = np.arange(len(plan.columns))[None, :] < plan.needed[:, None]
    mask = leading if plan.mask is None else plan.mask
    if not mask.size:
        return [(0, 0)] * len(plan.columns)
    first = mask.argmax(0)
    last = np.where(mask.any(0), len(mask) - mask[::-1].argmax(0), 0)
    return list(zip(first.tolist(), last.tolist(), strict=True))


def _variables(program: Program, schedule: Schedule) -> NDArray[np.int64]:
    found = np.zeros((schedule.features, len(Column)), dtype=np.int64)
    for place, variable in enumerate(schedule.variables.tolist()):
        each = program.conditionals[variable]
        slots = schedule.param_slots[place], schedule.x_slots[place]
        sizes = each.num_params, each.code, each.size, each.components, each.encoding, each.units
        address = each.native_address(program.dtype) if each.code == Code.OWN else 0
        places = program.table_starts[variable], program.support_starts[variable], address
        found[place] = (variable, schedule.noise_steps[place], *slots, *sizes, *places)
    return found


def _general(program: Program, schedule: Schedule) -> General:
    """The conditionals as they are drawn without conditions."""
    conditionals = program.conditionals
    numbers = [(conditionals[v].floor, conditionals[v].scale, conditionals[v].shift) for v in schedule.variables]
    dtype = np.float64 if program.dtype == torch.float64 else np.float32
    return General(
        numbers=np.asarray(numbers, dtype=np.float64),
        tables=np.zeros(0, dtype=dtype) if program.tables is None else program.tables.numpy(),
        scratch=max(max(each.size, each.components, 1) for each in conditionals),
        given=np.zeros((0, 0), dtype=dtype),
        observed=np.zeros((0, 0), dtype=np.uint8),
        support=np.zeros((0, 0), dtype=np.uint8),
        bounds=np.zeros((0, 0, 2), dtype=dtype),
        constrained=np.zeros(len(conditionals), dtype=np.uint8),
        **_options(Decoding()),
    )


def _options(decoding: Decoding) -> dict[str, Any]:
    return {
        "temperature": float(decoding.temperature),
        "greedy": bool(decoding.greedy),
        "top_k": int(decoding.top_k),
        "top_p": float(decoding.top_p),
    }


def _under(general: General, conditions: Conditions | None, decoding: Decoding) -> General:
    """The conditionals as they are drawn under conditions."""
    if decoding.features:
        general = general._replace(**_options(decoding))
    if conditions is not None:
        names = ("given", "observed", "support", "bounds", "constrained")
        held = {name: getattr(conditions, name) for name in names}
        general = general._replace(**{name: each.numpy() for name, each in held.items() if each is not None})
    return general


def draw(packed: Packed, out: Tensor, piece: Piece) -> None:
    """Draws rows; see ``reference.draw``. The interpreter lock is released meanwhile.

    The log-probability of a variable with an own distribution, which is torch code, is nan.
    """
    schedule, dtype = packed.schedule, packed.network.bias.dtype
    context, conditions = piece.context, piece.conditions
    plain = packed.plain and conditions is None and piece.log_weight is None and not piece.decoding.features
    read = np.zeros((1, 0), dtype=dtype) if context is None else context.numpy()[:, schedule.context_units]
    alike = context is None and conditions is None  # all rows share what comes before the first draw
    sums = [np.empty(0, dtype=dtype) if each is None else each.numpy() for each in (piece.log_prob, piece.log_weight)]
    asked = Rows(
        seed=np.uint64(piece.seed & 0xFFFFFFFFFFFFFFFF),
        first_row=np.uint64(piece.first_row + piece.row_offset),
        noise_rows=np.empty(0, dtype=np.int64) if piece.rows is None else piece.rows.numpy(),
        offset=piece.row_offset,
        rows_per_condition=2**62 if alike else piece.rows_per_condition,
        context=np.ascontiguousarray(read),
        out=out.numpy(),
        log_prob=sums[0],
        log_weight=sums[1],
    )
    general = None if plain else _under(packed.general, conditions, piece.decoding)
    if any(in_threads(draw_rows, (packed.network, general, asked), out.shape[0])):
        raise FloatingPointError("parameters became nan while drawing: weights or context are too large for this dtype")
