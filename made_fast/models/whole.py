"""A masked network in one call: which of its tensors are handed over, and when that is possible."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from made_fast.layers import operators
from made_fast.layers.linear import MaskedLinear
from made_fast.layers.networks import Call, WholeNetwork, backend_for
from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.programs.program import CONTEXT, X
from made_fast.programs.schedule import Kind
from made_fast.programs.wiring import Wire, Wiring
from made_fast.tracing import may_bypass

__all__ = ["Listing", "Whole", "is_watched", "pays", "serving"]

# Multiply-adds of a forward pass above which the products of single layers are quicker with several threads.
_MOST_MACS = 1 << 27

_PLAIN = (nn.Parameter, Tensor)
_DTYPES = (torch.float32, torch.float64)
_CONTEXT_LAYERS = ("context_layer", "context_direct_layer")
_HEADS = {Code.BERNOULLI: "bernoulli", Code.NORMAL: "normal"}


def _head_of(conditionals: Sequence[Conditional]) -> tuple[str, float] | None:
    first = conditionals[0]
    alike = first.code in _HEADS and all(each == first for each in conditionals)
    return (_HEADS[first.code], first.floor) if alike else None


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

    def call(
        self, network: Any, x: Tensor, context: Tensor | None, layer_masks: Sequence[Tensor] | None
    ) -> Call | None:
        """What ``layers.networks.run`` takes; None where the layers must run one by one.

        Args:
            network: the same.
            x: (..., D).
            context: (..., C) of the same rows, or None.
            layer_masks: see ``MaskedNetwork.parameters_of``.
        """
        backend = serving(x, context)
        return None if backend is None else self.call_by(backend, network, x, layer_masks)

    def call_by(self, backend: Any, network: Any, x: Tensor, layer_masks: Sequence[Tensor] | None) -> Call | None:
        """``call`` where it is known which backend serves the rows."""
        of = network._modules  # a third of the time of attributes
        masked = [*of["hidden"]._modules.values(), of["parameters_layer"]]
        if of.get("direct_layer") is not None:
            masked.append(of["direct_layer"])
        if of.get("encoder") is not None:
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
        return Call(self._whole.wiring, native, weights, masks) if native is not None and pays(native, x) else None


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
    return bool(of._global_forward_hooks or of._global_forward_pre_hooks or of._global_backward_hooks)


def is_watched(layer: nn.Module) -> bool:
    """Whether something besides its weights makes what a layer gives, or somebody looks at it."""
    of = layer.__dict__
    return bool(of["_forward_pre_hooks"] or of["_forward_hooks"] or of["_backward_hooks"] or "forward" in of) or bool(
        of["_backward_pre_hooks"]
    )


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
        return Wiring(network.features, network.context_features, len(self.weights), tuple(self.ops))

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
