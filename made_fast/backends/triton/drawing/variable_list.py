"""The variables that are drawn between blocks, as kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.backends.triton.columns import VARIABLE_NUMBERS, VARIABLE_WORDS, VariableNumber, VariableWord
from made_fast.backends.triton.drawing.timeline import FloatArray, IntArray
from made_fast.backends.triton.launch import next_power_of_2
from made_fast.outputs.codes import Code
from made_fast.programs.program import Program
from made_fast.programs.schedule import Schedule

__all__ = ["DrawList", "build_draw_list"]

MIXTURES = (Code.MIXTURE_OF_NORMALS, Code.MIXTURE_OF_LOGISTICS)
MOST_AT_ONCE = 32  # parameters that are read at a time


@dataclass(frozen=True)
class DrawList:
    """What kernels read of the variables, in the order of drawing.

    Attributes:
        draws: int32 (D, 16), the columns are those of ``VariableWord``.
        draw_numbers: fp32 (D, 4), the columns are those of ``VariableNumber``.
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
    own_draws = tuple(dict.fromkeys(each.triton_draw for each in conditionals if each.code == Code.OWN))
    words = np.zeros((len(conditionals), VARIABLE_WORDS.value), dtype=np.int32)
    numbers = np.zeros((len(conditionals), VARIABLE_NUMBERS.value), dtype=np.float32)
    for place, variable in enumerate(schedule.variables.tolist()):
        conditional, row = conditionals[variable], words[place]
        mixed, categorical = conditional.code in MIXTURES, conditional.code == Code.CATEGORICAL
        row[VariableWord.CODE] = conditional.code
        row[VariableWord.NUM_PARAMS] = conditional.num_params
        row[VariableWord.NUM_LOGITS] = conditional.components if mixed else conditional.size if categorical else 0
        row[VariableWord.COMPONENTS] = conditional.components if mixed else int(conditional.code == Code.NORMAL)
        row[VariableWord.SIZE] = (
            own_draws.index(conditional.triton_draw) if conditional.code == Code.OWN else conditional.size
        )
        row[VariableWord.NOISE_STEP] = schedule.noise_steps[place]
        row[VariableWord.VARIABLE] = variable
        row[VariableWord.PARAMS] = param_slots[place]
        row[VariableWord.X_SLOT] = schedule.x_slots[place]
        row[VariableWord.ENCODING] = conditional.encoding
        row[VariableWord.UNITS] = conditional.units
        row[VariableWord.TABLE] = program.table_starts[variable]
        row[VariableWord.FLAGS] = program.support_starts[variable]
        numbers[place, VariableNumber.FLOOR] = conditional.floor
        numbers[place, VariableNumber.SCALE] = conditional.scale
        numbers[place, VariableNumber.SHIFT] = conditional.shift
    most = int(words[:, VariableWord.NUM_LOGITS].max(initial=1))
    return DrawList(
        words,
        numbers,
        sum(1 << code for code in {int(each.code) for each in conditionals}),
        min(MOST_AT_ONCE, max(4, next_power_of_2(most))),
        own_draws,
        program.support_starts[-1],
    )
