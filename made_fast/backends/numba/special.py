"""Functions of one number that conditionals need, in fp64."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

import numpy as np

from made_fast.backends.numba.jit import jit

__all__ = ["far_tail_ratio", "logit", "ndtr", "ndtri", "softplus"]


@jit
def softplus(x):
    """log(1 + exp(x)) without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@jit
def logit(u):
    """log(u / (1 - u)) of a uniform, -inf at 0."""
    return math.log(u / (1.0 - u)) if u > 0 else -np.inf


@jit
def ndtr(x):
    """Standard normal cdf; small values of it keep their digits."""
    return 0.5 * math.erfc(x * -0.7071067811865476)


@jit
def far_tail_ratio(z):
    """ndtr(-z) * exp(z * z / 2) for z from 5.7 on.

    Source: Cody, "Rational Chebyshev approximations for the error function", Mathematics of Computation 23, 1969.
    """
    s = 1.0 / (z * z)
    top = 0.02307344176494017303 * s + 0.21589853405795699
    top = ((top * s + 0.1274011611602473639) * s + 0.022235277870649807) * s + 0.001421619193227893466
    top = top * s + 2.9112874951168792e-5
    low = s + 1.28426009614491121
    low = ((low * s + 0.468238212480865118) * s + 0.0659881378689285515) * s + 0.00378239633202758244
    low = low * s + 7.29751555083966205e-5
    return (0.39894228040143267794 - s * top / low) / z


@jit
def _central(q):
    """ndtri(0.5 + q) for |q| <= 0.425."""
    r = 0.180625 - q * q
    top = 2.5090809287301226727e3 * r + 3.3430575583588128105e4
    top = ((top * r + 6.7265770927008700853e4) * r + 4.5921953931549871457e4) * r + 1.3731693765509461125e4
    top = ((top * r + 1.9715909503065514427e3) * r + 1.3314166789178437745e2) * r + 3.3871328727963666080e0
    low = 5.2264952788528545610e3 * r + 2.8729085735721942674e4
    low = ((low * r + 3.9307895800092710610e4) * r + 2.1213794301586595867e4) * r + 5.3941960214247511077e3
    low = ((low * r + 6.8718700749205790830e2) * r + 4.2313330701600911252e1) * r + 1.0
    return q * top / low


@jit
def _tail(r):
    """-ndtri(exp(-r * r)) for 1.6 < r <= 5."""
    r = r - 1.6
    top = 7.74545014278341407640e-4 * r + 2.27238449892691845833e-2
    top = ((top * r + 2.41780725177450611770e-1) * r + 1.27045825245236838258e0) * r + 3.64784832476320460504e0
    top = ((top * r + 5.76949722146069140550e0) * r + 4.63033784615654529590e0) * r + 1.42343711074968357734e0
    low = 1.05075007164441684324e-9 * r + 5.47593808499534494600e-4
    low = ((low * r + 1.51986665636164571966e-2) * r + 1.48103976427480074590e-1) * r + 6.89767334985100004550e-1
    low = ((low * r + 1.67638483018380384940e0) * r + 2.05319162663775882187e0) * r + 1.0
    return top / low


@jit
def _far_tail(r):
    """-ndtri(exp(-r * r)) for r > 5."""
    r = r - 5.0
    top = 2.01033439929228813265e-7 * r + 2.71155556874348757815e-5
    top = ((top * r + 1.24266094738807843860e-3) * r + 2.65321895265761230930e-2) * r + 2.96560571828504891230e-1
    top = ((top * r + 1.78482653991729133580e0) * r + 5.46378491116411436990e0) * r + 6.65790464350110377720e0
    low = 2.04426310338993978564e-15 * r + 1.42151175831644588870e-7
    low = ((low * r + 1.84631831751005468180e-5) * r + 7.86869131145613259100e-4) * r + 1.48753612908506148525e-2
    low = ((low * r + 1.36929880922735805310e-1) * r + 5.99832206555887937690e-1) * r + 1.0
    return top / low


@jit
def ndtri(p):
    """Inverse of the standard normal cdf for 0 < p < 1, relative error about 1e-16.

    Source: Wichura, "Algorithm AS 241: the percentage points of the normal distribution", 1988, PPND16.
    """
    q = p - 0.5
    if abs(q) <= 0.425:
        return _central(q)
    r = math.sqrt(-math.log(p if q < 0 else 1.0 - p))
    z = _tail(r) if r <= 5.0 else _far_tail(r)
    return -z if q < 0 else z
