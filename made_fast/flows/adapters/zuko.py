"""zuko: lazy transforms with ``hyper``, ``univariate`` and ``meta``, and their compositions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from inspect import signature
from itertools import groupby
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from made_fast.flows.adapters.densities import Density, definer_of, whole_flow
from made_fast.flows.adapters.networks import (
    Reading,
    call_of,
    derives,
    fits,
    in_one_call,
    kind_of,
    name_of,
    parameters_of,
    run_finite,
)
from made_fast.flows.adapters.solving import Adapter, Inverter, copy_with
from made_fast.layers.chains import Chain
from made_fast.layers.networks import Call
from made_fast.layers.unchanged import Last, Seen, is_watched
from made_fast.models.whole import LastChain, serving
from made_fast.outputs.rules import LOG_SQRT_2_PI
from made_fast.programs.program import X
from made_fast.programs.wiring import MOST_NETWORKS

__all__ = ["composed", "levelled", "recognises"]


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


class _Network:
    """Put before the class of a network: it runs in one call."""

    def forward(self: Any, input: Tensor) -> Tensor:
        """Parameters (..., D * K) of x with its context (..., D + C)."""
        found = parameters_of(self, input)
        return super().forward(input) if found is None else found  # type: ignore[misc]


def _read(net: Any, with_context: bool) -> Reading:
    reading = Reading(int(net.in_features), 0)
    _read_layers(reading, net, X)
    return reading


def _read_layers(reading: Reading, layers: Any, value: int) -> int:
    for layer in reading.children(layers):
        if kind_of(layer) == "zuko.nn.Residual":
            value = reading.add(value, _read_layers(reading, layer, value))
        elif isinstance(layer, nn.Linear):
            value = reading.linear(layer, value)
        else:
            value = reading.apply(layer, value)
    return value


def _slope_of(module: Any) -> float | None:
    """The smallest scale of an affine transform with its own scales and shapes; None for others."""
    affine = module.univariate
    if kind_of(module) != "zuko.flows.autoregressive.MaskedAutoregressiveTransform" or not isinstance(affine, type):
        return None
    if f"{affine.__module__}.{affine.__qualname__}" != "zuko.transforms.MonotonicAffineTransform":
        return None
    return float(signature(affine).parameters["slope"].default) if module.total == 2 else None


class _Levelled:
    """Put before the class of a lazy transform: what it makes is inverted in levels, and an affine density is one call."""

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
        if self._affine is not None:
            transform.call_and_ladj = _density_of([self], [transform], c)
        return transform


class _Composed:
    """Put before the class of a composition: affine transforms one after another are one call."""

    def forward(self: Any, c: Tensor | None = None) -> Any:
        """The transform given a context (..., C) or None, as the library makes it."""
        if c is not None:
            return self._joined(super().forward(c), c)  # type: ignore[misc]
        key = (self.__dict__,)
        transform = self._last.of(key)
        if transform is None:
            transform = self._joined(super().forward(None), None)  # type: ignore[misc]
            seen = Seen()
            seen.children(self, "transforms")
            seen.children(self.transforms)
            for each in self.transforms:  # which read their own attributes when they are called
                seen.module(each)
                seen.attributes(each, "_affine", "passes")
            if all(each.__dict__.get("_affine") is not None for each in self.transforms):
                self._last.keep(key, transform, seen)
        return copy.copy(transform)

    def _joined(self: Any, transform: Any, c: Tensor | None) -> Any:
        """What the library made, where those transforms that can be are one call."""
        parts: list[Any] = []
        pairs = zip(self.transforms, transform.transforms, strict=True)
        for is_affine, several in groupby(pairs, _is_joined):
            lazy, made = map(list, zip(*several, strict=True))
            if is_affine and 1 < len(made) <= MOST_NETWORKS:
                joined = copy.copy(made[0])
                joined.call_and_ladj = _density_of(lazy, made, c)
                made = [joined]
            parts += made
        if len(parts) < len(transform.transforms):
            transform.call_and_ladj = type(transform)(*parts).call_and_ladj
        return transform


def _is_joined(pair: tuple[Any, Any]) -> bool:
    """Whether a lazy transform is affine, and what it made is that which nobody has exchanged."""
    lazy, made = pair
    return lazy.__dict__.get("_affine") is not None and "call_and_ladj" in made.__dict__ and not is_watched(lazy)


def _density_of(lazy: Sequence[Any], made: Sequence[Any], c: Tensor | None) -> Any:
    """``call_and_ladj`` of affine transforms one after another, and the lazy ones that made them given c."""

    def call_and_ladj(x: Tensor) -> tuple[Tensor, Tensor]:
        found = _density(lazy, x, c)
        if found is not None:
            return found
        total: Any = 0
        for transform in made:
            x, ladj = type(transform).call_and_ladj(transform, x)
            total = total + ladj
        return x, total

    return call_and_ladj


def _density(lazy: Sequence[Any], x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """z (..., D) and the log-determinant (...), in one call; None where the library must compute them."""
    backend = serving(x, None)
    if backend is None or (c is not None and serving(c, None) is not backend):
        return None
    features, slope = lazy[0]._affine[1:]
    if x.shape[-1] != features:
        return None
    if c is not None:
        shape = x.shape[:-1]  # a wider context is refused by the library
        if torch.broadcast_shapes(shape, c.shape[:-1]) != shape:
            return None
        x = torch.cat([x, c.expand(*shape, c.shape[-1])], -1)
    key = (backend, x.dtype, *[each.__dict__ for each in lazy])
    chain = lazy[0]._last.current(key, partial(_chain, backend, lazy, x))
    if chain is None or not fits(chain, x, None):
        return None
    found = run_finite(chain, "softclip_scale", slope, x, None)
    if found is None or c is None:
        return found  # type: ignore[no-any-return]
    return found[0][..., :features], found[1]


def _chain(backend: Any, lazy: Sequence[Any], x: Tensor, seen: Seen) -> Chain | None:
    """The networks of affine transforms one after another, and what was seen of them; None if they are not that any more."""
    features, slope = lazy[0]._affine[1:]
    calls: list[Call] = []
    for each in lazy:
        if each._affine != (each.univariate, features, slope) or is_watched(each):
            return None
        call = call_of(backend, each._modules["hyper"], x, None, seen)
        if call is None or call.wiring.wires[-1].width != 2 * features:
            return None
        seen.module(each)
        seen.children(each, "hyper")
        seen.attributes(each, "univariate", "_affine")
        calls.append(call)
    return Chain(calls, finite=True)


def _density_of_flow(flow: Any, backend: Any, x: Tensor, context: Tensor | None, seen: Seen) -> Density | None:
    """A flow of affine transforms alone under a standard normal base; see ``Read``."""
    if hasattr(flow, "log_prob") or definer_of(flow, "forward") != "zuko.lazy.Flow" or is_watched(flow):
        return None
    transform, base = flow._modules.get("transform"), flow._modules.get("base")
    lazy = list(transform.transforms) if isinstance(transform, _Composed) else [transform]  # type: ignore[attr-defined]
    if not 0 < len(lazy) <= MOST_NETWORKS or is_watched(transform):
        return None
    if not all(isinstance(each, _Levelled) and each._affine is not None for each in lazy):  # type: ignore[attr-defined]
        return None
    features, slope = lazy[0]._affine[1:]
    if x.shape[1] != features or not _is_standard(base, x, seen):
        return None
    chain = _chain(backend, lazy, x if context is None else torch.cat([x, context], 1), seen)
    if chain is None:
        return None
    seen.module(flow)
    seen.children(flow, "transform", "base")
    seen.attributes(flow, "log_prob")
    if isinstance(transform, _Composed):
        seen.module(transform)  # type: ignore[arg-type]
        seen.children(transform, "transforms")  # type: ignore[arg-type]
        seen.children(transform.transforms)  # type: ignore[attr-defined]
    return Density(chain, "softclip_scale", slope, features, features * LOG_SQRT_2_PI, None, True)


def _is_standard(base: Any, x: Tensor, seen: Seen) -> bool:
    """Whether a lazy distribution is a standard normal one of x (B, D), of buffers that nobody trains."""
    if kind_of(base) != "zuko.lazy.UnconditionalDistribution" or is_watched(base):
        return False
    names = [*(f"_{number}" for number in range(base._nargs)), *base._keys]
    if names not in (["loc", "scale"], ["_0", "_1"]) or not isinstance(base.__dict__.get("f"), type):
        return False
    if name_of(base.f) != "zuko.distributions.DiagNormal":
        return False
    for name, value in zip(names, (0, 1), strict=True):
        tensor = base._buffers.get(name)
        if type(tensor) is not Tensor or tensor.shape != x.shape[1:] or tensor.dtype != x.dtype:
            return False
        if tensor.device != x.device or not bool((tensor == value).all()):
            return False
        seen.buffer(base, name)
    seen.module(base)
    seen.attributes(base, "f", "_nargs", "_keys")
    return True


def levelled(module: Any, **options: Any) -> nn.Module:
    """The same lazy transform, with the same parameters, an inverse in levels and a network in one call."""
    adapter = _Adapter(module)
    known = kind_of(module.hyper) == "zuko.nn.MaskedMLP"
    modules = {"hyper": in_one_call(module.hyper, _Network, _read)} if known else {}
    slope = _slope_of(module)
    affine = None if slope is None or not known else (module.univariate, adapter.features, slope)
    return copy_with(
        module, _Levelled, modules, _inverter=Inverter(module, adapter, **options), _affine=affine, _last=LastChain()
    )


def composed(module: nn.Module) -> nn.Module:
    """A composition or a flow whose transforms were accelerated, made one call where it can be; others as they are."""
    if kind_of(module) == "zuko.lazy.LazyComposedTransform":
        return copy_with(module, _Composed, _last=Last())
    if derives(module, "zuko.lazy.Flow"):
        return whole_flow(module, _density_of_flow)
    return module
