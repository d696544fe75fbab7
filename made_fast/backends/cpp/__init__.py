"""The compiled backend: the C++ engine on CPU tensors."""

from made_fast.backends.cpp.engine import (
    Packed,
    build_config,
    draw,
    has_bf16,
    masked_linear,
    masked_linear_grad_input,
    masked_linear_grad_weight,
    pack,
)

__all__ = [
    "Packed",
    "build_config",
    "draw",
    "has_bf16",
    "masked_linear",
    "masked_linear_grad_input",
    "masked_linear_grad_weight",
    "pack",
]
