"""Variables of two values: bits and spins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import PLAIN, Decoding
from made_fast.outputs.output import OneConditional
from made_fast.outputs.rules import at_temperature, log_sigmoid, wide

__all__ = ["Bernoulli", "BernoulliConditional", "Binary", "Spin", "SpinConditional"]


@dataclass(frozen=True)
class Binary(Conditional):
    """Two values, low and high; the parameter is the logit of the high one."""

    low: ClassVar[float]
    high: ClassVar[float] = 1.0
    size = 2

    def values(self) -> Tensor:
        return torch.tensor([self.low, self.high], dtype=torch.float64)

    def valid(self, x: Tensor) -> Tensor:
        return (x == self.low) | (x == self.high)

    def _at(self, high: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * high

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log sigmoid(+-logit): exact for large logits of either sign."""
        logit = wide(params)[..., 0]
        return log_sigmoid((2 * x - (self.low + self.high)) / (self.high - self.low) * logit)

    def draw(self, params: Tensor, uniforms: Tensor, decoding: Decoding = PLAIN) -> Tensor:
        """The high value where logit > logit(u)."""
        if decoding.greedy:
            return self.mode(params)
        logit = params[..., 0] if decoding.temperature == 1 else at_temperature(params[..., 0], decoding.temperature)
        return self._at((uniforms[..., 0] < torch.sigmoid(logit)).to(params.dtype))

    def draw_within(self, params: Tensor, uniforms: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        both = allowed.all(-1)
        only = self._at((allowed[..., 1]).to(params.dtype))
        x = torch.where(both, self.draw(params, uniforms), only)
        return x, torch.where(both, 0, self.log_prob(params, x))

    def mean(self, params: Tensor) -> Tensor:
        return self._at(torch.sigmoid(params[..., 0]))

    def mode(self, params: Tensor) -> Tensor:
        return self._at((params[..., 0] > 0).to(params.dtype))

    def cdf(self, params: Tensor, x: Tensor) -> Tensor:
        below = torch.where(x >= self.low, torch.sigmoid(-params[..., 0]), 0)
        return torch.where(x >= self.high, 1, below)


@dataclass(frozen=True)
class BernoulliConditional(Binary):
    """0 or 1; the parameter is the logit."""

    code = Code.BERNOULLI
    low = 0.0

    @property
    def expected(self) -> str:
        return "0 or 1"


@dataclass(frozen=True)
class SpinConditional(Binary):
    """-1 or +1; the parameter is the logit of +1."""

    code = Code.SPIN
    low = -1.0

    @property
    def expected(self) -> str:
        return "-1 or 1"


class Bernoulli(OneConditional):
    """Binary variables; the one parameter of each is its logit: x = 1 iff u < sigmoid(logit)."""

    name = "bernoulli"
    conditional = BernoulliConditional()

    def distribution(self, params: Tensor, features: int) -> Distribution:
        """Independent Bernoulli with these logits."""
        return torch.distributions.Independent(torch.distributions.Bernoulli(logits=params), 1)


class Spin(OneConditional):
    """Variables -1 or +1; the one parameter of each is the logit of +1."""

    name = "spin"
    conditional = SpinConditional()
