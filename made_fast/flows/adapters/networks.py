"""Networks of other libraries in one native call, with their parameters as they are: the quick direction of a flow.

A network is read once, module by module, as a wiring. Each call looks whether it still is what was read; where it is not, or
where something watches, or a number is not finite, the library's own forward runs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from made_fast.flows.adapters.solving import copy_with
from made_fast.layers.chains import Chain, NotFinite
from made_fast.layers.networks import Call, WholeNetwork
from made_fast.layers.unchanged import Seen, is_watched
from made_fast.models.whole import LastChain, pays, serving
from made_fast.programs.schedule import Kind
from made_fast.programs.wiring import Wire, Wiring

__all__ = [
    "OneCall",
    "Reading",
    "Unreadable",
    "call_of",
    "derives",
    "fits",
    "in_one_call",
    "kind_of",
    "name_of",
    "parameters_of",
    "run_finite",
]

_PLAIN = (nn.Parameter, Tensor)
_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    F.leaky_relu: "leaky_relu",
    F.elu: "elu",
    F.selu: "selu",
    F.gelu: "gelu",
    F.silu: "silu",
    F.tanh: "tanh",
    torch.tanh: "tanh",
    F.sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
}
_MODULES: dict[type, tuple[str, dict[str, Any]]] = {
    nn.ReLU: ("relu", {"inplace": False}),
    nn.LeakyReLU: ("leaky_relu", {"inplace": False, "negative_slope": 0.01}),
    nn.ELU: ("elu", {"inplace": False, "alpha": 1.0}),
    nn.SELU: ("selu", {"inplace": False}),
    nn.GELU: ("gelu", {"approximate": "none"}),
    nn.SiLU: ("silu", {"inplace": False}),
    nn.Tanh: ("tanh", {}),
    nn.Sigmoid: ("sigmoid", {}),
}
_GONE = object()
# Of all rows, masks not counted: below, the parameters of one network are as quick by the library.
_LEAST_MACS = 1 << 23
_MOST_OPERATIONS = 126  # kMostValues of csrc/plan/network.h, x and the context among them
_MASKED = tuple(
    f"{module}.MaskedLinear"
    for module in ("zuko.nn", "nflows.transforms.made", "normflows.nets.made", "pyro.nn.auto_reg_nn")
)


class Unreadable(Exception):
    """A network is not made of what is known here."""


def kind_of(thing: Any) -> str:
    """The full name of the very class of a thing."""
    return name_of(type(thing))


def name_of(kind: type) -> str:
    """The full name of a class; glasflow has nflows within it."""
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("glasflow.")


def derives(thing: Any, name: str) -> bool:
    """Whether a thing is of the class of this full name, or of one derived from it."""
    return any(name_of(kind) == name for kind in type(thing).__mro__)


class Reading:
    """Lists the operations of a network as its modules are met, and what must stay as it was for them to hold.

    Args:
        features, context_features: D and C; of a network that reads both as one, their sum and 0.

    Attributes:
        macs: multiply-adds of a row, those under masks among them.
    """

    def __init__(self, features: int, context_features: int) -> None:
        self._widths = [features, context_features]
        self._ops: list[Wire] = []
        self._handed: list[tuple[nn.Module, str, tuple[int, ...]]] = []
        self._masks: list[tuple[int, nn.Module]] = []  # by the number of the weight
        self._modules: list[tuple[nn.Module, type]] = []
        self._attributes: list[tuple[dict[str, Any], str, Any]] = []
        self._children: list[tuple[nn.Module, list[nn.Module | None]]] = []
        self._dropouts: list[nn.Dropout] = []
        self.macs = 0

    def attribute(self, module: nn.Module, name: str) -> Any:
        """A plain attribute or a submodule.

        Raises:
            Unreadable: there is none.
        """
        holder = module._modules if name in module._modules else module.__dict__
        if name not in holder:
            raise Unreadable(f"{kind_of(module)} without {name}")
        self._attributes.append((holder, name, holder[name]))
        return self._met(holder[name])

    def children(self, module: nn.Module) -> list[Any]:
        """All its submodules, in order."""
        found = list(module._modules.values())
        self._children.append((module, found))
        return [self._met(each) for each in found]

    def _met(self, found: Any) -> Any:
        if isinstance(found, nn.Module):
            self._modules.append((found, type(found)))
        return found

    def linear(self, layer: Any, value: int) -> int:
        """A linear layer of a value, masked if it is one of a library.

        Raises:
            Unreadable: it is another kind of layer.
        """
        kind = kind_of(layer)
        if type(layer) is not nn.Linear and kind not in _MASKED:
            raise Unreadable(kind)
        shape = (layer.out_features, layer.in_features)
        if shape[1] != self._widths[value] or 0 in shape:
            raise Unreadable(f"{kind} of another width")
        number = len(self._handed)
        self.macs += shape[0] * shape[1]
        self._handed.append((layer, "weight", shape))
        if kind in _MASKED:
            self._masks.append((number, layer))
        has_bias = layer.bias is not None
        if has_bias:
            self._handed.append((layer, "bias", shape[:1]))
        else:
            self._attributes.append((layer._parameters, "bias", None))
        return self._listed(Wire(Kind.AFFINE, shape[0], terms=((value, number),), bias=number + 1 if has_bias else -1))

    def apply(self, function: Any, value: int) -> int:
        """An elementwise function, or a module of one.

        Raises:
            Unreadable: it is none that is known.
        """
        if type(function) is nn.Identity:
            return value
        if type(function) is nn.Dropout:
            self._dropouts.append(function)
            return value
        if isinstance(function, nn.Module):
            name, expected = _MODULES.get(type(function), ("", {}))
            if any(self.attribute(function, key) != wanted for key, wanted in expected.items()):
                name = ""
        else:
            name = _FUNCTIONS.get(function, "") if isinstance(function, Hashable) else ""
        if not name:
            raise Unreadable(kind_of(function))
        return self._listed(Wire(Kind.UNARY, self._widths[value], value, function=name))

    def add(self, left: int, right: int) -> int:
        """The sum of two values."""
        return self._paired(Kind.ADD, left, right)

    def multiply(self, left: int, right: int) -> int:
        """The product of two values, number by number."""
        return self._paired(Kind.MULTIPLY, left, right)

    def _paired(self, kind: Kind, left: int, right: int) -> int:
        if self._widths[left] != self._widths[right]:
            raise Unreadable("values of different widths")
        return self._listed(Wire(kind, self._widths[left], left, right))

    def _listed(self, wire: Wire) -> int:
        self._ops.append(wire)
        self._widths.append(wire.width)
        return len(self._widths) - 1

    def wiring(self) -> Wiring:
        """All of it.

        Raises:
            Unreadable: it is more than an engine takes.
        """
        if not 0 < len(self._ops) <= _MOST_OPERATIONS:
            raise Unreadable(f"{len(self._ops)} operations")
        return Wiring(self._widths[0], self._widths[1], len(self._handed), tuple(self._ops))

    def holds(self) -> bool:
        """Whether the network is made of what was read."""
        for holder, name, value in self._attributes:
            if holder.get(name, _GONE) is not value:  # a module in the place of None is in another holder
                return False
        for module, children in self._children:
            if list(module._modules.values()) != children:
                return False
        for module, kind in self._modules:  # noqa: SIM110 - half the time of a generator
            if type(module) is not kind:
                return False
        return True

    def show(self, seen: Seen) -> None:
        """What ``holds``, ``is_unwatched`` and ``tensors`` look at."""
        for holder, name, value in self._attributes:
            seen.held.append((holder, name, value))
            if value is None and "_modules" in holder:  # a module in its place is in another holder
                seen.held.append((holder["_modules"], name, None))
        for module, _ in self._children:
            seen.children(module)
        for module, _ in self._modules:
            seen.module(module)
        for dropout in self._dropouts:
            seen.attributes(dropout, "training", "p")
        for layer in dict.fromkeys(module for module, _, _ in self._handed):
            seen.layer(layer)

    def is_unwatched(self) -> bool:
        """Whether nobody looks at a module, and none depends on chance now."""
        for module, _ in self._modules:
            if is_watched(module):
                return False
        return not any(each.training and each.p > 0 for each in self._dropouts)

    def tensors(self, x: Tensor) -> tuple[list[Tensor], dict[int, Tensor]] | None:
        """The weights and biases as they are now, and the masks; None where one is not like x, or no plain tensor."""
        dtype, device = x.dtype, x.device
        weights: list[Tensor] = []
        for module, name, shape in self._handed:
            each: Any = module._parameters.get(name)
            if type(each) not in _PLAIN or each.shape != shape or each.dtype != dtype or each.device != device:
                return None
            weights.append(each)
        masks = {number: module._buffers.get("mask") for number, module in self._masks}
        for number, mask in masks.items():
            if type(mask) is not Tensor or mask.shape != weights[number].shape or mask.device != device:
                return None
            if mask.dtype not in (torch.bool, dtype):
                return None
        return weights, masks  # type: ignore[return-value]


class OneCall:
    """Says how a network of another library is run in one call, where that is possible.

    Args:
        read: lists the operations of a network, with a context or without.
    """

    def __init__(self, read: Callable[[Any, bool], Reading]) -> None:
        self._read = read
        self._net: nn.Module | None = None
        self._last, self._macs = LastChain(), 0  # and multiply-adds of a row by it, those under masks among them
        self._known: dict[bool, tuple[Reading, WholeNetwork] | None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> OneCall:
        """What was read is read again."""
        return OneCall(self._read)

    def __reduce__(self) -> tuple[Any, ...]:
        return OneCall, (self._read,)

    def chain(self, backend: Any, net: nn.Module, x: Tensor, context: Tensor | None) -> Chain | None:
        """The network alone, as one call; None where the library's own forward should run.

        Args:
            backend: that ``serving`` has found.
            net: the network.
            x: (..., D).
            context: (..., C) of the same rows, or None.
        """
        key = (net.__dict__, backend, x.dtype, context is None)
        chain = self._last.of(key)
        if chain is None:
            seen = Seen()
            call = self.call(backend, net, x, context, seen)
            if call is None:
                return None
            chain = Chain([call], finite=True)
            self._last.keep(key, chain, seen)
            known = self._known[context is not None]
            assert known is not None
            self._macs = known[0].macs
        many = self._macs * x.numel() >= _LEAST_MACS * x.shape[-1]
        return chain if many and fits(chain, x, context) else None

    def call(self, backend: Any, net: nn.Module, x: Tensor, context: Tensor | None, seen: Seen) -> Call | None:
        """The network for a chain, and what was seen of it; None where the library's own forward must run.

        The arguments are those of ``chain``.
        """
        known = self._current(net, context is not None)
        if known is None or not known[0].is_unwatched():
            return None
        reading, whole = known
        found = reading.tensors(x)
        if found is None:
            return None
        native = whole.ready(backend, found[1])
        if native is None:
            return None
        seen.attributes(net, "_one_call")
        reading.show(seen)
        return Call(whole.wiring, native, *found, _product)

    def _current(self, net: nn.Module, with_context: bool) -> tuple[Reading, WholeNetwork] | None:
        """What was read; read again if the network is made of other modules now. What could not be read never is."""
        if self._net is not net:  # a shallow copy shares this, and may have other modules
            self._net, self._known = net, {}
        known = self._known.get(with_context)
        if known is None and with_context in self._known:
            return None
        if known is None or not known[0].holds():
            try:
                reading = self._read(net, with_context)
                known = reading, WholeNetwork(reading.wiring())
            except Unreadable:
                known = None
            self._known[with_context] = known
        return known


def in_one_call(net: nn.Module, mixin: type, read: Callable[[Any, bool], Reading]) -> nn.Module:
    """A copy of a network that shares all parameters, with ``mixin`` put before its class, for ``parameters_of``."""
    return copy_with(net, mixin, _one_call=OneCall(read))


def call_of(backend: Any, net: nn.Module, x: Tensor, context: Tensor | None, seen: Seen) -> Call | None:
    """See ``OneCall.call``, of a copy by ``in_one_call`` that nobody watches; None for other networks."""
    one_call: OneCall | None = net.__dict__.get("_one_call")
    if one_call is None or is_watched(net):
        return None
    seen.module(net)
    return one_call.call(backend, net, x, context, seen)


def fits(chain: Chain, x: Tensor, context: Tensor | None) -> bool:
    """Whether rows (..., D) and context (..., C) or None are as wide as a chain reads them, and one call of it pays."""
    wiring, width = chain.calls[0].wiring, 0 if context is None else context.shape[-1]
    return (x.shape[-1], width) == (wiring.features, wiring.context_features) and pays(chain, x)


def parameters_of(net: Any, x: Tensor, context: Tensor | None = None) -> Tensor | None:
    """What a copy by ``in_one_call`` makes of x (..., D), in one call; None where the library's own forward should run."""
    backend = serving(x, context)
    chain = None if backend is None else net._one_call.chain(backend, net, x, context)
    return None if chain is None else run_finite(chain, "parameters", 0.0, x, context)


def run_finite(chain: Chain, head: str, floor: float, x: Tensor, context: Tensor | None) -> Any:
    """See ``Chain.run``; None where a number is not finite: the libraries' masks let nan and infinity through."""
    try:
        return chain.run(head, floor, x, context)
    except NotFinite:
        return None


def _product(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
    """As the libraries write it."""
    return F.linear(x, weight * mask, bias)
