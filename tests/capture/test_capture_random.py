"""Modules put together by chance: what is captured of them draws what they draw."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from capture_models import FUNCTIONS, D, double
from quick import every
from torch import Tensor, nn

import made_fast
from made_fast.backends import reference
from made_fast.outputs.normal import Normal

# Those that work unit by unit and do not grow.
BENDS = (
    "relu",
    "leaky",
    "elu",
    "selu",
    "gelu",
    "gelu tanh",
    "silu",
    "mish",
    "softplus",
    "hardswish",
    "abs",
    "clamp",
    "maximum",
)
KINDS = ("linear", "bend", "bend", "sum", "product", "scale", "swap", "norm", "choose", "gate")


class Chance(nn.Module):
    """A few operations, each of values made before it; parameters are variable-major or parameter-major, by the seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        chance = random.Random(seed)
        self.plan = [
            (chance.choice(KINDS), chance.randrange(1000), chance.randrange(1000)) for _ in range(chance.randint(3, 9))
        ]
        self.weights = nn.ParameterList([torch.randn(D, D) / 2 for _ in self.plan])
        self.into, self.out = nn.Parameter(torch.randn(D, D)), nn.Parameter(torch.randn(2, D, D) / 2)
        self.stacked = 2 - seed % 2

    def step(self, kind: str, a: Tensor, b: Tensor, weight: Tensor, number: int) -> Tensor:
        match kind:
            case "linear":
                return F.linear(a, weight.tril(), weight[0])
            case "bend":
                return FUNCTIONS[BENDS[number % len(BENDS)]](a)
            case "sum":
                return a - 0.5 * b if number % 2 else a + b
            case "product":
                return torch.tanh(a * b)
            case "scale":
                return a * weight[0] + weight[1]
            case "swap":
                return torch.cat([a[:, :4], b[:, 4:]], dim=1).unflatten(0, (-1, 1)).squeeze(1)
            case "norm":
                return F.batch_norm(a, weight[0], weight[1].abs() + 0.5, weight[2], weight[3])
            case "choose":
                return torch.where(torch.arange(D) % 3 == number % 3, a, b)
            case _:
                return F.glu(torch.cat([a, b], dim=1), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        values = [F.linear(x, self.into.tril())]
        for (kind, first, second), weight in zip(self.plan, self.weights, strict=True):
            a, b = values[first % len(values)], values[second % len(values)]
            values.append(self.step(kind, a, b, weight, second))
        ends = (values[-1] + values[len(values) // 2], values[-1])
        return torch.stack([F.linear(h, w.tril(-1)) for h, w in zip(ends, self.out, strict=True)], self.stacked)


@pytest.mark.parametrize("seed", every(5, range(16)))
def test_draws_are_those_of_the_module(seed: int) -> None:
    torch.manual_seed(seed)
    module = double(Chance(seed))
    sampler = made_fast.accelerate(module, features=D, output=Normal())
    with torch.no_grad():
        expected, _ = reference.naive_draw(
            lambda x: module(x).flatten(1) if module.stacked == 2 else module(x).mT.flatten(1),
            sampler.order,
            sampler.conditionals,
            torch.arange(9),
            seed=1,
            dtype=torch.float64,
        )
    for backend in ("reference", "auto"):
        found = sampler.sample(9, seed=1, backend=backend)
        assert ((found - expected).abs() / expected.abs().clamp(min=1)).max() <= 1e-8
