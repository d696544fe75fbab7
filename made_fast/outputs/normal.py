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
from made_fast.outputs.rules import HALF_STEP, LOG_SQRT_2_PI

__all__ = ["Normal", "NormalConditional", "normal_cdf", "normal_log_prob", "normal_of", "truncated_normal"]


def normal_log_prob(loc: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """log-density in nats, of arguments that broadcast."""
    return -0.5 * ((x - loc) / scale) ** 2 - torch.log(scale) - LOG_SQRT_2_PI


def normal_cdf(z: Tensor) -> Tensor:
    """By erfc, which keeps the digits of the lower tail; torch.special.ndtr is 0 below -8.3."""
    return 0.5 * torch.erfc(-math.sqrt(0.5) * z)


def normal_of(uniform: Tensor, dtype: torch.dtype) -> Tensor:
    """A standard normal number from a uniform."""
    found: Tensor = torch.special.ndtri(uniform.double() + HALF_STEP).to(dtype)
    return found


def truncated_normal(loc: Tensor, scale: Tensor, uniform: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """A normal draw between bounds (..., 2), and the log of the mass between them; by the lower tail, which keeps digits."""
    low, high = ((bounds[..., i].double() - loc.double()) / scale.double() for i in (0, 1))
    reflected = low > 0
    low, high = torch.where(reflected, -high, low), torch.where(reflected, -low, high)
    below = normal_cdf(low)
    mass = normal_cdf(high) - below
    z = torch.special.ndtri(below + (uniform.double() + HALF_STEP) * mass)
    z = torch.where(reflected, -z, z)
    nearest = torch.minimum(torch.maximum(loc, bounds[..., 0]), bounds[..., 1])
    x = torch.where(mass > 0, loc + scale * z.to(loc.dtype), nearest)
    x = torch.minimum(torch.maximum(x, bounds[..., 0]), bounds[..., 1])
    return x, torch.log(mass).to(loc.dtype)


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
        return normal_log_prob(*self.parts(params), x)

    def draw(self, params: Tensor, uniforms: Tensor, decoding: Decoding = PLAIN) -> Tensor:
        """The inverse of the cdf at the uniform plus 2**-25, so within 5.4 scales of the location."""
        loc, scale = self.parts(params)
        if decoding.greedy:
            return loc
        return loc + scale * math.sqrt(decoding.temperature) * normal_of(uniforms[..., 0], params.dtype)

    def draw_within(self, params: Tensor, uniforms: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        return truncated_normal(*self.parts(params), uniforms[..., 0], allowed)

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
