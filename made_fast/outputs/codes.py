"""Numbers by which engines know conditionals, and what they know of an encoding."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Code", "Encoding"]


class Code(IntEnum):
    """Numbers by which compiled backends know the conditionals (csrc/plan/codes.h)."""

    BERNOULLI = 0
    SPIN = 1
    CATEGORICAL = 2
    NORMAL = 3
    MIXTURE_OF_NORMALS = 4
    MIXTURE_OF_LOGISTICS = 5
    OWN = 6
    POINT = 7


class Encoding(IntEnum):
    """What the network reads of a variable."""

    NUMBER = 0  # scale * x + shift
    ONE_HOT = 1  # one unit for each value, the one of x is 1
    EMBEDDING = 2  # row x of a table of its own
