"""Autoregressive maps solved in levels: a flow of ours, and those of other libraries."""

from made_fast.flows.maf import MaskedAutoregressiveFlow

__all__ = [
    "MaskedAutoregressiveFlow",
]
