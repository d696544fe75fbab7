"""zuko: lazy transforms with ``hyper``, ``univariate`` and ``meta``."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from made_fast.flows.adapters.solving import Adapter, Inverter, levelled_as

__all__ = ["levelled", "recognises"]


def recognises(module: nn.Module) -> bool:
    """Whether a module is such a transform."""
    return all(hasattr(module, name) for name in ("hyper", "univariate", "meta", "passes", "shapes", "total"))


class _Adapter(Adapter):
    def __init__(self, module: Any) -> None:
        if isinstance(module.univariate, nn.Module):
            raise ValueError(
                "flow must have univariate transforms that are made of parameters alone, but "
                f"{type(module.univariate).__name__} has weights of its own, stacked by variable"
            )
        layers = [each for each in module.hyper.modules() if isinstance(each, nn.Linear)]
        self.features = int(layers[-1].out_features) // int(module.total)
        self.context_features = int(layers[0].in_features) - self.features

    def network(self, module: Any, x: Tensor, context: Tensor | None) -> Tensor:
        found: Tensor = module.hyper(x if context is None else torch.cat([x, context], -1))
        return found

    def _each(self, module: Any, params: Tensor) -> Any:
        """The transforms of n variables, from params (B, n * K)."""
        shapes = [tuple(shape) for shape in module.shapes]
        parts = params.unflatten(-1, (-1, module.total)).split([prod(shape) for shape in shapes], -1)
        return module.univariate(
            *(part.reshape(*part.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True))
        )

    def apply(self, module: Any, before: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        found: Tensor = self._each(module, self.network(module, before, context))(x)
        return found

    def solve_each(self, module: Any, params: Tensor, z: Tensor, variables: Tensor | None) -> Tensor:
        found: Tensor = self._each(module, params).inv(z)
        return found


class _Levelled:
    """Put before the class of a lazy transform: what it makes is inverted in levels."""

    def forward(self: Any, c: Tensor | None = None) -> Any:
        """The transform given a context (..., C) or None, as the library makes it."""
        transform = super().forward(c)  # type: ignore[misc]

        def inverse(y: Tensor) -> Tensor:
            rows = y.reshape(-1, y.shape[-1])
            if c is None:
                return self._inverter(rows, None).reshape(y.shape)  # type: ignore[no-any-return]
            shape = torch.broadcast_shapes(y.shape[:-1], c.shape[:-1])
            rows, each = (t.expand(*shape, t.shape[-1]).reshape(-1, t.shape[-1]) for t in (y, c))
            return self._inverter(rows, each).reshape(*shape, y.shape[-1])  # type: ignore[no-any-return]

        transform._inverse = inverse
        return transform


def levelled(module: nn.Module, **options: Any) -> nn.Module:
    """The same lazy transform, with the same parameters, and an inverse in levels."""
    return levelled_as(module, _Levelled, Inverter(module, _Adapter(module), **options))
