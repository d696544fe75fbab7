"""The standard normal distribution in fp64, to the last digits of its lower tail: for draws between bounds."""

import triton
import triton.language as tl

from made_fast.outputs import normal as definition

__all__ = ["log_mass_of", "ndtr", "ndtri", "standard_ends", "value_between"]


NARROW, FAR = tl.constexpr(definition.NARROW), tl.constexpr(definition.FAR)
FAR_ROUNDS = tl.constexpr(definition.FAR_ROUNDS)
LOG_SQRT_2_PI = tl.constexpr(definition.LOG_SQRT_2_PI)


@triton.jit
def ndtr(x):
    """The cdf of fp64 x, by rational approximations; 0 below -38.

    Source: Cody, "Rational Chebyshev approximations for the error function", Mathematics of Computation 23, 1969.
    """
    y = tl.minimum(tl.abs(x), 38.0)
    s = tl.minimum(y * y, 0.46)
    above = (
        ((0.065682337918207449113 * s + 2.2352520354606839287) * s + 161.02823106855587881) * s
    ) + 1067.6894854603709582
    above = above * s + 18154.981253343561249
    below = (
        ((s + 47.20258190468824187) * s + 976.09855173777669322) * s + 10260.932208618978205
    ) * s + 45507.789335026729956
    central = 0.5 + x * above / below
    density = tl.exp(-0.5 * y * y)
    lower = density * tl.where(y < 5.656854249492381, _ratio(y), _far_ratio(tl.maximum(y, 5.0)))
    lower = tl.where(x < -38.0, 0.0, lower)
    return tl.where(y <= 0.67448975, central, tl.where(x < 0, lower, 1.0 - lower))


@triton.jit
def _ratio(y):
    """The tail over exp(-y * y / 2), for y up to 5.7."""
    above = 1.0765576773720192317e-8 * y + 0.39894151208813466764
    above = above * y + 8.8831497943883759412
    above = above * y + 93.506656132177855979
    above = above * y + 597.27027639480026226
    above = above * y + 2494.5375852903726711
    above = above * y + 6848.1904505362823326
    above = above * y + 11602.651437647350124
    above = above * y + 9842.7148383839780218
    below = y + 22.266688044328115691
    below = below * y + 235.38790178262499861
    below = below * y + 1519.377599407554805
    below = below * y + 6485.558298266760755
    below = below * y + 18615.571640885098091
    below = below * y + 34900.952721145977266
    below = below * y + 38912.003286093271411
    below = below * y + 19685.429676859990727
    return above / below


@triton.jit
def _far_ratio(y):
    """The same for y from 5.6 on."""
    s = 1.0 / (y * y)
    above = 0.02307344176494017303 * s + 0.21589853405795699
    above = above * s + 0.1274011611602473639
    above = above * s + 0.022235277870649807
    above = above * s + 0.001421619193227893466
    above = above * s + 2.9112874951168792e-5
    below = s + 1.28426009614491121
    below = below * s + 0.468238212480865118
    below = below * s + 0.0659881378689285515
    below = below * s + 0.00378239633202758244
    below = below * s + 7.29751555083966205e-5
    return (0.398942280401432677939946 - s * above / below) / y


@triton.jit
def ndtri(p):
    """The inverse of the cdf at fp64 p in [0, 1]; within 38 of 0 even at the ends.

    Source: Wichura, algorithm AS 241 (PPND16), Applied Statistics 37, 1988.
    """
    q = p - 0.5
    tail = tl.maximum(tl.minimum(p, 1.0 - p), 1e-315)
    t = tl.sqrt(-tl.log(tail))
    far = tl.where(t <= 5.0, _near_tail(t - 1.6), _far_tail(t - 5.0))
    return tl.where(tl.abs(q) <= 0.425, q * _centre(0.180625 - q * q), tl.where(q < 0, -far, far))


@triton.jit
def _centre(r):
    above = 2509.0809287301226727 * r + 33430.575583588128105
    above = above * r + 67265.770927008700853
    above = above * r + 45921.953931549871457
    above = above * r + 13731.693765509461125
    above = above * r + 1971.5909503065514427
    above = above * r + 133.14166789178437745
    above = above * r + 3.387132872796366608
    below = 5226.495278852545925 * r + 28729.085735721942674
    below = below * r + 39307.89580009271061
    below = below * r + 21213.794301586595867
    below = below * r + 5394.1960214247511077
    below = below * r + 687.1870074920579083
    below = below * r + 42.313330701600911252
    return above / (below * r + 1.0)


