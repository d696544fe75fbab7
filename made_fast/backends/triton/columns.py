"""Columns of the arrays that kernels read. The host builds rows by the names of an enumeration, kernels read by constants.

Each constant is made from its name in the enumeration, so a column can move without either side being told.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import triton.language as tl

__all__ = [
    "BlockColumn",
    "Event",
    "EventColumn",
    "PairColumn",
    "RequestWord",
    "Setting",
    "TaskColumn",
    "TileColumn",
    "VariableNumber",
    "VariableWord",
    "row_of",
]


class RequestWord(IntEnum):
    """What a launch reads of a piece besides tensors, int64."""

    SEED = 0  # signed
    NOISE_ROW = 1  # of the first row
    ROW_OFFSET = 2
    ROWS_PER_CONDITION = 3
    NUM_ROWS = 4


class BlockColumn(IntEnum):
    """Columns of ``DrawPlan.blocks``; ranges are [first, end)."""

    FIRST_TASK = 0  # of the outer block that it begins; an empty range if it begins none
    END_TASK = 1
    FIRST_CHUNK = 2  # of its own product
    END_CHUNK = 3
    FIRST_EVENT = 4
    END_EVENT = 5
    FIRST_SUM = 6  # column of its units in the sums of the outer block
    FIRST_DRAW = 7  # of the variables that are drawn at its end, by their places in the order of drawing
    END_DRAW = 8


class TaskColumn(IntEnum):
    """Columns of ``DrawPlan.tasks``."""

    FIRST_CHUNK = 0
    END_CHUNK = 1


class EventColumn(IntEnum):
    """Columns of ``DrawPlan.events``, see ``Head``."""

    WHAT = 0  # kind, function, function of the run, each FIELD_BITS long, then the unit
    RUN = 1  # first and stop of the run, RUN_BITS each
    NOISE_STEP = 2


class Event(IntEnum):
    """Kinds of events by what comes after the activation."""

    NOTHING = 0
    UNIT = 1
    PRODUCT = 2
    DRAW = 3


class VariableWord(IntEnum):
    """Columns of ``DrawList.draws``."""

    CODE = 0
    NUM_PARAMS = 1
    NUM_LOGITS = 2  # to choose by
    COMPONENTS = 3
    SIZE = 4  # how many values; of one's own conditionals the place in ``DrawList.own``
    NOISE_STEP = 5
    VARIABLE = 6
    PARAMS = 7  # first column of its parameters in the table of finished values
    X_SLOT = 8  # and of what is read of it
    ENCODING = 9
    UNITS = 10  # that read it
    TABLE = 11  # first number of its embedding
    FLAGS = 12  # first flag of its values


class VariableNumber(IntEnum):
    """Columns of ``DrawList.draw_numbers``."""

    FLOOR = 0  # least scale
    SCALE = 1  # of what is read
    SHIFT = 2


class Setting(IntEnum):
    """What a temperature multiplies, fp32."""

    SHARPNESS = 0  # logits
    STRETCH = 1  # scales of normals
    SPREAD = 2  # scales of logistics


class TileColumn(IntEnum):
    """Columns of the tiles of ``matmul``; ranges are [first, end)."""

    TILE = 0  # of rows
    FIRST_CHUNK = 1
    FIRST_FULL = 2
    END_FULL = 3
    END_CHUNK = 4


class PairColumn(IntEnum):
    """Columns of the tiles of ``outer``."""

    TILE = 0  # of rows
    CHUNK = 1


def row_of(columns: type[IntEnum], values: Mapping[Any, int]) -> list[int]:
    """The values in the order of the columns, each of which must have one."""
    return [int(values[column]) for column in columns]


SEED, NOISE_ROW = tl.constexpr(int(RequestWord.SEED)), tl.constexpr(int(RequestWord.NOISE_ROW))
ROW_OFFSET, NUM_ROWS = tl.constexpr(int(RequestWord.ROW_OFFSET)), tl.constexpr(int(RequestWord.NUM_ROWS))
ROWS_PER_CONDITION = tl.constexpr(int(RequestWord.ROWS_PER_CONDITION))

BLOCK_COLUMNS = tl.constexpr(len(BlockColumn))
BLOCK_FIRST_TASK = tl.constexpr(int(BlockColumn.FIRST_TASK))
BLOCK_END_TASK = tl.constexpr(int(BlockColumn.END_TASK))
BLOCK_FIRST_CHUNK = tl.constexpr(int(BlockColumn.FIRST_CHUNK))
BLOCK_END_CHUNK = tl.constexpr(int(BlockColumn.END_CHUNK))
BLOCK_FIRST_EVENT = tl.constexpr(int(BlockColumn.FIRST_EVENT))
BLOCK_END_EVENT = tl.constexpr(int(BlockColumn.END_EVENT))
BLOCK_FIRST_SUM = tl.constexpr(int(BlockColumn.FIRST_SUM))
BLOCK_FIRST_DRAW = tl.constexpr(int(BlockColumn.FIRST_DRAW))
BLOCK_END_DRAW = tl.constexpr(int(BlockColumn.END_DRAW))

TASK_COLUMNS = tl.constexpr(len(TaskColumn))
TASK_FIRST_CHUNK = tl.constexpr(int(TaskColumn.FIRST_CHUNK))
TASK_END_CHUNK = tl.constexpr(int(TaskColumn.END_CHUNK))

EVENT_COLUMNS = tl.constexpr(len(EventColumn))
EVENT_WHAT = tl.constexpr(int(EventColumn.WHAT))
EVENT_RUN = tl.constexpr(int(EventColumn.RUN))
EVENT_NOISE_STEP = tl.constexpr(int(EventColumn.NOISE_STEP))
EVENT_NOTHING = tl.constexpr(int(Event.NOTHING))
EVENT_PRODUCT = tl.constexpr(int(Event.PRODUCT))
EVENT_DRAW = tl.constexpr(int(Event.DRAW))
VECTORS = tl.constexpr(2)  # of each event: coefficients; what is spread, or the coefficients of the second factor

FIELD_BITS, RUN_BITS = 4, 16
FIELD = tl.constexpr((1 << FIELD_BITS) - 1)
FUNCTION_SHIFT = tl.constexpr(FIELD_BITS)
RUN_FUNCTION_SHIFT = tl.constexpr(2 * FIELD_BITS)
UNIT_SHIFT = tl.constexpr(3 * FIELD_BITS)
RUN_FIRST = tl.constexpr((1 << RUN_BITS) - 1)
RUN_STOP_SHIFT = tl.constexpr(RUN_BITS)

VARIABLE_WORDS = tl.constexpr(16)  # of each variable, with room after the last: a line of memory for two
VARIABLE_CODE = tl.constexpr(int(VariableWord.CODE))
VARIABLE_NUM_PARAMS = tl.constexpr(int(VariableWord.NUM_PARAMS))
VARIABLE_NUM_LOGITS = tl.constexpr(int(VariableWord.NUM_LOGITS))
VARIABLE_COMPONENTS = tl.constexpr(int(VariableWord.COMPONENTS))
VARIABLE_SIZE = tl.constexpr(int(VariableWord.SIZE))
VARIABLE_NOISE_STEP = tl.constexpr(int(VariableWord.NOISE_STEP))
VARIABLE_NUMBER = tl.constexpr(int(VariableWord.VARIABLE))
VARIABLE_PARAMS = tl.constexpr(int(VariableWord.PARAMS))
VARIABLE_X_SLOT = tl.constexpr(int(VariableWord.X_SLOT))
VARIABLE_ENCODING = tl.constexpr(int(VariableWord.ENCODING))
VARIABLE_UNITS = tl.constexpr(int(VariableWord.UNITS))
VARIABLE_TABLE = tl.constexpr(int(VariableWord.TABLE))
VARIABLE_FLAGS = tl.constexpr(int(VariableWord.FLAGS))

VARIABLE_NUMBERS = tl.constexpr(4)  # of each variable, likewise
FLOOR = tl.constexpr(int(VariableNumber.FLOOR))
SCALE, SHIFT = tl.constexpr(int(VariableNumber.SCALE)), tl.constexpr(int(VariableNumber.SHIFT))

BOUNDS = tl.constexpr(2)  # of each variable, see ``made_fast.requests.conditions``
LOWER, UPPER = tl.constexpr(0), tl.constexpr(1)

SHARPNESS = tl.constexpr(int(Setting.SHARPNESS))
STRETCH, SPREAD = tl.constexpr(int(Setting.STRETCH)), tl.constexpr(int(Setting.SPREAD))

TILE_COLUMNS = tl.constexpr(len(TileColumn))
TILE_ROWS = tl.constexpr(int(TileColumn.TILE))
TILE_FIRST_CHUNK = tl.constexpr(int(TileColumn.FIRST_CHUNK))
TILE_FIRST_FULL = tl.constexpr(int(TileColumn.FIRST_FULL))
TILE_END_FULL = tl.constexpr(int(TileColumn.END_FULL))
TILE_END_CHUNK = tl.constexpr(int(TileColumn.END_CHUNK))

PAIR_COLUMNS = tl.constexpr(len(PairColumn))
PAIR_TILE, PAIR_CHUNK = tl.constexpr(int(PairColumn.TILE)), tl.constexpr(int(PairColumn.CHUNK))
