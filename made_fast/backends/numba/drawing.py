"""Programs as the draw kernel wants them, and the call that draws; threads split the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from made_fast.backends.known import check_program
from made_fast.backends.numba.conditionals import CONDITIONALS
from made_fast.backends.numba.draw_kernel import (
    General,
    Network,
    NumberColumn,
    Rows,
    SpanColumn,
    VariableColumn,
    draw_rows,
)
from made_fast.backends.numba.functions import FUNCTIONS
from made_fast.backends.numba.jit import in_threads
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
    """Stores the weights column by column, each from the first row that reads it to the last.

    Raises:
        ValueError: the program has a function or a conditional that this engine lacks.
    """
    check_program("numba", program, FUNCTIONS, CONDITIONALS)
    dtype = np.float64 if program.dtype == torch.float64 else np.float32
    bias: NDArray[np.floating] = np.full(schedule.num_slots, np.nan).astype(dtype)
    if not schedule.in_place:
        bias[schedule.x_slot : schedule.x_slot + program.widths[0]] = 0  # categories that are not drawn
    readers: list[tuple[int, int, NDArray[np.floating]]] = []  # source slot, first slot, weights from there on
    for op, plan in zip(program.affines, schedule.affines, strict=True):
        size = len(plan.rows)
        bias[plan.first_slot : plan.first_slot + size] = 0 if op.bias is None else op.bias.numpy()[plan.rows]
        weight = torch.cat([term.weight for term in op.terms], dim=1).numpy()
        for column, (first, last) in enumerate(_row_ranges(plan)):
            if first < last:
                weights = weight[plan.rows[first:last], plan.columns[column]]
                readers.append((int(plan.column_slots[column]), plan.first_slot + first, weights))
    readers.sort(key=lambda reader: reader[0])
    counts = np.asarray([len(weights) for _, _, weights in readers], dtype=np.int64)
    spans = np.zeros((len(readers), len(SpanColumn)), dtype=np.int64)
    spans[:, SpanColumn.FIRST] = [first for _, first, _ in readers]
    spans[:, SpanColumn.COUNT] = counts
    spans[:, SpanColumn.OFFSET] = np.cumsum(counts) - counts
    sources = np.asarray([source for source, _, _ in readers], dtype=np.int64)
    network = Network(
        bias=bias,
        span_start=np.searchsorted(sources, np.arange(schedule.num_slots + 1)),
        spans=spans,
        weights=np.concatenate([np.zeros(0, dtype=dtype), *(weights for _, _, weights in readers)]),
        steps=schedule.steps,
        variables=_variables(program, schedule),
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
    """A row for each variable, in the order in which they are drawn."""
    rows = np.zeros((schedule.features, len(VariableColumn)), dtype=np.int64)
    for place, variable in enumerate(schedule.variables.tolist()):
        conditional = program.conditionals[variable]
        row = {
            VariableColumn.VARIABLE: variable,
            VariableColumn.NOISE_STEP: schedule.noise_steps[place],
            VariableColumn.PARAMS: schedule.param_slots[place],
            VariableColumn.X_SLOT: schedule.x_slots[place],
            VariableColumn.NUM_PARAMS: conditional.num_params,
            VariableColumn.CODE: conditional.code,
            VariableColumn.SIZE: conditional.size,
            VariableColumn.COMPONENTS: conditional.components,
            VariableColumn.ENCODING: conditional.encoding,
            VariableColumn.UNITS: conditional.units,
            VariableColumn.TABLE: program.table_starts[variable],
            VariableColumn.FLAGS: program.support_starts[variable],
            VariableColumn.ADDRESS: conditional.native_address(program.dtype) if conditional.code == Code.OWN else 0,
        }
        rows[place] = [row[column] for column in VariableColumn]
    return rows


def _general(program: Program, schedule: Schedule) -> General:
    """The conditionals as they are drawn without conditions."""
    conditionals = program.conditionals
    drawn = [conditionals[variable] for variable in schedule.variables]
    numbers = np.zeros((len(drawn), len(NumberColumn)), dtype=np.float64)
    numbers[:, NumberColumn.FLOOR] = [each.floor for each in drawn]
    numbers[:, NumberColumn.SCALE] = [each.scale for each in drawn]
    numbers[:, NumberColumn.SHIFT] = [each.shift for each in drawn]
    dtype = np.float64 if program.dtype == torch.float64 else np.float32
    return General(
        numbers=numbers,
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
