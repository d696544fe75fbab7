"""The units of a network in order of time, and what each adds up: what a plan for the GPU is cut from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from made_fast.programs.program import Affine, Program
from made_fast.programs.schedule import AffinePlan, Kind, Schedule, StepColumn

__all__ = ["BoolArray", "FloatArray", "IntArray", "Sums", "Timeline"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

KIND, FIRST, COUNT = StepColumn.KIND, StepColumn.FIRST, StepColumn.COUNT
LEFT, RIGHT, FUNCTION = StepColumn.LEFT, StepColumn.RIGHT, StepColumn.FUNCTION


class _Unit(NamedTuple):
    """One entry of a timeline."""

    slot: int  # -1 for a helper
    step: int  # number of the schedule's step
    product: bool = False
    variable: int = -1  # place in the order of drawing


@dataclass(frozen=True)
class Sums:
    """What some units add up, each unit in one of these: rows in order of time, each a bias and some (slot, weight)."""

    times: IntArray  # (n,) when each row is due
    bias: FloatArray  # (n,)
    sources: IntArray  # (m,) slots, by the time at which they are known; (n, s) where row i adds up sources[i]
    known: IntArray  # that time, alike
    weight: FloatArray | None = None  # (n, m), zero where masked
    mask: BoolArray | None = None  # (n, m)

    def part(self, rows: slice, start: int, stop: int) -> tuple[IntArray, FloatArray, BoolArray]:
        """Slots (k,), weights (rows, k) and mask (rows, k) of what becomes known at times [start, stop) and is read."""
        if self.weight is None or self.mask is None:
            known = self.known[rows]
            row, place = np.nonzero((known >= start) & (known < stop))
            reads = row == np.arange(len(known))[:, None]
            return self.sources[rows][row, place], reads.astype(np.float32), reads
        columns = slice(*np.searchsorted(self.known, [start, stop]))
        mask = self.mask[rows, columns]
        some = mask.any(0)
        return self.sources[columns][some], self.weight[rows, columns][:, some], mask[:, some]


@dataclass(frozen=True)
class Timeline:
    """All units in order of time. A product has a helper before it, which holds its second factor."""

    slots: IntArray  # (n,) column of the table, -1 for helpers
    steps: IntArray  # (n,) number of the schedule's step
    functions: IntArray  # (n,)
    products: BoolArray  # (n,)
    variables: IntArray  # (n,) place of the variable in the order of drawing, -1 for others
    noise_steps: IntArray  # of the variables, in the order of drawing
    time: IntArray  # (slots,) place in this list after which a slot is known, -1 for the context
    sums: list[Sums]
    num_slots: int  # columns of the table that are used
    draws: dict[int, range]  # place in this list -> variables, by their places, that are drawn before it
    cuts: list[int]  # places in this list at which a block should begin
    param_slots: IntArray  # (D,) column of the table of each variable's first parameter, in the order of drawing

    @classmethod
    def of_events(cls, program: Program, schedule: Schedule) -> Timeline:
        """The units of a schedule whose variables are drawn over their parameters, each a unit of its own."""
        x = range(schedule.x_slot, schedule.x_slot + schedule.features)
        units: list[_Unit] = []
        for number, (kind, first, count) in enumerate(_columns(schedule.steps, KIND, FIRST, COUNT)):
            if kind == Kind.DRAW:
                units.extend(_Unit(x.start + place, number, variable=place) for place in range(first, first + count))
            elif first not in x:  # a parameter is due when its variable is drawn over it
                units.extend(_units(kind, first, count, number))
        columns = np.arange(schedule.num_slots)
        return cls._of(program, schedule, units, columns, {}, [], schedule.num_slots, schedule.param_slots)

    @classmethod
    def of_blocks(cls, program: Program, schedule: Schedule, apart: int, many: int) -> Timeline:
        """The units of a schedule, parameters among them; variables are drawn between units.

        Parameters are read once, by the draws of their level, so those of all levels share columns of the table.

        Args:
            program, schedule: what is laid out.
            apart: columns that lie between other units and parameters.
            many: parameters of a level in a number above this begin a block.
        """
        level_of = schedule.levels[schedule.variables]
        firsts = np.searchsorted(level_of, np.arange(schedule.num_levels + 1))  # places at which levels begin
        starts = schedule.param_slots[firsts[:-1]]
        sizes = np.asarray(program.params_per_variable)[schedule.variables]
        ends = schedule.param_slots[firsts[1:] - 1] + sizes[firsts[1:] - 1]
        others = schedule.num_slots if schedule.in_place else int(starts[0])
        columns = np.arange(schedule.num_slots)
        for start, end in zip(starts, ends, strict=True):
            columns[start:end] = _up(others + apart) + np.arange(end - start)
        units: list[_Unit] = []
        draws, cuts = {}, []
        for number, (kind, first, count) in enumerate(_columns(schedule.steps, KIND, FIRST, COUNT)):
            if kind != Kind.DRAW:
                level = int(np.searchsorted(starts, first, side="right")) - 1
                if level >= 0 and first == starts[level] and ends[level] - first > many:
                    cuts.append(len(units))
                units.extend(_units(kind, first, count, number))
            elif first + count == firsts[level_of[first] + 1]:  # the last of its level
                draws[len(units)] = range(firsts[level_of[first]], first + count)
        num_slots = _up(others + apart) + int((ends - starts).max())
        param_slots = columns[schedule.param_slots]
        return cls._of(program, schedule, units, columns, draws, [*cuts, *draws], num_slots, param_slots)

    @classmethod
    def _of(
        cls,
        program: Program,
        schedule: Schedule,
        listed: list[_Unit],
        columns: IntArray,
        draws: dict[int, range],
        cuts: list[int],
        num_slots: int,
        param_slots: IntArray,
    ) -> Timeline:
        slots, step, products, variables = (np.asarray(column) for column in zip(*listed, strict=True))
        function = np.zeros(schedule.num_slots, dtype=np.int64)
        for kind, first, count, code in _columns(schedule.steps, KIND, FIRST, COUNT, FUNCTION):
            if kind != Kind.DRAW:
                function[first : first + count] = code
        due = np.full(schedule.num_slots, -1, dtype=np.int64)  # of the context: before all
        due[slots[slots >= 0]] = np.flatnonzero(slots >= 0)
        known = due.copy()
        units = np.asarray(program.input_units)[schedule.variables]
        for time, places in draws.items():
            for first, count in zip(schedule.x_slots[places], units[places], strict=True):
                known[first : first + count] = time - 1
        sums = [_affine(op, plan, due, known) for op, plan in zip(program.affines, schedule.affines, strict=True)]
        sums.extend(_unit_wise(schedule.steps, due, known))
        return cls(
            np.where(slots < 0, -1, columns[slots]),
            step,
            np.where(slots < 0, 0, function[slots]),
            products,
            variables,
            schedule.noise_steps,
            known,
            sums,
            num_slots,
            draws,
            sorted(cuts),
            param_slots,
        )


def _columns(steps: IntArray, *columns: StepColumn) -> list[list[int]]:
    """These columns of ``Schedule.steps``, step by step."""
    rows: list[list[int]] = steps[:, list(columns)].tolist()
    return rows


def _units(kind: int, first: int, count: int, number: int) -> Iterator[_Unit]:
    """The units of a step that draws nothing."""
    for slot in range(first, first + count):
        if kind == Kind.MULTIPLY:
            yield _Unit(-1, number)
        yield _Unit(slot, number, kind == Kind.MULTIPLY)


def _up(n: int) -> int:
    """Chunks and parameters start at multiples of 16 bytes."""
    return -(-n // 4) * 4


def _affine(op: Affine, plan: AffinePlan, due: IntArray, time: IntArray) -> Sums:
    rows, columns = torch.from_numpy(plan.rows), torch.from_numpy(plan.columns)
    weight = torch.cat([term.weight.detach().cpu() for term in op.terms], dim=1)
    weight = weight.index_select(0, rows).index_select(1, columns)
    bias = torch.zeros(len(rows)) if op.bias is None else op.bias.detach().cpu().index_select(0, rows)
    mask = np.arange(len(columns)) < plan.needed[:, None] if plan.mask is None else plan.mask
    known = time[plan.column_slots]
    assert (np.diff(known) >= 0).all()
    return Sums(
        due[plan.first_slot : plan.first_slot + len(rows)],
        bias.float().numpy(),
        plan.column_slots,
        known,
        np.where(mask, weight.float().numpy(), np.float32(0)),
        mask,
    )


def _unit_wise(steps: IntArray, due_of: IntArray, time: IntArray) -> Iterator[Sums]:
    """Operations that go unit by unit, as sums of one or two inputs with weight 1."""
    for wanted, takes_left, takes_right in (
        (Kind.UNARY, True, False),
        (Kind.ADD, True, True),
        (Kind.MULTIPLY, True, False),
        (Kind.MULTIPLY, False, True),
    ):
        due, sources = [], []
        for kind, first, count, left, right in _columns(steps, KIND, FIRST, COUNT, LEFT, RIGHT):
            if kind == wanted:
                helpers = 0 if takes_left else 1  # stand before their products
                due.append(due_of[first : first + count] - helpers)
                starts = [left] * takes_left + [right] * takes_right
                sources.append(np.asarray(starts)[None] + np.arange(count)[:, None])
        if due:
            slots = np.concatenate(sources)
            yield Sums(np.concatenate(due), np.zeros(len(slots), dtype=np.float32), slots, time[slots])
