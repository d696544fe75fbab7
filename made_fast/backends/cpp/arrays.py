"""What the compiled engine is handed: a program and its schedule as plain arrays (csrc/pack.h)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from made_fast.outputs.codes import Code, Encoding
from made_fast.outputs.conditional import Conditional
from made_fast.programs.program import Affine, Program, X
from made_fast.programs.schedule import AffinePlan, Kind, Schedule

__all__ = ["layout"]

_LOOK_UP_FROM = 5  # categories: fewer are multiplied in less time than looked up, zeros and all


def layout(program: Program, schedule: Schedule) -> dict[str, Any]:
    """The arguments of the engine's sampler that describe a program."""
    distinct = {each: number for number, each in enumerate(dict.fromkeys(program.conditionals))}
    tables = torch.zeros(0, dtype=program.dtype) if program.tables is None else program.tables
    places = _places(program, schedule)
    return {
        "shape": (
            schedule.features,
            schedule.context_features,
            int(places[-1]),
            int(places[schedule.x_slot]),
            int(places[schedule.context_slot]),
            schedule.in_place,
        ),
        "steps": _steps(schedule, places),
        "variables": _variables(program, schedule, distinct, places),
        "conditionals": [_conditional(each, program.dtype) for each in distinct],
        "tables": tables.contiguous().numpy(),
        "context_units": schedule.context_units,
        "affines": [_source(op, plan, places) for op, plan in zip(program.affines, schedule.affines, strict=True)],
    }


def _places(program: Program, schedule: Schedule) -> NDArray[np.int64]:
    """Where the engine keeps each slot of the schedule, (num_slots + 1,); the last is the number of its slots.

    One-hot units that are only read by affine operations, unless they are few, are numbered behind the slots: they are
    never made, since the weights of the drawn category are looked up instead.
    """
    looked_up = np.zeros(schedule.num_slots + 1, dtype=bool)
    if all(isinstance(op, Affine) for op in program.ops if X in op.sources):
        for variable, first in zip(schedule.variables, schedule.x_slots, strict=True):
            own = program.conditionals[variable]
            if own.encoding == Encoding.ONE_HOT and own.units >= _LOOK_UP_FROM:
                looked_up[first : first + own.units] = True
    num_slots = schedule.num_slots - int(looked_up.sum())
    return np.where(looked_up, num_slots + np.cumsum(looked_up) - 1, np.cumsum(~looked_up) - 1)


def _steps(schedule: Schedule, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The steps with the engine's slots."""
    steps = schedule.steps.copy()
    kinds = steps[:, 0]
    for column, holds_slots in (
        (1, kinds != Kind.DRAW),
        (3, kinds != Kind.AFFINE),
        (4, (kinds == Kind.ADD) | (kinds == Kind.MULTIPLY)),
    ):
        steps[holds_slots, column] = places[steps[holds_slots, column]]
    return steps


def _variables(
    program: Program, schedule: Schedule, distinct: dict[Conditional, int], places: NDArray[np.int64]
) -> NDArray[np.int64]:
    """A row for each variable in the order of drawing, (D, 7): see to_variables in csrc/bindings.cpp."""
    conditionals = program.conditionals
    columns = (
        schedule.variables,
        schedule.noise_steps,
        places[schedule.param_slots],
        places[schedule.x_slots],
        np.asarray([distinct[each] for each in conditionals])[schedule.variables],
        np.asarray(program.support_starts)[schedule.variables],  # first flag in a row of support
        np.asarray(program.table_starts)[schedule.variables],  # first number of its table
    )
    return np.ascontiguousarray(np.stack(columns, axis=1), dtype=np.int64)


def _conditional(conditional: Conditional, dtype: torch.dtype) -> tuple[object, ...]:
    """See to_conditional in csrc/bindings.cpp."""
    address = 0
    if conditional.code == Code.OWN:
        address = conditional.native_address(dtype)
    return (
        int(conditional.code),
        int(conditional.encoding),
        conditional.num_params,
        conditional.num_draws,
        conditional.size,
        conditional.components,
        conditional.units,
        conditional.floor,
        conditional.scale,
        conditional.shift,
        address,
    )


def _source(op: Affine, plan: AffinePlan, places: NDArray[np.int64]) -> tuple[object, ...]:
    """Weights with rows in slot order and columns in order of time, and what the engine must know of their mask."""
    rows, columns = torch.from_numpy(plan.rows), torch.from_numpy(plan.columns)
    weight = torch.cat([term.weight for term in op.terms], dim=1)
    weight = weight.index_select(0, rows).index_select(1, columns).contiguous()
    bias = weight.new_zeros(len(rows)) if op.bias is None else op.bias.index_select(0, rows)
    return (
        int(places[plan.first_slot]),
        weight.numpy(),
        weight.t().contiguous().numpy(),
        bias.contiguous().numpy(),
        places[plan.column_slots],
        plan.needed,
        plan.ready,
        plan.mask,
    )
