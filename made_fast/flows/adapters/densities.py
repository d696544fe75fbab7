"""Flows of other libraries as a whole: affine transforms and a standard normal base, loss and gradients without autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from made_fast.flows.adapters.networks import fits, name_of
from made_fast.flows.adapters.solving import copy_with
from made_fast.layers.chains import Chain, NotFinite
from made_fast.layers.unchanged import Last, Seen
from made_fast.models.whole import serving

__all__ = ["Density", "FlowNLL", "OneCallDensity", "OneCallFlow", "Read", "definer_of", "whole_flow"]


class FlowNLL(NamedTuple):
    """The mean of minus the log-probabilities of rows under a flow, ready to be found with its gradients; see ``NLL``.

    Attributes:
        density: that of the flow.
        x: (B, D), B of 1 or more; (B, D + C) where the networks read the context with it.
        context: (B, C), or None.
    """

    density: Density
    x: Tensor
    context: Tensor | None

    @property
    def weights(self) -> list[Tensor]:
        """Those of the chain."""
        return self.density.chain.weights

    def write_gradients(self, into: Sequence[Tensor | None]) -> Tensor | None:
        """Returns the mean, (); None where a number is not finite, and what was written is not to be used.

        Args:
            into: see ``NLL``.
        """
        (chain, head, floor, features, constant, _, _), x, context = self
        try:
            (z, log_det), values = chain.forward(head, floor, x, context, keep=True)
        except NotFinite:
            return None
        rows = x.shape[0]
        of_z, of_log_det = z / rows, torch.full_like(log_det, -1 / rows)
        if z.shape[1] > features:  # the context, which passes through and has no weights
            z = z[:, :features]
        nll = (z.square().sum(1).mul_(0.5).sub_(log_det)).mean().add_(constant)
        done = chain.write_gradients(head, floor, rows, values, (of_z, of_log_det), into)
        return nll if done else None


class Density(NamedTuple):
    """The density of a flow as one call.

    Attributes:
        chain: its networks, of which a head makes z and log-determinants.
        head, floor: see ``Chain.run``.
        features: D.
        constant: minus the logarithm of the base density at z of 0.
        order: which variable of x the first network reads as its i-th, int64 (D,); None: the i-th.
        is_joined: whether the networks read x and the context as one.
    """

    chain: Chain
    head: str
    floor: float
    features: int
    constant: float
    order: Tensor | None
    is_joined: bool


Read = Callable[[Any, Any, Tensor, "Tensor | None", Seen], "Density | None"]


class OneCallDensity:
    """The density of a flow as it is now, if that is one call.

    Args:
        read: makes it of (flow, backend, x, context, seen), x (B, D) and context (B, C) or None in a dtype that the backend
            takes, and notes what it has looked at; None where the flow is not made of what is known.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._last: Last[Density] = Last()

    def __deepcopy__(self, memo: dict[int, Any]) -> OneCallDensity:
        """What was read is read again."""
        return OneCallDensity(self._read)

    def __reduce__(self) -> tuple[Any, ...]:
        return OneCallDensity, (self._read,)

    def nll(self, flow: nn.Module, x: Tensor, context: Tensor | None) -> FlowNLL | None:
        """That of x (B, D) given context (B, C) or None; None where autograd must find it."""
        backend = serving(x, context)
        if backend is None or x.ndim != 2:
            return None
        key = (flow.__dict__, backend, x.dtype, context is None)
        density = self._last.current(key, lambda seen: self._read(flow, backend, x, context, seen))
        if density is None or x.shape[1] != density.features:
            return None
        if density.order is not None:
            x = x.index_select(1, density.order)
        if context is not None and density.is_joined:
            x, context = torch.cat([x, context], 1), None
        return FlowNLL(density, x, context) if fits(density.chain, x, context) else None


class OneCallFlow:
    """Put before the class of a flow: ``training.backward`` and ``fit`` find loss and gradients in one call."""

    def _nll(self: Any, x: Tensor, context: Tensor | None) -> FlowNLL | None:
        """See ``MADE``."""
        density: OneCallDensity = self._one_call_density
        return density.nll(self, x, context)


def whole_flow(flow: nn.Module, read: Read) -> nn.Module:
    """A copy of a flow that shares all parameters, with ``OneCallFlow`` put before its class; such a one as it is."""
    if isinstance(flow, OneCallFlow):
        return flow
    return copy_with(flow, OneCallFlow, _one_call_density=OneCallDensity(read))


def definer_of(thing: Any, name: str) -> str:
    """The full name of the class that defines an attribute of a thing; empty where the thing itself or nothing does."""
    found = None if name in vars(thing) else next((kind for kind in type(thing).__mro__ if name in vars(kind)), None)
    return "" if found is None else name_of(found)
