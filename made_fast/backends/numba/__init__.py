"""The numba backend: compiled at first use, for machines where nothing was compiled at install."""

from made_fast.backends.numba.matmul import masked_linear, masked_linear_grad_input, masked_linear_grad_weight
from made_fast.backends.numba.sampling import Packed, draw, pack

__all__ = ["Packed", "draw", "masked_linear", "masked_linear_grad_input", "masked_linear_grad_weight", "pack"]
