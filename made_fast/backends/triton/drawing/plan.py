"""A schedule as one kernel executes it: blocks of units in order of time, in numpy.

All units that are evaluated, the variables among them, stand in one list in order of time. It is cut into *blocks* of at
most U units, and every few blocks make an *outer block*. What a unit sums up is split by when its inputs are known:

- before its outer block: *tasks*, GEMM-shaped, done for the whole outer block at once (most of the work);
- before its block: a smaller product, done when the block begins;
- within its block: *events*, one after another, on a tile (rows, U) of the block's units that stays in registers.

An event may begin by applying a function to a run of units that waited for variables only. Then ``UNIT`` multiplies the
tile with a vector of coefficients, which sums up what the unit's inputs within the block add to it, and puts the result
in its place. ``PRODUCT`` does so with two vectors and multiplies the results. ``DRAW`` is a ``UNIT`` whose result is the
parameter of a variable: it is drawn, and its value is spread over the units of the block that read it, by a second
vector. So an event depends on the one before through registers alone.

That is for binary variables that nothing is asked of. All others are no units: blocks are cut where they are drawn, and each
block ends with a list of draws, whose parameters are units that it, or a block before it, finished.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from made_fast.backends.triton.columns import (
    FIELD_BITS,
    RUN_BITS,
    VECTORS,
    BlockColumn,
    Event,
    EventColumn,
    TaskColumn,
    row_of,
)
from made_fast.backends.triton.drawing.timeline import BoolArray, FloatArray, IntArray, Timeline
from made_fast.programs.program import Program
from made_fast.programs.schedule import Schedule

__all__ = ["ALIGN", "DrawPlan", "Event", "Head", "build_plan"]

ALIGN = 4  # chunks start at slots that are multiples of it: 16 bytes
AHEAD = 2  # events that kernels read beyond the last
MANY_PARAMETERS = 8  # a block's product takes them together; in the block of what they read each is an event


class Head(NamedTuple):
    """What an event is: its kind, the unit within the block and its function, the run [first, stop) to activate and its own.

    ``step`` is the noise step of a draw.
    """

    kind: int
    unit: int = 0
    function: int = 0
    first: int = 0
    stop: int = 0
    run_function: int = 0
    step: int = 0

    def words(self) -> list[int]:
        """As kernels read it, by ``EventColumn``."""
        fields = (self.kind, self.function, self.run_function)
        assert all(field < 1 << FIELD_BITS for field in fields)
        packed = sum(field << place * FIELD_BITS for place, field in enumerate((*fields, self.unit)))
        run = self.first | self.stop << RUN_BITS
        return row_of(EventColumn, {EventColumn.WHAT: packed, EventColumn.RUN: run, EventColumn.NOISE_STEP: self.step})


@dataclass(frozen=True)
class DrawPlan:
    """What the sampling kernels read.

    Attributes:
        blocks: int32 (N, 9), the columns are those of ``BlockColumn``.
        outer: (M + 1,) first block of each outer block, and N.
        slots: int32 (N, U), the slot of each unit of a block; -1 for a helper, -2 where there is no unit.
        tasks: int32 (N, 2), the columns are those of ``TaskColumn``.
        columns: int32 (N, T), the column of the outer block's sums that each row of a task makes; -1 for none.
        bias: fp32 (N, T), what its sums start from.
        task_chunks: int32 (C,), the first of the K slots that a chunk of a task multiplies.
        task_weights: fp32 (C, T, K), zero where a row does not read a slot.
        chunks, weights: the same for the products of blocks, int32 (C,) and fp32 (C, U, K).
        events: int32 (E + 2, 3), the columns are those of ``EventColumn``. Two more than there are, since kernels read ahead.
        vectors: fp32 (E + 2, 2, U): coefficients; what is spread, or the coefficients of the second factor.
        functions: bit mask of the functions that occur.
        num_slots: columns of the table.
        param_slots: (D,) column of each variable's first parameter, in the order of drawing.
    """

    blocks: NDArray[np.int32]
    outer: IntArray
    slots: NDArray[np.int32]
    tasks: NDArray[np.int32]
    columns: NDArray[np.int32]
    bias: FloatArray
    task_chunks: NDArray[np.int32]
    task_weights: FloatArray
    chunks: NDArray[np.int32]
    weights: FloatArray
    events: NDArray[np.int32]
    vectors: FloatArray
    functions: int
    num_slots: int
    param_slots: IntArray

    @property
    def bulk_macs(self) -> int:
        """Multiply-adds of all chunks for one row, zeros within them included."""
        of_tasks = int(self.tasks[:, TaskColumn.END_CHUNK].max())  # arrays may hold a dummy beside
        of_blocks = int(self.blocks[:, BlockColumn.END_CHUNK].max())
        return of_tasks * int(self.task_weights[0].size) + of_blocks * int(self.weights[0].size)

    @property
    def num_events(self) -> int:
        """Steps of one draw, each of which waits for the one before."""
        return len(self.events) - AHEAD


def build_plan(
    program: Program,
    schedule: Schedule,
    *,
    units: int,
    inputs: int,
    task_units: int,
    outer_blocks: int,
    in_events: bool = True,
) -> DrawPlan:
    """Lays out a program.

    Args:
        program, schedule: on the CPU, or the weights are copied from their device.
        units: U, how many units a block has at most; a power of 2.
        inputs: K, how many inputs a chunk has; a power of 2.
        task_units: T, how many units a task has at most; a power of 2.
        outer_blocks: blocks in an outer block.
        in_events: whether variables are drawn by events, for a schedule that is ``in_place``, or between blocks.
    """
    if in_events:
        line = Timeline.of_events(program, schedule)
    else:
        line = Timeline.of_blocks(program, schedule, inputs, MANY_PARAMETERS)
    return _Builder(line, units, inputs, task_units, outer_blocks).build()


class _Chunks:
    """Runs of K slots and the weights with which rows read them."""

    def __init__(self, rows: int, inputs: int) -> None:
        self.rows, self.inputs = rows, inputs
        self.starts: list[int] = []
        self.weights: list[FloatArray] = []

    def __len__(self) -> int:
        return len(self.starts)

    def add(self, slots: IntArray, weights: FloatArray, rows: IntArray) -> None:
        """Cuts slots (m,) into runs, with weights (n, m) in these rows (n,)."""
        order = np.argsort(slots, kind="stable")
        slots, weights = slots[order], weights[:, order]
        place = 0
        while place < len(slots):
            begin = int(slots[place]) // ALIGN * ALIGN
            end = int(np.searchsorted(slots, begin + self.inputs))
            whole = np.zeros((end - place, self.rows), dtype=np.float32)
            whole[:, rows] = weights[:, place:end].T
            block = np.zeros((self.rows, self.inputs), dtype=np.float32)
            np.add.at(block.T, slots[place:end] - begin, whole)  # a slot may be there twice
            self.starts.append(begin)
            self.weights.append(block)
            place = end

    def arrays(self) -> tuple[NDArray[np.int32], FloatArray]:
        """Starts (C,) and weights (C, rows, K); one that nobody reads where there is none."""
        if not self.starts:
            return np.zeros(1, dtype=np.int32), np.zeros((1, self.rows, self.inputs), dtype=np.float32)
        return np.asarray(self.starts, dtype=np.int32), np.stack(self.weights)


@dataclass
class _Builder:
    """Cuts the timeline and lists tasks and events."""

    line: Timeline
    units: int
    inputs: int
    task_units: int
    outer_blocks: int
    tasks: list[list[int]] = field(default_factory=list)
    columns: list[NDArray[np.int32]] = field(default_factory=list)
    bias: list[FloatArray] = field(default_factory=list)
    events: list[Head] = field(default_factory=list)
    vectors: list[FloatArray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.task_chunks = _Chunks(self.task_units, self.inputs)
        self.chunks = _Chunks(self.units, self.inputs)

    def build(self) -> DrawPlan:
        bounds = self._cuts()
        blocks, outer = [], list(range(0, len(bounds) - 1, self.outer_blocks))
        slots = np.full((len(bounds) - 1, self.units), -2, dtype=np.int32)
        for number, (start, stop) in enumerate(pairwise(bounds)):
            slots[number, : stop - start] = self.line.slots[start:stop]
            blocks.append(row_of(BlockColumn, self._add_block(number, start, stop, bounds)))
        self.events.extend([Head(Event.NOTHING)] * AHEAD)
        self.vectors.extend([np.zeros((VECTORS.value, self.units), dtype=np.float32)] * AHEAD)
        (task_chunks, task_weights), (chunks, weights) = self.task_chunks.arrays(), self.chunks.arrays()
        return DrawPlan(
            blocks=np.asarray(blocks, dtype=np.int32),
            outer=np.asarray([*outer, len(blocks)]),
            slots=slots,
            tasks=np.asarray(self.tasks, dtype=np.int32),
            columns=np.stack(self.columns),
            bias=np.stack(self.bias),
            task_chunks=task_chunks,
            task_weights=task_weights,
            chunks=chunks,
            weights=weights,
            events=np.asarray([head.words() for head in self.events], dtype=np.int32),
            vectors=np.stack(self.vectors),
            functions=int(np.bitwise_or.reduce(1 << self.line.functions)),
            num_slots=self.line.num_slots,
            param_slots=self.line.param_slots,
        )

    def _add_block(self, number: int, start: int, stop: int, bounds: list[int]) -> dict[int, int]:
        """Adds the tasks, chunks and events of the block at times [start, stop); returns its row."""
        begin = number // self.outer_blocks * self.outer_blocks
        drawn = self.line.draws.get(stop, range(0))
        row: dict[int, int] = {
            BlockColumn.FIRST_TASK: len(self.tasks),
            BlockColumn.FIRST_CHUNK: len(self.chunks),
            BlockColumn.FIRST_EVENT: len(self.events),
            BlockColumn.FIRST_SUM: (number - begin) * self.units,
            BlockColumn.FIRST_DRAW: drawn.start,
            BlockColumn.END_DRAW: drawn.stop,
        }
        if number == begin:
            ends = bounds[number : begin + self.outer_blocks + 1]
            self._add_tasks(start, ends[-1], self._columns_of(ends))
        else:
            self._add_block_chunks(start, stop, bounds[begin])
        self._add_events(start, stop)
        row[BlockColumn.END_TASK] = len(self.tasks)
        row[BlockColumn.END_CHUNK] = len(self.chunks)
        row[BlockColumn.END_EVENT] = len(self.events)
        return row

    def _cuts(self) -> list[int]:
        """Where blocks start, and the end; a helper stays with its product."""
        cuts = [0]
        for end in sorted({*self.line.cuts, len(self.line.slots)}):
            while cuts[-1] < end:
                cut = min(cuts[-1] + self.units, end)
                cuts.append(cut - 1 if cut < end and self.line.slots[cut - 1] < 0 else cut)
        return cuts

    def _columns_of(self, bounds: list[int]) -> IntArray:
        """(units of an outer block,) the column of its sums that each unit has."""
        counts = [stop - start for start, stop in pairwise(bounds)]
        return np.concatenate([number * self.units + np.arange(count) for number, count in enumerate(counts)])

    def _add_tasks(self, start: int, stop: int, columns: IntArray) -> None:
        """What the units due at times [start, stop) read that is known before."""
        for sums in self.line.sums:
            low, high = np.searchsorted(sums.times, [start, stop])
            for first in range(low, high, self.task_units):
                rows = slice(first, min(first + self.task_units, high))
                places, first_chunk = columns[sums.times[rows] - start], len(self.task_chunks)
                slots, weights, _ = sums.part(rows, -1, start)
                self.task_chunks.add(slots, weights, np.arange(len(places)))
                chunks = {TaskColumn.FIRST_CHUNK: first_chunk, TaskColumn.END_CHUNK: len(self.task_chunks)}
                self.tasks.append(row_of(TaskColumn, chunks))
                empty = (0, self.task_units - len(places))
                self.columns.append(np.pad(places, empty, constant_values=-1).astype(np.int32))
                self.bias.append(np.pad(sums.bias[rows], empty))

    def _add_block_chunks(self, start: int, stop: int, after: int) -> None:
        """What the units due at times [start, stop) read that became known at times [after, start)."""
        for sums in self.line.sums:
            rows = slice(*np.searchsorted(sums.times, [start, stop]))
            slots, weights, _ = sums.part(rows, after, start)
            self.chunks.add(slots, weights, sums.times[rows] - start)

    def _add_events(self, start: int, stop: int) -> None:
        line, count = self.line, stop - start
        coefficients = np.eye(
            count, dtype=np.float32
        )  # (unit, column): what each unit starts from is in its own column
        spread = np.zeros((count, count), dtype=np.float32)  # (variable, column)
        waits = np.zeros(count, dtype=np.bool_)  # for a unit of this block that is no variable
        for sums in line.sums:
            rows = slice(*np.searchsorted(sums.times, [start, stop]))
            slots, weights, mask = sums.part(rows, start, stop)
            unit, source = sums.times[rows] - start, line.time[slots] - start
            drawn = line.variables[start:stop][source] >= 0
            np.add.at(spread, (source[drawn][:, None], unit[None]), weights[:, drawn].T)
            np.add.at(coefficients, (unit[:, None], source[~drawn][None]), weights[:, ~drawn])
            waits[unit] |= mask[:, ~drawn].any(1)
        place, begin = 0, len(self.events)
        while place < count:
            place = self._add_event(start, place, count, coefficients, spread, waits, begin)

    def _add_event(
        self,
        start: int,
        place: int,
        count: int,
        coefficients: FloatArray,
        spread: FloatArray,
        waits: BoolArray,
        begin: int,
    ) -> int:
        """Adds the event of the unit at this place, or of the run that begins there; returns the place after it."""
        line, unit, vectors = self.line, start + place, np.zeros((VECTORS.value, self.units), dtype=np.float32)
        code, end = int(line.functions[unit]), place + 1
        if line.slots[unit] < 0:
            return end  # a helper is read by the product that follows
        vectors[0, :count] = coefficients[place]
        if line.variables[unit] >= 0:
            head = Head(Event.DRAW, place, code, step=int(line.noise_steps[line.variables[unit]]))
            vectors[1, :count] = spread[place]
        elif line.products[unit]:
            head = Head(Event.PRODUCT, place, code)
            vectors[1, :count] = coefficients[place - 1]
        elif waits[place]:
            head = Head(Event.UNIT, place, code)
        else:
            step = line.steps[unit]
            while end < count and line.steps[start + end] == step and not waits[end]:
                end += 1
            if code == 0:
                return end  # the identity
            head = Head(Event.NOTHING, first=place, stop=end, run_function=code)
        before = self.events[-1] if len(self.events) > begin else None
        if head.kind and before is not None and before.kind == Event.NOTHING:  # one event for both
            head = head._replace(first=before.first, stop=before.stop, run_function=before.run_function)
            self.events.pop(), self.vectors.pop()
        self.events.append(head)
        self.vectors.append(vectors)
        return end
