"""Masked products with their gradients, ``MaskedLinear``, and what a network reads of its variables."""

from made_fast.layers.definitions import decompositions
from made_fast.layers.encoder import Encoder
from made_fast.layers.linear import MaskedLinear, masked_linear

__all__ = [
    "Encoder",
    "MaskedLinear",
    "decompositions",
    "masked_linear",
]
