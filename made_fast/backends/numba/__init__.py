"""The numba backend: compiled at first use, for machines where nothing was compiled at install."""

from made_fast.backends.numba.drawing import Packed, draw, pack
from made_fast.backends.numba.masked_products import masked_linear, masked_linear_grad_input, masked_linear_grad_weight
from made_fast.backends.numba.networks import Network, Networks

__all__ = [
    "TIMES_SLOWER",
    "Network",
    "Networks",
    "Packed",
    "draw",
    "masked_linear",
    "masked_linear_grad_input",
    "masked_linear_grad_weight",
    "pack",
]

TIMES_SLOWER = 8  # than the fastest, about, so that Ctrl-C need not wait longer
