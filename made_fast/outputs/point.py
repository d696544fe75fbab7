"""A variable that is computed, not drawn: what the inverse of a flow is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import PLAIN, Decoding
from made_fast.outputs.output import Output

__all__ = ["Point", "PointConditional"]


@dataclass(frozen=True)
class PointConditional(Conditional):
    """The value of the first parameter, whatever the noise. It has no density of its own.

    Args:
        num_params: 1; or 2: then the second parameter is the log-density that comes with the value.
    """

    num_params: int = 1
    code = Code.POINT
    num_draws = 0

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """The second parameter, or 0, whatever x is."""
        return params[..., 1] if self.num_params > 1 else torch.zeros_like(params[..., 0])

    def draw(self, params: Tensor, uniforms: Tensor, decoding: Decoding = PLAIN) -> Tensor:
        """The first parameter; there are no uniforms."""
        return params[..., 0]

    def mean(self, params: Tensor) -> Tensor:
        """The first parameter."""
        return params[..., 0]

    def mode(self, params: Tensor) -> Tensor:
        """The first parameter."""
        return params[..., 0]


class Point(Output):
    """Every variable is computed from its parameters; see ``PointConditional``.

    Args:
        with_log_prob: whether a second parameter of each is its log-density.
    """

    name = "point"

    def __init__(self, with_log_prob: bool = False) -> None:
        self.conditional = PointConditional(2 if with_log_prob else 1)

    def conditionals(self, features: int) -> tuple[Conditional, ...]:
        """The same of all variables."""
        return (self.conditional,) * features
