"""The slopes of the functions that networks apply to their units."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from made_fast.backends.numba.jit import dispatch, jit
from made_fast.programs.functions import FUNCTION_CODES

__all__ = ["FROM_ARGUMENT", "SLOPES", "slope_of"]

# Of a function with argument x and value y, which is all that is left of most: those of FROM_ARGUMENT have both.
SLOPES: dict[str, Callable[[Any, Any], Any]] = {
    "relu": lambda x, y: 0.0 if y <= 0 else 1.0,
    "leaky_relu": lambda x, y: 1.0 if y > 0 else 0.01,
    "elu": lambda x, y: 1.0 if y > 0 else y + 1.0,
    "selu": lambda x, y: 1.0507009873554805 if y > 0 else y + 1.7580993408473766,
    "gelu": lambda x, y: 0.5 + 0.5 * math.erf(x * 0.7071067811865476) + x * 0.3989422804014327 * math.exp(-0.5 * x * x),
    "silu": lambda x, y: (1.0 + x - y) / (1.0 + math.exp(-x)),
    "softplus": lambda x, y: 1.0 / (1.0 + math.exp(-x)),
    "tanh": lambda x, y: 1.0 - y * y,
    "sigmoid": lambda x, y: y * (1.0 - y),
    "exp": lambda x, y: y,
    "reciprocal": lambda x, y: -y * y,
    "identity": lambda x, y: 1.0,
}
FROM_ARGUMENT = ("gelu", "silu", "softplus")

slope_of = dispatch(
    "slope_of", "code, x, y", "x, y", {FUNCTION_CODES[name]: jit(function) for name, function in SLOPES.items()}
)
