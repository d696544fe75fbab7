"""At which level each unit of a program can be computed; see ``schedule``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from made_fast.programs.connections import Connections
from made_fast.programs.dependencies import ring_message
from made_fast.programs.program import CONTEXT, Affine, Program, X

__all__ = ["alive_units", "levels_of"]

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


def alive_units(program: Program, connections: list[list[Connections]]) -> list[BoolArray]:
    """For each value, which units reach a parameter."""
    alive = [np.zeros(width, dtype=bool) for width in program.widths]
    alive[-1][:] = True
    alive[X][:] = True  # variables are drawn whether or not anything reads them
    for value in range(len(alive) - 1, CONTEXT, -1):
        op = program.ops[value - 2]
        for index, source in enumerate(op.sources):
            of_op = connections[value - 2]
            alive[source] |= of_op[index].read_by(alive[value]) if of_op else alive[value]
    return alive


def levels_of(program: Program, connections: list[list[Connections]], alive: list[BoolArray]) -> list[IntArray]:
    """The level of each unit of each value; -1 for units that are not alive.

    Raises:
        ValueError: the program is not autoregressive.
    """
    nested = _nested_levels(program, connections, alive)
    return _counted_levels(program, connections, alive) if nested is None else nested


def _nested_levels(
    program: Program, connections: list[list[Connections]], alive: list[BoolArray]
) -> list[IntArray] | None:
    """The same where every unit depends on leading variables of the order alone, on all of them up to one; else None.

    A unit that depends on so many is known when the last of these is, so each level is found from the ones before it.
    """
    order = program.order.cpu().numpy()
    rank = np.argsort(order, kind="stable")
    if 0 in program.params_per_variable or not np.array_equal(order[rank], np.arange(program.features)):
        return None
    counts = _leading_variables(program, connections, alive, rank)
    if counts is None:
        return None
    of_variables = np.maximum.reduceat(counts[-1], np.cumsum([0, *program.params_per_variable[:-1]]))
    if (of_variables > rank).any():
        return None
    drawn = np.zeros(program.features, dtype=np.int64)
    in_order, known = [], [0]  # known: when so many leading variables are
    for count in of_variables[order].tolist():
        in_order.append(known[count])
        known.append(max(known[-1], known[count] + 1))
    drawn[order] = in_order
    levels = [np.where(units, np.asarray(known)[count], -1) for units, count in zip(alive, counts, strict=True)]
    levels[X] = np.repeat(drawn + 1, program.input_units)
    return levels


def _leading_variables(
    program: Program, connections: list[list[Connections]], alive: list[BoolArray], rank: IntArray
) -> list[IntArray] | None:
    """On how many leading variables of the order each unit of each value depends; None if one depends on others.

    Those of X are left at 0.
    """
    counts = [np.zeros(width, dtype=np.int64) for width in program.widths[:2]]
    for value, op in enumerate(program.ops, start=2):
        parts: list[IntArray] = []
        for index, source in enumerate(op.sources):
            of_op = connections[value - 2]
            if source != X:
                parts.append(of_op[index].largest(counts[source]) if of_op else counts[source])
                continue
            read = of_op[index].leading(np.repeat(rank, program.input_units)) if of_op else None
            if read is None or (read[alive[value]] < 0).any():
                return None
            parts.append(np.maximum(read, 0))
        counts.append(np.maximum.reduce(parts))
    return counts


def _counted_levels(program: Program, connections: list[list[Connections]], alive: list[BoolArray]) -> list[IntArray]:
    """The same of any program, by counting unknown inputs."""
    widths = program.widths
    owner = np.repeat(np.arange(program.features), program.params_per_variable)  # (P,)
    units_of = np.split(np.arange(widths[X]), np.cumsum(program.input_units)[:-1])  # what a draw makes known
    missing = [np.zeros(width, dtype=np.int64) for width in widths]
    waiting = np.bincount(owner, minlength=program.features)  # a variable waits for its parameters
    consumers: list[list[tuple[int, BoolArray | None]]] = [[] for _ in widths]
    for value in range(2, len(widths)):
        op = program.ops[value - 2]
        for index, source in enumerate(op.sources):
            mask = connections[value - 2][index].whole if isinstance(op, Affine) else None
            missing[value] += 1 if mask is None else (mask & alive[source]).sum(1)
            consumers[source].append((value, None if mask is None else np.ascontiguousarray(mask.T)))
    levels = [np.full(width, -1, dtype=np.int64) for width in widths]
    level = 0
    ready: list[IntArray] = [np.flatnonzero(alive[value] & (missing[value] == 0)) for value in range(len(widths))]
    ready[X] = np.zeros(0, dtype=np.int64)
    drawable = np.flatnonzero(waiting == 0)
    while True:
        for value in range(len(widths)):  # operations only read values before them, so one sweep finishes a level
            units = ready[value]
            if not len(units):
                continue
            levels[value][units] = level
            ready[value] = np.zeros(0, dtype=np.int64)
            for target, mask_t in consumers[value]:
                newly = _tell(units, mask_t, missing[target])
                ready[target] = np.concatenate([ready[target], newly[alive[target][newly]]])
            if value == len(widths) - 1:
                drawable = np.concatenate([drawable, _tell(owner[units], None, waiting)])
        if not len(drawable):
            break
        ready[X] = np.concatenate([units_of[variable] for variable in np.sort(drawable)])
        drawable = np.zeros(0, dtype=np.int64)
        level += 1
    if (levels[X] < 0).any():
        raise ValueError(ring_message(program))
    return levels


def _tell(units: IntArray, mask_t: BoolArray | None, missing: IntArray) -> IntArray:
    """Takes newly known units off the counts of their readers; returns the readers that now miss nothing."""
    if mask_t is None:
        np.subtract.at(missing, units, 1)
        readers = np.unique(units)
    else:
        counts = mask_t[units].sum(0)
        missing -= counts
        readers = np.flatnonzero(counts)
    done: IntArray = readers[missing[readers] == 0]
    return done
