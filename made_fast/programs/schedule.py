"""Program -> levels -> steps: what every sampling backend executes.

The *level* of a unit is the step after which all that it depends on is known: 0 for what depends on no variable, and one more
than the level of its parameters for a variable. Levels come from the masks alone, by counting for every unit how many of
its inputs are still unknown; degrees and orders are not looked at. Units that reach no parameter are dropped.

Every unit that is evaluated gets a *slot*, a row of the activation table. The slots of one value lie together, sorted by
level, so what an operation may read at level ``t`` is a prefix of each source. ``Schedule.steps`` lists, in order of time,
which slots are to be finished; backends add their own blocking to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from made_fast.outputs.conditional import distinct_of
from made_fast.programs.connections import Connections, connections_of, leading_columns
from made_fast.programs.functions import FUNCTION_CODES
from made_fast.programs.levels import alive_units, levels_of
from made_fast.programs.program import CONTEXT, Add, Affine, Elementwise, Multiply, Program, X

__all__ = ["AffinePlan", "Kind", "Schedule", "StepColumn", "build_schedule"]

IntArray = NDArray[np.int64]


BoolArray = NDArray[np.bool_]


class Kind(IntEnum):
    """Kinds of steps; the numbers are those of csrc/plan/codes.h."""

    AFFINE = 0  # finish slots [first, first + count) of affine `left`, then apply function `function` in place
    UNARY = 1  # slots [first, ...) = function(slots [left, ...))
    ADD = 2  # slots [first, ...) = slots [left, ...) + slots [right, ...)
    MULTIPLY = 3  # likewise, the product
    DRAW = 4  # draw `count` variables, the first being number `first` of Schedule.variables; parameter slots from `left` on


class StepColumn(IntEnum):
    """Columns of ``Schedule.steps``; what they hold depends on the kind. They are those of csrc/plan/codes.h."""

    KIND = 0
    FIRST = 1
    COUNT = 2
    LEFT = 3
    RIGHT = 4
    FUNCTION = 5


@dataclass(frozen=True)
class AffinePlan:
    """One affine operation, with rows in slot order and columns in order of time.

    Attributes:
        first_slot: slot of row 0.
        rows: (n,) unit of each row in the operation's own numbering.
        columns: (m,) column of the horizontally concatenated term weights, in order of time.
        column_slots: (m,) slot that each column reads.
        needed: (n,) how many leading columns a row reads; those behind are masked or not yet known.
        ready: (n,) how many leading columns are known at the level of the row.
        mask: (n, m) bool, or None if row ``i`` reads exactly its first ``needed[i]`` columns.
    """

    first_slot: int
    rows: IntArray
    columns: IntArray
    column_slots: IntArray
    needed: IntArray
    ready: IntArray
    mask: BoolArray | None

    @property
    def macs(self) -> int:
        """Multiply-adds for one row of the batch."""
        return int(self.needed.sum()) if self.mask is None else int(self.mask.sum())


@dataclass(frozen=True)
class Schedule:
    """When which unit of a program is evaluated, and where it is kept.

    Attributes:
        features, context_features: D and C.
        num_slots: rows of the activation table.
        num_levels: levels at which variables are drawn, the number of sequential steps of one draw.
        levels: (D,) level at which each variable is drawn.
        variables: (D,) variables in the order in which they are drawn (by level, then number).
        noise_steps: (D,) the noise step of each of ``variables``, its rank in the program's order.
        x_slot, context_slot: first slot of what the network reads of the variables, and of the context.
        x_slots: (D,) first of the input slots of each of ``variables``; those of one variable lie together.
        in_place: whether every variable has one parameter and one input unit and is drawn over its parameter, so that
            ``x_slots`` and ``param_slots`` are the same. If not, input slots come first and parameter slots last, and
            parameters and draws of one level alternate variable by variable.
        context_units: the context features that are read, in slot order.
        param_slots: (D,) first parameter slot of each of ``variables``; a variable's parameters lie together.
        steps: (S, 6) int64, the columns are those of ``StepColumn``.
        affines: one plan for each affine operation.
    """

    features: int
    context_features: int
    num_slots: int
    num_levels: int
    levels: IntArray
    variables: IntArray
    noise_steps: IntArray
    x_slot: int
    x_slots: IntArray
    in_place: bool
    context_slot: int
    context_units: IntArray
    param_slots: IntArray
    steps: IntArray
    affines: tuple[AffinePlan, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds of the affine operations for one sample: what a sampler has to do, and no more."""
        return sum(plan.macs for plan in self.affines)


def build_schedule(program: Program) -> Schedule:
    """Finds levels, slots and steps of a program.

    Raises:
        ValueError: the program is not autoregressive: some variables depend on themselves, directly or in a ring.
    """
    connections = connections_of(program)
    alive = alive_units(program, connections)
    levels = levels_of(program, connections, alive)
    return _Builder(program, connections, alive, levels).build()


