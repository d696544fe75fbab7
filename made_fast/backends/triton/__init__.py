"""The Triton backend: the sampler and the masked matmuls on a GPU (and, slowly, under Triton's interpreter)."""

from __future__ import annotations

from made_fast.backends.triton.drawing.launches import Packed, draw, pack
from made_fast.backends.triton.launch import Config
from made_fast.backends.triton.masked.launches import masked_linear, masked_linear_grad_input, masked_linear_grad_weight

__all__ = [
    "Config",
    "Packed",
    "draw",
    "masked_linear",
    "masked_linear_grad_input",
    "masked_linear_grad_weight",
    "pack",
]
