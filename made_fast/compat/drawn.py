"""What modules with the structure of other libraries share: masked layers, samples, log-probabilities."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from made_fast.acceleration import AcceleratedSampler
from made_fast.arguments import context_like, finite, like_weights
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.kinds import make_output
from made_fast.outputs.output import Output
from made_fast.requests.checks import check_rounded
from made_fast.requests.request import Request
from made_fast.sampling.draws import Draws
from made_fast.tracing import may_look

__all__ = ["Drawn", "Masked", "connected"]


class Masked(nn.Linear):
    """``nn.Linear`` with a float buffer ``mask`` (out, in) of 0 and 1, as state dicts of both libraries have it."""

    mask: Tensor
    degrees: Tensor

    def __init__(self, mask: Tensor, degrees: Tensor | None = None) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight.dtype))
        if degrees is not None:
            self.register_buffer("degrees", degrees)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(input, self.weight * self.mask, self.bias)


class _Kept:
    """A place for the sampler of a module that is no part of the module's copies and pickles."""

    def __init__(self) -> None:
        self.sampler: AcceleratedSampler | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Kept:
        return _Kept()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Kept, ()


class Drawn(nn.Module, Draws):
    """A module that maps x (B, D), and a context, to parameters, with an output that says what they mean.

    It draws as all models do, see ``Draws``, by the sampler of ``sampler``.

    Attributes:
        output: an object of ``made_fast.outputs``; None if it was left out and K > 1.
    """

    def __init__(self, features: int, context_features: int, params: int, output: str | Output | None) -> None:
        super().__init__()
        self._sizes = (features, context_features)
        self.features, self.context_features = features, context_features
        self.output = make_output("bernoulli") if output is None and params == 1 else None
        if output is not None:
            self.output = make_output(output)
            counts = {each.num_params for each in self.output.conditionals(features)}
            if counts != {params}:
                raise ValueError(
                    f"output must take {params} parameters for each variable, as the network makes, got {self.output.name!r} "
                    f"with {', '.join(map(str, sorted(counts)))}"
                )
        self._kept = _Kept()

    def sampler(self) -> AcceleratedSampler:
        """The sampler of this module, made at first use; it notices new weights and new masks.

        Raises:
            ValueError: no output was given, the module is in training mode where that matters, or it cannot be captured.
        """
        output = self._output()
        kept = self._kept.sampler
        if kept is None or kept.module is not self or kept.output is not output:
            features, context_features = self._sizes
            options = {"context_features": context_features, "layout": None, "call": None, "check": True}
            kept = AcceleratedSampler(self, features, output, "refresh", {**options, "backend": "auto"})
            self._kept.sampler = kept
        return kept

    @property
    def conditionals(self) -> tuple[Conditional, ...]:  # type: ignore[override]
        """One for each variable."""
        return self._output().conditionals(self._sizes[0])

    def _drawn(self, request: Request, with_log_prob: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.sampler()._drawn(request, with_log_prob)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x | context) in nats, (B,), from x (B, D) and context (B, C) or None.

        Raises:
            ValueError: no output was given, x has values that it cannot take, or the context does not fit.
        """
        output, given, weight = self._output(), x, next(self.parameters())
        x = like_weights("x", x, self._sizes[0], weight, rows="B")
        context = context_like(context, self._sizes[1], weight, x)
        if may_look(x):
            output.check(x)
            check_rounded(self.conditionals, given, x)
        if context is not None:
            finite("context", context)
            context = context.expand(len(x), -1)
        return output.log_prob(self._variable_major(x, context), x).sum(-1)

    def _variable_major(self, x: Tensor, context: Tensor | None) -> Tensor:
        params: Tensor = self(x) if context is None else self(x, context)
        return params

    def _output(self) -> Output:
        if self.output is None:
            raise ValueError(
                "output must be given, since there are several parameters for each variable: make the module with "
                "output=..., see made_fast.outputs"
            )
        return self.output


def connected(rows: Tensor, columns: Tensor, *, strict: bool = False) -> Tensor:
    """The mask (out, in) of units with degrees ``rows`` that read units with degrees ``columns``."""
    found = rows[:, None] > columns if strict else rows[:, None] >= columns
    return found.to(torch.get_default_dtype())
