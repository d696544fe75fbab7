"""Memory for samples, or a sentence that says how much they would take."""

from __future__ import annotations

import os

import torch
from torch import Tensor

__all__ = ["empty_rows"]

_MANY = 1 << 26  # values, below which nobody asks how much memory there is


def empty_rows(count: int, features: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Rows (count, features) that are yet to be drawn.

    Raises:
        MemoryError: they do not fit: there is less memory in the whole machine, or the device does not give as much.
    """
    if count * features < _MANY:
        return torch.empty((count, features), dtype=dtype, device=device)
    size, reason = count * features * dtype.itemsize, None
    whole = _memory() if device.type == "cpu" else None
    if whole is None or size <= whole:
        try:
            return torch.empty((count, features), dtype=dtype, device=device)
        except RuntimeError as error:  # torch has no name of its own for that of a CPU
            reason = error
    there = "" if whole is None else f", of {whole:,} of the machine"
    sizes = f"{count:,} rows x {features:,} columns x {dtype.itemsize} bytes are {size:,} bytes{there}"
    raise MemoryError(f"num_samples must fit into memory: {sizes}; draw them in parts with first_row") from reason


def _memory() -> int | None:
    """Bytes of memory that the machine has, where that can be told."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
