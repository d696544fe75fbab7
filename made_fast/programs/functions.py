"""Functions of one number that networks apply to their units, and the codes by which engines know them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ACTIVATIONS", "FUNCTIONS", "FUNCTION_CODES", "FUNCTION_NAMES"]

# To add one: a line here, and one in each engine that is to apply it (its ``functions`` in made_fast/backends say which do).
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "reciprocal": torch.reciprocal,
    "selu": F.selu,
}


# Those that layers apply to their sums; the others are arithmetic of programs alone, such as that of flows.
ACTIVATIONS = tuple(name for name in FUNCTIONS if name not in ("exp", "reciprocal"))


# The position is the code by which engines know a function.
FUNCTION_NAMES = tuple(FUNCTIONS)
FUNCTION_CODES = {name: code for code, name in enumerate(FUNCTION_NAMES)}
