"""Mixtures: real numbers from normals, levels of grey from discretised logistics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from made_fast.arguments import positive_number, whole_number
from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import PLAIN, Decoding
from made_fast.outputs.normal import normal_cdf, normal_log_prob, normal_of, truncated_normal
from made_fast.outputs.output import OneConditional
from made_fast.outputs.rules import (
    HALF_STEP,
    at_temperature,
    choose_allowed,
    choose_category,
    is_whole,
    log_one_less_exp,
    log_sigmoid,
    logit_of,
    wide,
)

__all__ = [
    "Mixture",
    "MixtureOfLogistics",
    "MixtureOfLogisticsConditional",
    "MixtureOfNormals",
    "MixtureOfNormalsConditional",
]


@dataclass(frozen=True)
class Mixture(Conditional):
    """Parameters are k logits, k locations and k raw scales."""

    components: int
    num_draws = 2

    @property
    def num_params(self) -> int:  # type: ignore[override]
        return 3 * self.components

    def parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, locations and scales, (..., k) each."""
        logits, locs, raw = params.unflatten(-1, (3, self.components)).unbind(-2)
        return logits, locs, F.softplus(raw) + self.floor

    def _part_of(self, values: tuple[Tensor, ...], component: Tensor) -> list[Tensor]:
        return [torch.take_along_dim(value, component[..., None], -1)[..., 0] for value in values]

    def _chosen(self, params: Tensor, uniform: Tensor, decoding: Decoding) -> list[Tensor]:
        """Location and scale of the component that the uniform picks."""
        logits, locs, scales = self.parts(params)
        weights = torch.exp(at_temperature(logits - logits.amax(-1, keepdim=True), decoding.temperature))
        return self._part_of((locs, scales), choose_category(weights, uniform))