@triton.jit
def _near_tail(t):
    above = 7.7454501427834140764e-4 * t + 0.0227238449892691845833
    above = above * t + 0.24178072517745061177
    above = above * t + 1.27045825245236838258
    above = above * t + 3.64784832476320460504
    above = above * t + 5.7694972214606914055
    above = above * t + 4.6303378461565452959
    above = above * t + 1.42343711074968357734
    below = 1.05075007164441684324e-9 * t + 5.475938084995344946e-4
    below = below * t + 0.0151986665636164571966
    below = below * t + 0.14810397642748007459
    below = below * t + 0.68976733498510000455
    below = below * t + 1.6763848301838038494
    below = below * t + 2.05319162663775882187
    return above / (below * t + 1.0)


@triton.jit
def _far_tail(t):
    above = 2.01033439929228813265e-7 * t + 2.71155556874348757815e-5
    above = above * t + 0.0012426609473880784386
    above = above * t + 0.026532189526576123093
    above = above * t + 0.29656057182850489123
    above = above * t + 1.7848265399172913358
    above = above * t + 5.4637849111641143699
    above = above * t + 6.6579046435011037772
    below = 2.04426310338993978564e-15 * t + 1.4215117583164458887e-7
    below = below * t + 1.8463183175100546818e-5
    below = below * t + 7.868691311456132591e-4
    below = below * t + 0.0148753612908506148525
    below = below * t + 0.13692988092273580531
    below = below * t + 0.59983220655588793769
    return above / (below * t + 1.0)


@triton.jit
def standard_ends(loc, scale, lower, upper):
    """Bounds in scales, and the width, in fp64; of the mirror image (true) where they lie above the location."""
    loc, scale = loc.to(tl.float64), scale.to(tl.float64)
    lower, upper = lower.to(tl.float64), upper.to(tl.float64)
    low, high = (lower - loc) / scale, (upper - loc) / scale
    mirrored = low > 0
    return tl.where(mirrored, -high, low), tl.where(mirrored, -low, high), (upper - lower) / scale, mirrored


@triton.jit
def _is_narrow(high, width):
    return width * tl.maximum(-high, 1.0) < NARROW


@triton.jit
def _far_share(low, high, width):
    """Of the mass below a far ``high`` the share that is above ``low``; and the ratio of the tail at ``high``."""
    near, beyond = tl.split(_far_ratio(tl.join(tl.maximum(-high, -FAR), tl.maximum(-low, -FAR))))
    return 1.0 - tl.exp(0.5 * width * (low + high)) * (beyond / near), near


@triton.jit
def log_mass_of(low, high, width):
    """The log of the mass between two ends of a standard normal; see ``Truncation`` of made_fast/outputs/normal.py."""
    below, above = tl.split(ndtr(tl.join(low, high)))
    central = tl.log(above - below)
    share, ratio = _far_share(low, high, width)
    far = tl.log(ratio * share) - 0.5 * high * high
    square = 0.25 * (low + high) * (low + high)
    bent = (square - 1.0) * width * width / 24
    narrow = tl.log(width) - 0.5 * square - LOG_SQRT_2_PI + bent * (1.0 - 0.5 * bent)
    found = tl.where(_is_narrow(high, width), narrow, tl.where(high < FAR, far, central))
    return tl.where(found == found, found, float("-inf"))


@triton.jit
def value_between(loc, scale, lower, upper, share):
    """Where this share (R,) of the mass between two bounds ends, fp64; see ``truncated_normal`` there."""
    low, high, width, mirrored = standard_ends(loc, scale, lower, upper)
    rest = 1.0 - share
    outer_share, ratio = _far_share(low, high, width)
    wanted, near = -tl.log(1.0 - rest * outer_share), tl.maximum(-high, -FAR)
    far = tl.zeros_like(wanted)
    for _ in range(0, FAR_ROUNDS):
        left = wanted - tl.log(ratio / _far_ratio(near + far))
        far = 2.0 * left / (near + tl.sqrt(near * near + 2.0 * left))
    narrow = width * (rest + 0.25 * (low + high) * width * rest * share)
    step = scale.to(tl.float64) * tl.where(_is_narrow(high, width), narrow, far)
    outer = tl.where(mirrored, lower.to(tl.float64) + step, upper.to(tl.float64) - step)
    below, above = tl.split(ndtr(tl.join(low, high)))
    z = ndtri(below + share * (above - below))
    central = loc.to(tl.float64) + scale.to(tl.float64) * tl.where(mirrored, -z, z)
    return tl.where(_is_narrow(high, width) | (high < FAR), outer, central)
