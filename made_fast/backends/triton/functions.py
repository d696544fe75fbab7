"""Functions that kernels share. What has no counterpart in the interpreter is not used (libdevice, inline assembly)."""

import triton
import triton.language as tl

from made_fast.programs.functions import FUNCTION_CODES

__all__ = ["KNOWN_FUNCTIONS", "apply_function", "expm1", "log1p_exp", "softplus", "tanh"]

KNOWN_FUNCTIONS: list[str] = []  # names of those below


def _known(name: str) -> tl.constexpr:
    """The number of a function that ``apply_function`` knows."""
    KNOWN_FUNCTIONS.append(name)
    return tl.constexpr(FUNCTION_CODES[name])


# To add one: its line here, and what it is in ``apply_function``.
IDENTITY = _known("identity")
RELU = _known("relu")
LEAKY_RELU = _known("leaky_relu")
ELU = _known("elu")
SELU = _known("selu")
GELU = _known("gelu")
SILU = _known("silu")
SOFTPLUS = _known("softplus")
TANH = _known("tanh")
SIGMOID = _known("sigmoid")


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
    elif FUNCTION == SELU:
        x = tl.where(x < 0, expm1(tl.minimum(x, 0.0)) * 1.7580993408473766, x * 1.0507009873554805)
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
    else:
        tl.static_assert(FUNCTION == IDENTITY)
    return x