class _Builder:
    """Lays out slots and lists steps, once levels are known."""

    def __init__(
        self, program: Program, connections: list[list[Connections]], alive: list[BoolArray], levels: list[IntArray]
    ) -> None:
        self.program, self.connections, self.alive, self.levels = program, connections, alive, levels
        self.first_units = np.cumsum([0, *program.input_units])[:-1]  # (D,)
        self.draw_level = levels[X][self.first_units] - 1  # (D,)
        rank = np.argsort(program.order.cpu().numpy(), kind="stable")
        self.variables = np.lexsort([rank, self.draw_level])
        # Parameters are finished when their variable is drawn, and lie together for each variable.
        levels[-1] = np.repeat(self.draw_level, program.params_per_variable)
        self.fused = self._fused_functions()
        # A variable with one parameter is drawn over it: nothing reads the parameter again.
        plain = all(each.reads_itself for each in distinct_of(program.conditionals))
        self.drawn_in_place = (X,) if set(program.params_per_variable) == {1} and plain else ()
        # Of one level those come first that are read by most: so that what reads a part of them reads the first of them.
        ties = self._unread()
        ties[X], ties[-1] = np.repeat(rank, program.input_units), np.repeat(rank, program.params_per_variable)
        self.units: list[IntArray] = []  # value -> units in slot order
        self.first: list[int] = []  # value -> first slot
        slots = 0
        for value in range(len(levels)):
            kept = np.flatnonzero(alive[value])
            self.units.append(kept[np.lexsort([ties[value][kept], levels[value][kept]])])
            shared = self.fused.get(value)
            self.first.append(slots if shared is None else self.first[shared])
            slots += len(kept) if shared is None and value not in self.drawn_in_place else 0
        for value in self.drawn_in_place:
            self.first[value] = self.first[-1]
        self.num_slots = slots

    def _unread(self) -> list[IntArray]:
        """Of each value, minus how many units read each of its units, elementwise operations passed through."""
        found: list[IntArray] = [np.zeros(width, dtype=np.int64) for width in self.program.widths]
        for value in range(len(found) - 1, 1, -1):
            op = self.program.ops[value - 2]
            for index, source in enumerate(op.sources):
                of_op = self.connections[value - 2]
                found[source] = found[source] + (found[value] if not of_op else -of_op[index].readers)
        return found

    def _fused_functions(self) -> dict[int, int]:
        """Elementwise values that may overwrite the affine value they read, since nothing else reads it."""
        readers: dict[int, int] = {}
        for op in self.program.ops:
            for source in op.sources:
                readers[source] = readers.get(source, 0) + 1
        return {
            2 + index: op.source
            for index, op in enumerate(self.program.ops)
            if isinstance(op, Elementwise)
            and op.source > CONTEXT
            and isinstance(self.program.ops[op.source - 2], Affine)
            and readers[op.source] == 1
            and 2 + index != len(self.levels) - 1  # parameters wait for their variable: keep them apart
        }

    def build(self) -> Schedule:
        program = self.program
        affine_of = {2 + i: op for i, op in enumerate(program.ops) if isinstance(op, Affine)}
        number = {value: index for index, value in enumerate(affine_of)}
        plans = tuple(self._affine_plan(value) for value in affine_of)
        variables = self.variables
        order = program.order.cpu().numpy()
        rank = np.argsort(order)
        if not np.array_equal(order[rank], np.arange(program.features)):
            raise ValueError(f"order must be a permutation of 0 .. {program.features - 1}, got {order.tolist()}")
        params = np.asarray(program.params_per_variable)
        sizes = params[variables]
        param_slots = self.first[-1] + np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        x_slots = self.first[X] + np.cumsum([0, *np.asarray(program.input_units)[variables]])[:-1]
        steps = self._steps(number, param_slots)
        return Schedule(
            features=program.features,
            context_features=program.context_features,
            num_slots=self.num_slots,
            num_levels=int(self.draw_level.max()) + 1,
            levels=self.draw_level,
            variables=variables,
            noise_steps=rank[variables],
            x_slot=self.first[X],
            x_slots=x_slots,
            in_place=bool(self.drawn_in_place),
            context_slot=self.first[CONTEXT],
            context_units=self.units[CONTEXT],
            param_slots=param_slots,
            steps=steps,
            affines=plans,
        )

    def _affine_plan(self, value: int) -> AffinePlan:
        op = self.program.ops[value - 2]
        assert isinstance(op, Affine)
        rows = self.units[value]
        connections = self.connections[value - 2]
        offsets = np.concatenate([[0], np.cumsum([each.shape[1] for each in connections])])
        columns, slots, times = [], [], []
        for index, source in enumerate(op.sources):
            kept = self.units[source]
            columns.append(offsets[index] + kept)
            slots.append(self.first[source] + np.arange(len(kept)))
            times.append(np.stack([self.levels[source][kept], np.full(len(kept), source), np.arange(len(kept))]))
        time = np.concatenate(times, axis=1)
        by_time = np.lexsort(time[::-1])
        column = np.concatenate(columns)[by_time]
        needed, mask = leading_columns(connections, rows, column)
        ready = np.searchsorted(time[0][by_time], self.levels[value][rows], side="right")
        return AffinePlan(
            first_slot=self.first[value],
            rows=rows,
            columns=column,
            column_slots=np.concatenate(slots)[by_time],
            needed=needed,
            ready=ready,
            mask=mask,
        )

    def _steps(self, number: dict[int, int], param_slots: IntArray) -> IntArray:
        timed: list[tuple[int, IntArray, IntArray]] = []  # value, levels, steps
        for value, op in enumerate(self.program.ops, start=2):
            if value in self.fused:
                continue
            found = self._affine_steps(value, number[value]) if isinstance(op, Affine) else self._unit_steps(value, op)
            timed.append((value, *found))
        # Runs of variables that one step takes: of one level; each alone if not in place.
        drawn = self.draw_level[self.variables]
        bounds = _runs(drawn[None], stride=0) if self.drawn_in_place else np.arange(len(drawn) + 1)
        starts, lasts = bounds[:-1], bounds[1:] - 1
        draws = _table(Kind.DRAW, starts, np.diff(bounds), param_slots[starts], 0, 0)
        timed.append((len(self.levels) - 1, drawn[starts], draws))
        values = np.concatenate([np.full(len(levels), value) for value, levels, _ in timed])
        levels, steps = (np.concatenate([each[place] for each in timed]) for place in (1, 2))  # type: ignore[misc]
        slots = steps[:, StepColumn.FIRST].copy()  # of a draw the last of its parameters, which come before it
        sizes = np.asarray(self.program.params_per_variable)[self.variables]
        slots[len(slots) - len(draws) :] = param_slots[lasts] + sizes[lasts] - 1
        by_time = np.lexsort([steps[:, StepColumn.KIND] == Kind.DRAW, slots, values, levels])
        return np.asarray(steps[by_time])

    def _affine_steps(self, value: int, number: int) -> tuple[IntArray, IntArray]:
        readers = [self.program.ops[reader - 2] for reader, source in self.fused.items() if source == value]
        function = next((FUNCTION_CODES[op.function] for op in readers if isinstance(op, Elementwise)), 0)
        levels = self.levels[value][self.units[value]]
        bounds = self._runs_of(value, levels[None], stride=0)
        starts = bounds[:-1]
        return levels[starts], _table(Kind.AFFINE, self.first[value] + starts, np.diff(bounds), number, 0, function)

    def _unit_steps(self, value: int, op: Elementwise | Add | Multiply) -> tuple[IntArray, IntArray]:
        """Steps of an operation that goes unit by unit: one for each run of units whose sources lie side by side."""
        kind = {Elementwise: Kind.UNARY, Add: Kind.ADD, Multiply: Kind.MULTIPLY}[type(op)]
        function = FUNCTION_CODES[op.function] if isinstance(op, Elementwise) else 0
        levels = self.levels[value][self.units[value]]
        slots = np.stack([self._slots_of(source, self.units[value]) for source in op.sources])  # (sources, n)
        bounds = self._runs_of(value, np.concatenate([slots, levels[None] + slots[:1]]), stride=1)
        starts = bounds[:-1]
        right = slots[1, starts] if len(slots) > 1 else 0
        first = self.first[value] + starts
        return levels[starts], _table(kind, first, np.diff(bounds), slots[0, starts], right, function)

    def _runs_of(self, value: int, rows: IntArray, stride: int) -> IntArray:
        """See ``_runs``; parameters of variables that are not drawn in place end their run with each variable."""
        bounds = _runs(rows, stride)
        if value != len(self.levels) - 1 or self.drawn_in_place:
            return bounds
        ends = np.cumsum(np.asarray(self.program.params_per_variable)[self.variables])
        return np.union1d(bounds, ends)

    def _slots_of(self, value: int, units: IntArray) -> IntArray:
        slot = np.full(len(self.levels[value]), -1, dtype=np.int64)
        slot[self.units[value]] = self.first[value] + np.arange(len(self.units[value]))
        return slot[units]


def _runs(rows: IntArray, stride: int) -> IntArray:
    """Where runs of columns (r, n) begin along which every row grows by ``stride``, and n."""
    n = rows.shape[1]
    inside = np.flatnonzero((np.diff(rows, axis=1) != stride).any(0)) + 1
    return np.concatenate([[0], inside, [n]]) if n else np.zeros(1, dtype=np.int64)


def _table(*columns: IntArray | int) -> IntArray:
    """Steps (S, 6) by their columns, those of ``StepColumn``, some of which are the same for all."""
    return np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.int64)
