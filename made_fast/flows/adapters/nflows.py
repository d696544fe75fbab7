"""nflows and normflows: transforms with ``autoregressive_net``, ``_elementwise_forward`` and ``_elementwise_inverse``.

Compositions of affine ones too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from made_fast.flows.adapters.densities import Density, definer_of, whole_flow
from made_fast.flows.adapters.networks import (
    Reading,
    Unreadable,
    call_of,
    derives,
    fits,
    in_one_call,
    kind_of,
    parameters_of,
    run_finite,
)
from made_fast.flows.adapters.solving import Adapter, Inverter, copy_with
from made_fast.layers.chains import Chain
from made_fast.layers.networks import Call
from made_fast.layers.unchanged import Last, Seen, is_watched
from made_fast.models.whole import LastChain, serving
from made_fast.programs.program import CONTEXT, X
from made_fast.programs.wiring import MOST_NETWORKS

__all__ = ["composed", "levelled", "recognises"]

_NETWORKS = ("nflows.transforms.made.MADE", "normflows.nets.made.MADE")
_PERMUTATIONS = tuple(
    f"nflows.transforms.permutations.{name}" for name in ("Permutation", "RandomPermutation", "ReversePermutation")
)


def recognises(module: nn.Module) -> bool:
    """Whether a module is such a transform."""
    names = ("autoregressive_net", "_elementwise_forward", "_elementwise_inverse", "inverse")
    return all(hasattr(module, name) for name in names)


class _Adapter(Adapter):
    def __init__(self, module: Any) -> None:
        self.features, self.context_features = _widths(module.autoregressive_net)

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


class _Network:
    """Put before the class of a network: it runs in one call."""

    def forward(self: Any, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Parameters (B, D * K) of inputs (B, D) and context (B, C) or None."""
        found = parameters_of(self, inputs, context)
        return super().forward(inputs, context) if found is None else found  # type: ignore[misc]


def _read(net: Any, with_context: bool) -> Reading:
    """nflows adds a function of the context to the first layer, normflows the context itself, and gates blocks by it."""
    features, context_features = _widths(net)
    reading = Reading(features, context_features if with_context else 0)
    attribute = reading.attribute
    is_nflows = kind_of(net.initial_layer).startswith("nflows.")
    if not is_nflows and type(attribute(net, "preprocessing")) is not nn.Identity:
        raise Unreadable("preprocessing")
    value = reading.linear(attribute(net, "initial_layer"), X)
    if with_context:
        given = reading.linear(attribute(net, "context_layer"), CONTEXT)
        value = reading.add(value, reading.apply(attribute(net, "activation"), given) if is_nflows else given)
    if is_nflows and not attribute(net, "use_residual_blocks"):
        value = reading.apply(attribute(net, "activation"), value)
    for block in reading.children(attribute(net, "blocks")):
        value = _read_block(reading, block, value, with_context, is_nflows)
    reading.linear(attribute(net, "final_layer"), value)
    return reading


def _read_block(reading: Reading, block: Any, value: int, with_context: bool, is_nflows: bool) -> int:
    name, attribute = type(block).__qualname__, partial(reading.attribute, block)
    activation, dropout = attribute("activation"), attribute("dropout")
    if name == "MaskedFeedforwardBlock" and attribute("batch_norm") is None and (is_nflows or not with_context):
        return reading.apply(dropout, reading.apply(activation, reading.linear(attribute("linear"), value)))
    if name != "MaskedResidualBlock" or attribute("use_batch_norm"):
        raise Unreadable(kind_of(block))
    first, second = reading.children(attribute("linear_layers"))
    inner = reading.linear(first, reading.apply(activation, value))
    given = reading.linear(attribute("context_layer"), CONTEXT) if with_context else 0
    if with_context and is_nflows:
        inner = reading.add(inner, given)
    inner = reading.linear(second, reading.apply(dropout, reading.apply(activation, inner)))
    if with_context and not is_nflows:
        inner = reading.multiply(inner, reading.apply(torch.sigmoid, given))
    return reading.add(value, inner)


def _widths(net: Any) -> tuple[int, int]:
    """D and C of a network."""
    context = getattr(net, "context_layer", None)
    return int(net.initial_layer.in_features), 0 if context is None else int(context.in_features)


