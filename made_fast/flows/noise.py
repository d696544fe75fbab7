"""The base noise of flows, drawn by an engine."""

from __future__ import annotations

import torch
from torch import Tensor

from made_fast.outputs.normal import Normal
from made_fast.programs.program import Affine, Program, Term, X
from made_fast.sampling.sampler import Sampler

__all__ = ["noise_sampler"]


def noise_sampler(order: Tensor, dtype: torch.dtype) -> Sampler:
    """Draws standard normal numbers, variable ``order[s]`` from the noise of step s: location 0, scale 1."""
    features, output = len(order), Normal(floor=1.0)
    nothing = torch.zeros(2 * features, features, dtype=dtype)
    bias = torch.tensor([0.0, -1e4], dtype=dtype).repeat(features)  # softplus makes 0 of it, and the floor is the scale
    ops = (Affine((Term(X, nothing, nothing != 0),), bias),)
    return Sampler(Program(features, 0, ops, order, (2,) * features, output.conditionals(features)), output)
