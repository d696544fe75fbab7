"""Real numbers from a normal distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from made_fast.arguments import positive_number
from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import PLAIN, Decoding
from made_fast.outputs.output import OneConditional
from made_fast.outputs.rules import HALF_STEP, LOG_SQRT_2_PI, wide

__all__ = [
    "Normal",
    "NormalConditional",
    "Truncation",
    "normal_cdf",
    "normal_log_prob",
    "normal_of",
    "truncated_normal",
]

# Of a standard normal: an interval is narrow whose width times the slope of the log-density is less; what lies below is far.
NARROW, FAR, FAR_ROUNDS = 1e-3, -30.0, 3


def normal_log_prob(loc: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """log-density in nats, of arguments that broadcast."""
    z = (x - loc) / scale
    return (-0.5 * z) * z - torch.log(scale) - LOG_SQRT_2_PI


def normal_cdf(z: Tensor) -> Tensor:
    """By erfc, which keeps the digits of the lower tail; torch.special.ndtr is 0 below -8.3."""
    return 0.5 * torch.erfc(-math.sqrt(0.5) * z)


def normal_of(uniform: Tensor, dtype: torch.dtype) -> Tensor:
    """A standard normal number from a uniform."""
    found: Tensor = torch.special.ndtri(uniform.double() + HALF_STEP).to(dtype)
    return found


@dataclass(frozen=True)
class Truncation:
    """A standard normal between two ends, by its lower tail, which keeps digits. All fp64, of shapes that broadcast.

    Where its mass is a difference of two numbers that agree, or of two that are 0 in fp64, it is found otherwise: in a narrow
    interval the density is a straight line, and far out it falls like an exponential.

    Attributes:
        low, high: the ends; high is below 0, or low is not above it.
        width: of what lies between them, also where their difference has no digits.
    """

    low: Tensor
    high: Tensor
    width: Tensor

    @property
    def narrow(self) -> Tensor:
        """Where the density is a straight line to nine digits."""
        return self.width * torch.clamp(-self.high, min=1.0) < NARROW

    @property
    def far(self) -> Tensor:
        """Where the cdf would soon be 0."""
        return self.high < FAR

    def log_mass(self) -> Tensor:
        """The log of the mass between the ends."""
        square = (0.5 * (self.low + self.high)) ** 2
        narrow = torch.log(self.width) - 0.5 * square - LOG_SQRT_2_PI + torch.log1p((square - 1) * self.width**2 / 24)
        far = -0.5 * self.high**2 + torch.log(_tail_ratio(-self.high)) + torch.log(self._far_share())
        central = torch.log(normal_cdf(self.high) - normal_cdf(self.low))
        found = torch.where(self.narrow, narrow, torch.where(self.far, far, central))
        return torch.where(found.isnan(), -torch.inf, found)

    def below_high(self, share: Tensor) -> Tensor:
        """How far below ``high`` this share of the mass ends, counted from ``low``; narrow or far."""
        rest = 1 - share
        narrow = self.width * (rest + 0.25 * (self.low + self.high) * self.width * rest * share)
        return torch.where(self.narrow, narrow, self._far_below(rest))

    def quantile(self, share: Tensor) -> Tensor:
        """Where this share of the mass ends, counted from ``low``; neither narrow nor far."""
        start = normal_cdf(self.low)
        found: Tensor = torch.special.ndtri(start + share * (normal_cdf(self.high) - start))
        return found

    def _far_share(self) -> Tensor:
        """Of the mass below ``high`` the share that is above ``low``."""
        ratio = _tail_ratio(-self.high) / _tail_ratio(-self.low)
        return -torch.expm1(0.5 * self.width * (self.low + self.high) - torch.log(ratio))

    def _far_below(self, rest: Tensor) -> Tensor:
        """Where log cdf(high) - log cdf(high - step) is what is wanted; each round adds three digits."""
        wanted, near = -torch.log1p(-rest * self._far_share()), -self.high
        step = torch.zeros_like(wanted)
        for _ in range(FAR_ROUNDS):
            left = wanted - torch.log(_tail_ratio(near) / _tail_ratio(near + step))
            step = 2 * left / (near + torch.sqrt(near**2 + 2 * left))
        return step


def _tail_ratio(z: Tensor) -> Tensor:
    """cdf(-z) * exp(z**2 / 2)."""
    ratio: Tensor = 0.5 * torch.special.erfcx(math.sqrt(0.5) * z)
    return ratio


def truncated_normal(loc: Tensor, scale: Tensor, uniform: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """A normal draw between bounds (..., 2), and the log of the mass between them in fp64.

    Without mass it is the bound that is nearest to the location.
    """
    wide_loc, wide_scale = loc.double(), scale.double()
    lower, upper = bounds.double().unbind(-1)
    low, high = (lower - wide_loc) / wide_scale, (upper - wide_loc) / wide_scale
    mirrored = low > 0
    standard = Truncation(
        torch.where(mirrored, -high, low), torch.where(mirrored, -low, high), (upper - lower) / wide_scale
    )
    share, log_mass = uniform.double() + HALF_STEP, standard.log_mass()
    z, step = standard.quantile(share), wide_scale * standard.below_high(share)
    central = wide_loc + wide_scale * torch.where(mirrored, -z, z)
    outer = torch.where(mirrored, lower + step, upper - step)
    x = torch.where(standard.narrow | standard.far, outer, central)
    x = torch.where(log_mass > -torch.inf, x, wide_loc)
    return torch.minimum(torch.maximum(x, lower), upper).to(loc.dtype), log_mass


@dataclass(frozen=True)
class NormalConditional(Conditional):
    """A real number; parameters are the location and what softplus turns into the scale above ``floor``."""

    floor: float = 1e-4
    code = Code.NORMAL
    num_params = 2

    def parts(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale, (...) each."""
        return params[..., 0], F.softplus(params[..., 1]) + self.floor

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        params = wide(params)
        return normal_log_prob(*self.parts(params), x.to(params.dtype))

    def draw(self, params: Tensor, uniforms: Tensor, decoding: Decoding = PLAIN) -> Tensor:
        """The inverse of the cdf at the uniform plus 2**-25, so within 5.4 scales of the location."""
        loc, scale = self.parts(params)
        if decoding.greedy:
            return loc
        return loc + scale * math.sqrt(decoding.temperature) * normal_of(uniforms[..., 0], params.dtype)

    def draw_within(self, params: Tensor, uniforms: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = self.parts(wide(params))
        x, log_mass = truncated_normal(loc, scale, uniforms[..., 0], allowed)
        return x.to(params.dtype), log_mass.to(loc.dtype)

    def mean(self, params: Tensor) -> Tensor:
        return params[..., 0]

    def mode(self, params: Tensor) -> Tensor:
        return params[..., 0]

    def cdf(self, params: Tensor, x: Tensor) -> Tensor:
        loc, scale = self.parts(params)
        return normal_cdf((x - loc) / scale)


class Normal(OneConditional):
    """Real numbers; parameters are the location and, through softplus, the scale above a floor.

    Args:
        floor: least scale.
    """

    name = "normal"

    def __init__(self, floor: float = 1e-4) -> None:
        self.conditional = NormalConditional(positive_number("floor", floor))

    @classmethod
    def example(cls) -> Normal:
        return cls(floor=0.1)

    def arguments(self) -> dict[str, Any]:
        return {"floor": self.conditional.floor}
