"""A masked network in one call: which of its tensors are handed over, and when that is possible."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from made_fast.layers import operators
from made_fast.layers.chains import Chain
from made_fast.layers.linear import MaskedLinear
from made_fast.layers.networks import Call, WholeNetwork, backend_for
from made_fast.layers.unchanged import Last, Seen, is_watched
from made_fast.outputs.codes import Code, Encoding
from made_fast.outputs.conditional import Conditional
from made_fast.programs.program import CONTEXT, X
from made_fast.programs.schedule import Kind
from made_fast.programs.wiring import Wire, Wiring
from made_fast.tracing import may_bypass

__all__ = ["LastChain", "Listing", "Whole", "pays", "serving"]

# Multiply-adds of a forward pass above which the products of single layers are quicker with several threads.
_MOST_MACS = 1 << 27

# Units that a network reads of a variable above which sums of columns are quicker than products with zeros.
_MOST_UNITS = 64

_PLAIN = (nn.Parameter, Tensor)
_DTYPES = (torch.float32, torch.float64)
_CONTEXT_LAYERS = ("context_layer", "context_direct_layer")
_HEADS = {Code.BERNOULLI: "bernoulli", Code.NORMAL: "normal", Code.SPIN: "spin"}


def _head_of(conditionals: Sequence[Conditional]) -> tuple[str, float] | None:
    if _categories_of(conditionals):
        return "categorical", 0.0
    first = conditionals[0]
    alike = first.code in _HEADS and all(each == first for each in conditionals)
    return (_HEADS[first.code], first.floor) if alike else None


def _categories_of(conditionals: Sequence[Conditional]) -> tuple[int, ...]:
    """How many each variable has, if all are categories that are read one-hot."""
    alike = all(each.code == Code.CATEGORICAL and each.encoding == Encoding.ONE_HOT for each in conditionals)
    return tuple(each.size for each in conditionals) if alike else ()


class Whole:
    """Says how a masked network is run in one call, where that is possible.

    Args:
        network: whose layers are read with each call.

    Attributes:
        head: that which makes the log-probability of the variables, and the floor of its scales; None where none does.
    """

    def __init__(self, network: Any) -> None:
        self._wires = _Wires(network)
        self._whole = WholeNetwork(self._wires.wiring(network))
        self.head = _head_of(network.conditionals)

        self._last = LastChain()

    def chain(
        self, network: Any, x: Tensor, context: Tensor | None, layer_masks: Sequence[Tensor] | None
    ) -> Chain | None:
        """The network for one call; None where the layers must run one by one.

        Args:
            network: the same.
            x: (..., D).
            context: (..., C) of the same rows, or None.
            layer_masks: see ``MaskedNetwork.parameters_of``.
        """
        backend = serving(x, context)
        if backend is None:
            return None
        chain = self._last.of((network.__dict__, backend, x.dtype)) if layer_masks is None else None
        if chain is None:
            call = self.call_by(backend, network, x, layer_masks)
            if call is None:
                return None
            chain = Chain([call])
            if layer_masks is None:
                seen = Seen()
                self.show(network, seen)
                self._last.keep((network.__dict__, backend, x.dtype), chain, seen)
        return chain if pays(chain, x) else None

    def show(self, network: Any, seen: Seen) -> None:
        """What ``call_by`` looks at, of a network with one mask."""
        seen.attributes(network, "activation", "residual", "conditionals", "structure")
        seen.children(network, "hidden", "ensemble", "encoder", "parameters_layer", "direct_layer", *_CONTEXT_LAYERS)
        seen.children(network.hidden)
        network.structure.show(seen)
        for layer in (*network.masked_layers, network.context_layer, network.context_direct_layer, network.encoder):
            if layer is not None:
                seen.layer(layer)

    def call_by(self, backend: Any, network: Any, x: Tensor, layer_masks: Sequence[Tensor] | None) -> Call | None:
        """The network for one call of a backend that serves the rows."""
        of = network._modules  # a third of the time of attributes
        masked = [*of["hidden"]._modules.values(), of["parameters_layer"]]
        if of.get("direct_layer") is not None:
            masked.append(of["direct_layer"])
        encoder = of.get("encoder")
        if encoder is not None and (is_watched(encoder) or encoder.num_units > _MOST_UNITS * x.shape[-1]):
            return None
        for layer in masked:
            if type(layer) is not MaskedLinear or is_watched(layer):
                return None
        others = {name: of[name] for name in _CONTEXT_LAYERS if of.get(name) is not None}
        for each in others.values():
            if type(each) is not nn.Linear or is_watched(each):
                return None
        weights, masks = self._wires.tensors(masked, others, layer_masks)
        dtype, device = x.dtype, x.device
        for weight, shape in zip(weights, self._wires.shapes, strict=True):
            if type(weight) not in _PLAIN or weight.shape != shape or weight.dtype != dtype or weight.device != device:
                return None
        native = self._whole.ready(backend, masks)
        if native is None:
            return None
        return Call(self._whole.wiring, native, weights, masks)


class LastChain(Last[Chain]):
    """The chain of the last call. Its key says whose it is, which backend serves, and the dtype of the rows."""

    def keep(self, key: Sequence[Any], value: Chain, seen: Seen) -> None:
        """See ``Last``. What is made anew with each call, a bias under a mask say, cannot be watched."""
        known = set(map(id, seen.tensors))
        if all(id(each) in known for each in value.weights):
            super().keep(key, value, seen)


def serving(x: Tensor, context: Tensor | None) -> Any:
    """The backend that runs whole networks on these rows; None where layers must run one by one, whichever network it is."""
    if not may_bypass(x, context) or operators.why_only_plain(x.device) is not None:
        return None
    if x.dtype not in _DTYPES or _watched_everywhere() or not x.numel():
        return None
    if context is not None and (context.dtype != x.dtype or context.shape[:-1] != x.shape[:-1]):
        return None
    return backend_for(x)


def pays(native: Any, x: Tensor) -> bool:
    """Whether one call of a network is quicker than single layers for as many rows as x (..., D) has."""
    few = native.macs * x.numel() <= _MOST_MACS * x.shape[-1]
    return few or torch.get_num_threads() == 1 or not torch.is_grad_enabled()


def _watched_everywhere() -> bool:
    of = nn.modules.module
    forward = of._global_forward_hooks or of._global_forward_pre_hooks
    return bool(forward or of._global_backward_hooks or of._global_backward_pre_hooks)


class Listing(ABC):
    """Runs a wiring on numbers of values: lists its operations, in ``ops``, as its subclasses describe them."""

    ops: list[Any]

    def run(self, network: Any) -> None:
        """Lists all operations; the last one makes the parameters."""
        value = network.wired(self)
        direct = [] if network.direct_layer is None else [(-1, X)]
        parts = [(len(network.hidden), X if value is None else value), *direct]
        self.sum(parts, network.context_direct_layer)

    def read(self, layer: int, context: nn.Linear | None, function: str | None) -> int:
        """See ``network._Engine``."""
        value = self.sum([(layer, X)], context)
        return value if function is None else self.apply(function, value)

    def affine(self, layer: int, value: int, function: str | None) -> int:
        """See ``network._Engine``."""
        value = self.sum([(layer, value)], None)
        return value if function is None else self.apply(function, value)

    @abstractmethod
    def apply(self, function: str, value: int) -> int:
        """See ``network._Engine``."""

    @abstractmethod
    def sum(self, parts: Sequence[tuple[int, int]], context: nn.Linear | None) -> int:
        """The sum of layers of values, (number, value) each, with the bias of the first and a layer of the context."""

    def listed(self, op: Any) -> int:
        """The number of the value that an operation makes."""
        self.ops.append(op)
        return len(self.ops) + 1


class _Wires(Listing):
    """Lists operations without weights, and which tensors they are handed."""

    def __init__(self, network: Any) -> None:
        self.network, self.layers = network, network.masked_layers
        self.ops: list[Wire] = []
        self.weights: list[tuple[str, int]] = []  # what is handed over: kind, and number of the layer
        self.shapes: list[tuple[int, ...]] = []  # of those
        self.run(network)
        del self.network, self.layers

    def wiring(self, network: Any) -> Wiring:
        """All of it."""
        units = network.features if network.encoder is None else network.encoder.num_units
        return Wiring(
            units, network.context_features, len(self.weights), tuple(self.ops), _categories_of(network.conditionals)
        )

    def tensors(
        self, masked: Sequence[MaskedLinear], others: dict[str, nn.Module], layer_masks: Sequence[Tensor] | None
    ) -> tuple[list[Tensor], dict[int, Tensor]]:
        """The weights and biases as they are now, and the masks of those that have one."""
        tensors: list[Any] = []
        masks: dict[int, Tensor] = {}
        for number, (kind, place) in enumerate(self.weights):
            if kind == "weight":
                layer = masked[place]
                tensors.append(layer._parameters["weight"])
                mask = layer._buffers["mask"] if layer_masks is None else layer_masks[place]
                masks[number] = layer.chosen_mask(mask)
            elif kind == "bias":
                layer = masked[place]
                plain = layer._parameters["mask_weight"] is None
                mask = None if layer_masks is None else layer_masks[place]
                tensors.append(layer._parameters["bias"] if plain else layer.bias_under(mask))
            else:
                tensors.append(others[kind]._parameters["weight"])
        return tensors, masks

    def apply(self, function: str, value: int) -> int:
        """See ``network._Engine``."""
        return self.listed(Wire(Kind.UNARY, self.ops[value - 2].width, value, function=function))

    def add(self, left: int, right: int) -> int:
        """See ``network._Engine``."""
        return self.listed(Wire(Kind.ADD, self.ops[left - 2].width, left, right))

    def sum(self, parts: Sequence[tuple[int, int]], context: nn.Linear | None) -> int:
        """See ``Listing``."""
        terms = [(value, self._handed("weight", number, self.layers[number])) for number, value in parts]
        if context is not None:
            name = next(name for name in _CONTEXT_LAYERS if getattr(self.network, name) is context)
            terms.append((CONTEXT, self._handed(name, 0, context)))
        first = self.layers[parts[0][0]]
        has_bias = first.bias is not None or first.mask_weight is not None
        bias = self._handed("bias", parts[0][0], first) if has_bias else -1
        return self.listed(Wire(Kind.AFFINE, first.out_features, terms=tuple(terms), bias=bias))

    def _handed(self, kind: str, number: int, layer: Any) -> int:
        self.weights.append((kind, number))
        self.shapes.append((layer.out_features,) if kind == "bias" else (layer.out_features, layer.in_features))
        return len(self.weights) - 1
