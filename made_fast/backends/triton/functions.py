"""Functions that kernels share. What has no counterpart in the interpreter is not used (libdevice, inline assembly)."""

import triton
import triton.language as tl

from made_fast.programs.functions import FUNCTIONS

__all__ = ["apply_function", "philox_words", "softplus"]

_CODES = {name: code for code, name in enumerate(FUNCTIONS)}
RELU = tl.constexpr(_CODES["relu"])
LEAKY_RELU = tl.constexpr(_CODES["leaky_relu"])
ELU = tl.constexpr(_CODES["elu"])
GELU = tl.constexpr(_CODES["gelu"])
SILU = tl.constexpr(_CODES["silu"])
SOFTPLUS = tl.constexpr(_CODES["softplus"])
TANH = tl.constexpr(_CODES["tanh"])
SIGMOID = tl.constexpr(_CODES["sigmoid"])


@triton.jit
def log1p_exp(x):
    """log(1 + exp(x)) for x <= 0. The second term is what the rounding of 1 + e lost (Kahan)."""
    e = tl.exp(x)
    s = 1.0 + e
    return tl.log(s) + (e - (s - 1.0)) / s


@triton.jit
def softplus(x):
    """log(1 + exp(x)) without overflow."""
    return tl.maximum(x, 0.0) + log1p_exp(-tl.abs(x))


@triton.jit
def expm1(x):
    """exp(x) - 1 for x <= 0, also near 0."""
    polynomial = x * (1.0 + x * (0.5 + x * (1.0 / 6 + x * (1.0 / 24 + x * (1.0 / 120 + x * (1.0 / 720))))))
    return tl.where(x > -0.3, polynomial, tl.exp(x) - 1.0)


@triton.jit
def tanh(x):
    """The sign of x times (1 - e) / (1 + e), e = exp(-2 |x|), with the numerator exact near 0."""
    numerator = -expm1(-2.0 * tl.abs(x))
    t = numerator / (2.0 - numerator)
    return tl.where(x < 0, -t, t)


@triton.jit
def apply_function(x, FUNCTION: tl.constexpr):
    """The function of ``made_fast.programs.FUNCTIONS`` with this number, in fp32. Nan stays nan."""
    if FUNCTION == RELU:
        x = tl.where(x < 0, 0.0, x)
    elif FUNCTION == LEAKY_RELU:
        x = tl.where(x < 0, x * 0.01, x)
    elif FUNCTION == ELU:
        x = tl.where(x < 0, expm1(tl.minimum(x, 0.0)), x)
    elif FUNCTION == GELU:
        x = x * 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
    elif FUNCTION == SILU:
        x = x / (1.0 + tl.exp(-x))
    elif FUNCTION == SOFTPLUS:
        x = softplus(x)
    elif FUNCTION == TANH:
        x = tanh(x)
    elif FUNCTION == SIGMOID:
        x = 1.0 / (1.0 + tl.exp(-x))
    return x


@triton.jit
def philox_words(seed, step_group, draw, row):
    """Four words for each (row, step >> 2): the counter of ``made_fast.noise``. ``row`` is int64."""
    low = (row & 0xFFFFFFFF).to(tl.uint32)
    high = (row >> 32).to(tl.uint32)
    return tl.philox(seed, step_group.to(tl.uint32), draw.to(tl.uint32), low, high)
