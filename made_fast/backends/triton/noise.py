"""The noise of ``made_fast.noise`` in kernels."""

import triton
import triton.language as tl

__all__ = ["philox_words", "uniform_of"]


@triton.jit
def philox_words(seed, step_group, draw, row):
    """The words of four steps for each (row, step >> 2): key and counter of ``made_fast.noise``. ``row`` is int64."""
    low = (row & 0xFFFFFFFF).to(tl.uint32)
    high = (row >> 32).to(tl.uint32)
    return tl.philox(seed, step_group.to(tl.uint32), draw.to(tl.uint32), low, high)


@triton.jit
def uniform_of(word):
    """A multiple of 2**-24 in [0, 1), fp32."""
    return (word >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2**-24
