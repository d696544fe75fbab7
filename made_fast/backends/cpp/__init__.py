"""The compiled backend: the C++ engine on CPU tensors."""

from made_fast.backends.cpp.engine import (
    Packed,
    build_config,
    digest_parts,
    draw,
    has_bf16,
    masked_linear,
    masked_linear_grad_input,
    masked_linear_grad_weight,
    pack,
    repack,
    unpack,
)
from made_fast.backends.cpp.networks import Network, Networks, Unchanged

__all__ = [
    "Network",
    "Networks",
    "Packed",
    "Unchanged",
    "build_config",
    "digest_parts",
    "draw",
    "has_bf16",
    "masked_linear",
    "masked_linear_grad_input",
    "masked_linear_grad_weight",
    "pack",
    "repack",
    "unpack",
]
