"""A program evaluated level by level, in plain torch, for variables that are computed outside of it.

Sampling engines draw the variables of a level by a conditional that they know. Here a function of the caller makes them from
their parameters, all variables of a level in one call: the inverse of a spline, say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from made_fast.backends import reference
from made_fast.programs.program import Program
from made_fast.programs.schedule import Kind, StepColumn, build_schedule

__all__ = ["LevelSolver"]

Step = Callable[[Tensor, Tensor], Tensor]


class LevelSolver:
    """Evaluates each unit of a program once.

    Args:
        program: D variables that the network reads as they are, K parameters each.

    Attributes:
        num_levels: calls of the caller's function for one solution.
    """

    def __init__(self, program: Program) -> None:
        schedule = build_schedule(program)
        self.program, self.schedule, self.num_levels = program, schedule, schedule.num_levels
        self._packed = reference.pack(program, schedule)
        self._params = int(program.params_per_variable[0])
        assert set(program.params_per_variable) == {self._params}
        self._levels = list(self._by_level())

    def _by_level(self) -> Iterator[tuple[list[list[int]], list[int]]]:
        """For each level its steps that draw nothing, and the places of its variables.

        Steps are sorted by level and every level draws some variable, so what comes before its last draw belongs to it.
        """
        schedule, level = self.schedule, 0
        steps: list[list[int]] = []
        places: list[int] = []
        known = 0  # steps before the last draw
        for step in schedule.steps.tolist():
            if step[StepColumn.KIND] != Kind.DRAW:
                steps.append(step)
                continue
            drawn_at = int(schedule.levels[schedule.variables[step[StepColumn.FIRST]]])
            if drawn_at != level:
                yield steps[:known], places
                level, steps, places = drawn_at, steps[known:], []
            places.extend(range(step[StepColumn.FIRST], step[StepColumn.FIRST] + step[StepColumn.COUNT]))
            known = len(steps)
        yield steps, places

    def solve(self, step: Step, rows: int, context: Tensor | None = None) -> Tensor:
        """x (B, D), where ``step`` maps parameters (B, n, K) of variables (n,) int64 to their values (B, n).

        Args:
            step: called once for each level.
            rows: B.
            context: (B, C) or None.
        """
        schedule, dtype = self.schedule, self.program.dtype
        table = torch.full((schedule.num_slots, rows), torch.nan, dtype=dtype)
        if context is not None and len(schedule.context_units):
            read = torch.from_numpy(schedule.context_units)
            slot = schedule.context_slot
            table[slot : slot + len(read)] = context.T[read].to(dtype)
        x = torch.empty(rows, schedule.features, dtype=dtype)
        for steps, places in self._levels:
            for row in steps:
                reference.evaluate(self._packed, row, table)
            variables = torch.from_numpy(schedule.variables[places])
            slots = schedule.param_slots[places][:, None] + np.arange(self._params)
            values = step(table[torch.from_numpy(slots)].permute(2, 0, 1), variables)
            table[torch.from_numpy(schedule.x_slots[places])] = values.T.to(dtype)
            x[:, variables] = values.to(dtype)
        return x
