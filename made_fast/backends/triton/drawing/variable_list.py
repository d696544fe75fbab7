"""The variables that are drawn between blocks, as kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.backends.triton.drawing.timeline import FloatArray, IntArray
from made_fast.backends.triton.launch import next_power_of_2
from made_fast.outputs.codes import Code
from made_fast.programs.program import Program
from made_fast.programs.schedule import Schedule

__all__ = ["DrawList", "build_draw_list"]

MIXTURES = (Code.MIXTURE_OF_NORMALS, Code.MIXTURE_OF_LOGISTICS)
WORDS = 16  # for each variable; conditionals/draw.py knows their order
MOST_AT_ONCE = 32  # parameters that are read at a time


@dataclass(frozen=True)
class DrawList:
    """What kernels read of the variables, in the order of drawing.

    Attributes:
        draws: int32 (D, 16): code, number of parameters, of logits to choose by, of components, of values (of one's own
            conditionals the place in ``own``), noise step, variable, first column of its parameters in the table and of what
            is read of it, encoding, number of input units, first number of its table, first flag of its values.
        draw_numbers: fp32 (D, 4): floor; scale and shift of what is read.
        codes: bit mask of the codes that occur.
        width: how many parameters are read at a time, a power of 2.
        own: the Triton functions of one's own conditionals.
        support_width: flags for all values of all variables.
    """

    draws: NDArray[np.int32]
    draw_numbers: FloatArray
    codes: int
    width: int
    own: tuple[Any, ...]
    support_width: int


def build_draw_list(program: Program, schedule: Schedule, param_slots: IntArray) -> DrawList:
    """Lists the variables of a program; ``param_slots`` (D,) are columns of the table, in the order of drawing."""
    conditionals = program.conditionals
    own = tuple(dict.fromkeys(each.triton_draw for each in conditionals if each.code == Code.OWN))
    words, numbers, most = [], [], 1
    for place, variable in enumerate(schedule.variables.tolist()):
        each = conditionals[variable]
        components = each.components if each.code in MIXTURES else int(each.code == Code.NORMAL)
        logits = components if each.code in MIXTURES else each.size if each.code == Code.CATEGORICAL else 0
        size = own.index(each.triton_draw) if each.code == Code.OWN else each.size
        slots = (int(param_slots[place]), int(schedule.x_slots[place]))
        encoding = (int(each.encoding), each.units, program.table_starts[variable])
        step = int(schedule.noise_steps[place])
        found = [
            each.code,
            each.num_params,
            logits,
            components,
            size,
            step,
            variable,
            *slots,
            *encoding,
            program.support_starts[variable],
        ]
        words.append([*found, *[0] * (WORDS - len(found))])
        numbers.append([each.floor, each.scale, each.shift, 0.0])
        most = max(most, logits)
    return DrawList(
        np.asarray(words, dtype=np.int32),
        np.asarray(numbers, dtype=np.float32),
        sum(1 << code for code in {int(each.code) for each in conditionals}),
        min(MOST_AT_ONCE, max(4, next_power_of_2(most))),
        own,
        program.support_starts[-1],
    )
