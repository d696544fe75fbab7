"""MADE: a network of masked layers with an output; and mixtures of such."""

from made_fast.models.made import MADE
from made_fast.models.mixture import Mixture

__all__ = [
    "MADE",
    "Mixture",
]
