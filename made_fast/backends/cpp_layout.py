"""What the compiled engine is handed: a program and its schedule as plain arrays (csrc/pack.h)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from made_fast.conditionals import Code, Conditional
from made_fast.program import Affine, Program
from made_fast.schedule import AffinePlan, Schedule

__all__ = ["layout"]


def layout(program: Program, schedule: Schedule) -> dict[str, Any]:
    """The arguments of the engine's sampler that describe a program."""
    distinct = {each: number for number, each in enumerate(dict.fromkeys(program.conditionals))}
    tables = torch.zeros(0, dtype=program.dtype) if program.tables is None else program.tables
    return {
        "shape": (
            schedule.features,
            schedule.context_features,
            schedule.num_slots,
            schedule.x_slot,
            schedule.context_slot,
            schedule.in_place,
        ),
        "steps": schedule.steps,
        "variables": _variables(program, schedule, distinct),
        "conditionals": [_conditional(each, program.dtype) for each in distinct],
        "tables": tables.contiguous().numpy(),
        "context_units": schedule.context_units,
        "affines": [_source(op, plan) for op, plan in zip(program.affines, schedule.affines, strict=True)],
    }


def _variables(program: Program, schedule: Schedule, distinct: dict[Conditional, int]) -> NDArray[np.int64]:
    """A row for each variable in the order of drawing, (D, 7): see to_variables in csrc/bindings.cpp."""
    conditionals = program.conditionals
    columns = (
        schedule.variables,
        schedule.noise_steps,
        schedule.param_slots,
        schedule.x_slots,
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


def _source(op: Affine, plan: AffinePlan) -> tuple[object, ...]:
    """Weights with rows in slot order and columns in order of time, and what the engine must know of their mask."""
    rows, columns = torch.from_numpy(plan.rows), torch.from_numpy(plan.columns)
    weight = torch.cat([term.weight for term in op.terms], dim=1)
    weight = weight.index_select(0, rows).index_select(1, columns).contiguous()
    bias = weight.new_zeros(len(rows)) if op.bias is None else op.bias.index_select(0, rows)
    return (
        plan.first_slot,
        weight.numpy(),
        weight.t().contiguous().numpy(),
        bias.contiguous().numpy(),
        plan.column_slots,
        plan.needed,
        plan.ready,
        plan.mask,
    )
