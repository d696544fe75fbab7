"""A program evaluated level by level with a function of the caller's draws what a sampler draws."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from made_fast import MADE
from made_fast.flows.levels import LevelSolver
from made_fast.outputs.normal import Normal
from made_fast.outputs.point import PointConditional
from made_fast.sampling.sampler import Sampler

Build = Callable[..., MADE]


@pytest.mark.parametrize("name", ["natural", "random", "residual_direct_context", "narrow", "biases"])
def test_each_level_is_asked_for_once(build: Build, every_option: dict[str, Any], name: str) -> None:
    model = build({**every_option[name], "output": Normal()}, torch.float64)
    rows, features = 11, model.features
    context = torch.randn(rows, model.context_features).double() if model.context_features else None
    z = torch.randn(rows, features).double()
    asked: list[Tensor] = []

    def step(params: Tensor, variables: Tensor) -> Tensor:
        assert params.shape == (rows, len(variables), 2)
        asked.append(variables)
        return params[..., 0] + torch.exp(0.1 * params[..., 1]) * z[:, variables]

    program = replace(model.program(), conditionals=(PointConditional(2),) * features)
    solver = LevelSolver(program)
    x = solver.solve(step, rows, context)
    assert len(asked) == solver.num_levels == Sampler(model.program(), Normal()).num_steps
    assert sorted(torch.cat(asked).tolist()) == list(range(features))
    with torch.no_grad():
        loc, raw = model(x, context).unflatten(-1, (features, 2)).unbind(-1)
    torch.testing.assert_close((x - loc) * torch.exp(-0.1 * raw), z)
