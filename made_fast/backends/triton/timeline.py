"""The units of a network in order of time, and what each adds up: what a plan for the GPU is cut from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from made_fast.program import Affine, Program
from made_fast.schedule import AffinePlan, Kind, Schedule

__all__ = ["BoolArray", "FloatArray", "IntArray", "Sums", "Timeline"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


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

    slots: IntArray  # (n,) -1 for helpers
    steps: IntArray  # (n,) number of the schedule's step
    functions: IntArray  # (n,)
    products: BoolArray  # (n,)
    variables: IntArray  # (n,) place of the variable in the order of drawing, -1 for others
    noise_steps: IntArray  # of the variables, in the order of drawing
    time: IntArray  # (slots,) place in this list, -1 for the context
    sums: list[Sums]

    @classmethod
    def of(cls, program: Program, schedule: Schedule) -> Timeline:
        """The units of a schedule whose variables are drawn over their parameters."""
        x = range(schedule.x_slot, schedule.x_slot + schedule.features)
        steps = schedule.steps.tolist()
        function = np.zeros(schedule.num_slots, dtype=np.int64)
        found: list[tuple[int, int, bool, int]] = []  # slot, step, whether a product, variable
        for number, (kind, first, count, *_, code) in enumerate(steps):
            if kind == Kind.DRAW:
                found.extend((x.start + place, number, False, place) for place in range(first, first + count))
                continue
            function[first : first + count] = code
            if first not in x:  # a parameter is due when its variable is drawn over it
                helper = [(-1, number, False, -1)] if kind == Kind.MULTIPLY else []
                for slot in range(first, first + count):
                    found.extend([*helper, (slot, number, kind == Kind.MULTIPLY, -1)])
        slots, step, products, variables = (np.asarray(column) for column in zip(*found, strict=True))
        time = np.full(schedule.num_slots, -1, dtype=np.int64)  # of the context: before all
        time[slots[slots >= 0]] = np.flatnonzero(slots >= 0)
        sums = [_affine(op, plan, time) for op, plan in zip(program.affines, schedule.affines, strict=True)]
        sums.extend(_unit_wise(steps, time))
        codes = np.where(slots < 0, 0, function[slots])
        return cls(slots, step, codes, products, variables, schedule.noise_steps, time, sums)


def _affine(op: Affine, plan: AffinePlan, time: IntArray) -> Sums:
    rows, columns = torch.from_numpy(plan.rows), torch.from_numpy(plan.columns)
    weight = torch.cat([term.weight.detach().cpu() for term in op.terms], dim=1)
    weight = weight.index_select(0, rows).index_select(1, columns)
    bias = torch.zeros(len(rows)) if op.bias is None else op.bias.detach().cpu().index_select(0, rows)
    mask = np.arange(len(columns)) < plan.needed[:, None] if plan.mask is None else plan.mask
    known = time[plan.column_slots]
    assert (np.diff(known) >= 0).all()
    return Sums(
        time[plan.first_slot : plan.first_slot + len(rows)],
        bias.float().numpy(),
        plan.column_slots,
        known,
        np.where(mask, weight.float().numpy(), np.float32(0)),
        mask,
    )


def _unit_wise(steps: list[list[int]], time: IntArray) -> Iterator[Sums]:
    """Operations that go unit by unit, as sums of one or two inputs with weight 1."""
    for wanted, takes_left, takes_right in (
        (Kind.UNARY, True, False),
        (Kind.ADD, True, True),
        (Kind.MULTIPLY, True, False),
        (Kind.MULTIPLY, False, True),
    ):
        due, sources = [], []
        for kind, first, count, left, right, _ in steps:
            if kind == wanted:
                helpers = 0 if takes_left else 1  # stand before their products
                due.append(time[first : first + count] - helpers)
                starts = [left] * takes_left + [right] * takes_right
                sources.append(np.asarray(starts)[None] + np.arange(count)[:, None])
        if due:
            slots = np.concatenate(sources)
            yield Sums(np.concatenate(due), np.zeros(len(slots), dtype=np.float32), slots, time[slots])