@dataclass(frozen=True)
class MixtureOfNormalsConditional(Mixture):
    """A real number from a mixture of normals."""

    floor: float = 1e-4
    code = Code.MIXTURE_OF_NORMALS

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        params = wide(params)
        logits, locs, scales = self.parts(params)
        nats = normal_log_prob(locs, scales, x.to(params.dtype)[..., None])
        return (logits.log_softmax(-1) + nats).logsumexp(-1)

    def draw(self, params: Tensor, uniforms: Tensor, decoding: Decoding = PLAIN) -> Tensor:
        if decoding.greedy:
            return self.mode(params)
        loc, scale = self._chosen(params, uniforms[..., 0], decoding)
        return loc + scale * math.sqrt(decoding.temperature) * normal_of(uniforms[..., 1], params.dtype)

    def draw_within(self, params: Tensor, uniforms: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        logits, locs, scales = self.parts(wide(params))
        _, log_masses = truncated_normal(locs, scales, uniforms[..., 1:], allowed[..., None, :])
        joint = logits.double().log_softmax(-1) + log_masses
        most = joint.amax(-1, keepdim=True)
        possible = most > -torch.inf
        weights = torch.where(possible, torch.exp(joint - most), logits.double().softmax(-1))
        component = choose_category(weights, uniforms[..., 0])
        loc, scale = self._part_of((locs, scales), component)
        x, _ = truncated_normal(loc, scale, uniforms[..., 1], allowed)
        return x.to(params.dtype), joint.logsumexp(-1).to(loc.dtype)

    def mean(self, params: Tensor) -> Tensor:
        logits, locs, _ = self.parts(params)
        return (logits.softmax(-1) * locs).sum(-1)

    def mode(self, params: Tensor) -> Tensor:
        """The component's location at which the mixture is densest: the mode itself where components lie apart."""
        locs = self.parts(params)[1]
        density = self.log_prob(params[..., None, :], locs)  # (..., k) at each location
        return self._part_of((locs,), density.argmax(-1))[0]

    def cdf(self, params: Tensor, x: Tensor) -> Tensor:
        logits, locs, scales = self.parts(params)
        return (logits.softmax(-1) * normal_cdf((x[..., None] - locs) / scales)).sum(-1)


@dataclass(frozen=True)
class MixtureOfLogisticsConditional(Mixture):
    """Levels 0 .. size - 1 from a mixture of logistics cut into bins, in units where the levels span [-1, 1].

    Source: Salimans, Karpathy, Chen, Kingma, "PixelCNN++", ICLR 2017.
    """

    size: int = 256
    floor: float = 1e-3
    code = Code.MIXTURE_OF_LOGISTICS

    @property
    def scale(self) -> float:  # type: ignore[override]
        return 2 / (self.size - 1)

    @property
    def shift(self) -> float:  # type: ignore[override]
        return -1.0

    def values(self) -> Tensor:
        return torch.arange(self.size, dtype=torch.float64)

    def valid(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x < self.size) & is_whole(x)

    @property
    def expected(self) -> str:
        return f"a level 0 .. {self.size - 1}"

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log(sigmoid(b) - sigmoid(a)) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b)) at the edges of x's bin."""
        params = wide(params)
        logits, locs, scales = self.parts(params)
        half = 1 / (self.size - 1)
        centred = (x.to(params.dtype) * self.scale + self.shift)[..., None] - locs
        low, high = (centred - half) / scales, (centred + half) / scales
        inside = log_one_less_exp(2 * half / scales)
        first, last = (x == 0)[..., None], (x == self.size - 1)[..., None]
        upper = torch.where(last, 0, log_sigmoid(high))
        lower = torch.where(first, 0, log_sigmoid(-low))
        log_probs = upper + lower + torch.where(first | last, 0, inside)
        return (logits.log_softmax(-1) + log_probs).logsumexp(-1)

    def log_prob_of_levels(self, params: Tensor) -> Tensor:
        """log p of every level, (..., size)."""
        levels = torch.arange(self.size, dtype=wide(params).dtype, device=params.device)
        return self.log_prob(params[..., None, :], levels.expand(*params.shape[:-1], -1))

    def draw(self, params: Tensor, uniforms: Tensor, decoding: Decoding = PLAIN) -> Tensor:
        """A logistic draw, rounded to the nearest level."""
        if decoding.greedy:
            return self.mode(params)
        loc, scale = self._chosen(params, uniforms[..., 0], decoding)
        y = loc + scale * decoding.temperature * logit_of(uniforms[..., 1].double() + HALF_STEP).to(params.dtype)
        return ((y + 1) * ((self.size - 1) / 2) + 0.5).floor().clamp(0, self.size - 1)

    def draw_within(self, params: Tensor, uniforms: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        chosen, log_mass = choose_allowed(self.log_prob_of_levels(params), uniforms[..., 0], allowed)
        return chosen.to(params.dtype), log_mass

    def mean(self, params: Tensor) -> Tensor:
        levels = torch.arange(self.size, dtype=params.dtype, device=params.device)
        return (self.log_prob_of_levels(params).exp() * levels).sum(-1).to(params.dtype)

    def mode(self, params: Tensor) -> Tensor:
        return self.log_prob_of_levels(params).argmax(-1).to(params.dtype)

    def cdf(self, params: Tensor, x: Tensor) -> Tensor:
        logits, locs, scales = self.parts(params)
        edge = x.floor()[..., None] * self.scale + self.shift + 1 / (self.size - 1)
        inside = (logits.softmax(-1) * torch.sigmoid((edge - locs) / scales)).sum(-1)
        return torch.where(x < 0, 0, torch.where(x >= self.size - 1, 1, inside))


class MixtureOfNormals(OneConditional):
    """Real numbers from mixtures of k normals.

    Args:
        components: k.
        floor: least scale.
    """

    name = "mixture_of_normals"

    def __init__(self, components: int, floor: float = 1e-4) -> None:
        components = whole_number("components", components, 1)
        self.conditional = MixtureOfNormalsConditional(components, positive_number("floor", floor))

    @classmethod
    def example(cls) -> MixtureOfNormals:
        return cls(2, floor=0.1)

    def arguments(self) -> dict[str, Any]:
        return {"components": self.conditional.components, "floor": self.conditional.floor}


class MixtureOfLogistics(OneConditional):
    """Levels of grey 0 .. levels - 1 from mixtures of k logistics, as in PixelCNN++; the network reads them within [-1, 1].

    Args:
        components: k.
        levels: number of levels.
        floor: least scale, where the levels span [-1, 1].
    """

    name = "mixture_of_logistics"

    def __init__(self, components: int, levels: int = 256, floor: float = 1e-3) -> None:
        components = whole_number("components", components, 1)
        levels = whole_number("levels", levels, 2)
        self.conditional = MixtureOfLogisticsConditional(components, levels, positive_number("floor", floor))

    @classmethod
    def example(cls) -> MixtureOfLogistics:
        return cls(2, levels=4, floor=1e-3)

    def arguments(self) -> dict[str, Any]:
        kind = self.conditional
        return {"components": kind.components, "levels": kind.size, "floor": kind.floor}
