"""MADE: a network of masked layers with an output."""

from made_fast.models.made import MADE

__all__ = [
    "MADE",
]
