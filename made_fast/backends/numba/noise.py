"""The noise of ``made_fast.noise``, for one row at a time."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np

from made_fast.backends.numba.jit import jit

__all__ = ["write_uniforms"]


@jit
def _write_words(seed, row, step_group, draw, words):
    """Philox4x32-10 with the key and the counter of ``made_fast.noise``; all uint64. Writes the words of four steps."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    k0, k1 = seed & low, seed >> shift
    c0, c1, c2, c3 = step_group, draw, row & low, row >> shift
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ k0, p1 & low, (p0 >> shift) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    words[0], words[1], words[2], words[3] = c0, c1, c2, c3


@jit
def write_uniforms(row, seed, uniforms):
    """Uniforms (D, draws) of a row, by noise step."""
    words = np.empty(4, dtype=np.uint64)
    steps, draws = uniforms.shape
    for group in range((steps + 3) // 4):
        for draw in range(draws):
            _write_words(seed, row, np.uint64(group), np.uint64(draw), words)
            for word in range(min(4, steps - 4 * group)):
                uniforms[4 * group + word, draw] = float(words[word] >> np.uint64(8)) * 2.0**-24
