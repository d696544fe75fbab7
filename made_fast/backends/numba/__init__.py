"""The numba backend: compiled at first use, for machines where nothing was compiled at install."""

from made_fast.backends.numba.drawing import Packed, draw, pack
from made_fast.backends.numba.masked_products import masked_linear, masked_linear_grad_input, masked_linear_grad_weight

__all__ = ["Packed", "draw", "masked_linear", "masked_linear_grad_input", "masked_linear_grad_weight", "pack"]
