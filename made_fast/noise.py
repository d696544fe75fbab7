"""Uniform noise as a function of (seed, row, step, draw): the reference for every backend.

Philox4x32-10 with key = (seed low, seed high) and counter = (step >> 2, draw, row low, row high); the word of a step is
number ``step & 3`` of the four. ``u = (word >> 8) * 2**-24`` is exact in fp32 and lies in [0, 1). The same arguments give
the same number whatever the batch size, thread count, process or device.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["philox", "uniform"]

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def _mul_wide(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of word * multiplier, without leaving the signed 64 bits that torch has."""
    low_part = (word & 0xFFFF) * multiplier  # < 2**48
    carried = (word >> 16) * multiplier + (low_part >> 16)  # < 2**49
    return carried >> 16, ((carried << 16) | (low_part & 0xFFFF)) & _LOW


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four output words for each counter.

    Args:
        counter: four int64 tensors that broadcast together, each with values in [0, 2**32).
        key: two integers in [0, 2**32).

    Returns:
        four int64 tensors with values in [0, 2**32).
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _mul_wide(c0, _MULTIPLIERS[0])
        high1, low1 = _mul_wide(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


def uniform(seed: int, row: Tensor, step: Tensor | int, draw: Tensor | int = 0) -> Tensor:
    """Uniforms in [0, 1), multiples of 2**-24.

    Args:
        seed: any integer; its lowest 64 bits count.
        row: int64 tensor, not negative.
        step: position in the order, int64 tensor or int; broadcasts with ``row``.
        draw: which of the uniforms that one variable needs; int64 tensor or int; broadcasts with ``row``.

    Returns:
        fp32 tensor of the broadcast shape, on the device of ``row``.
    """
    step_, draw_ = (torch.as_tensor(value, dtype=torch.int64, device=row.device) for value in (step, draw))
    key = (seed & _LOW, (seed >> 32) & _LOW)
    words = torch.stack(philox((step_ >> 2, draw_, row & _LOW, (row >> 32) & _LOW), key))
    word = torch.take_along_dim(words, (step_ & 3).expand(words.shape[1:])[None], dim=0)[0]
    return (word >> 8).to(torch.float32) * 2.0**-24
