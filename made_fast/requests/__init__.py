"""What a draw is asked for, checked once: rows, seed, context, given and allowed values, decoding."""

from made_fast.requests.conditions import Allowed, Between, Conditions
from made_fast.requests.piece import Piece
from made_fast.requests.request import Request
from made_fast.requests.sums import SumTo

__all__ = [
    "Allowed",
    "Between",
    "Conditions",
    "Piece",
    "Request",
    "SumTo",
]
