"""Functions of one number that networks apply to their units, and the codes by which engines know them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ACTIVATIONS", "FUNCTIONS", "FUNCTION_CODES"]

# The position in this table is the code by which compiled backends know a function (csrc/plan.h).
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
}


# Those that layers apply to their sums; the others are arithmetic of programs alone, such as that of flows.
ACTIVATIONS = tuple(name for name in FUNCTIONS if name not in ("exp", "reciprocal"))


FUNCTION_CODES = {name: code for code, name in enumerate(FUNCTIONS)}
