"""The functions that networks apply to their units, of one number each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from made_fast.backends.numba.jit import dispatch, jit
from made_fast.programs.functions import FUNCTION_CODES

__all__ = ["FUNCTIONS", "apply_function"]

# To add one: a line here, by its name in made_fast/programs/functions.py.
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "relu": lambda x: 0.0 if x <= 0 else x,
    "leaky_relu": lambda x: x if x > 0 else x * 0.01,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "selu": lambda x: x * 1.0507009873554805 if x > 0 else math.expm1(x) * 1.7580993408473766,
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x * 0.7071067811865476)),
    "silu": lambda x: x / (1.0 + math.exp(-x)),
    "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
    "tanh": lambda x: math.tanh(x),  # noqa: PLW0108 - only what is written in Python is compiled
    "sigmoid": lambda x: 1.0 / (1.0 + math.exp(-x)),
    "exp": lambda x: math.exp(x),  # noqa: PLW0108
    "reciprocal": lambda x: 1.0 / x,
    "identity": lambda x: x,
}

apply_function = dispatch(
    "apply_function", "code, x", "x", {FUNCTION_CODES[name]: jit(function) for name, function in FUNCTIONS.items()}
)
