"""The conditionals of a batch as a torch distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution

if TYPE_CHECKING:
    from made_fast.outputs import Output

__all__ = ["Conditionals"]


class Conditionals(Distribution):
    """p(x_d | parameters) of D independent variables, batch (...), event (D,).

    Args:
        output: the output distribution.
        params: (..., P).
        features: D.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - torch declares it so
    has_rsample = False

    def __init__(self, output: Output, params: Tensor, features: int) -> None:
        self.output, self.params, self.features = output, params, features
        super().__init__(params.shape[:-1], torch.Size([features]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Expected values (..., D)."""
        return self.output.mean(self.params, self.features)

    @property
    def mode(self) -> Tensor:
        """Most probable values (..., D)."""
        return self.output.mode(self.params, self.features)

    def log_prob(self, value: Tensor) -> Tensor:
        """Sum over the variables, in nats: (...)."""
        return self.output.log_prob(self.params, value).sum(-1)

    def cdf(self, value: Tensor) -> Tensor:
        """P(X_d <= value_d) for each variable, (..., D)."""
        return self.output.cdf(self.params, value)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Draws (sample_shape, ..., D) from torch's generator."""
        shape = torch.Size(sample_shape) + self.params.shape[:-1]
        params = self.params.expand(*shape, self.params.shape[-1])

        def draw(conditional: Any, own: Tensor, _: Any) -> Tensor:
            words = torch.randint(0, 1 << 24, (*own.shape[:-1], conditional.num_draws), device=own.device)
            drawn: Tensor = conditional.draw(own, words.float() * 2.0**-24)
            return drawn

        return self.output.each(params, draw, self.features)
