"""Output distributions: what the parameters of one variable mean. One class each, and the table ``OUTPUTS``.

To add one: write the class here, add its row, and add its draw to the backends; the contract test finds it by the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

__all__ = ["OUTPUTS", "Bernoulli", "Output", "make_output"]


class Output(Protocol):
    """What every output distribution provides. Parameters are flat and variable-major, shape (..., P)."""

    name: str
    num_draws: int  # uniforms that one variable needs

    def params_per_variable(self, features: int) -> list[int]:
        """K_d for each of the D variables."""

    def check(self, x: Tensor) -> None:
        """Raises ValueError if a value of ``x`` (..., D) cannot come from this distribution."""

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x_d | x_<d) in nats, shape (..., D)."""

    def draw(self, params: Tensor, uniforms: Tensor) -> Tensor:
        """Values of some variables from their parameters (..., n * K) and uniforms (..., n, num_draws): (..., n)."""

    def distribution(self, params: Tensor) -> Distribution:
        """The conditionals as a torch distribution with event shape (D,)."""


class Bernoulli:
    """Binary variables; the one parameter of each is its logit: x = 1 iff u < sigmoid(logit)."""

    name = "bernoulli"
    num_draws = 1

    def params_per_variable(self, features: int) -> list[int]:
        """One logit for each variable."""
        return [1] * features

    def check(self, x: Tensor) -> None:
        """Raises ValueError unless every value is 0 or 1."""
        valid = (x == 0) | (x == 1)
        if not bool(valid.all()):
            found = x[~valid][0].item()
            raise ValueError(f"x must be 0 or 1 for output 'bernoulli', got {found}; binarize the data first")

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log sigmoid((2 x - 1) * logit): exact for large logits of either sign."""
        return F.logsigmoid((2 * x - 1) * params)

    def draw(self, params: Tensor, uniforms: Tensor) -> Tensor:
        """1 where u < sigmoid(logit)."""
        return (uniforms[..., 0] < torch.sigmoid(params)).to(params.dtype)

    def distribution(self, params: Tensor) -> Distribution:
        """Independent Bernoulli with these logits."""
        return torch.distributions.Independent(torch.distributions.Bernoulli(logits=params), 1)


OUTPUTS: dict[str, Callable[[], Output]] = {Bernoulli.name: Bernoulli}


def make_output(output: str | Output) -> Output:
    """Returns the output distribution of that name, or the object itself."""
    if not isinstance(output, str) and hasattr(output, "params_per_variable"):
        return output
    if not isinstance(output, str) or output not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
    return OUTPUTS[output]()
