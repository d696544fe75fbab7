"""What the compiled engine is handed: a program and its schedule as plain arrays (csrc/plan/source.h)."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from made_fast.outputs.codes import Code, Encoding
from made_fast.outputs.conditional import Conditional, distinct_of
from made_fast.programs.program import Affine, Program, X
from made_fast.programs.schedule import AffinePlan, Kind, Schedule, StepColumn

__all__ = ["VariableColumn", "layout"]

_LOOK_UP_FROM = 3  # categories: fewer are multiplied in less time than looked up, zeros and all


class VariableColumn(IntEnum):
    """Columns of the table of variables; they are those of csrc/plan/codes.h."""

    NUMBER = 0
    NOISE_STEP = 1
    PARAM_SLOT = 2  # the first of its parameters
    X_SLOT = 3  # the first of its input units
    CONDITIONAL = 4  # place in the list of distinct ones
    SUPPORT = 5  # its first flag in a row of ``Conditions.support``
    TABLE = 6  # the first number of its embedding


def layout(program: Program, schedule: Schedule) -> dict[str, Any]:
    """The arguments of ``_core.SamplerF32`` and ``F64`` that describe a program; those of its parts as dictionaries."""
    distinct = {each: number for number, each in enumerate(distinct_of(program.conditionals))}
    tables = torch.zeros(0, dtype=program.dtype) if program.tables is None else program.tables
    places = _places(program, schedule)
    return {
        "features": schedule.features,
        "context_features": schedule.context_features,
        "num_slots": int(places[-1]),
        "x_slot": int(places[schedule.x_slot]),
        "context_slot": int(places[schedule.context_slot]),
        "in_place": schedule.in_place,
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
    kinds = steps[:, StepColumn.KIND]
    for column, holds_slots in (
        (StepColumn.FIRST, kinds != Kind.DRAW),
        (StepColumn.LEFT, kinds != Kind.AFFINE),
        (StepColumn.RIGHT, (kinds == Kind.ADD) | (kinds == Kind.MULTIPLY)),
    ):
        steps[holds_slots, column] = places[steps[holds_slots, column]]
    return steps


def _variables(
    program: Program, schedule: Schedule, distinct: dict[Conditional, int], places: NDArray[np.int64]
) -> NDArray[np.int64]:
    """A row for each variable in the order of drawing, (D, 7); the columns are those of ``VariableColumn``."""
    variables = np.empty((len(schedule.variables), len(VariableColumn)), dtype=np.int64)
    by_identity = {id(each): distinct[each] for each in {id(each): each for each in program.conditionals}.values()}
    numbers = np.asarray([by_identity[id(each)] for each in program.conditionals])
    variables[:, VariableColumn.NUMBER] = schedule.variables
    variables[:, VariableColumn.NOISE_STEP] = schedule.noise_steps
    variables[:, VariableColumn.PARAM_SLOT] = places[schedule.param_slots]
    variables[:, VariableColumn.X_SLOT] = places[schedule.x_slots]
    variables[:, VariableColumn.CONDITIONAL] = numbers[schedule.variables]
    variables[:, VariableColumn.SUPPORT] = np.asarray(program.support_starts)[schedule.variables]
    variables[:, VariableColumn.TABLE] = np.asarray(program.table_starts)[schedule.variables]
    return variables


def _conditional(conditional: Conditional, dtype: torch.dtype) -> dict[str, Any]:
    """The arguments of ``_core.Conditional``."""
    return {
        "code": int(conditional.code),
        "encoding": int(conditional.encoding),
        "num_params": conditional.num_params,
        "num_draws": conditional.num_draws,
        "size": conditional.size,
        "components": conditional.components,
        "units": conditional.units,
        "floor": conditional.floor,
        "scale": conditional.scale,
        "shift": conditional.shift,
        "native_draw": conditional.native_address(dtype) if conditional.code == Code.OWN else 0,
    }


def _source(op: Affine, plan: AffinePlan, places: NDArray[np.int64]) -> dict[str, Any]:
    """The arguments of ``_core.Affine``: the weights, where rows in slot order and columns in order of time lie in them, and
    their mask."""
    return {
        "first_slot": int(places[plan.first_slot]),
        "weights": [term.numbers.contiguous().numpy() for term in op.terms],
        "bias": None if op.bias is None else op.bias.contiguous().numpy(),
        "rows": plan.rows,
        "columns": plan.columns,
        "slots": places[plan.column_slots],
        "needed": plan.needed,
        "ready": plan.ready,
        "mask": plan.mask,
    }
