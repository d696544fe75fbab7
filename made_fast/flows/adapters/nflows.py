"""nflows and normflows: transforms with ``autoregressive_net``, ``_elementwise_forward`` and ``_elementwise_inverse``."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from made_fast.flows.adapters.solving import Adapter, Inverter, levelled_as

__all__ = ["levelled", "recognises"]


def recognises(module: nn.Module) -> bool:
    """Whether a module is such a transform."""
    names = ("autoregressive_net", "_elementwise_forward", "_elementwise_inverse", "inverse")
    return all(hasattr(module, name) for name in names)


class _Adapter(Adapter):
    def __init__(self, module: Any) -> None:
        net = module.autoregressive_net
        context = getattr(net, "context_layer", None)
        self.features = int(net.initial_layer.in_features)
        self.context_features = 0 if context is None else int(context.in_features)

    def network(self, module: Any, x: Tensor, context: Tensor | None) -> Tensor:
        found: Tensor = module.autoregressive_net(x, context)
        return found

    def apply(self, module: Any, before: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        found: Tensor = module._elementwise_forward(x, module.autoregressive_net(before, context))[0]
        return found

    def solve_each(self, module: Any, params: Tensor, z: Tensor, variables: Tensor | None) -> Tensor:
        if variables is not None and hasattr(module, "features"):
            module = copy.copy(module)
            module.features = len(variables)  # by which it shapes the parameters
            tails = getattr(module, "tail_bound", None)
            if isinstance(tails, Tensor) and tails.numel() > 1:
                module.tail_bound = tails[variables]
        found: Tensor = module._elementwise_inverse(z, params)[0]
        return found


class _Levelled:
    """Put before the class of a transform: the inverse in levels, the log-determinant from one more pass."""

    def inverse(self: Any, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x and log |det dx/dz| (B,), from z (B, D) and context (B, C) or None."""
        x = self._inverter(inputs, context)
        params = self.autoregressive_net(x, context)
        return x, self._elementwise_inverse(inputs, params)[1]


def levelled(module: nn.Module, **options: Any) -> nn.Module:
    """The same transform, with the same parameters, and an inverse in levels."""
    return levelled_as(module, _Levelled, Inverter(module, _Adapter(module), **options))