class _Levelled:
    """Put before the class of a transform: the inverse in levels, an affine density in one call."""

    def forward(self: Any, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z and log |det dz/dx| (B,), from x (B, D) and context (B, C) or None."""
        found = None if self._affine is None else _density([self], inputs, context)
        return super().forward(inputs, context) if found is None else found  # type: ignore[misc]

    def inverse(self: Any, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x and log |det dx/dz| (B,), from z (B, D) and context (B, C) or None."""
        x = self._inverter(inputs, context)
        found = None if self._affine is None else _density([self], x, context)
        if found is not None:
            return x, -found[1]
        params = self.autoregressive_net(x, context)
        return x, self._elementwise_inverse(inputs, params)[1]


class _Composed:
    """Put before the class of a composition: affine transforms, with permutations between them, are one call."""

    def forward(self: Any, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z and log |det dz/dx| (B,), from x (B, D) and context (B, C) or None."""
        parts = self._parts()
        if len(parts) == 1:
            return parts[0](inputs, context)  # type: ignore[no-any-return]
        return self._cascade(inputs, parts, context)  # type: ignore[no-any-return]

    def inverse(self: Any, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x and log |det dx/dz| (B,), from z (B, D) and context (B, C) or None."""
        parts, x = self._parts(), inputs
        if len(parts) == 1 and isinstance(parts[0], partial):
            transforms = parts[0].args[1]
            for each in reversed(transforms):
                x = each._inverter(x, context) if _is_affine(each) else each.inverse(x, context)[0]
            found = _density(transforms, x, context)
            if found is not None:
                return x, -found[1]
        return super().inverse(inputs, context)  # type: ignore[misc,no-any-return]

    def _parts(self: Any) -> list[Any]:
        """See ``_joined``."""
        key = (self.__dict__,)
        parts: list[Any] | None = self._last.of(key)
        if parts is None:
            parts = _joined(self._cascade, self._transforms)
            seen = Seen()
            seen.attributes(self, "_cascade")
            seen.children(self, "_transforms")
            seen.children(self._transforms)
            for each in self._transforms:
                seen.module(each)
                seen.attributes(each, "_affine", "_dim")
            self._last.keep(key, parts, seen)
        return parts


def _is_affine(transform: Any) -> bool:
    return transform.__dict__.get("_affine") is not None


def _is_permutation(transform: Any) -> bool:
    return kind_of(transform) in _PERMUTATIONS and transform._dim == 1 and not is_watched(transform)


def _joined(cascade: Any, transforms: Iterable[Any]) -> list[Any]:
    """The transforms of a composition; those that one call can do together are one."""
    found: list[Any] = []
    several: list[Any] = []  # affine ones and permutations

    def end() -> None:
        last = max((i for i, each in enumerate(several) if _is_affine(each)), default=-1)
        together, rest = several[: last + 1], several[last + 1 :]
        found.extend([partial(_run, cascade, together)] if len(together) > 1 else together)
        found.extend(rest)
        several.clear()

    for each in transforms:
        if (_is_affine(each) and sum(map(_is_affine, several)) < MOST_NETWORKS) or _is_permutation(each):
            several.append(each)
        else:
            end()
            (several if _is_affine(each) else found).append(each)
    end()
    return found


def _run(cascade: Any, transforms: Sequence[Any], inputs: Tensor, context: Tensor | None) -> Any:
    found = _density(transforms, inputs, context)
    return cascade(inputs, transforms, context) if found is None else found


def _density(transforms: Sequence[Any], x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """z (B, D) and the log-determinant (B,), in one call; None where the library must compute them.

    Args:
        transforms: affine ones, the last among them, and permutations.
        x, context: (B, D) and (B, C) or None.
    """
    backend = serving(x, context)
    if backend is None or x.ndim != 2:
        return None
    first = next(filter(_is_affine, transforms))
    key = (backend, x.dtype, context is None, *[each.__dict__ for each in transforms])
    chain = first._last.current(key, partial(_chain, backend, transforms, x, context))
    if chain is None or not fits(chain, x, context):
        return None
    for each in takewhile(_is_permutation, transforms):  # which a chain cannot begin with
        x = x.index_select(1, each._permutation)
    return run_finite(chain, "softplus_scale", first._affine[1], x, context)  # type: ignore[no-any-return]


def _chain(backend: Any, transforms: Sequence[Any], x: Tensor, context: Tensor | None, seen: Seen) -> Chain | None:
    """The networks of transforms, as of ``_density``, and what was seen of them; None if they are not that any more."""
    features, epsilon = next(filter(_is_affine, transforms))._affine
    calls: list[Call] = []
    reads: Tensor | None = None
    for each in transforms:
        if len(transforms) > 1:  # the hooks of one are called by its own call
            if is_watched(each):
                return None
            seen.module(each)
        if not _is_affine(each):
            order = _order_of(each._permutation, features)
            if order is None:
                return None
            seen.buffer(each, "_permutation")
            if calls:
                reads = order if reads is None else reads[order]
            continue
        call = call_of(backend, each._modules["autoregressive_net"], x, context, seen)
        if (each.features, each._epsilon) != (features, epsilon) or call is None:
            return None
        if call.wiring.wires[-1].width != 2 * features:
            return None
        seen.children(each, "autoregressive_net")
        seen.attributes(each, "features", "_epsilon", "_affine")
        calls.append(call._replace(reads=reads))
        reads = None
    return Chain(calls, finite=True)


def _density_of_flow(flow: Any, backend: Any, x: Tensor, context: Tensor | None, seen: Seen) -> Density | None:
    """A flow of affine transforms and permutations under a standard normal base; see ``Read``."""
    if definer_of(flow, "log_prob") != "nflows.distributions.base.Distribution":
        return None
    if definer_of(flow, "_log_prob") != "nflows.flows.base.Flow":
        return None
    transform, base, embedding = (
        flow._modules.get(f"_{name}") for name in ("transform", "distribution", "embedding_net")
    )
    if type(embedding) is not nn.Identity or is_watched(embedding) or is_watched(transform):
        return None
    is_composed = isinstance(transform, _Composed)
    transforms = list(transform._transforms) if is_composed else [transform]  # type: ignore[union-attr]
    affine: list[Any] = [each for each in transforms if isinstance(each, _Levelled) and _is_affine(each)]
    if not 0 < len(affine) <= MOST_NETWORKS or not _is_standard(base, x, seen):
        return None
    if any(is_watched(each) or not (_is_permutation(each) or each in affine) for each in transforms):
        return None
    features, epsilon = affine[0]._affine
    chain = _chain(backend, transforms, x, context, seen)
    if chain is None:
        return None
    order: Tensor | None = None
    for each in takewhile(_is_permutation, transforms):
        then = _order_of(each._permutation, features)
        order = then if order is None or then is None else order[then]
    seen.children(flow, "_transform", "_distribution", "_embedding_net")
    seen.attributes(flow, "log_prob", "_log_prob")
    seen.module(embedding)
    if is_composed:
        seen.module(transform)
        seen.children(transform, "_transforms")
        seen.children(transform._transforms)
        seen.attributes(transform, "_cascade")
    for each in transforms:
        seen.module(each)
        seen.attributes(each, "_affine", "_dim")
    return Density(chain, "softplus_scale", epsilon, features, float(base._log_z), order, False)


def _is_standard(base: Any, x: Tensor, seen: Seen) -> bool:
    """Whether a distribution is a standard normal one of x (B, D)."""
    if kind_of(base) != "nflows.distributions.normal.StandardNormal" or tuple(base._shape) != tuple(x.shape[1:]):
        return False
    if any(name in vars(base) for name in ("log_prob", "_log_prob")) or type(base._buffers.get("_log_z")) is not Tensor:
        return False
    if base._log_z.shape != () or base._log_z.device != x.device:
        return False
    seen.attributes(base, "log_prob", "_log_prob", "_shape")
    seen.buffer(base, "_log_z")
    return True


def _order_of(permutation: Any, features: int) -> Tensor | None:
    """A permutation (D,) as it is now, int64 on the CPU; None if it is none."""
    if type(permutation) is not Tensor or permutation.dtype != torch.int64 or permutation.shape != (features,):
        return None
    return _order(permutation.numpy().tobytes()) if permutation.device.type == "cpu" else None


@lru_cache(maxsize=256)
def _order(content: bytes) -> Tensor | None:
    order = torch.frombuffer(bytearray(content), dtype=torch.int64)
    return order if torch.equal(order.sort().values, torch.arange(len(order))) else None


def levelled(module: Any, **options: Any) -> nn.Module:
    """The same transform, with the same parameters, an inverse in levels and a network in one call."""
    net = module.autoregressive_net
    modules = {"autoregressive_net": in_one_call(net, _Network, _read)} if kind_of(net) in _NETWORKS else {}
    is_affine = (
        bool(modules)
        and kind_of(module) == "nflows.transforms.autoregressive.MaskedAffineAutoregressiveTransform"
        and not hasattr(module, "scale_activation")  # that of glasflow may be any function
    )
    affine = (module.features, module._epsilon) if is_affine else None
    return copy_with(
        module,
        _Levelled,
        modules,
        _inverter=Inverter(module, _Adapter(module), **options),
        _affine=affine,
        _last=LastChain(),
    )


def composed(module: nn.Module) -> nn.Module:
    """A composition or a flow whose transforms were accelerated, made one call where it can be; others as they are."""
    if kind_of(module) == "nflows.transforms.base.CompositeTransform":
        return copy_with(module, _Composed, _last=Last())
    if derives(module, "nflows.flows.base.Flow"):
        return whole_flow(module, _density_of_flow)
    return module
